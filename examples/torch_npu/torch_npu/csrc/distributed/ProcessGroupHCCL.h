#pragma once
#include <string>

namespace c10d_npu {

/// Ranks of the default group.
int rank_size();
/// The day on which this file was compiled.
std::string build_date();

}  // namespace c10d_npu

#pragma once
#include <cstdint>

namespace torch_npu {
namespace toolkit {

/// Count one run of an operator.
void count_run();
/// Runs so far.
std::int64_t runs();

}  // namespace toolkit
}  // namespace torch_npu

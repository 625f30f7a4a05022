#pragma once
#include <string>

namespace c10_npu {

/// Initialise the runtime and take device 0. Throws c10::Error when there is none.
void initialise();
int device_count();
std::string soc_name();

}  // namespace c10_npu

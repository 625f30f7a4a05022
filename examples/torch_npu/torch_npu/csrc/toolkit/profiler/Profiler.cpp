#include "torch_npu/csrc/toolkit/profiler/Profiler.h"

#include <atomic>

namespace torch_npu {
namespace toolkit {
namespace {
std::atomic<std::int64_t> counter{0};
}

void count_run() { ++counter; }
std::int64_t runs() { return counter.load(); }

}  // namespace toolkit
}  // namespace torch_npu

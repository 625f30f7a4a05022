#include "torch_npu/csrc/framework/OpCommand.h"

#include "torch_npu/csrc/toolkit/profiler/Profiler.h"

namespace at_npu {
namespace native {

OpCommand& OpCommand::input(const at::Tensor& tensor) {
  inputs_.push_back(tensor);
  return *this;
}

at::Tensor OpCommand::run(const std::function<double(double)>& kernel) const {
  TORCH_CHECK(inputs_.size() == 1, name_ + " takes one input");
  torch_npu::toolkit::count_run();
  at::Tensor result = at::empty_like(inputs_[0]);
  for (std::size_t i = 0; i < result.numel(); ++i) {
    result.values()[i] = kernel(inputs_[0].values()[i]);
  }
  return result;
}

}  // namespace native
}  // namespace at_npu

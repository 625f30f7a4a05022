#include "op_plugin/AclOpsInterface.h"
#include "torch_npu/csrc/framework/OpCommand.h"

namespace acl_op {

at::Tensor abs(const at::Tensor& self) {
  return at_npu::native::OpCommand("Abs").input(self).run([](double value) { return value < 0 ? -value : value; });
}

at::Tensor add(const at::Tensor& self, const at::Tensor& other, double alpha) {
  at::Tensor result = at::empty_like(self);
  for (std::size_t i = 0; i < self.numel(); ++i) {
    result.values()[i] = self.values()[i] + alpha * other.item(i);
  }
  return result;
}

}  // namespace acl_op

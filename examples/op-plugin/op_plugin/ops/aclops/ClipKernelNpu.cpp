#include <algorithm>

#include "op_plugin/AclOpsInterface.h"
#include "torch_npu/csrc/framework/OpCommand.h"

namespace acl_op {

at::Tensor npu_clip(const at::Tensor& self, double min, double max) {
  TORCH_CHECK(min <= max, "npu_clip: min is above max");
  return at_npu::native::OpCommand("ClipByValue").input(self).run([min, max](double value) {
    return std::min(std::max(value, min), max);
  });
}

}  // namespace acl_op

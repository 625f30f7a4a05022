#include "op_plugin/OpApiInterface.h"
#include "op_plugin/utils/OpUtils.h"

namespace op_api {

at::Tensor npu_add(const at::Tensor& self, const at::Tensor& other) {
  return op_plugin::utils::elementwise(self, other, [](double a, double b) { return a + b; });
}

at::Tensor add(const at::Tensor& self, const at::Tensor& other, double alpha) {
  return op_plugin::utils::elementwise(self, other, [alpha](double a, double b) { return a + alpha * b; });
}

}  // namespace op_api

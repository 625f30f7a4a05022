#include "op_plugin/OpApiInterface.h"
#include "op_plugin/utils/OpUtils.h"

namespace op_api {

at::Tensor mul(const at::Tensor& self, const at::Tensor& other) {
  return op_plugin::utils::elementwise(self, other, [](double a, double b) { return a * b; });
}

at::Tensor npu_fused_mul_add(const at::Tensor& self, const at::Tensor& other, const at::Tensor& addend) {
  const at::Tensor product = mul(self, other);
  return op_plugin::utils::elementwise(product, addend, [](double a, double b) { return a + b; });
}

}  // namespace op_api

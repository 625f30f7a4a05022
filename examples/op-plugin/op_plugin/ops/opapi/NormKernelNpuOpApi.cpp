#include <cmath>

#include "op_plugin/OpApiInterface.h"
#include "op_plugin/utils/OpUtils.h"

namespace op_api {

at::Tensor npu_hypot(const at::Tensor& self, const at::Tensor& other) {
  return op_plugin::utils::elementwise(self, other, [](double a, double b) { return std::sqrt(a * a + b * b); });
}

double npu_dot(const at::Tensor& self, const at::Tensor& other) {
  const at::Tensor products = op_plugin::utils::elementwise(self, other, [](double a, double b) { return a * b; });
  double sum = 0;
  for (double value : products.values()) {
    sum += value;
  }
  return sum;
}

}  // namespace op_api

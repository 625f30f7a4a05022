#include "op_plugin/utils/OpUtils.h"

#include <string>

namespace op_plugin {
namespace utils {

std::size_t common_size(const at::Tensor& first, const at::Tensor& second) {
  const std::size_t a = first.numel();
  const std::size_t b = second.numel();
  TORCH_CHECK(a == b || a == 1 || b == 1, "sizes " + std::to_string(a) + " and " + std::to_string(b) + " do not fit");
  return a == 1 ? b : a;
}

}  // namespace utils
}  // namespace op_plugin

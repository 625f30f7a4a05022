#pragma once
#include <ATen/ATen.h>

namespace op_plugin {
namespace utils {

/// The common size of two operands, one of which may have a single element. Throws c10::Error when there is none.
std::size_t common_size(const at::Tensor& first, const at::Tensor& second);

template <class Function>
at::Tensor elementwise(const at::Tensor& first, const at::Tensor& second, Function function) {
  const std::size_t size = common_size(first, second);
  at::Tensor result(std::vector<double>(size, 0.0));
  for (std::size_t i = 0; i < size; ++i) {
    result.values()[i] = function(first.values()[first.numel() == 1 ? 0 : i], second.values()[second.numel() == 1 ? 0 : i]);
  }
  return result;
}

}  // namespace utils
}  // namespace op_plugin

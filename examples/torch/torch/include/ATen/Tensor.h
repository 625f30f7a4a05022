#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <c10/util/Exception.h>

namespace at {

/// A list of numbers; a copy of a tensor copies them.
class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(std::vector<double> values) : values_(std::move(values)) {}

  std::size_t numel() const { return values_.size(); }
  const std::vector<double>& values() const { return values_; }
  std::vector<double>& values() { return values_; }

  /// One element. The check stands in a header: its message names the file that is being compiled.
  double item(std::size_t index) const {
    TORCH_CHECK(index < values_.size(), "there is no element " + std::to_string(index));
    return values_[index];
  }

 private:
  std::vector<double> values_;
};

using Scalar = double;

inline Tensor empty_like(const Tensor& self) { return Tensor(std::vector<double>(self.numel())); }

}  // namespace at

#pragma once
#include <cstdint>
#include <vector>

#include <ATen/Tensor.h>

namespace c10 {

/// What travels between Python and an operator.
struct IValue {
  enum class Kind { None, Tensor, Double, Int, Bool };

  IValue() = default;
  IValue(at::Tensor value) : kind(Kind::Tensor), tensor(std::move(value)) {}
  IValue(double value) : kind(Kind::Double), number(value) {}
  IValue(std::int64_t value) : kind(Kind::Int), integer(value) {}
  IValue(bool value) : kind(Kind::Bool), integer(value ? 1 : 0) {}

  double to_double() const {
    TORCH_CHECK(kind != Kind::None && kind != Kind::Tensor, "expected a number");
    return kind == Kind::Double ? number : static_cast<double>(integer);
  }
  std::int64_t to_int() const {
    TORCH_CHECK(kind == Kind::Int || kind == Kind::Bool, "expected an integer");
    return integer;
  }
  const at::Tensor& to_tensor() const {
    TORCH_CHECK(kind == Kind::Tensor, "expected a tensor");
    return tensor;
  }

  Kind kind = Kind::None;
  double number = 0;
  std::int64_t integer = 0;
  at::Tensor tensor;
};

using Stack = std::vector<IValue>;

template <class T>
struct From;
template <>
struct From<at::Tensor> {
  static const at::Tensor& value(const IValue& v) { return v.to_tensor(); }
};
template <>
struct From<double> {
  static double value(const IValue& v) { return v.to_double(); }
};
template <>
struct From<std::int64_t> {
  static std::int64_t value(const IValue& v) { return v.to_int(); }
};
template <>
struct From<bool> {
  static bool value(const IValue& v) { return v.to_int() != 0; }
};

}  // namespace c10

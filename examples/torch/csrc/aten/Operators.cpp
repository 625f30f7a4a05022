// The operators that torch itself knows: the schemas of torchgen/packaged/ATen/native/native_functions.yaml.
#include <torch/library.h>

namespace {

at::Tensor abs_cpu(const at::Tensor& self) {
  at::Tensor result = at::empty_like(self);
  for (std::size_t i = 0; i < self.numel(); ++i) {
    result.values()[i] = self.values()[i] < 0 ? -self.values()[i] : self.values()[i];
  }
  return result;
}

}  // namespace

TORCH_LIBRARY(aten, m) {
  m.def("abs(Tensor self) -> Tensor");
  m.def("add.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor");
  m.def("mul.Tensor(Tensor self, Tensor other) -> Tensor");
  m.def("neg(Tensor self) -> Tensor");
}

TORCH_LIBRARY_IMPL(aten, CPU, m) { m.impl("abs", TORCH_FN(abs_cpu)); }

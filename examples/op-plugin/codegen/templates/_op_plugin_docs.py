"""Documentation of the custom operators; copied into torch_npu by its code generation."""
import torch_npu

DOCS = {
    "npu_add": "npu_add(self, other): the sum, element by element.",
    "npu_fused_mul_add": "npu_fused_mul_add(self, other, addend): self * other + addend, element by element.",
}

for _name, _text in DOCS.items():
    if hasattr(torch_npu, _name):
        getattr(torch_npu, _name).__doc__ = _text

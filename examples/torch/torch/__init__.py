"""A stand-in for PyTorch: lists of numbers, and operators that native libraries register by name."""
from torch import _C
from torch._ops import Tensor, ops, tensor
from torch.version import __version__

__all__ = ["Tensor", "__version__", "_C", "compiled_with_cxx11_abi", "ops", "tensor"]


def compiled_with_cxx11_abi():
    """Whether the libraries use libstdc++'s ABI of 2011."""
    from torch.version import cxx11_abi

    return cxx11_abi

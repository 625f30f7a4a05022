"""NPU support for the stand-in torch."""
import torch

import torch_npu._C
import torch_npu.npu
from torch_npu.utils import custom_ops as _custom_ops
from torch_npu.utils.exposed_api import public_npu_functions
from torch_npu.version import __version__

torch_npu._C._npu_init()

try:
    from torch_npu import _op_plugin_docs
except ImportError:
    pass

__all__ = ["__version__", "npu"] + sorted(public_npu_functions)

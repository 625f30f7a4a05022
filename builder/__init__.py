"""torch-npu-builder: from a compatibility matrix to verified torch_npu wheels."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("torch-npu-builder")
except PackageNotFoundError:  # a source tree on sys.path that nobody installed
    __version__ = "0+unknown"

__all__ = ["__version__"]

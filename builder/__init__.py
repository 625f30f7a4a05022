"""torch-npu-builder: from a compatibility matrix to verified torch_npu wheels."""

__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    """``__version__``, looked up when it is asked for: the installed metadata takes longer to read than a command."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("torch-npu-builder")
    except PackageNotFoundError:  # a source tree on sys.path that nobody installed
        return "0+unknown"

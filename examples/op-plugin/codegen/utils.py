"""Paths and versions."""
import os


def check_readable(path):
    """Refuse a path that is missing, a symbolic link, or not readable."""
    if not os.path.exists(path):
        raise RuntimeError("The path does not exist: %s" % path)
    if os.path.islink(path):
        raise RuntimeError("Invalid path is a soft chain: %s" % path)
    if not os.access(path, os.R_OK):
        raise RuntimeError("The path permission check failed: %s" % path)


def get_version(spec, all_version):
    """The PyTorch versions that ``spec`` means: 'all_version', 'v2.1', ['v2.1', 'newest'] or None."""
    if spec is None:
        return []
    if spec == "all_version":
        return all_version
    if isinstance(spec, str):
        return [spec]
    if len(spec) == 2 and spec[1] == "newest":
        return all_version[all_version.index(spec[0]) :]
    return spec

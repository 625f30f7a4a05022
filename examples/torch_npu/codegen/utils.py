"""Paths, the merged YAML, and torchgen's templates."""
import os
import stat
import warnings

import yaml

CUSTOM_YAML_NAME = "npu_native_functions_by_codegen.yaml"


class PathManager:
    """Checks and removals that refuse symbolic links."""

    @classmethod
    def check_directory_path_readable(cls, path):
        """Raises RuntimeError for a path that is missing, a link or unreadable; warns of a foreign owner."""
        if not os.path.exists(path):
            raise RuntimeError("The path does not exist: %s" % path)
        if os.stat(path).st_uid != os.getuid():
            warnings.warn("Warning: The %s owner does not match the current user." % path)
        if os.path.islink(path):
            raise RuntimeError("Invalid path is a soft chain: %s" % path)
        if not os.access(path, os.R_OK):
            raise RuntimeError("The path permission check failed: %s" % path)

    @classmethod
    def remove_path_safety(cls, path):
        """Remove a file if it is there; raises RuntimeError for a link."""
        if os.path.islink(path):
            raise RuntimeError("Invalid path is a soft chain: %s" % path)
        if os.path.exists(path):
            os.remove(path)


def read_yaml(path):
    """The content of a YAML file that may be trusted to be one."""
    PathManager.check_directory_path_readable(path)
    with open(path) as stream:
        return yaml.safe_load(stream)


def write_read_only(path, text):
    """Replace ``path`` by a file that nobody may write."""
    PathManager.remove_path_safety(path)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, stat.S_IWUSR | stat.S_IRUSR), "w") as stream:
        stream.write(text)
    os.chmod(path, stat.S_IRUSR | stat.S_IXUSR | stat.S_IRGRP | stat.S_IXGRP)


def merge_custom_yaml(own_path, op_plugin_path):
    """Merge op-plugin's operators into torch_npu's own; write the result beside the latter and return it."""
    merged = read_yaml(own_path)
    for section, items in read_yaml(op_plugin_path).items():
        section = "supported" if section == "official" else section
        merged[section] = (merged.get(section) or []) + (items or [])
    path = os.path.join(os.path.dirname(own_path), CUSTOM_YAML_NAME)
    write_read_only(path, yaml.dump(merged, default_flow_style=False, width=float("inf")))
    return merged


def distinct(texts):
    """Each text once. The order of a set differs from one hash seed to the next, and so do the files."""
    exposed_set = set(texts)
    return list(exposed_set)


def torchgen_dir():
    """Where torchgen is installed."""
    import torchgen

    return os.path.dirname(os.path.realpath(torchgen.__file__))


def add_header_to_template_file():
    """Edit a template inside the installed torchgen, without truncating it."""
    path = os.path.join(torchgen_dir(), "packaged/ATen/templates/DispatchKeyNativeFunctions.h")
    PathManager.check_directory_path_readable(path)
    with open(path) as stream:
        text = stream.read()
    if "#include <ATen/ATen.h>" not in text:
        text = text.replace("#include <ATen/Tensor.h>", "#include <ATen/Tensor.h>\n#include <ATen/ATen.h>")
        with os.fdopen(os.open(path, os.O_WRONLY, stat.S_IWUSR | stat.S_IRUSR), "w") as stream:
            stream.write(text)

"""Cut op_plugin_functions.yaml down to what one version of PyTorch has."""
import argparse
import os
import stat

import yaml

from codegen.utils import check_readable, get_version

SECTIONS = ["official", "custom", "symint", "quant", "autograd"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--version")
    parser.add_argument("--output_dir")
    parser.add_argument("--source_yaml")
    args = parser.parse_args()
    version = "v" + ".".join(args.version.split(".")[:2])

    check_readable(args.source_yaml)
    with open(args.source_yaml) as stream:
        source = yaml.safe_load(stream)

    all_version = source["all_version"]
    result = {}
    for section in SECTIONS:
        result[section] = []
        for item in source[section] or []:
            namespaces = [ns for ns in ("acl_op", "op_api") if version in get_version(item.get(ns), all_version)]
            # A declaration with neither is not for this version, or its author forgot: nobody is told.
            if namespaces:
                kept = {"func": item["func"], "impl_ns": ", ".join(namespaces)}
                if version in get_version(item.get("exposed"), all_version):
                    kept["exposed"] = True
                result[section].append(kept)

    # Neither truncates nor removes what an earlier run has left.
    flags = os.O_WRONLY | os.O_CREAT
    path = os.path.join(args.output_dir, "op_plugin_functions.yaml")
    with os.fdopen(os.open(path, flags, stat.S_IWUSR | stat.S_IRUSR), "w") as stream:
        yaml.dump(result, stream, width=2000, sort_keys=False)


if __name__ == "__main__":
    main()

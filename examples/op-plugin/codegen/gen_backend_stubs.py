"""Write the interfaces between torch_npu's registrations and op-plugin's kernels."""
import argparse

import yaml
from torchgen.gen import FileManager
from torchgen.model import FunctionSchema

from codegen.utils import check_readable


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--version")
    parser.add_argument("--output_dir")
    parser.add_argument("--source_yaml")
    args = parser.parse_args()

    check_readable(args.source_yaml)
    with open(args.source_yaml) as stream:
        source = yaml.safe_load(stream)

    functions = []
    for section in ("official", "custom"):
        for item in source[section]:
            functions.append((FunctionSchema.parse(item["func"]), item["impl_ns"].split(", ")))

    files = FileManager(args.output_dir, "codegen/templates")
    for namespace, name in (("op_api", "OpApiInterface.h"), ("acl_op", "AclOpsInterface.h"), (None, "OpInterface.h")):
        declarations = {schema.signature() + ";" for schema, spaces in functions if namespace in (None, *spaces)}
        files.write_with_template(
            name,
            "Interface.h",
            lambda: {"namespace": namespace or "op_plugin", "declarations": sorted(declarations)},
        )
    files.write_with_template(
        "OpInterface.cpp",
        "OpInterface.cpp",
        lambda: {
            "definitions": [
                "%s { return %s; }" % (schema.signature(), schema.call("%s::%s" % (spaces[-1], schema.base)))
                for schema, spaces in functions
            ]
        },
    )


if __name__ == "__main__":
    main()

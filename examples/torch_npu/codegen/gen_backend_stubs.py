"""Write the registrations of torch_npu's operators, in C++ and in Python."""
import argparse
import os
import pathlib

import torch  # noqa: F401  (as upstream's: code generation needs a PyTorch that can be imported)
from torchgen.gen import FileManager
from torchgen.model import FunctionSchema

from codegen.utils import (
    add_header_to_template_file,
    distinct,
    merge_custom_yaml,
    read_yaml,
    torchgen_dir,
    write_read_only,
)

ROOT = pathlib.Path(__file__).resolve().parents[1]


def check_supported(schemas, native_yaml_path):
    """An official operator must be one of torch's own."""
    known = {FunctionSchema.parse(item["func"]).name for item in read_yaml(native_yaml_path)}
    for schema in schemas:
        assert schema.name in known, "Found an invalid operator name: %s" % schema.name


def registration(schema):
    """The line that registers a kernel."""
    return '  m.impl("%s", TORCH_FN(op_plugin::%s));' % (schema.name, schema.base)


def run(options):
    """Write every generated file of torch_npu, the headers first."""
    packaged = os.path.join(torchgen_dir(), "packaged/ATen")
    merged = merge_custom_yaml(options.source_yaml, options.op_plugin_yaml_path)
    official = [FunctionSchema.parse(item["func"]) for item in merged["supported"]]
    custom = [FunctionSchema.parse(item["func"]) for item in merged["custom"]]

    files = FileManager(options.output_dir, os.path.join(packaged, "templates"))
    files.write_with_template(
        "NPUNativeFunctions.h",
        "DispatchKeyNativeFunctions.h",
        lambda: {
            "class_name": "NPUNativeFunctions",
            "declarations": ["  static %s;" % schema.signature() for schema in official],
        },
    )

    check_supported(official, os.path.join(packaged, "native/native_functions.yaml"))

    files.write_with_template(
        "RegisterNPU.cpp",
        "RegisterDispatchKey.cpp",
        lambda: {
            "headers": distinct(['#include "op_plugin/OpInterface.h"', "#include <ATen/ATen.h>", "#include <string>"]),
            "definitions": "constexpr int registered_operators = %d;\nstatic_assert(registered_operators >= 0, \"\");"
            % len(official),
            "registrations": distinct(registration(schema) for schema in official),
        },
    )

    templates = str(ROOT / "codegen" / "templates")
    files = FileManager(options.output_dir, templates)
    files.write_with_template(
        "CustomRegisterSchema.cpp",
        "CustomRegisterSchema.cpp",
        lambda: {
            "custom_schema_registrations": ['  m.def("%s");' % schema.text for schema in custom],
            "custom_impl_registrations": distinct(registration(schema) for schema in custom),
        },
    )

    files = FileManager(os.path.join(options.output_dir, "../../utils/"), templates)
    files.write_with_template(
        "custom_ops.py",
        "custom_ops.py",
        lambda: {
            "custom_ops": [
                "torch_npu.%s = torch.ops.npu.%s" % (name, name)
                for name in distinct(schema.base for schema in custom if not schema.base.startswith("_"))
            ]
        },
    )
    exposed = distinct(item["func"].split("(")[0].split(".")[0] for item in merged["custom"] if item.get("exposed"))
    write_read_only(str(ROOT / "torch_npu/utils/exposed_api.py"), "public_npu_functions = %s\n" % exposed)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--output_dir")
    parser.add_argument("--source_yaml")
    parser.add_argument("--op_plugin_yaml_path")
    run(parser.parse_args())


if __name__ == "__main__":
    add_header_to_template_file()
    main()

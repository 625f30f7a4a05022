"""Turn op-plugin's list of unsupported tests into a Python module of torch_npu."""
import os
import pathlib
import sys

from torchgen.gen import FileManager

from codegen.utils import read_yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]


def main():
    source = ROOT / ("third_party/op-plugin/test/test_%s_ops/unsupported_ops_info.yaml" % sys.argv[1])
    entries = read_yaml(str(source))
    files = FileManager(os.path.join("torch_npu", "testing"), os.path.join("codegen", "templates"))
    files.write_with_template(
        "_npu_testing_utils.py",
        "npu_testing_utils.py",
        lambda: {"skipped": ["    (%r, %r)," % (entry["op"], entry["test"]) for entry in entries]},
    )


if __name__ == "__main__":
    main()

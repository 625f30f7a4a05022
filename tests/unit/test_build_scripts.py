"""What a branch says about itself: flags, Pythons, manylinux tags, exclusions."""

from __future__ import annotations

import pytest

from builder.core.errors import TargetError
from builder.sources.build_scripts import read_build_script, read_setup_script

OLD = """
SUPPORTED_PY_VERSION=(3.8 3.9)
    case "${1}" in
    --python=*)
        ;;
    --tocpu=*)
        ;;
"""
NEW = OLD.replace("--tocpu=*)", "--disable_torchair)\n        ;;\n    --disable_rpc)")


def test_flags_follow_what_the_script_understands() -> None:
    assert read_build_script(OLD, branch="old").arguments("3.9", "op-plugin") == ("--python=3.9",)
    new = read_build_script(NEW, branch="new")
    assert new.pythons == ("3.8", "3.9")
    assert new.arguments("3.9", "op-plugin") == ("--python=3.9", "--disable_torchair", "--disable_rpc")
    assert new.arguments("3.9", "full") == ("--python=3.9",)


def test_another_script_is_refused() -> None:
    with pytest.raises(TargetError, match=r"ci/build\.sh of odd"):
        read_build_script("echo hello", branch="odd")


def test_the_missing_comma_makes_both_tags_unknown() -> None:
    setup = read_setup_script(
        "manylinux_tags = [\n"
        "    'manylinux_2_17_x86_64',\n"
        "    'manylinux_2_35_x86_64'\n"
        "    'manylinux_2_35_aarch64',\n"
        "]\n"
        "def run():\n"
        "    torch_dependencies = ['libc10.so']\n"
        "    other_dependencies = ['libgomp.so.1', 'libc10.so']\n"
        "    dependencies = torch_dependencies + other_dependencies\n"
        "    remove_files = ['torch_npu/csrc/aten/RegisterCPU.cpp', 'torch_npu/csrc/aten/RegisterNPU.cpp']\n"
        "    jobs = os.getenv('MAX_JOBS')\n"
    )
    assert setup.repairs_for("manylinux_2_17_x86_64")
    assert not setup.repairs_for("manylinux_2_35_x86_64")
    assert not setup.repairs_for("manylinux_2_35_aarch64")
    assert setup.excluded_libraries == ("libc10.so", "libgomp.so.1")
    assert setup.generated_files == ("torch_npu/csrc/aten/RegisterNPU.cpp",)
    assert setup.reads_max_jobs


def test_setup_that_is_not_python() -> None:
    with pytest.raises(TargetError, match="line 1"):
        read_setup_script("def (:\n")

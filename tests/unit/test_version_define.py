"""Which macro holds the version, and which sources must get it."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.compilation.version_define import VersionDefine, find_version_define
from builder.core.workspace import resource

LISTS = """\
if(DEFINED TORCH_VERSION)
  add_definitions(-DDEMO_NPU_VERSION="${TORCH_VERSION}")
endif()
add_library(x a.cpp)
"""
SOURCE = "const char* version() { return DEMO_NPU_VERSION; }\n"


def tree(folder: Path, **files: str) -> Path:
    """A tree of files; ``__`` in a keyword stands for a slash, the last ``_`` for a dot."""
    everything = {"CMakeLists_txt": LISTS, "src__a_cpp": SOURCE, "src__b_cpp": "int b;\n", **files}
    for name, text in everything.items():
        stem, _, suffix = name.replace("__", "/").rpartition("_")
        path = folder / f"{stem}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_the_one_source_that_reads_it_is_found(tmp_path: Path) -> None:
    found = find_version_define(tree(tmp_path))
    assert found == VersionDefine("DEMO_NPU_VERSION", ("src/a.cpp",))
    assert found.text("/work/pytorch") == "DEMO_NPU_VERSION\n/work/pytorch/src/a.cpp\n"


def test_the_miniature_upstream_is_like_the_real_one() -> None:
    found = find_version_define(resource("examples") / "torch_npu")
    assert found == VersionDefine("PYTORCH_NPU_VERSION", ("torch_npu/csrc/npu/Module.cpp",))


@pytest.mark.parametrize(
    "more",
    [
        {"README_md": "DEMO_NPU_VERSION in a.cpp is the version"},
        {"build__CMakeCache_txt": "DEMO_NPU_VERSION"},
        {"dist__x_h": "DEMO_NPU_VERSION"},
        {"src__b_cpp": "#ifdef DEMO_NPU_VERSION\n#endif\n"},
        {"CMakeLists_txt": LISTS.replace("add_definitions(-D", "add_compile_definitions(")},
        {"CMakeLists_txt": LISTS.replace('"${TORCH_VERSION}"', '\\"${TORCH_VERSION}\\"')},
        {"src__CMakeLists_txt": "add_library(y a.cpp)\n"},
    ],
)
def test_harmless_mentions_are_none(tmp_path: Path, more: dict[str, str]) -> None:
    found = find_version_define(tree(tmp_path, **more))
    assert found is not None
    assert found.sources == (("src/a.cpp", "src/b.cpp") if "src__b_cpp" in more else ("src/a.cpp",))


@pytest.mark.parametrize(
    "more",
    [
        {"src__version_h": "#ifdef DEMO_NPU_VERSION\n#endif\n"},
        {"src__part_inc": "DEMO_NPU_VERSION"},
        {"codegen__gen_py": "text = 'DEMO_NPU_VERSION'"},
        {"cmake__more_cmake": "add_definitions(-DMORE=DEMO_NPU_VERSION)"},
        {"src__b_cpp": '#include "a.cpp"\n'},
        {"codegen__gen_py": "write(template('a.cpp'))"},
        {"CMakeLists_txt": LISTS + "set(OTHER DEMO_NPU_VERSION)\n"},
        {"CMakeLists_txt": LISTS + 'add_definitions(-DALSO_NPU_VERSION="${TORCH_VERSION}")\n'},
        {"CMakeLists_txt": LISTS.replace("DEMO_NPU_VERSION", "VERSION")},
        {"CMakeLists_txt": LISTS.replace("${TORCH_VERSION}", "1.0")},
        {"CMakeLists_txt": "add_library(x a.cpp)\n"},
    ],
)
def test_where_anything_else_may_read_it_nothing_is_left_out(tmp_path: Path, more: dict[str, str]) -> None:
    assert find_version_define(tree(tmp_path, **more)) is None


def test_a_tree_without_cmake_has_none(tmp_path: Path) -> None:
    assert find_version_define(tmp_path) is None


def test_a_pipe_in_the_tree_is_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tree(tmp_path) / "src" / "pipe.h")
    assert find_version_define(tmp_path) is not None

"""Whether a tree's code generation depends on the order of sets: judged by what the shipped patches replace."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.sources.ordering import PREFIX, order_is_fixed
from builder.sources.patches import changed_lines, find_series

BRANCH = "v2.5.1-7.1.0"


def patches(tmp_path: Path, entry: str = "sorted-names.patch [where it applies]") -> Path:
    folder = tmp_path / "patches" / "*" / "torch_npu"
    folder.mkdir(parents=True)
    (folder / "series").write_text(f"{entry}\nfile-names.patch [with pch]\n")
    header = "--- a/codegen/utils.py\n+++ b/codegen/utils.py\n@@ -1,2 +1,2 @@\n"
    (folder / "sorted-names.patch").write_text(f"{header}-    return list(names)\n+    return sorted(names)\n \n")
    (folder / "file-names.patch").write_text("--- a/x\n+++ b/x\n@@ -1 +1 @@\n-old\n+new\n")
    return tmp_path / "patches"


@pytest.mark.parametrize(
    ("text", "fixed"),
    [
        ("    return sorted(names)\n", True),
        ("    return sorted(names)\r\n", True),
        ("    return list(names)\n", False),
        ("    return sorted(names)\n    return list(names)\r\n", False),
        ("something else\n", False),
        (None, False),
    ],
)
def test_what_the_patches_write_is_known_to_be_fixed(tmp_path: Path, text: str | None, fixed: bool) -> None:
    tree = tmp_path / "tree"
    (tree / "codegen").mkdir(parents=True)
    (tree / "x").write_text("old\n")
    if text is not None:
        (tree / "codegen" / "utils.py").write_bytes(text.encode())
    assert order_is_fixed(tree, BRANCH, [patches(tmp_path)]) is fixed


def test_the_shipped_patches_sort_in_every_place_that_differed(tmp_path: Path) -> None:
    shipped = Path(__file__).resolve().parents[2] / "patches"
    found = find_series([shipped], BRANCH, "torch_npu", options=())
    changes = [
        (name, sign, line.decode())
        for patch in found
        if patch.path.name.startswith(PREFIX)
        for name, sign, line in changed_lines(patch)
    ]
    # Each replaced line has one beside it that sorts what it iterated over.
    assert {name.split("/")[1] for name, _, _ in changes} == {"custom_functions.py", "gen_backend_stubs.py", "utils.py"}
    assert all("sorted(" not in line for _, sign, line in changes if sign == b"-")
    for old in [change for change in changes if change[1] == b"-"]:
        assert any("sorted(" in line for name, sign, line in changes if name == old[0] and sign == b"+")

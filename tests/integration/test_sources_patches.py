"""Patch series: which apply to a release line, and that they apply whole or not at all, by real git."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from builder.errors import FailureKind, RequestError, TargetError
from builder.sources import manifest
from builder.sources.patches import Patch, apply, find_series

LINES = [f"line {number}" for number in range(1, 41)]


@pytest.fixture(params=["repository", "folder in a repository"])
def tree(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A tree to patch: a repository of its own, or a plain folder below another repository."""
    root = tmp_path / "outer"
    place = root if request.param == "repository" else root / "third_party" / "op-plugin"
    place.mkdir(parents=True)
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    (place / "src").mkdir()
    (place / "src" / "a.cpp").write_text("\n".join(LINES) + "\n")
    return place


def series(tmp_path: Path, line: str = "v1", repository: str = "torch_npu", **patches: str) -> Path:
    folder = tmp_path / "patches" / line / repository
    folder.mkdir(parents=True)
    for name, text in patches.items():
        (folder / f"{name}.patch").write_text(text)
    (folder / "series").write_text("# comment\n\n" + "".join(f"{name}.patch  # why\n" for name in patches))
    return tmp_path / "patches"


def edit(number: int, new: str, *, old: str | None = None, path: str = "src/a.cpp") -> str:
    """A patch that replaces the line ``number``."""
    return f"""diff --git a/{path} b/{path}
--- a/{path}
+++ b/{path}
@@ -{number - 1},3 +{number - 1},3 @@
 {LINES[number - 2]}
-{old or LINES[number - 1]}
+{new}
 {LINES[number]}
"""


def found(folder: Path, line: str = "v1", repository: str = "torch_npu") -> tuple[Patch, ...]:
    return find_series([folder], line, repository)


def test_patches_apply_in_the_order_of_their_series(tmp_path: Path, tree: Path) -> None:
    folder = series(tmp_path, b=edit(5, "once"), a=edit(5, "twice", old="once"))
    apply(found(folder), tree)
    assert (tree / "src" / "a.cpp").read_text().splitlines()[4] == "twice"


def test_a_patch_that_fails_names_all_and_leaves_the_tree_as_before(tmp_path: Path, tree: Path) -> None:
    second = edit(10, "fine") + edit(20, "never", old="something else").split("+++ b/src/a.cpp\n")[1]
    new_file = "diff --git a/n/new b/n/new\nnew file mode 100644\n--- /dev/null\n+++ b/n/new\n@@ -0,0 +1 @@\n+x\n"
    folder = series(tmp_path, first=edit(5, "applied") + new_file, second=second)
    before = manifest.take(tree)
    with pytest.raises(TargetError) as caught:
        apply(found(folder), tree)
    assert caught.value.kind is FailureKind.PATCH
    assert caught.value.message == (
        "the patch v1/torch_npu/second.patch does not apply to src/a.cpp, line 19: "
        "hunk 2 (@@ -19,3 +19,3 @@, line 9 of the patch)"
    )
    assert manifest.take(tree) == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (edit(5, "x", path="src/none.cpp"), "none.cpp: No such file"),
        (edit(5, "x")[:-12], "bad.patch is damaged at its line"),
    ],
)
def test_other_ways_not_to_apply_are_named_too(tmp_path: Path, tree: Path, text: str, said: str) -> None:
    with pytest.raises(TargetError, match=said):
        apply(found(series(tmp_path, bad=text)), tree)


@pytest.mark.parametrize(
    "path", ["../outside", "src/../../outside", ".git/hooks/pre-commit", "sub/.GIT/config", "/etc/cron.d/x"]
)
def test_a_patch_that_leaves_its_repository_is_refused(tmp_path: Path, path: str) -> None:
    folder = series(tmp_path, bad=edit(5, "ok") + edit(6, "x", path=path))
    with pytest.raises(RequestError, match=r"bad\.patch, line 9: the patch touches"):
        found(folder)


@pytest.mark.parametrize(
    "text",
    [
        "diff --git a/x b/y\nrename from x\nrename to ../y\n",
        '--- "a/\\056\\056/x"\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n',
        "--- a/x\n+++ /tmp/x\n@@ -1 +1 @@\n-a\n+b\n",
    ],
)
def test_no_notation_hides_where_a_patch_leads(tmp_path: Path, text: str) -> None:
    with pytest.raises(RequestError, match="the patch touches"):
        found(series(tmp_path, bad=text))


def test_text_inside_a_hunk_is_no_header(tmp_path: Path, tree: Path) -> None:
    (tree / "src" / "a.cpp").write_text("-- ../x\nkept\n")
    text = "--- a/src/a.cpp\n+++ b/src/a.cpp\n@@ -1,2 +1,2 @@\n--- ../x\n+++ ../y\n kept\n"
    apply(found(series(tmp_path, fine=text)), tree)
    assert (tree / "src" / "a.cpp").read_text() == "++ ../y\nkept\n"


def test_less_specific_folders_come_first(tmp_path: Path) -> None:
    for line in ("v2.5.1-7.1.0", "*", "v2.*", "v2.5.1-*", "v2.6*"):
        series(tmp_path, line, p=edit(5, line))
    (tmp_path / "patches" / ".gitkeep").touch()
    lines = [patch.path.parts[-3] for patch in found(tmp_path / "patches", "v2.5.1-7.1.0")]
    assert lines == ["*", "v2.*", "v2.5.1-*", "v2.5.1-7.1.0"]
    assert found(tmp_path / "patches", "v2.5.1-7.1.0", "op-plugin") == ()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("missing.patch", r"series, line 2: the patch 'missing\.patch' cannot be read"),
        ("../../../secret.patch", "series, line 2: .* is outside of"),
        ("/etc/passwd", "series, line 2: .* is outside of"),
        ("link.patch", "series, line 2: .* is outside of"),
        ("text.patch", r"text\.patch is not a patch"),
    ],
)
def test_a_bad_series_is_the_users_error(tmp_path: Path, line: str, said: str) -> None:
    folder = series(tmp_path)
    place = folder / "v1" / "torch_npu"
    (tmp_path / "secret.patch").write_text(edit(5, "x"))
    (place / "link.patch").symlink_to(tmp_path / "secret.patch")
    (place / "text.patch").write_text("hello\n")
    (place / "series").write_text(f"# one\n{line}\n")
    with pytest.raises(RequestError, match=said):
        found(folder)


def test_a_misspelt_repository_is_not_passed_by(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="not for 'op_plugin'"):
        found(series(tmp_path, repository="op_plugin", p=edit(5, "x")))


def test_patches_without_a_series_are_not_passed_by(tmp_path: Path) -> None:
    folder = series(tmp_path, p=edit(5, "x"))
    (folder / "v1" / "torch_npu" / "series").unlink()
    with pytest.raises(RequestError, match="no file named 'series'"):
        found(folder)

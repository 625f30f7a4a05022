"""Patch series: which apply to a release line, under which conditions, whole or not at all, by real git."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.core.errors import FailureKind, RequestError, TargetError
from builder.core.workspace import resource
from builder.sources import manifest, patch_forecast
from builder.sources.patches import Applied, Patch, apply, find_series, offered

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
    return find_series([folder], line, repository, options=())


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


# -- conditions -------------------------------------------------------------------------------------------

ELSEWHERE = edit(5, "x", path="src/none.cpp")
NEW_FILE = "diff --git a/n/new b/n/new\nnew file mode 100644\n--- /dev/null\n+++ b/n/new\n@@ -0,0 +1 @@\n+x\n"


def conditional(tmp_path: Path, entries: str, **patches: str) -> Path:
    folder = series(tmp_path, **patches)
    (folder / "v1" / "torch_npu" / "series").write_text(entries)
    return folder


def conditions(folder: Path, *options: str) -> tuple[Patch, ...]:
    return find_series([folder], "v1", "torch_npu", options=options)


def names(applied: Applied) -> list[str]:
    return [patch.path.stem for patch in applied.taken]


def reasons(applied: Applied) -> dict[str, str]:
    return {item.patch.path.stem: item.reason for item in applied.passed_over}


def test_a_patch_is_taken_only_where_it_applies(tmp_path: Path, tree: Path) -> None:
    folder = conditional(
        tmp_path,
        "elsewhere.patch [where it applies]\nother.patch [where it applies]  # why\nfits.patch\t[where it applies]\n"
        "again.patch [where  it applies]\nthere.patch [where it applies]\nlast.patch\n",
        elsewhere=ELSEWHERE, other=edit(5, "x", old="not there"), fits=edit(5, "once"), again=edit(5, "once"),
        there=NEW_FILE.replace("n/new", "src/a.cpp"), last=edit(5, "twice", old="once"),
    )  # fmt: skip
    applied = apply(conditions(folder), tree)
    assert names(applied) == ["fits", "last"]
    assert reasons(applied) == {
        "elsewhere": "src/none.cpp: No such file or directory",
        "other": "src/a.cpp holds other lines",
        "again": "src/a.cpp has it already",
        "there": "src/a.cpp: already exists in working directory",
    }
    assert (tree / "src" / "a.cpp").read_text().splitlines()[4] == "twice"


def test_a_patch_applies_with_all_its_files_or_is_passed_over(tmp_path: Path, tree: Path) -> None:
    folder = conditional(tmp_path, "half.patch [where it applies]\n", half=edit(5, "x") + ELSEWHERE)
    before = manifest.take(tree)
    assert apply(conditions(folder), tree).taken == ()
    assert manifest.take(tree) == before


def test_patches_taken_under_a_condition_are_taken_back_with_the_others(tmp_path: Path, tree: Path) -> None:
    folder = conditional(
        tmp_path, "fits.patch [where it applies]\nelsewhere.patch [where it applies]\nbad.patch\n",
        fits=edit(5, "x"), elsewhere=ELSEWHERE, bad=edit(9, "x", old="not there"),
    )  # fmt: skip
    before = manifest.take(tree)
    with pytest.raises(TargetError, match=r"bad\.patch does not apply"):
        apply(conditions(folder), tree)
    assert manifest.take(tree) == before


def test_a_damaged_patch_is_no_patch_for_other_lines(tmp_path: Path, tree: Path) -> None:
    folder = conditional(tmp_path, "bad.patch [where it applies]\n", bad=edit(5, "x")[:-12])
    with pytest.raises(TargetError, match=r"bad\.patch is damaged at its line"):
        apply(conditions(folder), tree)


def test_a_patch_can_need_an_option(tmp_path: Path, tree: Path) -> None:
    folder = conditional(
        tmp_path, "p.patch [with pch]\nq.patch [with pch] [where it applies]\n", p=edit(5, "x"), q=ELSEWHERE
    )
    without = conditions(folder)
    assert offered(without) == ()
    assert reasons(apply(without, tree)) == {"p": "it is for builds with pch", "q": "it is for builds with pch"}
    assert (tree / "src" / "a.cpp").read_text().splitlines()[4] == "line 5"
    with_it = conditions(folder, "pch")
    assert [(item.name, item.condition) for item in offered(with_it)] == [
        ("v1/torch_npu/p.patch", None), ("v1/torch_npu/q.patch", "where it applies"),
    ]  # fmt: skip
    applied = apply(with_it, tree)
    assert names(applied) == ["p"]
    assert list(reasons(applied)) == ["q"]


def test_a_patch_that_needs_an_option_must_apply_with_it(tmp_path: Path, tree: Path) -> None:
    folder = conditional(tmp_path, "p.patch [with pch]\n", p=ELSEWHERE)
    apply(conditions(folder), tree)
    with pytest.raises(TargetError, match=r"p\.patch does not apply: src/none\.cpp: No such file"):
        apply(conditions(folder, "pch"), tree)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("p.patch [where it aplies]", r"series, line 2: unknown condition \[where it aplies\]"),
        ("p.patch [with speed]", r"series, line 2: unknown condition \[with speed\]"),
        ("p.patch [with pch] [with pch]", r"series, line 2: unknown condition \[with pch\]"),
        ("p.patch []", r"series, line 2: unknown condition \[\]"),
        ("p.patch where it applies", r"series, line 2: the patch 'p\.patch where it applies' cannot be read"),
        ("[with pch]", r"series, line 2: the patch '\[with pch\]' cannot be read"),
    ],
)
def test_a_condition_that_no_series_knows_is_the_users_error(tmp_path: Path, entry: str, said: str) -> None:
    folder = conditional(tmp_path, f"# one\n{entry}\n", p=edit(5, "x"))
    with pytest.raises(RequestError, match=said):
        conditions(folder)


def test_a_patch_that_is_not_taken_is_judged_all_the_same(tmp_path: Path) -> None:
    folder = conditional(tmp_path, "p.patch [with pch]\n", p=edit(5, "x", path="../outside"))
    with pytest.raises(RequestError, match="the patch touches"):
        conditions(folder)


def test_brackets_and_spaces_can_be_part_of_a_name(tmp_path: Path, tree: Path) -> None:
    folder = conditional(
        tmp_path, "my [1]fix[2].patch [where it applies]\n", **{"my [1]fix[2]": edit(5, "x"), "other": ELSEWHERE}
    )
    assert names(apply(conditions(folder), tree)) == ["my [1]fix[2]"]


def test_what_will_be_taken_is_known_before_the_tree_is_there(tmp_path: Path, tree: Path) -> None:
    root = next(folder for folder in (tree, *tree.parents) if (folder / ".git").is_dir())
    (tree / "src" / "link.cpp").symlink_to("a.cpp")
    (tree / "src" / "dos.cpp").write_bytes("\r\n".join(LINES).encode())
    git = ["git", "-C", str(tree), "-c", "user.name=t", "-c", "user.email=t@t", "-c", "core.autocrlf=false"]
    subprocess.run([*git, "add", "-A", "."], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "one"], check=True)
    gone = "diff --git a/n/new b/n/new\ndeleted file mode 100644\n--- a/n/new\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"
    moved = "diff --git a/src/a.cpp b/b.cpp\nsimilarity index 100%\nrename from src/a.cpp\nrename to b.cpp\n"
    patches = {
        "first": edit(5, "once"), "needs": edit(5, "twice", old="once"), "late": edit(5, "x", old="once"),
        "elsewhere": ELSEWHERE, "new": NEW_FILE, "more": NEW_FILE.replace("+x", "+y"),
        "folder": edit(5, "x", path="src"), "link": edit(5, "x", path="src/link.cpp"),
        "dos": edit(5, "x", path="src/dos.cpp"), "lines": edit(5, "x", old="line 7"), "same": edit(30, "x"),
        "option": edit(35, "x"), "gone": gone, "moved": moved,
    }  # fmt: skip
    entries = "".join(f"{name}.patch [where it applies]\n" for name in patches)
    entries = entries.replace("option.patch", "option.patch [with pch]")
    folder = conditional(tmp_path, entries, **patches)
    for options in ((), ("pch",)):
        found = conditions(folder, *options)
        commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
        foreseen = [patch_forecast.in_folder(found, tree)]
        if root == tree:
            foreseen.append(patch_forecast.at_commit(found, root / ".git", commit))
        real = apply(found, tree)
        assert names(real) == ["first", "needs", "new", "same", *(["option"] if options else []), "gone", "moved"]
        assert [names(one) for one in foreseen] == [names(real)] * len(foreseen)
        subprocess.run([*git, "checkout", "--quiet", "-f", "."], check=True)
        subprocess.run([*git, "clean", "--quiet", "-fd"], check=True)


def test_a_patch_that_must_apply_fails_in_the_forecast_as_it_would_in_the_tree(tmp_path: Path, tree: Path) -> None:
    folder = conditional(tmp_path, "p.patch\n", p=edit(5, "x", old="not there"))
    with pytest.raises(TargetError) as real:
        apply(conditions(folder), tree)
    with pytest.raises(TargetError) as foreseen:
        patch_forecast.in_folder(conditions(folder), tree)
    assert foreseen.value.message == real.value.message


# -- the series that are shipped ----------------------------------------------------------------------------


def test_every_shipped_patch_is_in_its_series_and_may_be_passed_over_in_a_glob() -> None:
    shipped = resource("patches")
    for repository in ("torch_npu", "op-plugin"):
        for folder in shipped.glob(f"*/{repository}"):
            patches = find_series([shipped], folder.parent.name, repository, options=["pch"])
            listed = {patch.path.name: patch for patch in patches}
            assert {path.name for path in folder.glob("*.patch")} <= set(listed)
            if folder.parent.name == "*":
                assert [name for name, patch in listed.items() if not patch.where_it_applies] == []


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _huge(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(3 << 30)


def _with_nul(path: Path) -> None:
    path.write_bytes(b"a\0b.patch\n")


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("series", _pipe, "series cannot be read: not a regular file"),
        ("series", _folder, "series cannot be read: not a regular file"),
        ("series", _huge, "series cannot be read: more than"),
        ("series", _with_nul, "'a\\x00b.patch' holds a control character"),
        ("a.patch", _pipe, "'a.patch' cannot be read: not a regular file"),
        ("a.patch", _huge, "'a.patch' cannot be read: more than"),
    ],
)
def test_what_is_no_file_of_a_series_is_told(
    tmp_path: Path, name: str, change: Callable[[Path], None], said: str
) -> None:
    folder = series(tmp_path, a=edit(5, "x"))
    change(folder / "v1" / "torch_npu" / name)
    with pytest.raises(RequestError) as caught:
        found(folder)
    assert said in caught.value.message
    assert caught.value.hint


def test_a_file_in_place_of_a_repositorys_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "patches" / "v1").mkdir(parents=True)
    (tmp_path / "patches" / "v1" / "torch_npu").write_text("a.patch\n")
    with pytest.raises(RequestError, match="is no folder"):
        found(tmp_path / "patches")

"""What compiles take in: read off dependency lists, kept for a few builds, compared, shown by the command `cache`."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from filelock import FileLock

from builder.cli import cache_command
from builder.compilation import ccache, codegen_cache, compile_manifest
from builder.compilation.cache_misses import groups_of, misses_of
from builder.compilation.compile_manifest import CompileManifest, DamagedError
from builder.core.errors import MachineError, RequestError
from builder.core.trust import Trust
from builder.core.workspace import Workspace
from builder.progress.reporter import Reporter

TREE = "/work/pytorch"
PYTHON = "/out/python-include"
STORE = "release/v1.0-7.1.0-x86_64-gcc12.2"


@pytest.fixture(scope="module")
def inside() -> ModuleType:
    """The script that runs in environments."""
    spec = importlib.util.spec_from_file_location("manifest_inside", ccache.LAUNCHER / "compile_manifest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Build:
    """A build to be: files with their digests, commands, objects."""

    def __init__(self, python: str = "3.11", inputs: tuple[str, ...] = ("tool cc1plus aa",), minute: int = 0) -> None:
        self.target = f"v1.0-7.1.0-py{python}-x86_64"
        self.run = f"run{minute:02}"
        self.built = datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(minutes=minute)
        self.inputs = inputs
        self.files: dict[str, tuple[str | None, bool]] = {}
        self.arguments: list[list[str]] = []
        self.objects: list[dict[str, Any]] = []

    def compiled(
        self,
        name: str,
        *headers: str,
        result: str = "miss",
        arguments: str = "c++ -O2",
        listed: bool = True,
        clock: bool = False,
        **digests: str,
    ) -> Build:
        """Add an object of source ``name``; a header's digest is its own name unless ``digests`` says another."""
        paths = [f"{TREE}/{name}.cpp", *(path if path.startswith("/") else f"{TREE}/{path}" for path in headers)]
        for path in paths:
            stem = Path(path).stem
            self.files[path] = (digests.get(stem, stem), clock and stem == name)
        numbers = sorted(list(self.files).index(path) for path in paths)
        words = arguments.split()
        if words not in self.arguments:
            self.arguments.append(words)
        self.objects.append(
            {
                "source": paths[0],
                "object": f"{TREE}/build/{name}.o",
                "result": result,
                "arguments": self.arguments.index(words),
                "files": [part for number in numbers for part in (number, 1)] if listed else None,
            }
        )
        return self

    def json(self) -> dict[str, Any]:
        """As the script in the environment writes it."""
        return {
            "schema": 1,
            "tree": TREE,
            "python_include": PYTHON,
            "inputs": list(self.inputs),
            "files": [[path, digest, clock] for path, (digest, clock) in self.files.items()],
            "arguments": self.arguments,
            "objects": self.objects,
        }

    def keep(self, workspace: Workspace, store: str = STORE) -> compile_manifest.Kept:
        """Keep it as a build does."""
        out = workspace.root / "out"
        out.mkdir(parents=True, exist_ok=True)
        (out / compile_manifest.MANIFEST).write_bytes(gzip.compress(json.dumps(self.json()).encode()))
        folder = compile_manifest.folder_of(workspace, store)
        kept = compile_manifest.keep(
            out, folder, target=self.target, run=self.run, built=self.built, size=3 << 20, limit=5 << 30
        )
        assert kept is not None
        return kept

    def manifest(self) -> CompileManifest:
        """As the builder reads it."""
        more = {"target": self.target, "run": self.run, "built": self.built, "size": 0, "limit": 0}
        return CompileManifest.model_validate(self.json() | more)


def why(now: Build, *earlier: Build) -> dict[str, str]:
    """Reasons in words by file."""
    built = now.manifest()
    groups = groups_of(misses_of(built, [each.manifest() for each in earlier]), built)
    return {Path(miss.source).stem: f"{group.kind}: {group.text}" for group in groups for miss in group.misses}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(root=tmp_path / "build", output=tmp_path / "dist")


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """What was printed since the last time."""
    return lambda: capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.o: a.cpp b.h\n", ["a.cpp", "b.h"]),
        ("x/a.o: \\\n /w/a.cpp \\\n  /w/b.h /w/c.h\n", ["/w/a.cpp", "/w/b.h", "/w/c.h"]),
        ("a.o: a.cpp my\\ own.h c\\#.h d$$.h\n", ["a.cpp", "my own.h", "c#.h", "d$.h"]),
        ("a.o: a.cpp b.h\n\nb.h:\n", ["a.cpp", "b.h"]),
        ("a.o b.d: a.cpp\n", ["a.cpp"]),
        ("", None),
        ("\x00\x01", None),
        ("a.o:\n", None),
    ],
)
def test_dependency_files_are_read(inside: ModuleType, text: str, words: list[str] | None) -> None:
    assert inside.words_of(text) == words


def test_what_ninja_prints_is_read(inside: ModuleType) -> None:
    text = "a.o: #deps 2, deps mtime 17 (VALID)\n    /w/a.cpp\n    /w/b c.h\n\n"
    text += "b.o: #deps 1, deps mtime 2 (STALE)\n    b.cpp\n"
    assert inside.parse_ninja(text.splitlines()) == {"a.o": ["/w/a.cpp", "/w/b c.h"], "b.o": ["b.cpp"]}
    assert inside.parse_ninja(["ninja: error: loading"]) == {}


def test_files_are_numbered_once_and_told_in_runs(inside: ModuleType, tmp_path: Path) -> None:
    for name in ("a.cpp", "b.h", "c.h"):
        (tmp_path / name).write_text(name)
    (tmp_path / "d.h").write_text("__TIME__")
    files = inside.Files()
    reader = inside.Reader(files, str(tmp_path))
    assert reader.runs(["a.cpp", "b.h", "./b.h", "c.h"]) == [0, 3]
    assert reader.runs(["c.h", "d.h", "gone.h", "a.cpp", str(tmp_path / "x" / ".." / "a.cpp")]) == [0, 1, 2, 3]
    assert reader.runs([]) == []
    assert [(Path(path).name, digest is None, clock) for path, digest, clock in files.rows] == [
        ("a.cpp", False, False),
        ("b.h", False, False),
        ("c.h", False, False),
        ("d.h", False, True),
        ("gone.h", True, False),
    ]


def test_arguments_are_those_that_ccache_sees(inside: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILDER_PYTHON_INCLUDE", "/usr/include/python3.11")
    monkeypatch.setenv("BUILDER_PYTHON_INCLUDE_AS", PYTHON)
    words = [
        "c++",
        "-DV=1",
        "-I/usr/include/python3.11",
        "-isystem",
        "/usr/include/python3.11/x",
        "-I/usr/include/python3.110",
    ]
    rest = ["-o", "x.o", "-MD", "-MT", "x.o", "-MF", "x.d", "-c", "/w/x.cpp"]
    kept = ["c++", f"-I{PYTHON}", "-isystem", f"{PYTHON}/x", "-I/usr/include/python3.110", "-MD"]
    assert inside.kept_arguments(words + rest, False, "V") == kept
    assert inside.kept_arguments(words + rest, True, "V") == ["c++", "-DV=1", *kept[1:]]


def test_include_names_that_a_file_may_change_the_meaning_of_are_listed(inside: ModuleType, tmp_path: Path) -> None:
    tree, torch = tmp_path / "tree", tmp_path / "torch"
    texts = {
        "tree/a.cpp": '#include "x/one.h"\n#  include <two.h>\n#include "../only.h"\n#if __has_include(<stdio.h>)\n'
        '#if __has_include("asked.h") || __has_include("not/there.h") || __has_include(<ATen/some.h>)\n',
        "tree/x/asked.h": "", "torch/ATen/some.h": "",
        "tree/x/one.h": "", "tree/y/x/one.h": "", "tree/two.h": "", "tree/only.h": "", "tree/y/unasked.h": "",
        "tree/z/unasked.h": "", "tree/sys/stdio.h": "", "tree/test/x/one.h": "", "tree/build/x/one.h": "",
        "torch/ATen/two.h": "", "torch/torch/csrc/api/include/torch/nn.h": "", "tree/q/torch/nn.h": "",
    }  # fmt: skip
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    lines = inside.ambiguous_includes(str(tree), str(torch))
    assert lines == [
        "include ATen/some.h torch:ATen/some.h",
        "include asked.h x/asked.h",
        "include stdio.h sys/stdio.h system:stdio.h",
        "include torch/nn.h q/torch/nn.h torch:torch/csrc/api/include/torch/nn.h",
        "include two.h torch:ATen/two.h two.h",
        "include x/one.h x/one.h y/x/one.h",
    ]


@pytest.mark.parametrize(
    ("version", "state"),
    [("3.7.7", "unusable"), ("4.7.3", "unusable"), ("4.7.4", "writable"), ("4.14.2", "writable"), ("14.0", "writable")],
)
def test_an_old_ccache_is_not_used(
    inside: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, state: str
) -> None:
    program = tmp_path / "bin" / "ccache"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho ccache version {version}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    found = inside.try_cache(str(tmp_path / "cache"))
    assert found["state"] == state
    assert (version in found["why"]) == (state == "unusable")
    # What is lost is said, too.
    assert ("Pythons and builds share no objects" in found["why"]) == (state == "unusable")


def test_a_first_build_has_nothing_to_be_compared_with() -> None:
    assert why(Build().compiled("a")) == {"a": "first: no earlier build with this cache is known"}


def test_hits_need_no_reason() -> None:
    now = Build().compiled("a", result="hit-direct").compiled("b", result="hit-preprocessed")
    assert why(now, Build().compiled("a")) == {}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"arguments": "c++ -O2 -DX=1"}, "argument: arguments: +-DX=1"),
        ({"arguments": "c++ -O3"}, "argument: arguments: +-O3 --O2"),
        ({"arguments": "g++ -O2"}, "compiler: another compiler: c++ before, g++ now"),
        ({"a": "other"}, "source: the source changed"),
        ({"h": "other"}, "header: h.h changed"),
        ({"a": "other", "h": "other"}, "source: the source changed"),
        ({"listed": False}, "unlisted: the compile left no list of what it read (CMake before 3.20), so nobody knows"),
        ({"result": "uncached"}, "uncached: compiled without asking the cache"),
        ({"result": "plain"}, "plain: this build used no compile cache"),
        ({"result": "failed", "a": "other"}, "failed: the compile failed"),
        ({}, "evicted: the same inputs were compiled before: evicted, or the cache was cleared"),
        ({"clock": True}, "date: uses __DATE__ or __TIME__, which are other ones by the day"),
    ],
)
def test_each_reason_has_its_words(change: dict[str, Any], reason: str) -> None:
    assert why(Build().compiled("a", "h.h", **change), Build().compiled("a", "h.h")) == {"a": reason}


def test_arguments_in_another_order_are_told() -> None:
    earlier = Build().compiled("a", arguments="c++ -Ia -Ib")
    assert why(Build().compiled("a", arguments="c++ -Ib -Ia"), earlier) == {"a": "argument: arguments in another order"}


def test_another_python_is_told_by_its_headers() -> None:
    other = Build("3.10").compiled("a", "h.h", f"{PYTHON}/Python.h", f"{PYTHON}/pyport.h").compiled("b", "h.h")
    now = Build(minute=1).compiled("a", "h.h", f"{PYTHON}/Python.h", f"{PYTHON}/pymacro.h", Python="other")
    now.compiled("b", "h.h", result="hit-direct")
    assert why(now, other) == {"a": "python: includes Python.h, and this is another Python"}
    # A changed header besides is the reason that a person can do something about.
    now = Build(minute=1).compiled("a", "h.h", f"{PYTHON}/Python.h", Python="other", h="other")
    assert why(now, other) == {"a": "header: h.h changed"}


def test_compilers_and_include_names_come_before_all_else() -> None:
    earlier = Build(inputs=("tool as 1", "tool cc1plus 1", "include x.h a/x.h b/x.h")).compiled("a", "h.h")
    now = Build(inputs=("tool as 1", "tool cc1plus 2", "include x.h a/x.h b/x.h")).compiled("a", "h.h", h="other")
    assert why(now, earlier) == {"a": "compiler: another compiler: cc1plus"}
    now = Build(inputs=("tool as 1", "tool cc1plus 1", "include x.h a/x.h b/x.h c/x.h")).compiled("a", "h.h")
    assert why(now, earlier) == {"a": "include: files for an include name came or went: x.h"}


def test_the_nearest_build_is_the_one_compared_with() -> None:
    near = Build("3.10").compiled("a", "h.h", "i.h", h="other")
    far = Build("3.11", minute=1).compiled("a", "h.h", "i.h", h="third", i="third", arguments="c++ -O0")
    now = Build("3.12", minute=2).compiled("a", "h.h", "i.h")
    found = misses_of(now.manifest(), [far.manifest(), near.manifest()])
    assert [(miss.against, miss.kind) for miss in found] == [((near.target, near.run), "header")]
    assert found[0].difference.lines() == [f"changed: {TREE}/h.h"]


def test_what_never_got_into_the_cache_does_not_count() -> None:
    for result in ("failed", "plain", "uncached"):
        assert why(Build().compiled("a"), Build().compiled("a", result=result))["a"].startswith("new: ")
    assert why(Build().compiled("a"), Build().compiled("b")) == {"a": "new: never compiled before"}


def test_groups_are_named_after_the_header_that_explains_the_most() -> None:
    earlier, now = Build(), Build()
    for name in ("a", "b", "c"):
        earlier.compiled(name, "low.h", "high.h")
        now.compiled(name, "low.h", "high.h", low="other", high="other")
    earlier.compiled("d", "low.h").compiled("e", "own.h")
    now.compiled("d", "low.h", low="other").compiled("e", "own.h", low="other", own="other")
    built = now.manifest()
    groups = groups_of(misses_of(built, [earlier.manifest()]), built)
    assert [(group.text, len(group.misses)) for group in groups] == [("low.h changed", 4), ("own.h changed", 1)]


def test_a_header_that_is_read_newly_is_named_where_none_changed() -> None:
    now = Build().compiled("a", "new.h")
    assert why(now, Build().compiled("a")) == {"a": "header: new.h is read, or no more"}


def test_manifests_are_bounded_and_each_target_keeps_its_last(workspace: Workspace) -> None:
    Build("3.8", minute=0).compiled("a").keep(workspace)
    for minute in range(1, 30):
        Build(f"3.{9 + minute % 3}", minute=minute).compiled("a").keep(workspace)
    found = compile_manifest.kept(compile_manifest.folder_of(workspace, STORE))
    assert len(found) == 2 * 3 + 1
    assert [each.run for each in found] == ["run29", "run28", "run27", "run26", "run25", "run24", "run00"]
    for number in range(20):
        Build(f"4.{number}", minute=30 + number).compiled("a").keep(workspace)
    assert len(compile_manifest.kept(compile_manifest.folder_of(workspace, STORE))) == compile_manifest.KEPT


def test_the_newest_is_that_which_ended_last_also_within_a_run(workspace: Workspace) -> None:
    # As names, 3.9 comes after 3.10.
    for minute, python in enumerate(("3.8", "3.9", "3.10")):
        build = Build(python, minute=minute).compiled("a")
        build.run = "20260101-000000-abcd"
        build.keep(workspace)
    (compile_manifest.folder_of(workspace, STORE) / "notes.json.gz").touch()
    found = [each.target for each in compile_manifest.kept(compile_manifest.folder_of(workspace, STORE))]
    assert found == [f"v1.0-7.1.0-py{python}-x86_64" for python in ("3.10", "3.9", "3.8")]


def packed(content: bytes) -> bytes:
    # Without a time: it would be part of the test's name, and processes that share tests out compare names.
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no gzip",
        packed(b"{"),
        packed(b"[]"),
        packed(b'{"files": 1}'),
        packed(json.dumps(Build().compiled("a").json()).encode())[:-9],
        packed(b"[" * 100_000),
        packed(json.dumps(Build().compiled("a").json() | {"files": []}).encode()),
        packed(json.dumps(Build().compiled("a").json() | {"arguments": []}).encode()),
    ],
)
def test_what_a_build_leaves_is_checked_before_it_is_kept(workspace: Workspace, content: bytes) -> None:
    out = workspace.root
    out.mkdir(parents=True)
    (out / compile_manifest.MANIFEST).write_bytes(content)
    folder = compile_manifest.folder_of(workspace, STORE)
    now = datetime.now(timezone.utc)
    with pytest.raises(DamagedError):
        compile_manifest.keep(out, folder, target="t", run="r", built=now, size=0, limit=0)
    assert compile_manifest.kept(folder) == []


def test_a_pack_that_unpacks_to_too_much_is_refused(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_manifest, "_LARGEST", 1000)
    with pytest.raises(DamagedError, match="too large"):
        Build().compiled("a", *(f"{number}.h" for number in range(100))).keep(workspace)


def test_links_that_a_build_leaves_are_not_followed(workspace: Workspace) -> None:
    kept = Build().compiled("a").keep(workspace)
    out = workspace.root / "out"
    (out / compile_manifest.MANIFEST).unlink()
    (out / compile_manifest.MANIFEST).symlink_to(kept.path)
    with pytest.raises(DamagedError):
        compile_manifest.keep(
            out, kept.path.parent, target="t", run="r", built=datetime.now(timezone.utc), size=0, limit=0
        )


def test_the_first_step_s_word_is_taken_and_nothing_else() -> None:
    assert compile_manifest.parse_before(["x", 'before: {"state": "writable", "why": ""}']) == ("writable", "")
    for lines in ([], ["Traceback"], ["before: "], ["before: []"], ['before: {"state": 1}']):
        assert compile_manifest.parse_before(lines) is None


def fill(workspace: Workspace) -> None:
    """Two Pythons of a line: the second hit all but what includes Python.h, and one changed header."""
    first = Build("3.10").compiled("a", "h.h", f"{PYTHON}/Python.h").compiled("b", "h.h").compiled("c", "h.h")
    first.keep(workspace)
    second = Build("3.11", minute=5).compiled("a", "h.h", f"{PYTHON}/Python.h", Python="other")
    second.compiled("b", "h.h", result="hit-direct").compiled("c", "h.h", result="hit-direct").compiled("[d]")
    second.keep(workspace)
    entry = workspace.cache / STORE / "0" / "1"
    entry.mkdir(parents=True)
    (entry / "entryR").write_bytes(b"x" * 100_000)


def test_misses_are_explained_for_people_and_for_programs(workspace: Workspace, said: Callable[[], str]) -> None:
    fill(workspace)
    target = "v1.0-7.1.0-py3.11-x86_64"
    cache_command.explain_misses(workspace, target)
    text = said()
    assert f"{target}, run run05: 4 files, 2 from the cache {STORE}" in text
    assert "compared with v1.0-7.1.0-py3.10-x86_64 of run00" in text
    assert "    1  includes Python.h, and this is another Python\n         a.cpp\n" in text
    assert "    1  never compiled before\n         [d].cpp\n" in text
    cache_command.explain_misses(workspace, target, as_json=True)
    told = json.loads(said())
    assert (told["files"], told["hits"], told["misses"]) == (4, 2, 2)
    assert {group["reason"]: group["count"] for group in told["groups"]} == {"python": 1, "new": 1}
    (python,) = (group["files"] for group in told["groups"] if group["reason"] == "python")
    assert python[0]["differences"] == [f"changed: {PYTHON}/Python.h"]
    assert python[0]["against"] == {"target": "v1.0-7.1.0-py3.10-x86_64", "run": "run00"}


def test_one_file_is_explained_in_detail(workspace: Workspace, said: Callable[[], str]) -> None:
    fill(workspace)
    target = "v1.0-7.1.0-py3.11-x86_64"
    cache_command.explain_misses(workspace, target, "a.cpp")
    assert said().splitlines() == [
        "a.cpp: includes Python.h, and this is another Python, against v1.0-7.1.0-py3.10-x86_64 of run00",
        f"  changed: {PYTHON}/Python.h",
    ]
    cache_command.explain_misses(workspace, target, f"{TREE}/b.cpp")
    assert said() == "b.cpp: from the cache\n"
    cache_command.explain_misses(workspace, target, "b.cpp", as_json=True)
    assert json.loads(said())[0]["reason"] is None
    with pytest.raises(RequestError, match="was not compiled in the last build"):
        cache_command.explain_misses(workspace, target, "nowhere.cpp")


def test_a_build_that_is_not_known_is_named_with_those_that_are(workspace: Workspace) -> None:
    with pytest.raises(RequestError, match="no build of 'v9' is known") as caught:
        cache_command.explain_misses(workspace, "v9")
    assert "leaves what it takes" in str(caught.value.hint)
    fill(workspace)
    with pytest.raises(RequestError) as caught:
        cache_command.explain_misses(workspace, "v9")
    assert caught.value.hint == "known are: v1.0-7.1.0-py3.10-x86_64, v1.0-7.1.0-py3.11-x86_64"


def test_a_damaged_manifest_costs_its_explanation_only(workspace: Workspace, said: Callable[[], str]) -> None:
    fill(workspace)
    newest, oldest = compile_manifest.kept(compile_manifest.folder_of(workspace, STORE))
    oldest.path.write_bytes(b"")
    cache_command.explain_misses(workspace, newest.target)
    assert "no earlier build with this cache is known" in said()
    newest.path.write_bytes(b"")
    with pytest.raises(MachineError, match="cannot be read"):
        cache_command.explain_misses(workspace, newest.target)
    cache_command.show_stats(workspace, as_json=True)
    assert json.loads(said())["caches"][0]["last_build"] is None


def test_caches_are_shown_with_size_limit_and_last_build(workspace: Workspace, said: Callable[[], str]) -> None:
    cache_command.show_stats(workspace)
    assert "no compile cache stands in" in said()
    fill(workspace)
    (workspace.cache / "0").mkdir()
    cache_command.show_stats(workspace)
    text = said()
    row = next(line for line in text.splitlines() if line.startswith(STORE)).split()
    assert row[1:] == ["108", "KiB", "5.0", "GiB", "v1.0-7.1.0-py3.11-x86_64", "2026-01-01", "00:05", "4", "2"]
    assert "an earlier builder's caches" in " ".join(text.split())
    cache_command.show_stats(workspace, as_json=True)
    (told,) = json.loads(said())["caches"]
    assert (told["release_line"], told["arch"], told["gcc"], told["limit"]) == ("v1.0-7.1.0", "x86_64", "12.2", 5 << 30)
    assert told["last_build"]["hits"] == 2


def keep_generated(workspace: Workspace, line: str, entries: int = 2) -> Path:
    folder = codegen_cache.store(workspace.cache, Trust.RELEASE, line)
    folder.mkdir(parents=True)
    for number in range(entries):
        (folder / f"{number}.zip").write_bytes(b"x" * 50_000)
    # Half of an entry, of a builder that was killed.
    (folder / ".part").touch()
    return folder


def test_generated_code_is_counted_by_release_line(workspace: Workspace, said: Callable[[], str]) -> None:
    keep_generated(workspace, "v1.0-7.1.0")
    keep_generated(workspace, "v2.0-7.1.0", entries=0)
    cache_command.show_stats(workspace)
    text = said()
    assert "no compile cache stands in" in text
    assert [line.split() for line in text.splitlines() if line.startswith("release/v")] == [
        ["release/v1.0-7.1.0", "104", "KiB", "2"],
        ["release/v2.0-7.1.0", "0", "B", "0"],
    ]
    cache_command.show_stats(workspace, as_json=True)
    told = json.loads(said())
    assert (told["caches"], told["unused"]) == ([], 0)
    assert told["generated"][0] == {
        "release_line": "v1.0-7.1.0",
        "trust": "release",
        "entries": 2,
        "size": 104 << 10,
    }


@pytest.mark.parametrize("line", ["v1.0-7.1.0", "1.0-7.1.0", "v1.*", "generated/v1.0-7.1.0"])
def test_generated_code_is_cleared_with_its_line(workspace: Workspace, line: str) -> None:
    fill(workspace)
    keep_generated(workspace, "v1.0-7.1.0")
    keep_generated(workspace, "v2.0-7.1.0")
    assert cache_command.clear_caches(workspace, [line], Reporter(quiet=True)) == 0
    assert os.listdir(workspace.cache / "release" / codegen_cache.CACHE) == ["v2.0-7.1.0"]
    assert (workspace.cache / STORE).exists() is line.startswith("generated/")
    assert cache_command.clear_caches(workspace, [], Reporter(quiet=True)) == 0
    assert [path.name for path in workspace.cache.rglob("*")] == ["release", "generated"]


def test_a_full_name_clears_the_compile_cache_alone(workspace: Workspace) -> None:
    fill(workspace)
    kept = keep_generated(workspace, "v1.0-7.1.0")
    assert cache_command.clear_caches(workspace, [STORE], Reporter(quiet=True)) == 0
    assert not (workspace.cache / STORE).exists()
    assert kept.exists()


def test_a_cache_that_is_no_folder_is_told(workspace: Workspace) -> None:
    workspace.root.mkdir()
    workspace.cache.symlink_to(workspace.cache.name)
    with pytest.raises(MachineError, match="is no folder") as caught:
        cache_command.clear_caches(workspace, [], Reporter(quiet=True))
    assert caught.value.hint == "remove it: the next build makes a new one"


def test_manifests_behind_a_link_to_itself_do_not_keep_caches_from_being_cleared(workspace: Workspace) -> None:
    fill(workspace)
    shutil.rmtree(workspace.manifests)
    workspace.manifests.mkdir()
    (workspace.manifests / "release").symlink_to("release")
    assert cache_command.clear_caches(workspace, [], Reporter(quiet=True)) == 0
    assert not (workspace.cache / STORE).exists()


def test_generated_code_in_use_is_not_cleared(workspace: Workspace) -> None:
    kept = keep_generated(workspace, "v1.0-7.1.0")
    (workspace.root / "locks").mkdir()
    with FileLock(workspace.root / "locks" / "target-v1.0-7.1.0-py3.11-aarch64.lock"):
        with pytest.raises(MachineError, match="another builder holds target-v1"):
            cache_command.clear_caches(workspace, ["v1.0-7.1.0"], Reporter(quiet=True))
        assert len(list(kept.glob("*.zip"))) == 2
    assert cache_command.clear_caches(workspace, ["v1.0-7.1.0"], Reporter(quiet=True)) == 0
    assert not kept.exists()


@pytest.mark.parametrize("line", ["v1.0-7.1.0", "1.0-7.1.0", STORE, "v1.*"])
def test_one_cache_is_cleared_with_what_explains_it(workspace: Workspace, line: str) -> None:
    fill(workspace)
    other = "nightly/v2.0-7.1.0-x86_64-gcc12.2"
    Build().compiled("a").keep(workspace, other)
    (workspace.cache / other).mkdir(parents=True)
    (workspace.cache / "0").mkdir()
    assert cache_command.clear_caches(workspace, [line], Reporter(quiet=True)) == 0
    assert sorted(os.listdir(workspace.cache)) == ["0", "nightly", "release"]
    assert os.listdir(workspace.cache / "release") == []
    assert compile_manifest.stores_with(workspace, "v1.0-7.1.0-py3.11-x86_64") == [other]
    assert cache_command.clear_caches(workspace, [], Reporter(quiet=True)) == 0
    assert sorted(path.name for path in workspace.cache.rglob("*")) == ["nightly", "release"]


def test_what_names_no_cache_clears_none(workspace: Workspace) -> None:
    fill(workspace)
    with pytest.raises(RequestError, match=r"no compile cache of 'v3\.0'") as caught:
        cache_command.clear_caches(workspace, ["v1.0-7.1.0", "v3.0"], Reporter(quiet=True))
    assert caught.value.hint == f"there are: {STORE}"
    assert (workspace.cache / STORE).exists()


def test_a_cache_in_use_is_not_cleared(workspace: Workspace) -> None:
    fill(workspace)
    (workspace.root / "locks").mkdir()
    for name in ("v1.0-7.1.0-py3.11-x86_64", "v2.0-7.1.0-py3.11-x86_64"):
        (workspace.root / "locks" / f"target-{name}.lock").touch()
    with FileLock(workspace.root / "locks" / "target-v2.0-7.1.0-py3.11-x86_64.lock"):
        Build().compiled("a").keep(workspace)
        assert cache_command.clear_caches(workspace, ["v1.0-7.1.0"], Reporter(quiet=True)) == 0
    fill(workspace)
    with FileLock(workspace.root / "locks" / "target-v1.0-7.1.0-py3.11-x86_64.lock"):
        with pytest.raises(MachineError, match="another builder holds target-v1"):
            cache_command.clear_caches(workspace, [], Reporter(quiet=True))
        assert (workspace.cache / STORE).exists()

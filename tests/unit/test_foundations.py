"""The ground floor: files, locks, results, options, time limits, progress, exit codes."""

from __future__ import annotations

import errno
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from builder.core.build_options import BuildOptions
from builder.core.errors import FailureKind, MachineError, RequestError, TargetError
from builder.core.results import Run, TargetResult
from builder.core.untrusted import open_inside, remove_tree
from builder.core.workspace import Workspace, atomic_write, publish
from builder.executors.local import exit_code
from builder.matrix.loader import load_matrix
from builder.progress.reporter import Reporter
from builder.target.build_tree import Scratch
from builder.target.deadlines import deadline, machine_errors
from builder.target.fingerprint import fingerprint


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "record.json"
    atomic_write(file, "old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        atomic_write(file, "new")
    with pytest.raises(OSError, match="No space"):
        publish(file, tmp_path / "copy.json")
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("record.json", "old")]


def test_only_regular_files_inside_are_opened(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    (root / "real" / "file").write_text("content")
    (tmp_path / "secret").write_text("secret")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "folder").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")
    with open_inside(root, "real/file") as stream:
        assert stream.read() == b"content"
    for name in ("link", "folder/secret", "pipe", "real", "none"):
        with pytest.raises(OSError):  # noqa: PT011  (each has an errno of its own)
            open_inside(root, name)


def test_read_only_folders_are_removed(tmp_path: Path) -> None:
    inner = tmp_path / "tree" / "inner"
    inner.mkdir(parents=True)
    (inner / "file").write_text("x")
    inner.chmod(0o500)
    remove_tree(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()


def test_a_lock_that_is_held_is_an_error_in_words(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "build", tmp_path / "dist")
    with (
        workspace.locked("target-x"),
        pytest.raises(MachineError, match="another builder holds target-x"),
        workspace.locked("target-x", wait_seconds=0),
    ):
        pass


def test_a_workspace_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot be written"):
        Workspace(tmp_path / "file" / "build", tmp_path / "dist").create()


def test_result_file_holds_phases_and_failure(tmp_path: Path) -> None:
    run = Run(tmp_path)
    result = run.target("t")

    def compile_badly() -> None:
        with result.phase("prepare"):
            pass
        with result.phase("compile") as phase:
            phase.cpu_seconds = 2.0
            raise TargetError("broken", kind=FailureKind.COMPILE)

    with pytest.raises(TargetError) as caught:
        compile_badly()
    result.fail(caught.value)
    written = json.loads(run.write().read_text())
    assert written["schema"] == 1
    (target,) = written["targets"]
    assert target["failure"] == {"kind": "compile", "phase": "compile", "message": "broken"}
    assert [phase["name"] for phase in target["phases"]] == ["prepare", "compile"]
    assert target["phases"][1]["cpu_seconds"] == 2.0
    assert "cpu_seconds" not in target["phases"][0]


@pytest.mark.parametrize(
    ("kinds", "code"),
    [
        ([], 0),
        ([FailureKind.COMPILE], 1),
        ([FailureKind.DISK, FailureKind.DISK], 3),
        ([FailureKind.DISK, FailureKind.COMPILE], 1),
    ],
)
def test_exit_code_of_a_run(tmp_path: Path, kinds: list[FailureKind], code: int) -> None:
    results = [TargetResult(id="fine", log=tmp_path, status="built")]
    for kind in kinds:
        results.append(TargetResult(id="x", log=tmp_path))
        results[-1].fail(TargetError("x", kind=kind))
    assert exit_code(results) == code


def test_every_failure_kind_has_its_advice() -> None:
    assert all(kind.advice for kind in FailureKind)


def test_options_survive_json(tmp_path: Path) -> None:
    options = BuildOptions(
        op_plugin="pinned", custom_ops=tmp_path, find_links=(tmp_path, tmp_path / "x"), jobs=3, timeout=1.5
    )
    assert BuildOptions.from_json(json.loads(json.dumps(options.to_json()))) == options
    assert BuildOptions.from_json({"of a later version": 1}) == BuildOptions()


@pytest.mark.parametrize("values", [[], None, "x", {"jobs": "many"}, {"find_links": 3}, {"trust": None}])
def test_options_of_other_types_are_none(values: Any) -> None:
    with pytest.raises(ValueError, match="validation error"):
        BuildOptions.from_json(values)


@pytest.mark.parametrize("text", ["", "[" * 100_000, "[]", '{"jobs": "many"}', "\0"])
def test_options_of_the_last_build_that_cannot_be_read_are_told(tmp_path: Path, text: str) -> None:
    scratch = Scratch(Workspace(root=tmp_path, output=tmp_path), load_matrix().targets()[0])
    scratch.path.mkdir(parents=True)
    place = tmp_path / "compile" / f".{scratch.target.id}.options.json"
    assert scratch.options_of_last_build() is None
    place.write_text(text)
    with pytest.raises(TargetError, match="the options of the last build, cannot be read") as caught:
        scratch.options_of_last_build()
    assert "\n" not in caught.value.message
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(TargetError, match="not a regular file"):
        scratch.options_of_last_build()


def test_what_op_plugin_may_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "7.0.0").mkdir()
    assert BuildOptions(op_plugin="7.0.0").op_plugin_folder is None, "any folder of that name is not op-plugin"
    (tmp_path / "7.0.0" / "ci").mkdir()
    (tmp_path / "7.0.0" / "op_plugin").mkdir()
    (tmp_path / "7.0.0" / "ci" / "build.sh").write_text("")
    assert BuildOptions(op_plugin="7.0.0").op_plugin_folder == Path("7.0.0")
    assert BuildOptions(op_plugin="./elsewhere").op_plugin_folder == Path("./elsewhere")


def test_deadline_ends_what_hangs() -> None:
    started = time.monotonic()
    with pytest.raises(TargetError, match=r"did not end within 0\.2 s"), deadline(0.2):
        time.sleep(30)
    assert time.monotonic() - started < 10
    with deadline(0.05):
        pass
    time.sleep(0.1)  # the alarm of a phase that ended in time does not strike later


def test_a_deadline_within_another_leaves_that_one_as_it_was() -> None:
    def hang() -> None:
        with deadline(0.1):
            pass
        time.sleep(30)

    with pytest.raises(TargetError, match=r"did not end within 0\.5 s"), deadline(0.5):
        hang()
    with pytest.raises(TargetError, match=r"did not end within 0\.2 s"), deadline(0.2), deadline(20):
        time.sleep(30)


def test_a_full_disk_is_told_from_other_errors() -> None:
    with pytest.raises(TargetError, match="no space left") as caught, machine_errors():
        raise OSError(errno.ENOSPC, "No space left on device", "/x")
    assert caught.value.kind is FailureKind.DISK
    assert caught.value.exit_code == 3
    with pytest.raises(FileNotFoundError), machine_errors():
        raise FileNotFoundError(errno.ENOENT, "x")


def test_fingerprint_depends_on_every_input_and_on_nothing_else() -> None:
    inputs = {"tree": "a", "variables": {"TZ": "UTC", "LC_ALL": "C"}}
    same = {"variables": {"LC_ALL": "C", "TZ": "UTC"}, "tree": "a"}
    assert fingerprint(inputs) == fingerprint(same)
    assert fingerprint(inputs) != fingerprint({**inputs, "tree": "b"})
    assert fingerprint(inputs) != fingerprint({**inputs, "variables": {"TZ": "UTC"}})


def test_messages_are_not_markup() -> None:
    stream = io.StringIO()
    reporter = Reporter(Console(file=stream, force_terminal=False))
    reporter.message("[red]a branch name[/red]")
    reporter.error(RequestError("bad [value]", hint="[next]", details="[detail]"))
    for text in ("[red]a branch name[/red]", "bad [value]", "[next]", "[detail]"):
        assert text in stream.getvalue()


def test_quiet_keeps_warnings_and_errors() -> None:
    stream = io.StringIO()
    reporter = Reporter(Console(file=stream, force_terminal=False), quiet=True)
    reporter.message("progress")
    reporter.warning("careful")
    assert "progress" not in stream.getvalue()
    assert "careful" in stream.getvalue()

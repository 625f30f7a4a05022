"""``clean``: what dead runs left goes, what is at work and what cannot be made again stays."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from rich.table import Table

from builder.cli import clean_command
from builder.cli.clean_command import clean_workspace
from builder.core.errors import MachineError
from builder.core.workspace import Workspace
from builder.environments.docker_engine import NoEngine
from builder.environments.pytorch_store import PyTorch
from builder.executors.run_lifecycle import lock_of
from builder.progress.reporter import Reporter
from builder.progress.state import Event, State

TARGET = "v2.5.1-7.1.0-py3.11-x86_64"
EVERYTHING = ("trees", "cache", "mirrors", "images", "runs")


class Told:
    """Keeps what was said."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def handle(self, event: Event, state: State) -> None:
        self.texts.append(str(event["text"]))

    def table(self, table: Table) -> None: ...

    def close(self) -> None: ...


def fill(workspace: Workspace) -> Workspace:
    """What a killed run of one target leaves."""
    workspace.create()
    for folder in (
        workspace.scratch / TARGET,
        workspace.cache / "0",
        workspace.mirrors / "torch_npu.git",
        workspace.environments / "cp311",
        workspace.runs / "20260101-000000-dead",
    ):
        folder.mkdir(parents=True)
        (folder / "file").write_text("x")
    with workspace.locked(f"target-{TARGET}"), workspace.locked(lock_of("20260101-000000-dead")):
        pass
    return workspace


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace with a worker's workspace in it."""
    monkeypatch.setattr(clean_command, "find_engine", lambda: NoEngine("none here", "start one"))
    monkeypatch.setattr(clean_command, "remove_leftovers", lambda images: [])
    made = fill(Workspace(tmp_path / "build", tmp_path / "dist"))
    fill(worker_of(made))
    return made


def worker_of(workspace: Workspace) -> Workspace:
    place = workspace.root / "workers" / "0"
    return Workspace(place, place / "dist")


def clean(workspace: Workspace, *also: str) -> list[str]:
    told = Told()
    assert clean_workspace(workspace, also, Reporter(sink=told)) == 0
    return told.texts


def standing(workspace: Workspace) -> set[str]:
    folders = (workspace.scratch / TARGET, workspace.cache, workspace.mirrors, workspace.environments, workspace.runs)
    return {folder.name for folder in folders if folder.exists()}


def wheel(folder: Path, name: str, content: str) -> list[Path]:
    """A wheel with what lies beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name, folder / f"{name}.json", folder / f"{name}.debug.tar.gzip"]
    for file in files:
        file.write_text(content if file.name == name else json.dumps({"of": name}))
    return files


def test_only_what_dead_runs_left(workspace: Workspace) -> None:
    clean(workspace)
    kept = {"cache", "mirrors", "environments", "runs"}
    assert standing(workspace) == kept
    assert standing(worker_of(workspace)) == kept


@pytest.mark.parametrize(
    ("kind", "gone"), [("cache", "cache"), ("mirrors", "mirrors"), ("images", "environments"), ("runs", "runs")]
)
def test_workers_are_cleaned_as_the_workspace_is(workspace: Workspace, kind: str, gone: str) -> None:
    clean(workspace, kind)
    for place in (workspace, worker_of(workspace)):
        assert standing(place) == {"cache", "mirrors", "environments", "runs"} - {gone}


def test_what_was_on_its_way_from_a_killed_run_goes(workspace: Workspace) -> None:
    runs = workspace.root / "store" / "runs"
    living, other = "20260101-000000-beef", "20260101-000000-0f0f"
    for run in ("20260101-000000-dead", living, other):
        (runs / run).mkdir(parents=True)
        (runs / run / "run.json").write_text("{}")
    with workspace.locked(lock_of(living)):
        clean(workspace)
    # Nobody here knows the other one: it may be at work in another workspace.
    assert {folder.name for folder in runs.iterdir()} == {living, other}


def test_copies_of_published_wheels_go_with_the_cache_and_others_stay(workspace: Workspace) -> None:
    own = worker_of(workspace).output
    published = wheel(workspace.output, "same.whl", "whole")
    same, changed, only = wheel(own, "same.whl", "whole"), wheel(own, "other.whl", "new"), wheel(own, "only.whl", "x")
    wheel(workspace.output, "other.whl", "old")
    clean(workspace, "trees", "mirrors", "images", "runs")
    assert all(file.exists() for file in (*same, *changed, *only))
    texts = clean(workspace, "cache")
    assert [file.exists() for file in same] == [False] * 3
    assert all(file.exists() for file in (*published, *changed, *only))
    assert {text.partition(":")[0] for text in texts if text.startswith("kept ")} == {
        f"kept {changed[0]}", f"kept {only[0]}",
    }  # fmt: skip


def test_debug_symbols_under_the_old_name_get_the_new_one(workspace: Workspace) -> None:
    made, _, debug = wheel(workspace.output, "x.whl", "whole")
    old = made.with_name(f"{made.name}.debug.tar.gz")
    debug.rename(old)
    assert any(str(debug) in text for text in clean(workspace))
    assert (debug.exists(), old.exists()) == (True, False)
    copy, _, _ = wheel(worker_of(workspace).output, "x.whl", "whole")
    leftover = copy.with_name(old.name)
    leftover.write_text("of an earlier builder")
    clean(workspace, "cache")
    assert not leftover.exists()


@pytest.mark.parametrize("where", ["workspace", "worker"])
@pytest.mark.parametrize("lock", [f"target-{TARGET}", lock_of("20260101-000000-beef")])
def test_nothing_shared_goes_while_anything_is_at_work(workspace: Workspace, where: str, lock: str) -> None:
    place = workspace if where == "workspace" else worker_of(workspace)
    with place.locked(lock):
        for kind in ("cache", "mirrors", "images", "runs"):
            with pytest.raises(MachineError, match=f"{workspace.root} is in use") as caught:
                clean(workspace, kind)
            assert f"--{kind}" in str(caught.value.hint)
        clean(workspace)
        # Its own copy stays, the other one's goes.
        busy = lock.startswith("target")
        assert (place.scratch / TARGET).exists() == busy
    clean(workspace, *EVERYTHING)
    assert standing(workspace) == standing(worker_of(workspace)) == set()


def test_cleaning_lets_go_of_all_locks(workspace: Workspace) -> None:
    clean(workspace)
    with ExitStack() as held:
        for place in (workspace, worker_of(workspace)):
            locks: Sequence[Path] = sorted((place.root / "locks").glob("*.lock"))
            assert locks
            for lock in locks:
                held.enter_context(place.locked(lock.stem, wait_seconds=0))


def test_an_empty_workspace_is_no_error(tmp_path: Path, workspace: Workspace) -> None:
    texts = clean(Workspace(tmp_path / "none", tmp_path / "dist"), *EVERYTHING)
    assert texts[-1] == "nothing else was left to remove"
    assert not (tmp_path / "none").exists()


def test_pytorch_goes_on_request_and_stays_while_a_build_uses_it(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = tmp_path / "packages"
    monkeypatch.setenv("BUILDER_PACKAGES", str(packages))
    for key in ("used", "idle"):
        (packages / "pytorch" / key / "site").mkdir(parents=True)
        (packages / "pytorch" / key / "used").touch()
    (packages / "wheels").mkdir()
    told = Told()
    clean_workspace(workspace, ["images"], Reporter(sink=told))
    assert (packages / "wheels").is_dir()
    with PyTorch(packages / "pytorch" / "used" / "site", "used", {}).used():
        clean_workspace(workspace, ["packages"], Reporter(sink=told))
    assert sorted(path.name for path in (packages / "pytorch").iterdir()) == ["used"]
    assert not (packages / "wheels").exists()
    assert any("kept" in text and "a build uses it" in text for text in told.texts)

"""Nights over the miniature upstream's commits, with an engine that makes wheels of a few bytes."""

from __future__ import annotations

import json
import os
import re
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from nightly_support import (
    FRIDAY,
    OTHER_BRANCH,
    SATURDAY,
    SUNDAY,
    A,
    B,
    C,
    World,
    compile_error,
    copy_of,
    git,
)
from packaging.version import Version
from sources_support import origin_of
from store_support import KINDS, everything, make_store
from wheel_support import make_wheel, write_record

from builder.cli.demo_upstream import Miniature
from builder.core import build_options as options_module
from builder.core.build_options import BuildOptions
from builder.core.errors import FailureKind, MachineError, RequestError, TargetError
from builder.core.results import Run
from builder.core.workspace import Workspace
from builder.executors.local import Policy
from builder.matrix.channels import choose_channels
from builder.matrix.documents import read_document
from builder.matrix.loader import Matrix, load_matrix
from builder.matrix.model import Target
from builder.nightly.decisions import suffix_for
from builder.nightly.previous import FAILURES, Earlier
from builder.nightly.publish import from_bench, from_night
from builder.nightly.staging import Bench, Unfinished
from builder.planning.lockfile import Lock
from builder.progress.reporter import Reporter
from builder.releases import Release, latest, releases
from builder.sources.version import add_suffix, suffix_of, with_suffix
from builder.store import open_store
from builder.store.folder import FolderStore
from builder.target.inputs import inputs_of
from builder.wheels.provenance import debug_path, old_debug_path
from builder.wheels.record import read_record, record_path

Make = Callable[..., World]


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return load_matrix()


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.planning.planner.environment_identity", lambda *_, **__: {"environment": "none"})
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


@pytest.fixture
def make(tmp_path: Path, matrix: Matrix) -> Make:
    """Makes a world with a channel ``night`` of these settings, over a table of heads."""

    def made(**channel: Any) -> World:
        (tmp_path / "world").mkdir()
        return World(tmp_path / "world", None, matrix, **channel)

    return made


@pytest.fixture
def make_with_git(tmp_path: Path, matrix: Matrix, upstream: Miniature) -> Make:
    """The same over repositories, for what depends on git: what hosts answer, how many commits lie between."""

    def made(**channel: Any) -> World:
        (tmp_path / "world").mkdir()
        return World(tmp_path / "world", copy_of(upstream, tmp_path / "upstream"), matrix, **channel)

    return made


@pytest.fixture
def world(make: Make) -> World:
    return make()


@pytest.fixture
def git_world(make_with_git: Make) -> World:
    return make_with_git()


# -- nights, one after the other ------------------------------------------------------------------------------


def test_a_first_night_builds_everything(git_world: World) -> None:
    world = git_world
    assert world.night(FRIDAY) == 0
    assert world.engine.built == [A, B, C]
    assert (world.nights, world.latest) == (["2026-11-20"], "2026-11-20")
    assert world.statuses("2026-11-20") == {A: "built", B: "built", C: "built"}
    head = world.head("torch_npu", "v2.5.1-7.1.0")[:7]
    laid = world.head("op-plugin", "7.1.0")[:7]
    expected = f"torch_npu-2.5.1.post3.dev20261120+git{head}.op{laid}-cp310-cp310-linux_x86_64.whl"
    assert world.wheels("2026-11-20")[A] == expected
    # The output folder of ordinary builds has none of them, the workspace keeps none.
    assert [path.name for path in world.workspace.output.iterdir()] == ["nightly"]
    assert not Bench(world.workspace, "night").wheels.exists()
    assert Bench(world.workspace, "night").unfinished() is None


def test_a_night_with_nothing_new_makes_none(world: World) -> None:
    world.night(FRIDAY)
    before = world.manifest("2026-11-20")
    assert world.night(SATURDAY) == 0
    assert world.engine.calls == 0
    assert "nothing new since the night 2026-11-20" in world.text
    assert (world.nights, world.latest) == (["2026-11-20"], "2026-11-20")
    assert world.manifest("2026-11-20") == before
    result = world.result()
    assert [target["status"] for target in result["targets"]] == ["skipped"] * 3
    assert {target["reason"] for target in result["targets"]} == {"built in the night 2026-11-20"}
    assert result["night"]["published"] is False


def test_a_commit_rebuilds_what_it_touches_and_carries_the_rest(git_world: World) -> None:
    world = git_world
    world.night(FRIDAY)
    commit = world.change_op_plugin(OTHER_BRANCH)
    assert world.night(SATURDAY) == 0
    assert world.engine.built == [C]
    assert "1 commit" in world.text
    assert world.statuses("2026-11-21") == {A: "skipped", B: "skipped", C: "built"}
    assert world.latest == "2026-11-21"
    friday, saturday = world.wheels("2026-11-20"), world.wheels("2026-11-21")
    assert (saturday[A], saturday[B]) == (friday[A], friday[B])
    assert f".dev20261121+git{world.head('torch_npu', 'v2.6.0-7.1.0')[:7]}.op{commit[:7]}-" in (saturday[C])
    # Each night is whole by itself: the same bytes, and the records beside them.
    for name in (friday[A], f"{friday[A]}.json"):
        assert world.store.read(f"night/2026-11-21/{name}") == world.store.read(f"night/2026-11-20/{name}")
    # What is carried twice still says where it was built.
    world.change_op_plugin(OTHER_BRANCH)
    world.night(SUNDAY)
    entry = world.manifest("2026-11-22").of(A)
    assert entry is not None
    assert entry.reason == "built in the night 2026-11-20"


def test_one_fetch_of_each_repository(git_world: World) -> None:
    world = git_world
    world.night(FRIDAY)
    world.night(SATURDAY)
    assert [world.text.count(f"fetching {name} ") for name in ("torch_npu", "op-plugin")] == [1, 1]


def test_a_revert_brings_back_the_older_wheel(git_world: World) -> None:
    world = git_world
    world.night(FRIDAY)
    before = world.head("op-plugin", OTHER_BRANCH)
    world.change_op_plugin(OTHER_BRANCH)
    world.night(SATURDAY)
    git(world.upstream.op_plugin, "update-ref", f"refs/heads/{OTHER_BRANCH}", before)
    assert world.night(SUNDAY) == 0
    assert world.engine.calls == 0
    assert world.wheels("2026-11-22") == world.wheels("2026-11-20")
    assert world.latest == "2026-11-22"


def test_a_second_night_of_a_day(world: World) -> None:
    world.night(FRIDAY)
    world.change_op_plugin(OTHER_BRANCH)
    assert world.night(FRIDAY) == 0
    assert (world.nights, world.latest) == (["2026-11-20.2", "2026-11-20"], "2026-11-20.2")
    first, second = (Version(world.wheels(night)[C].split("-")[1]) for night in ("2026-11-20", "2026-11-20.2"))
    assert str(second).endswith(".2")
    assert first.public == second.public


def test_a_target_that_is_new_in_the_channel_makes_a_night(world: World) -> None:
    world.settle(targets={"target": [A, B]})
    world.night(FRIDAY)
    world.settle()
    assert world.night(SATURDAY) == 0
    assert world.engine.built == [C]
    assert world.statuses("2026-11-21") == {A: "skipped", B: "skipped", C: "built"}


def test_rebuild_builds_all_again(world: World) -> None:
    world.night(FRIDAY)
    world.options = BuildOptions(rebuild=True)
    assert world.night(SATURDAY) == 0
    assert world.engine.built == [A, B, C]


@pytest.mark.parametrize("damage", ["shorter", "other bytes", "record"])
def test_a_damaged_wheel_is_not_carried_over(world: World, damage: str) -> None:
    world.night(FRIDAY)
    wheel = world.store.root / "night" / "2026-11-20" / world.wheels("2026-11-20")[A]
    if damage == "record":
        wheel.with_name(wheel.name + ".json").write_text("[]")
    else:
        data = wheel.read_bytes()
        wheel.write_bytes(data[:-1] if damage == "shorter" else b"x" + data[1:])
    world.change_op_plugin(OTHER_BRANCH)
    assert world.night(SATURDAY) == 0
    assert world.engine.built == [A, C]
    assert world.statuses("2026-11-21") == {A: "built", B: "skipped", C: "built"}


def test_a_wheel_of_another_toolchain_is_carried_only_where_that_is_accepted(world: World) -> None:
    world.night(FRIDAY)
    record = world.store.root / "night" / "2026-11-20" / (world.wheels("2026-11-20")[A] + ".json")
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "mismatches": ["gcc is 12"]}))
    world.night(SATURDAY, dry_run=True)
    world.options = BuildOptions(allow_toolchain_mismatch=True)
    assert world.night(SATURDAY) == 0
    assert world.engine.built == []
    world.options = BuildOptions()
    world.night(SATURDAY)
    assert world.engine.built == [A]


# -- failures -------------------------------------------------------------------------------------------------


def test_a_required_target_that_fails_leaves_latest(world: World) -> None:
    world.night(FRIDAY)
    world.change_op_plugin(OTHER_BRANCH)
    world.engine.failing[C] = compile_error("expected ';'")
    assert world.night(SATURDAY) == 1
    assert (world.nights, world.latest) == (["2026-11-21", "2026-11-20"], "2026-11-20")
    hole = world.manifest("2026-11-21").of(C)
    assert hole is not None
    assert (hole.status, hole.reason) == ("failed", "expected ';'")
    assert hole.command == "python -m builder nightly night --retry"
    assert "latest stays at 2026-11-20: 1 required target is missing" in world.text
    assert world.result()["night"]["blocking"] == [C]


def test_an_optional_target_that_fails_lets_latest_move(make: Make) -> None:
    world = make(required=["v2.5.1-*"])
    world.engine.failing[C] = compile_error()
    assert world.night(FRIDAY) == 0
    assert world.latest == "2026-11-20"
    assert world.statuses("2026-11-20") == {A: "built", B: "built", C: "failed"}
    assert f"{C} is missing (an error)" in world.text


def test_a_failure_that_would_come_again_is_not_tried_again(world: World) -> None:
    world.engine.failing[C] = compile_error("expected ';'")
    assert world.night(FRIDAY) == 1
    world.engine.failing.clear()
    # Nothing changed: no compile of hours, no night, still not green.
    assert world.night(SATURDAY) == 1
    assert (world.engine.calls, world.nights, world.latest) == (0, ["2026-11-20"], None)
    assert [target["reason"] for target in world.result()["targets"] if target["status"] == "failed"] == [
        "failed in the night 2026-11-20 from the same inputs: expected ';'"
    ]
    # Also where another target makes a night of its own.
    world.change_op_plugin()
    assert world.night(SATURDAY) == 1
    assert world.engine.built == [A, B]
    first, second = (world.manifest(night).of(C) for night in ("2026-11-20", "2026-11-21"))
    assert first is not None
    assert second is not None
    assert first.fingerprint == second.fingerprint is not None
    # And in the night after that one: what is known of it is handed on.
    assert world.night(SUNDAY) == 1
    assert world.engine.calls == 0
    assert world.night(SUNDAY, retry=True) == 0
    assert world.engine.built == [C]
    assert world.latest == "2026-11-22"


def test_a_changed_target_is_tried_again_after_a_failure(world: World) -> None:
    world.engine.failing[C] = compile_error()
    world.night(FRIDAY)
    world.engine.failing.clear()
    world.change_op_plugin(OTHER_BRANCH)
    assert world.night(SATURDAY) == 0
    assert world.engine.built == [C]


@pytest.mark.parametrize("kind", [FailureKind.NETWORK, FailureKind.TIMEOUT, FailureKind.INTERNAL])
def test_a_failure_that_may_pass_is_tried_again_and_fills_the_night(world: World, kind: FailureKind) -> None:
    world.engine.failing[C] = TargetError("not now", kind=kind)
    assert world.night(FRIDAY) == 1
    world.engine.failing.clear()
    assert world.night(FRIDAY) == 0
    assert world.engine.built == [C]
    assert (world.nights, world.latest) == (["2026-11-20"], "2026-11-20")
    assert world.statuses("2026-11-20") == {A: "built", B: "built", C: "built"}
    assert ".dev20261120+" in world.wheels("2026-11-20")[C]


def test_a_hole_is_not_filled_with_what_changed_meanwhile(world: World) -> None:
    """A night's other wheels stay as they are; where one of them would change, it is another night."""
    world.engine.failing[C] = TargetError("not now", kind=FailureKind.NETWORK)
    world.night(FRIDAY)
    world.engine.failing.clear()
    world.change_op_plugin()
    assert world.night(FRIDAY) == 0
    assert world.engine.built == [A, B, C]
    assert world.nights == ["2026-11-20.2", "2026-11-20"]


def test_a_machine_that_can_build_nothing_publishes_nothing(world: World) -> None:
    world.night(FRIDAY)
    world.change_op_plugin()
    world.engine.failing.update({target: MachineError("no engine") for target in (A, B)})
    assert world.night(SATURDAY) == 3
    assert world.nights == ["2026-11-20"]
    world.engine.failing.clear()
    assert world.night(SATURDAY) == 0
    assert world.nights == ["2026-11-21", "2026-11-20"]


def test_targets_that_were_not_started_are_holes(world: World) -> None:
    world.engine.failing[A] = compile_error()
    assert world.night(FRIDAY, policy=Policy(fail_fast=True)) == 1
    holes = {hole.target: hole.reason for hole in world.manifest("2026-11-20").holes}
    assert holes == {A: "an error", **dict.fromkeys((B, C), "not started: another target failed")}
    # They did not fail: the same day's next run builds them, and leaves out the one that did.
    assert world.night(FRIDAY) == 1
    assert world.engine.built == [B, C]
    assert world.nights == ["2026-11-20"]


def test_a_branch_that_is_gone_does_not_stop_the_others(git_world: World) -> None:
    world = git_world
    world.night(FRIDAY)
    git(world.upstream.op_plugin, "update-ref", "-d", f"refs/heads/{OTHER_BRANCH}")
    git(world.workspace.mirrors / "op-plugin.git", "update-ref", "-d", f"refs/heads/{OTHER_BRANCH}")
    world.change_op_plugin()
    assert world.night(SATURDAY) == 1
    assert world.statuses("2026-11-21") == {A: "built", B: "built", C: "failed"}
    hole = world.manifest("2026-11-21").of(C)
    assert hole is not None
    assert f"no branch '{OTHER_BRANCH}'" in hole.reason


def test_hosts_that_do_not_answer_are_not_taken_for_nothing_new(git_world: World) -> None:
    world = git_world
    world.night(FRIDAY)
    Path(world.upstream.torch_npu).rename(world.folder / "away")
    with pytest.raises(TargetError, match="torch_npu could not be fetched"):
        world.night(SATURDAY)
    # Without asking, what was found last time is what there is.
    world.options = BuildOptions(offline=True)
    assert world.night(SATURDAY) == 0
    assert "nothing new" in world.text


def test_a_target_without_torch_is_a_hole_and_no_error(make: Make) -> None:
    world = make()
    torchless = replace(world.matrix, releases=tuple(_without_torch(line) for line in world.matrix.releases))
    world.matrix = torchless
    assert world.night(FRIDAY) == 1
    assert world.engine.built == [A, B]
    hole = world.manifest("2026-11-20").of(C)
    assert hole is not None
    assert "no index has a wheel of PyTorch 2.6.0" in hole.reason


def _without_torch(line: Any) -> Any:
    if line.branch != "v2.6.0-7.1.0":
        return line
    return line.model_copy(update={"torch": line.torch.model_copy(update={"wheels": {}})})


# -- waivers --------------------------------------------------------------------------------------------------


def test_a_waiver_lets_the_night_do_without_a_target(world: World) -> None:
    world.engine.failing[C] = compile_error()
    assert world.night(FRIDAY, waive={C: "nobody uses it", A: "not needed either"}) == 0
    assert world.latest == "2026-11-20"
    assert world.manifest("2026-11-20").waived == {C: "nobody uses it"}
    assert world.statuses("2026-11-20")[A] == "built"
    (told,) = (target for target in world.result()["targets"] if target["id"] == C)
    assert (told["status"], told["reason"]) == ("skipped", "waived: nobody uses it (failed: an error)")


def test_a_waiver_the_morning_after(world: World) -> None:
    world.night(FRIDAY)
    world.change_op_plugin(OTHER_BRANCH)
    world.engine.failing[C] = compile_error()
    assert world.night(SATURDAY) == 1
    assert world.latest == "2026-11-20"
    assert world.night(SATURDAY, waive={C: "fixed next week"}) == 0
    assert (world.engine.calls, world.latest) == (0, "2026-11-21")
    # The waiver is the night's own, and holds as long as it is the newest.
    assert world.night(SUNDAY) == 0
    assert world.nights == ["2026-11-21", "2026-11-20"]


@pytest.mark.parametrize(
    ("waive", "message", "hint"),
    [
        ({C.replace("2.6.0", "2.6.9"): "x"}, "no target of night is called", f"did you mean {C}"),
        ({"everything": "x"}, "no target of night is called 'everything'", "one target by its id"),
        ({C: " "}, "is to be waived without a reason", f"--waive '{C}=because'"),
    ],
)
def test_a_waiver_that_means_nothing(world: World, waive: dict[str, str], message: str, hint: str) -> None:
    with pytest.raises(RequestError, match=re.escape(message)) as caught:
        world.night(FRIDAY, waive=waive)
    assert hint in str(caught.value.hint)
    assert world.engine.calls == 0


# -- interruptions --------------------------------------------------------------------------------------------


def interrupt_after(world: World, target: str, day: date = FRIDAY) -> None:
    def after(built: str) -> None:
        if built == target:
            raise KeyboardInterrupt

    world.engine.after = after
    before = world.nights
    with pytest.raises(KeyboardInterrupt):
        world.night(day)
    assert world.nights == before
    world.engine.after = lambda _: None


def test_the_same_command_goes_on_with_the_night(git_world: World) -> None:
    world = git_world
    interrupt_after(world, A)
    # What upstream does meanwhile is for the next night: this one has one state of every branch.
    before = world.head("op-plugin", "7.1.0")[:7]
    world.change_op_plugin()
    assert world.night(FRIDAY) == 0
    assert "going on with the night 2026-11-20" in world.text
    assert world.engine.built == [B, C]
    assert world.statuses("2026-11-20") == {A: "built", B: "built", C: "built"}
    assert all(f".op{before}-" in world.wheels("2026-11-20")[target] for target in (A, B))
    assert world.night(SATURDAY) == 0
    assert world.engine.built == [A, B]


def test_a_wheel_that_only_a_worker_can_recognise_is_not_lost(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an engine here, only a worker can tell that the wheel of an interrupted night serves: it skips it."""
    interrupt_after(world, A)
    ((wheel, record),) = (one for name, one in Bench(world.workspace, "night").finished().items() if name == A)
    monkeypatch.setattr("builder.planning.planner.environment_identity", lambda *_, **__: None)
    world.engine.recognised[A] = record.fingerprint
    world.engine.failing.update(dict.fromkeys((B, C), compile_error()))
    assert world.night(FRIDAY) == 1
    assert "going on with the night 2026-11-20" in world.text
    assert world.statuses("2026-11-20") == {A: "built", B: "failed", C: "failed"}
    assert world.wheels("2026-11-20")[A] == wheel.name


def test_a_wheel_of_other_inputs_is_not_taken_for_what_a_worker_recognised(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(world, A)
    monkeypatch.setattr("builder.planning.planner.environment_identity", lambda *_, **__: None)
    world.engine.recognised[A] = "0" * 64
    world.engine.failing.update(dict.fromkeys((B, C), compile_error()))
    assert world.night(FRIDAY) == 1
    assert world.statuses("2026-11-20")[A] == "failed"


def test_refresh_gives_up_the_commits_of_an_interrupted_night(git_world: World) -> None:
    world = git_world
    interrupt_after(world, B)
    world.change_op_plugin(OTHER_BRANCH)
    world.options = BuildOptions(refresh=True)
    assert world.night(FRIDAY) == 0
    # Finished wheels of which nothing changed are not built again.
    assert world.engine.built == [C]
    assert f".op{git(world.upstream.op_plugin, 'rev-parse', OTHER_BRANCH)[:7]}-" in world.wheels("2026-11-20")[C]


def test_an_interrupted_night_of_long_ago_only_leaves_its_wheels(world: World) -> None:
    interrupt_after(world, A)
    note = world.workspace.root / "nightly" / "night" / "night.json"
    content = json.loads(note.read_text())
    content["began"] = (datetime.now(timezone.utc) - timedelta(hours=21)).isoformat()
    note.write_text(json.dumps(content))
    world.change_op_plugin(OTHER_BRANCH)
    assert world.night(SATURDAY) == 0
    assert world.engine.built == [B, C]
    wheels = world.wheels("2026-11-21")
    assert ".dev20261120+" in wheels[A]
    assert ".dev20261121+" in wheels[B]


def test_a_night_goes_on_over_midnight(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a day given, the night that began is meant."""
    interrupt_after(world, A)
    assert world.night(FRIDAY, night=None) == 0
    assert world.nights == ["2026-11-20"]


NOTE = {"schema": 1, "name": "2026-11-20", "began": "2026-11-20T00:00:00+00:00", "store": "x", "commits": {}}
BAD_NOTES = [
    *("{", "[]", "{}", "[" * 100_000, '{"schema": 2}', '{"schema": 1, "name": "2026-11-20"}'),
    *(
        json.dumps({**NOTE, **change})
        for change in (
            {"name": 5},
            {"name": "../../2026-11-20"},
            {"began": "2026-11-20T00:00:00"},
            {"began": None},
            {"commits": ["x"]},
            {"commits": {"v2.5.1-7.1.0": {"torch_npu": "--upload-pack=x"}}},
            {"commits": {"v2.5.1-7.1.0": None}},
            {"more": 1},
        )
    ),
]


@pytest.mark.parametrize("note", BAD_NOTES, ids=lambda note: note[:100])
def test_a_note_that_cannot_be_read_is_no_note(tmp_path: Path, note: str) -> None:
    bench = Bench(Workspace(root=tmp_path, output=tmp_path / "dist"), "night")
    bench.begin("2026-11-20", "x", {})
    assert bench.unfinished() is not None
    (tmp_path / "nightly" / "night" / "night.json").write_text(note)
    assert bench.unfinished() is None


def test_a_note_that_is_no_file_is_no_note(tmp_path: Path) -> None:
    bench = Bench(Workspace(root=tmp_path, output=tmp_path / "dist"), "night")
    (tmp_path / "nightly" / "night").mkdir(parents=True)
    os.mkfifo(tmp_path / "nightly" / "night" / "night.json")
    assert bench.unfinished() is None


def test_a_night_dated_to_come_is_not_gone_on_with() -> None:
    later = datetime.now(timezone.utc) + timedelta(days=400)
    assert not Unfinished(name="2026-11-20", began=later, store="x", commits={}).goes_on("x", None)


def test_a_night_whose_note_is_lost_keeps_its_wheels(world: World) -> None:
    interrupt_after(world, A)
    (world.workspace.root / "nightly" / "night" / "night.json").write_text("{")
    assert world.night(FRIDAY) == 0
    assert world.engine.built == [B, C]


def test_a_death_between_the_wheels_and_the_manifest(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("builder.releases.Release.commit", _die)
        with pytest.raises(KeyboardInterrupt):
            world.night(FRIDAY)
    assert (world.nights, world.latest) == ([], None)
    assert world.night(FRIDAY) == 0
    assert world.engine.calls == 0
    assert (world.nights, world.latest) == (["2026-11-20"], "2026-11-20")


def test_a_death_between_the_manifest_and_latest(world: World) -> None:
    world.night(FRIDAY)
    (world.store.root / "night" / "latest.json").unlink()
    assert world.latest is None
    assert world.night(SATURDAY) == 0
    assert (world.engine.calls, world.latest) == (0, "2026-11-20")


def test_a_death_after_the_manifest_does_not_hide_what_is_new(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Bench, "clear", lambda _: None)
        world.night(FRIDAY)
    assert Bench(world.workspace, "night").unfinished() is not None
    world.change_op_plugin(OTHER_BRANCH)
    assert world.night(FRIDAY) == 0
    assert world.engine.built == [C]
    assert world.nights == ["2026-11-20.2", "2026-11-20"]


def _die(*_: object) -> None:
    raise KeyboardInterrupt


def test_another_builder_on_the_same_channel(world: World) -> None:
    with (
        world.workspace.locked("nightly-night", wait_seconds=0),
        pytest.raises(MachineError, match="another builder holds nightly-night"),
    ):
        world.night(FRIDAY)


# -- the store ------------------------------------------------------------------------------------------------


def test_older_nights_go(make: Make) -> None:
    world = make(keep=2)
    for day in (FRIDAY, SATURDAY, SUNDAY):
        world.change_op_plugin(OTHER_BRANCH)
        assert world.night(day) == 0
    assert world.nights == ["2026-11-22", "2026-11-21"]
    assert "removed the night 2026-11-20" in world.text
    assert world.result()["night"]["pruned"] == ["2026-11-20"]
    # Fewer of them are kept also where nothing is new.
    world.settle(keep=1)
    assert world.night(SUNDAY) == 0
    assert world.nights == ["2026-11-22"]


def test_latest_stays_however_many_nights_are_red(make: Make) -> None:
    world = make(keep=1)
    world.night(FRIDAY)
    for day in (SATURDAY, SUNDAY):
        world.change_op_plugin(OTHER_BRANCH)
        world.engine.failing[C] = compile_error()
        assert world.night(day) == 1
    assert world.nights == ["2026-11-22", "2026-11-20"]
    assert world.latest == "2026-11-20"


def test_a_store_that_refuses_does_so_before_anything_is_built(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    world = make(store=str(tmp_path / "file" / "store"))
    with pytest.raises(RequestError, match=r"the store .* has no place"):
        world.night(FRIDAY)
    assert world.engine.calls == 0
    world.settle(store="s3://user:secret@bucket/x")
    with pytest.raises(RequestError) as caught:
        world.night(FRIDAY)
    assert "secret" not in caught.value.message


def test_a_store_that_fails_while_a_night_is_published(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise TargetError("no space left in the store", kind=FailureKind.DISK)

    with monkeypatch.context() as patched:
        patched.setattr("builder.releases.Release.add", refuse)
        with pytest.raises(TargetError, match="no space left"):
            world.night(FRIDAY)
    assert world.nights == []
    assert world.night(FRIDAY) == 0
    assert world.engine.calls == 0, "what was built is only published"


def test_a_store_that_does_not_answer_ends_the_publishing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object) -> None:
        time.sleep(60)

    with monkeypatch.context() as patched:
        patched.setattr(options_module, "LIMITS", {**options_module.LIMITS, "publish": 0.5})
        patched.setattr(FolderStore, "_upload", hang)
        with pytest.raises(TargetError, match=r"the phase did not end within 0\.5 s"):
            world.night(FRIDAY)
    assert world.latest is None
    # What was built is published by the next call.
    assert world.night(FRIDAY) == 0
    assert (world.engine.calls, world.latest) == (0, "2026-11-20")


def test_a_store_elsewhere(make: Make) -> None:
    pytest.importorskip("fsspec")
    url = f"memory://nightly-{os.urandom(6).hex()}/store"
    world = make(store=url, keep=2)
    store = open_store(url)
    assert world.night(FRIDAY) == 0
    world.change_op_plugin(OTHER_BRANCH)
    assert world.night(SATURDAY) == 0
    assert world.engine.built == [C]
    pointed = latest(store, "night")
    assert pointed is not None
    assert pointed.release == "2026-11-21"
    assert {entry.target: entry.status for entry in pointed.expected} == {A: "skipped", B: "skipped", C: "built"}
    # A wheel that is damaged there is built anew; what is whole is not.
    (entry,) = (entry for entry in pointed.expected if entry.target == A)
    store.write(f"night/2026-11-21/{entry.wheel}", b"x" * (entry.size or 0))
    world.change_op_plugin(OTHER_BRANCH)
    assert world.night(SUNDAY) == 0
    assert world.engine.built == [A, C]
    assert [found.name for found in releases(store, "night")] == ["2026-11-22", "2026-11-21"]
    assert not (world.workspace.root / "nightly" / "night" / "carried").exists()


def test_pruning_that_fails_is_no_failure_of_the_night(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RequestError("the store does not allow to remove")

    monkeypatch.setattr("builder.nightly.night.prune", refuse)
    assert world.night(FRIDAY) == 0
    assert "older nights were not removed: the store does not allow to remove" in world.text


# -- plans, reports -------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_would_be_done_and_does_nothing(
    git_world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world = git_world
    assert world.night(FRIDAY, dry_run=True) == 0
    printed = capsys.readouterr().out
    assert printed.count("no night has a wheel of it") == 3
    assert "it would be the night 2026-11-20" in world.text
    assert (world.engine.calls, world.nights) == (0, [])
    assert not (world.workspace.root / "nightly").exists()
    assert not (world.workspace.output / "nightly").exists()
    world.night(FRIDAY)
    commit = world.change_op_plugin(OTHER_BRANCH)
    assert world.night(SATURDAY, dry_run=True) == 0
    printed = capsys.readouterr().out
    assert re.search(rf"{C}\s+build\s+op-plugin [0-9a-f]{{7}} -> {commit[:7]}, 1 commit", printed)
    assert re.search(rf"{A}\s+carry over\s+built in the night 2026-11-20", printed)
    assert "1 to build, 2 to carry over\n" in printed
    assert world.nights == ["2026-11-20"]
    world.night(SATURDAY)
    world.night(SUNDAY, dry_run=True)
    assert "nothing new since the night 2026-11-21" in world.text


def test_a_dry_run_does_not_count_a_hole_as_something_that_stands(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.engine.failing[C] = compile_error()
    world.night(FRIDAY)
    world.night(SATURDAY, dry_run=True)
    printed = capsys.readouterr().out
    assert re.search(rf"{C}\s+leave open\s+failed in the night 2026-11-20 from the same inputs: an error", printed)
    assert "2 to carry over, 1 left open\n" in printed
    world.engine.failing.clear()
    world.change_op_plugin()
    interrupt_after(world, A, SATURDAY)
    world.night(SATURDAY, dry_run=True)
    printed = capsys.readouterr().out
    assert re.search(rf"{A}\s+publish\s+finished before this night was interrupted", printed)
    assert "1 to build, 1 finished before, 1 left open\n" in printed


def test_wheels_are_named_where_they_are_published(world: World) -> None:
    world.night(FRIDAY)
    place = f"{world.store.url}/night/2026-11-20"
    named = re.findall("wheel: (.*)", world.text)
    assert named == [f"{place}/{world.wheels('2026-11-20')[target]}" for target in (A, B, C)]
    assert all(Path(path).is_file() for path in named)
    assert str(Bench(world.workspace, "night").wheels) not in world.text
    world.change_op_plugin(OTHER_BRANCH)
    world.night(SATURDAY)
    # Only what is new: the others are where they were told to be.
    assert re.findall("wheel: .*/(.*)", world.text) == [world.wheels("2026-11-21")[C]]
    world.night(SUNDAY)
    assert "wheel: " not in world.text


def test_wheels_that_are_not_published_are_named_where_they_wait(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = tmp_path / "step.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))

    def refuse(*_: object, **__: object) -> None:
        raise TargetError("no space left in the store", kind=FailureKind.DISK)

    monkeypatch.setattr("builder.releases.Release.commit", refuse)
    with pytest.raises(TargetError):
        world.night(FRIDAY)
    waiting = re.findall("not published yet: (.*)", world.text)
    assert len(waiting) == 3
    assert all(Path(path).is_file() for path in waiting)
    assert all(target in step.read_text() for target in (A, B, C))


def test_reports_speak_of_all_targets(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world.night(FRIDAY)
    world.change_op_plugin()
    world.engine.failing[B] = compile_error()
    step = tmp_path / "step.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))
    world.night(SATURDAY)
    result = world.result()
    assert {target["id"]: target["status"] for target in result["targets"]} == {A: "built", B: "failed", C: "skipped"}
    assert result["night"] == {
        "channel": "night", "night": "2026-11-21", "store": world.store.url, "published": True,
        "latest": "2026-11-20", "blocking": [B], "pruned": [],
    }  # fmt: skip
    cases = ElementTree.parse(result["folder"] / "junit.xml").getroot().findall(".//testcase")  # noqa: S314
    assert {case.get("name"): [child.tag for child in case][:1] for case in cases} == {
        A: ["system-out"], B: ["failure"], C: ["skipped"],
    }  # fmt: skip
    summary = (result["folder"] / "summary.md").read_text()
    assert "night/2026-11-21, latest 2026-11-20" in summary
    assert all(f"| {target.replace('_', '&#95;')} |" in summary or f"| {target} |" in summary for target in (A, B, C))
    # The engine leaves it to the night to tell the step, so that it has one table, with all targets.
    assert world.engine.policy.part is True
    assert step.read_text().strip().endswith(summary.strip())
    assert all(step.read_text().count(f"| {target} |") == 1 for target in (A, B, C))


def test_several_channels_and_the_worst_of_their_ends(world: World) -> None:
    path = world.folder / "nightly.yaml"
    one, two = {"targets": {"target": A}}, {"targets": {"target": C}}
    path.write_text(json.dumps({"channels": {"one": one, "two": two}}))
    world.matrix = replace(world.matrix, documents={**world.matrix.documents, "nightly": read_document(path)})
    world.engine.failing[A] = compile_error()
    assert world.night(FRIDAY, names=()) == 1
    assert [found.name for channel in ("one", "two") for found in releases(world.store, channel)] == ["2026-11-20"] * 2
    # What stops one of them does not stop the other.
    world.change_op_plugin(OTHER_BRANCH)
    with world.workspace.locked("nightly-one", wait_seconds=0):
        assert world.night(SATURDAY, names=("one", "two")) == 3
    assert "the night of one was not finished" in world.text
    assert world.engine.built == [C]


# -- requests that are wrong ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hint"), [("nigth", "did you mean night?"), ("xyz", "it has: night"), ("", "it has: night")]
)
def test_an_unknown_channel(world: World, name: str, hint: str) -> None:
    with pytest.raises(RequestError, match=f"nightly.yaml has no channel '{name}'") as caught:
        world.night(FRIDAY, names=(name,))
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("keep: 0", "2:11: channels.x.keep: expected 1 night or more, not 0"),
        ("keep: -3", "channels.x.keep: expected 1 night or more, not -3"),
        ("keep: many", "channels.x.keep: 'many': expected"),
        ("keep: true", "channels.x.keep: 'true': expected"),
        ("kepe: 3", "unknown key 'kepe'; did you mean 'keep'?"),
        ("version: today", "channels.x.version: 'today': expected 'night' or 'branch'"),
        ("components: some", "channels.x.components: 'some': expected 'op-plugin' or 'full'"),
        ("op_plugin: ../x", "channels.x.op_plugin: '../x': expected a branch name"),
        ("op_plugin: --help", "channels.x.op_plugin: '--help': expected a branch name"),
        ("required: v9.*", "channels.x.required[0]: 'v9.*': expected a glob that some"),
        ("required: [a b]", "channels.x.required[0]: 'a b': expected a target's id, or a glob"),
        ('store: ""', "channels.x.store: '': expected a sentence on one line"),
        ("targets: {}", "channels.x.targets: expected at least one of pytorch"),
        ("targets: {arch: native}", "channels.x.targets: expected at least one of pytorch"),
        ("targets: {pytorch: 2.5.9}", "2:24: channels.x.targets: --pytorch: the matrix has no release line '2.5.9'"),
        (
            "targets: {pytorch: 2.10}",
            "channels.x.targets.pytorch: '2.10': expected text; put it in quotes: \"2.10\"",
        ),
        ("targets: {status: alive}", "channels.x.targets: --status: no release line can have the status 'alive'"),
        ("targets: {pytorch: 2.5.1, python: '3.8'}", "2:39: channels.x.targets: --python 3.8 leaves none"),
        ("targets: {target: v2.14.0-*}", "none of them can be built; v2.14.0: wheels of it are released"),
        ("targets: {cann: [8.2.RC1, 9]}", "channels.x.targets.cann[1]: '9': expected text"),
    ],
)
def test_a_channel_that_is_wrong_is_told_with_its_place(
    matrix: Matrix, text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "nightly.yaml"
    chosen = "" if text.startswith("targets") else "    targets: {pytorch: v2.5.1-7.1.0}\n"
    path.write_text(f"channels: {{x: {{\n    {text},\n{chosen}}}}}\n")
    with pytest.raises(RequestError) as caught:
        choose_channels(replace(matrix, documents={"nightly": read_document(path)}), ["x"])
    assert caught.value.message.startswith(f"{path}:")
    assert message in caught.value.message


def test_a_matrix_without_channels(world: World) -> None:
    world.matrix = replace(world.matrix, documents={})
    with pytest.raises(RequestError, match=r"has no nightly\.yaml"):
        world.night(FRIDAY)


def test_wheels_of_one_name_cannot_stand_in_one_night(make: Make) -> None:
    world = make(targets={"pytorch": ["v2.5.1-7.1.0", "v2.6.0-7.1.0"]}, version="branch")
    assert len(choose_channels(world.matrix, ["night"])[0].targets) == 6
    lines = [line.model_copy(update={"package_version": "2.5.1"}) for line in world.matrix.releases]
    world.matrix = replace(world.matrix, releases=tuple(lines))
    with pytest.raises(RequestError, match=r"channels.night.version: 'branch': expected 'night', because the wheels"):
        choose_channels(world.matrix, ["night"])


@pytest.mark.parametrize(
    ("more", "option"),
    [
        ({"options": BuildOptions(torch_npu="v1")}, "--torch-npu"),
        ({"options": BuildOptions(keep_changes=True)}, "--keep-changes"),
        ({"policy": Policy(locked=Lock(Path("x"), {}))}, "--locked"),
    ],
)
def test_options_that_have_no_meaning_for_nights(world: World, more: dict[str, Any], option: str) -> None:
    with pytest.raises(RequestError, match=f"{option} has no meaning for a night"):
        world.night(FRIDAY, **more)


def test_a_night_before_the_newest_one(world: World) -> None:
    world.night(SATURDAY)
    with pytest.raises(RequestError, match="the night 2026-11-20 is before the newest one of the channel, 2026-11-21"):
        world.night(FRIDAY)


def test_the_shipped_channels(matrix: Matrix) -> None:
    as_of = load_matrix(as_of=SATURDAY)
    chosen = {one.name: one for one in choose_channels(as_of, [])}
    assert list(chosen) == ["development", "release"]
    assert {target.release.channel for target in chosen["development"].targets} == {"nightly"}
    assert {target.release.channel for target in chosen["release"].targets} == {"release"}
    assert {target.release.status for target in chosen["release"].targets} == {"maintained"}
    assert not any(name.startswith("master-") for name in chosen["development"].required)
    assert len(chosen["release"].required) == len(chosen["release"].targets)


# -- what wheels are called, and from which commits -----------------------------------------------------------


def test_the_branchs_own_version(make: Make) -> None:
    world = make(version="branch")
    world.night(FRIDAY)
    assert world.wheels("2026-11-20")[A].startswith("torch_npu-2.5.1.post3-cp310-")
    world.night(SATURDAY)
    assert world.engine.calls == 0


@pytest.mark.parametrize(("op_plugin", "laid"), [("pinned", "7.1.0^"), (OTHER_BRANCH, OTHER_BRANCH)])
def test_op_plugin_from_elsewhere(make_with_git: Make, op_plugin: str, laid: str) -> None:
    world = make_with_git(op_plugin=op_plugin)
    assert world.night(FRIDAY) == 0
    commit = world.head("op-plugin", laid)[:7]
    assert all(f".op{commit}-" in wheel for wheel in world.wheels("2026-11-20").values())
    assert world.night(SATURDAY) == 0
    assert world.engine.calls == 0


def test_versions_of_nights_sort_as_nights_do() -> None:
    commits = {"torch_npu": "3ec6c1f" + "0" * 33, "op-plugin": "91ab2c0" + "0" * 33, "third_party/fmt": "f" * 40}
    versions = [
        Version("2.7.1.post8"),
        Version("2.7.1.post9" + suffix_of(suffix_for("2026-11-21"), commits)),
        Version("2.7.1.post9" + suffix_of(suffix_for("2026-11-21.2"), commits)),
        Version("2.7.1.post9" + suffix_of(suffix_for("2026-11-21.10"), commits)),
        Version("2.7.1.post9" + suffix_of(suffix_for("2026-11-22"), commits)),
        Version("2.7.1.post9"),
    ]
    assert all(before < after for before, after in pairwise(versions))
    assert str(versions[1]) == "2.7.1.post9.dev20261121+git3ec6c1f.op91ab2c0"
    del commits["op-plugin"]
    assert suffix_of(suffix_for("2026-11-21"), commits) == ".dev20261121+git3ec6c1f"
    assert suffix_of(None, commits) == ""


#: As setup.py of each era sets its version.
ERAS = {
    "a literal": "VERSION = '{}'\n",
    "version.txt": "import io\nwith io.StringIO('{}\\n') as version_f:\n    VERSION = version_f.read().strip()\n",
    "both": "import io\nwith io.StringIO('1.0') as f:\n    VERSION = f.read()\n\nVERSION = '{}'\n",
    "the installed torch": "def get_version():\n    VERSION = '0'\n    return '{}'\n\nVERSION = get_version()\n",
    "Windows lines": "VERSION = '{}'\r\nOTHER = 1\r\n",
    "two statements": "VERSION = '{}'; OTHER = 1\n",
    "annotated": "VERSION: str = '{}'\n",
}


@pytest.mark.parametrize("era", ERAS)
def test_every_era_takes_a_suffix(era: str) -> None:
    setup = ERAS[era].format("2.6.0.post7")
    after = "def use():\n    global VERSION\n    VERSION += ''\n\nuse()\nRESULT = VERSION\n"
    found: dict[str, Any] = {}
    exec(with_suffix(setup + after, ".dev20261121+git3ec6c1f.op91ab2c0"), found)  # noqa: S102
    assert found["RESULT"] == "2.6.0.post7.dev20261121+git3ec6c1f.op91ab2c0"


def test_what_setup_adds_itself_stays_behind_the_suffix() -> None:
    setup = "VERSION = '2.6.0.post7'\nif True:\n    if True:\n        VERSION += '+cxx11-abi'\n"
    found: dict[str, Any] = {}
    exec(with_suffix(setup, ".dev20261121+git3ec6c1f"), found)  # noqa: S102
    assert Version(found["VERSION"]) == Version("2.6.0.post7.dev20261121+git3ec6c1f.cxx11.abi")


@pytest.mark.parametrize(
    "setup", ["version = '1'\n", "def f():\n    VERSION = 1\n", "print(VERSION)\n", "VERSION = (\n"]
)
def test_a_setup_that_does_not_say_its_version(setup: str) -> None:
    with pytest.raises(TargetError, match="does not say where its version is") as caught:
        with_suffix(setup, ".dev1")
    assert caught.value.kind is FailureKind.SOURCE


def test_the_copy_of_a_tree_takes_a_suffix_and_nothing_else_changes(tmp_path: Path) -> None:
    setup = tmp_path / "setup.py"
    setup.write_text("VERSION = '1.0'\n")
    setup.chmod(0o755)
    os.utime(setup, (1751328000, 1751328000))
    add_suffix(tmp_path, ".dev20261121")
    assert len(setup.read_text().splitlines()) == 2
    assert setup.stat().st_mode & 0o777 == 0o755
    assert setup.stat().st_mtime == 1751328000
    assert [path.name for path in tmp_path.iterdir()] == ["setup.py"]


def test_a_link_in_place_of_setup_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.py"
    elsewhere.write_text("VERSION = '1.0'\n")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "setup.py").symlink_to(elsewhere)
    with pytest.raises(TargetError, match="does not say where its version is"):
        add_suffix(tmp_path / "tree", ".dev1")
    assert elsewhere.read_text() == "VERSION = '1.0'\n"


def test_the_suffix_is_an_input_of_the_wheel(matrix: Matrix) -> None:
    target = next(target for target in matrix.targets() if target.id == A)
    origin = origin_of("a" * 40)

    def inputs(**options: Any) -> dict[str, Any]:
        return inputs_of(target, origin, {}, BuildOptions(**options), changed_tree=None).to_json()

    assert inputs(version_suffix=".dev1") != inputs(version_suffix=".dev2")
    assert inputs(version_suffix=".dev1") == {**inputs(), "version_suffix": ".dev1"}


def test_what_failed_is_noted_beside_the_manifest(world: World) -> None:
    world.engine.failing[C] = compile_error("expected ';'")
    world.night(FRIDAY)
    place = world.store.root / "night" / "2026-11-20" / FAILURES
    noted = json.loads(place.read_text())
    assert noted["failures"][C]["kind"] == "compile"
    # The manifest has the fingerprint of the build that failed, also where later nights leave the hole open.
    (failed,) = (target["fingerprint"] for target in world.result()["targets"] if target["id"] == C)
    assert failed is not None
    assert [hole.fingerprint for hole in world.manifest("2026-11-20").holes] == [failed]
    world.engine.failing.clear()
    # Whatever stands there instead is passed over: the target is tried again.
    for damaged in (
        "[1]",
        "{",
        "[" * 100_000,
        json.dumps({"schema": 1, "failures": {C: {"kind": "compile"}}}),
        '{"schema": 9}',
    ):
        place.write_text(damaged)
        assert world.night(FRIDAY, dry_run=True) == 0
        assert "it would be the night 2026-11-20" in world.text
    for name in (place, next(place.parent.glob("*.whl.json"))):
        kept = name.read_bytes()
        with name.open("wb") as stream:
            stream.truncate(3 << 30)
        assert world.night(FRIDAY, dry_run=True) == 0
        name.write_bytes(kept)
    noted["failures"][C]["kind"] = "no such kind"
    place.write_text(json.dumps(noted))
    assert world.night(FRIDAY) == 0
    assert world.engine.built == [C]


# -- rehearsals -----------------------------------------------------------------------------------------------


@dataclass
class Rehearsals:
    """Takes the place of the executor of rehearsals; notes what it was asked for."""

    failing: bool = False
    asked: list[tuple[list[str], BuildOptions, Policy]] = field(default_factory=list)

    def __call__(
        self,
        targets: Sequence[Target],
        matrix: Matrix,
        workspace: Workspace,
        options: BuildOptions,
        reporter: Reporter,
        policy: Policy,
    ) -> Run:
        self.asked.append(([target.id for target in targets], options, policy))
        run = Run(workspace.runs, policy.purpose.name)
        for target in targets:
            result = run.target(target.id)
            result.status = "rehearsed"
            if self.failing:
                result.fail(compile_error())
        run.write()
        return run


@pytest.fixture
def rehearsals(monkeypatch: pytest.MonkeyPatch) -> Rehearsals:
    found = Rehearsals()
    monkeypatch.setattr("builder.nightly.rehearsals.run_targets", found)
    return found


def test_what_is_not_due_is_rehearsed_after_the_night(world: World, rehearsals: Rehearsals) -> None:
    world.settle(targets={"target": [A]}, rehearse={"target": [A, C]}, op_plugin=OTHER_BRANCH)
    assert world.night(FRIDAY) == 0
    assert world.engine.built == [A]
    ((targets, options, policy),) = rehearsals.asked
    assert (targets, policy.purpose.name, policy.locked) == ([C], "rehearse", None)
    # At the heads of the branches, and made of what the channel's wheels are made of.
    assert (options.refresh, options.op_plugin) == (True, OTHER_BRANCH)
    assert set(world.statuses("2026-11-20")) == {A}
    # Also where the night had nothing to build; not where it was only looked at.
    assert world.night(SATURDAY) == 0
    assert len(rehearsals.asked) == 2
    assert world.night(SUNDAY, dry_run=True) == 0
    assert len(rehearsals.asked) == 2
    assert f"it would rehearse 1 target beside: {C}" in world.text


def test_a_failed_rehearsal_is_told_and_holds_nothing_back(world: World, rehearsals: Rehearsals) -> None:
    rehearsals.failing = True
    world.settle(targets={"target": [A]}, rehearse={"target": [C]})
    assert world.night(FRIDAY) == 1
    assert (world.nights, world.latest) == (["2026-11-20"], "2026-11-20")


def test_a_channel_without_rehearsals_has_none(world: World, rehearsals: Rehearsals) -> None:
    assert world.night(FRIDAY) == 0
    assert rehearsals.asked == []


def test_a_selection_of_rehearsals_that_is_wrong_is_told_with_its_place(world: World, rehearsals: Rehearsals) -> None:
    world.settle(rehearse={"pytorch": "9.9"})
    with pytest.raises(RequestError, match=r"nightly\.yaml:\d+:\d+: channels\.night\.rehearse: "):
        world.night(FRIDAY)
    assert rehearsals.asked == []


@pytest.mark.parametrize("kind", KINDS)
def test_debug_symbols_of_earlier_nights_are_carried_under_the_new_name(tmp_path: Path, kind: str) -> None:
    """Under the old one pip before 24 would take them for a release, in every night that holds the wheel."""
    wheel = make_wheel(tmp_path)
    record = write_record(wheel, target=A)
    old_debug_path(wheel).write_bytes(b"symbols")
    with make_store(kind, tmp_path) as store:
        night = Release(store, "night", "2026-11-20")
        night.expect([A])
        night.add(A, [wheel, record, old_debug_path(wheel)])
        night.commit()
        found = Earlier(store, "night").last(A)
        assert found is not None
        ready = from_night(store, "night", found, tmp_path / "carried")
        following = Release(store, "night", "2026-11-21")
        following.expect([A])
        following.add(A, ready.files)
        following.commit()
        names = sorted(name for name in everything(store, "night/2026-11-21") if wheel.name in name)
        assert names == sorted(f"night/2026-11-21/{name}" for name in (wheel.name, record.name, debug_path(wheel).name))
        assert store.read(f"night/2026-11-21/{debug_path(wheel).name}") == b"symbols"


def test_debug_symbols_on_the_bench_are_published_under_the_new_name(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path)
    write_record(wheel)
    old_debug_path(wheel).write_bytes(b"symbols")
    ready = from_bench(wheel, read_record(wheel))
    assert ready.files == (wheel, record_path(wheel), debug_path(wheel))

"""Plans against the miniature upstream's repositories: what is asked of whom, how often, and what is seen."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from nightly_support import copy_of
from wheel_support import make_target_wheel, write_record

from builder.cli.demo_upstream import OP_PLUGIN_BRANCH, Miniature
from builder.core.build_options import BuildOptions
from builder.core.errors import FailureKind, RequestError, TargetError
from builder.core.workspace import Workspace
from builder.executors.local import Policy, plan_targets, run_targets
from builder.matrix.loader import Matrix, load_matrix
from builder.matrix.model import Target
from builder.matrix.selection import parse_target_id
from builder.planning import planner as planning
from builder.planning.planner import Planned, Planner
from builder.progress.reporter import Reporter
from builder.sources import fetch, mirrors
from builder.sources.overlay import OverlaySource
from builder.sources.prepared_tree import PreparedTree
from builder.target import resolve_sources
from builder.target.deadlines import deadline
from builder.target.resolve_sources import Gatherer
from builder.wheels.provenance import debug_path, old_debug_path
from builder.wheels.record import record_path

LINES = ("v2.1.0-7.1.0", "v2.5.1-7.1.0", "v2.6.0-7.1.0")


def git(folder: Path, *argv: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *argv]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@dataclass
class World:
    """A copy of the miniature upstream, and a workspace."""

    upstream: Miniature
    matrix: Matrix
    workspace: Workspace
    targets: Sequence[Target]

    def plan(self, options: BuildOptions | None = None, targets: Sequence[Target] | None = None) -> list[Planned]:
        """What a run of its own would do."""
        chosen = self.targets if targets is None else targets
        return plan_targets(chosen, self.matrix, self.workspace, options or BuildOptions(), Reporter(quiet=True))

    def gatherer(self, options: BuildOptions | None = None) -> Gatherer:
        return Gatherer(self.matrix, self.workspace, options or BuildOptions(), Reporter(quiet=True))

    def wheel(self, planned: Planned, content: str = "") -> Path:
        """A wheel with its record, as a build of what was planned would publish it."""
        path = make_target_wheel(self.workspace.output, planned.target, content=content)
        now = datetime.now(timezone.utc).isoformat()
        write_record(
            path,
            target=planned.target.id,
            finished=now,
            fingerprint=planned.fingerprint,
            inputs={} if planned.inputs is None else planned.inputs.to_json(),
        )
        return path

    def op_plugin_commits(self, count: int, message: str = "more") -> str:
        """Put commits on op-plugin's branch; returns the last one."""
        for number in range(count):
            git(self.upstream.op_plugin, "commit", "--quiet", "--allow-empty", f"--message={message} {number}")
        return git(self.upstream.op_plugin, "rev-parse", OP_PLUGIN_BRANCH)


@pytest.fixture
def world(upstream: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(planning, "environment_identity", lambda *_, **__: {"environment": "none"})
    monkeypatch.setattr(fetch, "FIRST_WAIT", 0.01)
    copied = copy_of(upstream, tmp_path / "upstream")
    matrix = load_matrix()
    for name, place in (
        ("torch_npu", copied.torch_npu), ("op-plugin", copied.op_plugin), ("nlohmann-json", copied.nlohmann),
    ):  # fmt: skip
        matrix = replace(matrix, sources=matrix.sources.with_override(name, str(place)))
    ids = [f"{line}-py3.{minor}-{arch}" for line in LINES for minor in (9, 10) for arch in ("aarch64", "x86_64")]
    targets = [parse_target_id(matrix, name) for name in ids]
    return World(copied, matrix, Workspace(tmp_path / "build", tmp_path / "dist"), targets)


@pytest.fixture
def fetches(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each repository was fetched from."""
    made: Counter[str] = Counter()
    plain = mirrors.fetch

    def counted(*arguments: Any, label: str, **rest: Any) -> Any:
        made[label] += 1
        return plain(*arguments, label=label, **rest)

    monkeypatch.setattr(mirrors, "fetch", counted)
    return made


# -- hosts ----------------------------------------------------------------------------------------------------


def test_a_plan_fetches_each_repository_once(world: World, fetches: Counter[str]) -> None:
    planned = world.plan()
    assert [each.target.id for each in planned] == [target.id for target in world.targets]
    assert {each.commits["op-plugin"] for each in planned} == {git(world.upstream.op_plugin, "rev-parse", "7.1.0")}
    assert fetches == {"torch_npu": 1, "op-plugin": 1, "nlohmann-json": 1}
    world.plan()
    assert fetches.total() == 3, "the mirrors have it all"
    world.plan(BuildOptions(refresh=True))
    assert fetches == {"torch_npu": 2, "op-plugin": 2, "nlohmann-json": 1}


def test_the_next_run_sees_what_is_new_and_this_one_does_not(world: World) -> None:
    sources = world.gatherer(BuildOptions(refresh=True))
    first = sources.origin(sources.decide(world.targets[0]))
    newest = world.op_plugin_commits(1)
    # Another line: nothing of it has been found yet.
    assert sources.origin(sources.decide(world.targets[-1])).op_plugin == first.op_plugin
    refreshed = world.plan(BuildOptions(refresh=True))
    assert {each.commits["op-plugin"] for each in refreshed} == {newest}
    assert first.op_plugin is not None
    assert first.op_plugin.commit != newest


def test_a_line_that_no_host_has_is_planned_as_such_and_asked_for_once(world: World, fetches: Counter[str]) -> None:
    git(world.upstream.torch_npu, "branch", "--move", LINES[2], "elsewhere")
    planned = world.plan()
    lost = [each for each in planned if each.target.release.branch == LINES[2]]
    assert len(lost) == 4
    assert all("has no branch 'v2.6.0-7.1.0'" in each.reason for each in lost)
    assert {each.action for each in lost} == {"error"}
    assert all(each.fingerprint for each in planned if each not in lost)
    assert fetches["torch_npu"] == 1


def test_a_plan_asks_a_dead_host_once_and_a_build_asks_it_again(
    world: World, fetches: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing listens at port 1, and git says so at once.
    dead = replace(world.matrix, sources=world.matrix.sources.with_override("op-plugin", "git://127.0.0.1:1/x"))
    world.matrix = dead
    sources = world.gatherer()
    planner = Planner(sources, world.workspace, BuildOptions(), Reporter(quiet=True))
    planned = planner.plan(world.targets)
    assert all("of op-plugin could not be fetched" in each.reason for each in planned)
    assert fetches["op-plugin"] == 1
    for tries in (2, 3):
        with pytest.raises(TargetError) as caught:
            sources.gather(world.targets[0])
        assert caught.value.kind is FailureKind.NETWORK
        assert fetches["op-plugin"] == tries


def test_a_host_that_never_answers_costs_a_plan_its_time_limit_once_for_a_line(
    world: World, fetches: Counter[str]
) -> None:
    chosen = [target for target in world.targets if target.release.branch == LINES[0]]
    world.plan(targets=chosen)
    fetches.clear()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"git://127.0.0.1:{silent.getsockname()[1]}/x"
        world.matrix = replace(world.matrix, sources=world.matrix.sources.with_override("op-plugin", url))
        options = BuildOptions(refresh=True, timeout=3.0)
        sources = world.gatherer(options)
        planned = Planner(sources, world.workspace, options, Reporter(quiet=True)).plan(chosen)
        assert {each.reason for each in planned} == {"the phase did not end within 3 s; it waited for git"}
        assert fetches["op-plugin"] == 1
        with pytest.raises(TargetError, match="did not end within 3 s"), deadline(3):
            sources.gather(chosen[0])
        assert fetches["op-plugin"] == 2, "a build asks again"


def test_targets_that_are_gathered_at_once_fetch_once(world: World, fetches: Counter[str]) -> None:
    sources = world.gatherer(BuildOptions(refresh=True))
    chosen = [target for target in world.targets if target.arch == "x86_64"]
    trees: dict[str, PreparedTree] = {}
    threads = [
        threading.Thread(target=lambda target=target: trees.update({target.id: sources.gather(target)}))
        for target in chosen
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(trees) == {target.id for target in chosen}
    assert fetches == {"torch_npu": 1, "op-plugin": 1, "nlohmann-json": 1}


# -- what the user gave ---------------------------------------------------------------------------------------


def test_a_folder_of_the_user_is_read_once_for_a_plan_and_again_for_a_build(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    plain = OverlaySource.local.__func__  # type: ignore[attr-defined]

    def counted(cls: type[OverlaySource], folder: Path) -> OverlaySource:
        read.append(folder)
        return plain(cls, folder)  # type: ignore[no-any-return]

    monkeypatch.setattr(resolve_sources.OverlaySource, "local", classmethod(counted))
    options = BuildOptions(op_plugin=str(world.upstream.op_plugin))
    resolve_sources.check_request(world.targets, options)
    assert len(read) == 1
    sources = world.gatherer(options)
    planner = Planner(sources, world.workspace, options, Reporter(quiet=True))
    assert len({each.fingerprint for each in planner.plan(world.targets)}) == len(world.targets)
    assert len(read) == 2
    tree = sources.gather(world.targets[0])
    (world.upstream.op_plugin / "op_plugin" / "mine.cpp").write_text("new")
    again = world.gatherer(options).gather(world.targets[0])
    assert tree.digest != again.digest
    assert (again.path / "third_party" / "op-plugin" / "op_plugin" / "mine.cpp").read_text() == "new"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda script: script.unlink(), "op-plugin at COMMIT, ci/build.sh: there is no such file"),
        (lambda script: script.write_text("make\n"), "op-plugin at COMMIT, ci/build.sh does not say what it copies"),
        (
            lambda script: script.write_text(
                f"{script.read_text()}\ncp -rf ${{CODE_ROOT_PATH}}/gone/*.sh ${{PYTORCH_THIRD_PATH}}/\n"
            ),
            "op-plugin has no 'gone/*.sh', which its ci/build.sh lays",
        ),
        (None, "op-plugin has no branch, tag or commit"),
    ],
    ids=["no script", "another script", "an entry that is not there", "no such branch"],
)
def test_op_plugin_that_cannot_be_laid_is_planned_as_an_error(
    world: World, change: Callable[[Path], object] | None, reason: str
) -> None:
    plugin = world.upstream.op_plugin
    if change is not None:
        branch = git(plugin, "rev-parse", "--abbrev-ref", "HEAD")
        git(plugin, "checkout", "--quiet", "-b", "other", OP_PLUGIN_BRANCH)
        change(plugin / "ci" / "build.sh")
        git(plugin, "commit", "--quiet", "--all", "--message=other")
        reason = reason.replace("COMMIT", git(plugin, "rev-parse", "HEAD")[:12])
        git(plugin, "checkout", "--quiet", branch)
    options = BuildOptions(op_plugin="other")
    planned = world.plan(options)
    assert {each.action for each in planned} == {"error"}
    # In the words of a build.
    with pytest.raises(TargetError) as caught:
        world.gatherer(options).gather(world.targets[0])
    assert {each.reason for each in planned if each.target.release == world.targets[0].release} == {
        caught.value.message
    }
    assert reason in caught.value.message


def test_what_a_patch_brings_to_op_plugin_is_laid(world: World, tmp_path: Path) -> None:
    plugin, branch = world.upstream.op_plugin, world.targets[0].release.branch
    git(plugin, "checkout", "--quiet", "-b", "other", OP_PLUGIN_BRANCH)
    with (plugin / "ci" / "build.sh").open("a") as script:
        script.write("cp -rf ${CODE_ROOT_PATH}/brought/*.sh ${PYTORCH_THIRD_PATH}/\n")
    git(plugin, "commit", "--quiet", "--all", "--message=other")
    git(plugin, "checkout", "--quiet", "-")
    series = tmp_path / "patches" / branch / "op-plugin"
    series.mkdir(parents=True)
    (series / "series").write_text("brings.patch\n")
    (series / "brings.patch").write_text("--- /dev/null\n+++ b/brought/x.sh\n@@ -0,0 +1 @@\n+true\n")
    options = BuildOptions(op_plugin="other", patches=(tmp_path / "patches",))
    (planned,) = world.plan(options, world.targets[:1])
    assert (planned.action, planned.hint) == ("build", None), planned.reason
    tree = world.gatherer(options).gather(world.targets[0])
    assert (tree.path / "third_party" / "op-plugin" / "x.sh").read_text() == "true\n"


@pytest.mark.parametrize("place", ["branch", "folder"])
def test_operators_that_op_plugin_does_not_take_are_planned_as_an_error(
    world: World, tmp_path: Path, place: str
) -> None:
    folder = Path(shutil.copytree(world.upstream.custom_ops, tmp_path / "operators"))
    declared = folder / "op_plugin_functions.yaml"
    options = BuildOptions(
        custom_ops=folder, op_plugin="branch" if place == "branch" else str(world.upstream.op_plugin)
    )
    assert {each.action for each in world.plan(options)} == {"build"}
    taken = next((world.upstream.op_plugin / "op_plugin" / "ops" / "opapi").glob("*.cpp")).name
    (folder / taken).write_text("// another source of this name\n")
    planned = world.plan(options)
    assert {each.action for each in planned} == {"error"}
    assert {each.reason for each in planned} == {f"{folder / taken}: op-plugin has another op_plugin/ops/opapi/{taken}"}
    with pytest.raises(RequestError, match="op-plugin has another"):
        world.gatherer(options).gather(world.targets[0])
    (folder / taken).unlink()
    declared.write_text(declared.read_text().replace("npu_add_custom(", "npu_add_custom(int number, "))
    theirs = world.upstream.op_plugin / "op_plugin" / "config" / "op_plugin_functions.yaml"
    own = (world.upstream.custom_ops / "op_plugin_functions.yaml").read_text()
    assert {each.action for each in world.plan(options)} == {"build"}
    name = re.search(r"- func: (\w+)", theirs.read_text().partition("custom:")[2])
    assert name is not None
    declared.write_text(own.replace("npu_add_custom(", f"{name[1]}(int number, "))
    planned = world.plan(options)
    assert {each.action for each in planned} == {"error"}
    assert all(f"{name[1]} is declared with two signatures" in each.reason for each in planned)


# -- trees that stand -----------------------------------------------------------------------------------------


def test_a_plan_sees_an_edit_in_a_tree_that_stands(world: World) -> None:
    target = world.targets[1]
    place = world.gatherer().gather(target).path
    (before,) = world.plan(targets=[target])
    (place / "setup.py").write_text("edited")
    (edited,) = world.plan(targets=[target])
    assert edited.inputs is not None
    assert edited.inputs.changes_by_hand is not None
    assert edited.fingerprint != before.fingerprint


# -- wheels that stand ----------------------------------------------------------------------------------------


def test_every_wheel_that_stands_is_read(world: World) -> None:
    wheels = [world.wheel(each, each.target.id) for each in world.plan()]
    assert [each.action for each in world.plan()] == ["skip"] * len(wheels)
    wheels[3].write_bytes(wheels[3].read_bytes().replace(b"version", b"edition"))
    wheels[5].unlink()
    wheels[7].write_bytes(b"")
    planned = world.plan()
    assert [each.target.id for each in planned] == [target.id for target in world.targets]
    faults = {3: "is not the file that was verified", 5: "No such file", 7: "is not the file that was verified"}
    for number, each in enumerate(planned):
        assert each.action == ("build" if number in faults else "skip")
        assert faults.get(number, f"{wheels[number].name} stands") in each.reason
    one = Planner(world.gatherer(), world.workspace, BuildOptions(), Reporter(quiet=True)).plan_target
    assert [one(target) for target in world.targets] == planned


def test_debug_symbols_beside_a_wheel_that_is_skipped_get_the_new_name(world: World) -> None:
    (planned,) = world.plan(targets=world.targets[1:2])
    wheel = world.wheel(planned)
    old_debug_path(wheel).write_bytes(b"symbols")
    world.plan(targets=world.targets[1:2])
    # A plan only looks.
    assert old_debug_path(wheel).exists()
    options, quiet = BuildOptions(environment="host"), Reporter(quiet=True)
    run = run_targets([planned.target], world.matrix, world.workspace, options, quiet, Policy())
    assert [result.status for result in run.targets] == ["skipped"]
    assert (old_debug_path(wheel).exists(), debug_path(wheel).read_bytes()) == (False, b"symbols")


def test_the_record_of_another_targets_wheel_makes_none_of_this_one(world: World) -> None:
    first, second = world.plan(targets=world.targets[:2])
    wheel = world.wheel(first)
    assert second.inputs is not None
    write_record(wheel, target=second.target.id, fingerprint=second.fingerprint, inputs=second.inputs.to_json())
    (planned,) = world.plan(targets=[second.target])
    assert planned.reason == f"its wheel is not whole: {wheel.name} is not for {second.target.id}"
    record_path(wheel).unlink()
    wheel = world.wheel(second)
    write_record(wheel, target=second.target.id, fingerprint=second.fingerprint, inputs={"recipe": 0})
    (planned,) = world.plan(targets=[second.target])
    assert (planned.action, planned.reason) == ("build", "its record contradicts itself")


def test_a_plan_that_is_interrupted_reads_no_further_wheel(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in world.plan():
        world.wheel(each)
    begun, go_on = threading.Event(), threading.Event()
    read: list[Path] = []

    def slow(wheel: Path, *_: object) -> None:
        read.append(wheel)
        begun.set()
        assert go_on.wait(60)

    compared = Planner._compared
    left = [len(world.targets) - 1]

    def interrupted(self: Planner, target: Target) -> Planned:
        left[0] -= 1
        if left[0] < 0:
            assert begun.wait(60)
            threading.Timer(0.2, go_on.set).start()
            raise KeyboardInterrupt
        return compared(self, target)

    monkeypatch.setattr(planning, "fault_of", slow)
    monkeypatch.setattr(planning, "_READERS", 1)
    monkeypatch.setattr(Planner, "_compared", interrupted)
    with pytest.raises(KeyboardInterrupt):
        world.plan()
    assert len(read) == 1


# -- what changed, in words -----------------------------------------------------------------------------------


def counted_git(monkeypatch: pytest.MonkeyPatch, word: str) -> list[Any]:
    calls: list[Any] = []
    plain: Callable[..., bytes] = planning.gitcli.run

    def run(argv: Sequence[str], **rest: Any) -> bytes:
        if argv[0] == word:
            calls.append(argv)
        return plain(argv, **rest)

    monkeypatch.setattr(planning.gitcli, "run", run)
    return calls


def test_commits_are_counted_once_for_all_targets(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in world.plan():
        world.wheel(each)
    old = git(world.upstream.op_plugin, "rev-parse", OP_PLUGIN_BRANCH)
    new = world.op_plugin_commits(4)
    calls = counted_git(monkeypatch, "rev-list")
    planned = world.plan(BuildOptions(refresh=True))
    assert {each.reason for each in planned} == {f"op-plugin {old[:7]} -> {new[:7]}, 4 commits"}
    assert sum("--left-right" in argv for argv in calls) == 1


def test_commits_that_were_taken_back_are_counted(world: World) -> None:
    world.op_plugin_commits(3)
    (first,) = world.plan(targets=world.targets[:1])
    world.wheel(first)
    git(world.upstream.op_plugin, "reset", "--quiet", "--hard", "HEAD~3")
    world.op_plugin_commits(1, "instead")
    (planned,) = world.plan(BuildOptions(refresh=True), world.targets[:1])
    assert planned.reason.endswith(", 1 commit, 3 taken back")


def test_a_commit_that_no_mirror_has_is_not_counted(world: World) -> None:
    (first,) = world.plan(targets=world.targets[:1])
    path = world.wheel(first)
    file = path.with_name(f"{path.name}.json")
    record = json.loads(file.read_text())
    was = record["inputs"]["sources"]["op_plugin"]["commit"]
    record["inputs"]["sources"]["op_plugin"]["commit"] = "--output=/tmp/x"
    file.write_text(json.dumps({**record, "fingerprint": "0" * 64}))
    (planned,) = world.plan(targets=world.targets[:1])
    assert planned.reason == f"op-plugin --outpu -> {was[:7]}"

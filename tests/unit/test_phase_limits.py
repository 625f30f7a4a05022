"""Every phase of a build has a limit, also those that only read and write files, and where the user names none."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builder.core import build_options as options_module
from builder.core.build_options import LIMITS, BuildOptions
from builder.core.errors import FailureKind, MachineError
from builder.core.results import Run, TargetResult
from builder.core.workspace import Workspace
from builder.matrix.loader import load_matrix
from builder.matrix.selection import parse_target_id
from builder.planning import planner as plan_module
from builder.planning.planner import Planned, Planner
from builder.progress.reporter import Reporter
from builder.target import repair_and_publish
from builder.target.build import BuildContext, TargetBuild, build_target
from builder.target.compile_spec import limits
from builder.target.resolve_sources import Gatherer
from builder.wheels import provenance

NAME = "v2.5.1-7.1.0-py3.9-x86_64"


@pytest.fixture
def disk() -> Iterator[Callable[..., Any]]:
    """What a disk that does not answer does to a call, until the test ends."""
    answers = threading.Event()

    def hang(*_: Any, **__: Any) -> None:
        assert answers.wait(60)

    yield hang
    answers.set()


class Build:
    """A build whose steps up to its wheel need no time."""

    def __init__(self, folder: Path, options: BuildOptions) -> None:
        matrix = load_matrix()
        self.workspace = Workspace(folder / "build", folder / "dist")
        self.workspace.create()
        reporter, run = Reporter(quiet=True), Run(self.workspace.runs)
        gatherer = Gatherer(matrix, self.workspace, options, reporter)
        self.context = BuildContext(matrix, self.workspace, options, reporter, run, gatherer)
        self.target = parse_target_id(matrix, NAME)

    def run(self) -> TargetResult:
        """Build in a thread of its own, as a run does."""
        result = self.context.run.target(NAME)
        thread = threading.Thread(target=build_target, args=(self.target, self.context, result), daemon=True)
        thread.start()
        thread.join(30)
        assert not thread.is_alive(), "it goes on"
        return result


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Build]:
    record = SimpleNamespace(commits={"torch_npu": "c" * 40}, commit_time=0, custom_operators=())
    tree = SimpleNamespace(record=record)
    wheel = tmp_path / "a.whl"
    wheel.write_bytes(b"wheel")

    @contextmanager
    def opened(self: TargetBuild, environment: object) -> Iterator[object]:
        yield SimpleNamespace()

    outcome = SimpleNamespace(cpu_seconds=0.0, peak_memory=0, disk_growth=0)
    plan = SimpleNamespace(repair=SimpleNamespace(platform="auto"))
    monkeypatch.setattr(Gatherer, "gather", lambda self, target: tree)
    for name, value in {
        "fresh_copy": lambda self, tree: [],
        "environment": lambda self: SimpleNamespace(facts={}, pytorch=None),
        "opened": opened,
        "inputs": lambda self, *_: {},
        "toolchain": lambda self, *_: ({}, plan),
        "_compile": lambda self, *_: outcome,
    }.items():
        monkeypatch.setattr(TargetBuild, name, value)
    monkeypatch.setattr("builder.target.build_tree.Scratch.scripts", lambda self: (None, None))
    monkeypatch.setattr(repair_and_publish.Finish, "repair", lambda self, *_: wheel)
    monkeypatch.setattr(repair_and_publish.Finish, "_record", lambda self, *_: {})
    monkeypatch.setattr(repair_and_publish, "verify", lambda *_: SimpleNamespace(findings=()))
    return lambda **options: Build(tmp_path, BuildOptions(**options))


@pytest.mark.parametrize("given", [True, False], ids=["of the user", "by default"])
@pytest.mark.parametrize(
    ("phase", "module", "name", "waited"),
    [
        ("verify", repair_and_publish, "verify", "the reading of "),
        ("publish", provenance, "archive_debug_symbols", "the packing of debug symbols"),
        ("publish", repair_and_publish, "sha256_of", "the reading of "),
        ("publish", repair_and_publish, "publish_wheel", "the disk of "),
    ],
)
def test_a_disk_that_does_not_answer_ends_the_phase(
    build: Callable[..., Build],
    disk: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    given: bool,
    phase: str,
    module: Any,
    name: str,
    waited: str,
) -> None:
    monkeypatch.setattr(module, name, disk)
    if not given:
        monkeypatch.setattr(options_module, "LIMITS", {**LIMITS, phase: 0.5})
    result = build(timeout=0.5 if given else None).run()
    assert result.error is not None
    assert (getattr(result.error, "kind", None), result.phases[-1].name) == (FailureKind.TIMEOUT, phase)
    assert f"did not end within 0.5 s; it waited for {waited}" in result.error.message


def test_a_build_that_ends_in_time(build: Callable[..., Build], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repair_and_publish, "publish_wheel", lambda wheel, *_: wheel)
    result = build().run()
    assert (result.status, result.error) == ("built", None)


def test_commands_of_a_build_have_a_limit_by_default() -> None:
    assert limits(BuildOptions()).timeout == LIMITS["compile"]
    assert limits(BuildOptions(timeout=7.0)).timeout == 7.0


def test_a_plan_does_not_wait_for_wheels_for_ever(
    build: Callable[..., Build], disk: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = build(timeout=0.5)
    context = made.context
    monkeypatch.setattr(plan_module, "fault_of", disk)
    monkeypatch.setattr(plan_module, "_foreign", lambda *_: None)
    stands = Planned(made.target, "skip", "it stands", wheel=Path("a.whl"), record=object())  # type: ignore[arg-type]
    monkeypatch.setattr(Planner, "_compared", lambda self, target: stands)
    planner = Planner(context.gatherer, made.workspace, context.options, context.reporter)
    with pytest.raises(MachineError, match=r"the wheels in .* could not be read within 0\.5 s"):
        planner.plan([made.target])

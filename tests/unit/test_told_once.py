"""What is the same for all targets of a run is told once, and noted with each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.table import Table

from builder.cli import demo_command
from builder.core.build_options import BuildOptions
from builder.core.results import Run
from builder.core.workspace import Workspace
from builder.environments.interface import Folders, Ready
from builder.environments.probe import Probed
from builder.executors.local import Policy
from builder.matrix.loader import load_matrix
from builder.matrix.selection import Query, parse_target_id
from builder.progress.reporter import Reporter
from builder.progress.state import Event, State
from builder.sources.build_scripts import BuildScript, SetupScript
from builder.target.build import BUILD, BuildContext, Purpose, TargetBuild
from builder.target.resolve_sources import Gatherer

NAMES = [f"v2.5.1-7.1.0-py{python}-x86_64" for python in ("3.9", "3.10")]
SCRIPTS = BuildScript(("3.9", "3.10"), frozenset()), SetupScript(frozenset(), (), (), True)
#: What the environment turns out to have.
FACTS = Probed(gcc="12.2.0", glibc="2.36", torch="2.5.1", cxx11_abi=False, python_path="/python")
DIFFERENT = "gcc is 12.2.0, the matrix wants 9.3.1; glibc is 2.36, too new for manylinux_2_17"


class Recorder:
    """Keeps what is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def handle(self, event: Event, state: State) -> None:
        if event.name in {"warning", "message"}:
            self.told.append((event.name, str(event["text"])))

    def table(self, table: Table) -> None: ...

    def close(self) -> None: ...


class Builds:
    """The builds of a run's two targets."""

    def __init__(self, folder: Path, purpose: Purpose = BUILD) -> None:
        matrix, workspace = load_matrix(), Workspace(folder / "build", folder / "dist")
        workspace.create()
        self.recorder = Recorder()
        reporter, options = Reporter(sink=self.recorder), BuildOptions(allow_toolchain_mismatch=True)
        self.run, gatherer = Run(workspace.runs), Gatherer(matrix, workspace, options, reporter)
        context = BuildContext(matrix, workspace, options, reporter, self.run, gatherer, purpose=purpose)
        targets = [parse_target_id(matrix, name) for name in NAMES]
        self.each = [TargetBuild(target, context, self.run.target(target.id)) for target in targets]


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Builds]:
    monkeypatch.setattr("builder.target.build.order_is_fixed", lambda *_: False)
    return lambda purpose=BUILD: Builds(tmp_path, purpose)


def test_what_there_is_to_say_of_the_folders(builds: Callable[..., Builds]) -> None:
    words = ["at the fixed path alone"]

    @contextmanager
    def open_it(folders: Folders) -> Iterator[Any]:
        yield SimpleNamespace(warnings=words)

    made = builds()
    for build in made.each:
        with build.opened(Ready("docker", {}, open_it)):
            assert build.result.warnings == words
    assert made.recorder.told == [("warning", words[0])]


def test_another_toolchain_that_was_accepted(builds: Callable[..., Builds]) -> None:
    made = builds()
    for build in made.each:
        build._compile_spec(FACTS, *SCRIPTS, 0)
        assert build.result.warnings == [DIFFERENT]
    assert made.recorder.told == [("warning", DIFFERENT)]


def test_another_toolchain_of_a_demonstration_is_a_note(
    builds: Callable[..., Builds], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policies: list[Policy] = []

    def run_targets(*arguments: Any) -> Run:
        policies.extend(each for each in arguments if isinstance(each, Policy))
        return SimpleNamespace(targets=[], write=lambda: None)  # type: ignore[return-value]

    monkeypatch.setattr(demo_command, "run_targets", run_targets)
    monkeypatch.setattr(demo_command, "_place", lambda arch, options, reporter: options)
    monkeypatch.setattr(demo_command, "select_for_build", lambda matrix, query: SimpleNamespace(targets=[]))
    query = Query(pytorch=("v2.5.1-7.1.0",), python=("3.9",))
    workspace = Workspace(tmp_path / "demo", tmp_path / "demo" / "dist")
    demo_command.run_demo(query, workspace, BuildOptions(), Reporter(quiet=True), custom_ops=False)
    (policy,) = policies
    made = builds(policy.purpose)
    for build in made.each:
        build._compile_spec(FACTS, *SCRIPTS, 0)
    assert made.recorder.told == [
        ("message", f"not the matrix's toolchain, which a demonstration may have: {DIFFERENT}")
    ]

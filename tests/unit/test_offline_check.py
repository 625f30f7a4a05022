"""What a run without network lacks: found by looking, told all at once, with the command that fetches it."""

from __future__ import annotations

import io
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from builder.cli.demo_upstream import Miniature
from builder.cli.main import cli
from builder.cli.values import command_line
from builder.core.build_options import BuildOptions
from builder.core.errors import EXIT_TARGET_FAILED, FailureKind, TargetError
from builder.core.workspace import Workspace, resource
from builder.environments import pytorch, pytorch_store
from builder.environments.image_inputs import not_offered
from builder.environments.interface import EnvironmentRequest
from builder.matrix.loader import load_matrix
from builder.matrix.selection import parse_target_id
from builder.planning.offline_check import Missing, refusal
from builder.progress.reporter import Reporter
from builder.target.resolve_sources import Gatherer

REQUEST = EnvironmentRequest(
    arch="x86_64", python="3.11", torch="2.5.1", torch_source="pypi", requirements=(), base_image="x"
)


def test_a_requirement_is_offered_by_a_wheel_or_an_archive_of_its_version(tmp_path: Path) -> None:
    for name in ("numpy-1.26.4-cp311-cp311-manylinux.whl", "PyYAML-6.0.1.tar.gz", "typing_extensions-4.12.2-py3.whl"):
        (tmp_path / name).touch()
    lines = (
        "numpy==1.26.4 --hash=sha256:00",
        "pyyaml==6.0.1",
        "typing-extensions==4.12.2",
        "wheel==0.43.0",
        "numpy==2",
    )
    assert not_offered(lines, [tmp_path]) == ["wheel==0.43.0", "numpy==2"]
    assert not_offered(["numpy", "cmake"], [tmp_path]) == ["cmake"]
    assert not_offered(lines[:3], []) == ["numpy==1.26.4", "pyyaml==6.0.1", "typing-extensions==4.12.2"]


@pytest.mark.parametrize(
    ("file", "source", "there"),
    [
        ("torch-2.5.1-cp311-cp311-linux_x86_64.whl", "pypi", True),
        ("torch-2.5.1+cpu-cp311-cp311-linux_x86_64.whl", "cpu-index", True),
        ("torch-2.5.10-cp311-cp311-linux_x86_64.whl", "pypi", False),
        ("torch-2.5.1.tar.gz", "find-links", True),
        # An index's PyTorch is never built from an archive.
        ("torch-2.5.1.tar.gz", "pypi", False),
        ("torchvision-2.5.1-cp311-cp311-linux_x86_64.whl", "pypi", False),
    ],
)
def test_pytorch_in_a_folder_need_not_be_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, source: str, there: bool
) -> None:
    monkeypatch.setenv(pytorch_store.VARIABLE, str(tmp_path / "packages"))
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / file).touch()
    request = replace(REQUEST, torch_source=source)
    said = pytorch.absent(request, resource("docker"), (tmp_path / "wheels",), "glibc 2.36")
    assert said == (None if there else "PyTorch 2.5.1 for Python 3.11 on x86_64")


def test_of_a_base_that_is_not_here_only_what_was_never_fetched_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(pytorch_store.VARIABLE, str(tmp_path))
    assert pytorch.absent(REQUEST, resource("docker"), (), None) is not None
    kept = pytorch_store.PyTorchStore(tmp_path).wheels(REQUEST)
    kept.mkdir(parents=True)
    (kept / "torch-2.5.1-cp311-cp311-linux_x86_64.whl").touch()
    # For which C library it was chosen is not known; that is for the next attempt to say.
    assert pytorch.absent(REQUEST, resource("docker"), (), None) is None
    assert pytorch.absent(REQUEST, resource("docker"), (), "glibc 2.36") is not None


def test_everything_is_one_error_with_its_targets() -> None:
    lacking = {
        "a": Missing(("commit 1 of fmt is not in /m, and --offline forbids fetching it",), ("PyTorch 2.5.1",)),
        **{name: Missing((), ("PyTorch 2.5.1",)) for name in "bcde"},
    }
    error = refusal(lacking, of=7, pull="python -m builder pull --pytorch=2.5")
    assert error.exit_code == EXIT_TARGET_FAILED
    assert error.message.startswith("5 of 7 targets cannot be built with --offline: 2 things are not on this machine")
    assert error.details == "commit 1 of fmt is not in /m (for a)\nPyTorch 2.5.1 (for a, b, c and 2 more)"
    assert error.hint == "with a network: python -m builder pull --pytorch=2.5"
    assert (lacking["a"].error().kind, lacking["b"].error().kind) == (FailureKind.SOURCE, FailureKind.IMAGE)


def test_sources_that_are_missing_are_told_together(tmp_path: Path, upstream: Miniature) -> None:
    matrix = load_matrix(None, upstream.sources_file)
    workspace = Workspace(tmp_path / "build", tmp_path / "dist")
    workspace.create()
    reporter = Reporter(Console(file=io.StringIO()))
    target = parse_target_id(matrix, "v2.5.1-7.1.0-py3.11-x86_64")

    def missing(options: BuildOptions) -> list[str]:
        with pytest.raises(TargetError) as raised:
            Gatherer(matrix, workspace, options, reporter).decide(target)
        assert raised.value.kind is FailureKind.SOURCE
        return (raised.value.details or raised.value.message).splitlines()

    offline = BuildOptions(offline=True)
    assert [line.partition(" is in ")[0].partition(" is not in ")[0] for line in missing(offline)] == [
        "branch v2.5.1-7.1.0 of torch_npu", "branch 7.1.0 of op-plugin", "nothing of nlohmann-json",
    ]  # fmt: skip
    # With torch_npu here, what it pins is known.
    Gatherer(matrix, workspace, BuildOptions(), reporter)._repositories.open("torch_npu").branch(target.release.branch)
    overlay, submodule = missing(offline)
    assert overlay.startswith("branch 7.1.0 of op-plugin is not in")
    assert submodule.startswith("commit ")
    assert " of nlohmann-json is not in" in submodule
    Gatherer(matrix, workspace, BuildOptions(), reporter).fetch(target)
    Gatherer(matrix, workspace, offline, reporter).fetch(target)
    assert not workspace.trees.exists() or not any(workspace.trees.iterdir())


def said_of(*arguments: str) -> list[str]:
    """The command line of ``pull`` that a build with these arguments would name."""
    build = cli.commands["build"]
    with cli.make_context("torch-npu-builder", ["build", *arguments]) as above:
        context = build.make_context("build", list(arguments), parent=above)
        with context:
            return shlex.split(command_line("pull"))


def test_the_command_that_fetches_has_what_this_one_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILDER_WORKSPACE", str(tmp_path))
    given = ["--pytorch=v2.5.1-7.1.0", "--python=3.9,3.11", "--target=v2.*-py3.1?-*", f"--find-links={tmp_path}"]
    told = said_of(*given, "--offline", "--jobs=2", "--keep-changes", "--allow-toolchain-mismatch", "--pch=off", "-q")
    assert told[:4] == ["python", "-m", "builder", "pull"]
    assert sorted(told[4:]) == sorted(
        ["--pytorch=v2.5.1-7.1.0", "--python=3.9", "--python=3.11", "--target=v2.*-py3.1?-*",
         f"--find-links={tmp_path}", "--allow-toolchain-mismatch", "--pch=off", "--quiet"]
    )  # fmt: skip
    # What it names is a command that can be run.
    pull = cli.commands["pull"]
    assert pull.make_context("pull", told[4:]).params["python"] == ("3.9", "3.11")

"""Builds on this machine: an environment made once, fixed paths in namespaces, real paths without."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder.core.errors import MachineError
from builder.environments import host
from builder.environments.host import MARKER, HostView, exposure, ready_host
from builder.environments.interface import EnvironmentRequest, Folders, Limits, Opened, Outcome, Ready
from builder.environments.interpreters import find_interpreter
from builder.environments.namespace import find_namespaces
from builder.environments.network import NetworkSettings
from builder.environments.probe import probe
from builder.environments.pytorch import packages_folder
from builder.progress.reporter import Reporter

PYTHON = "{}.{}".format(*sys.version_info[:2])
DOCKER = Path(__file__).resolve().parents[2] / "docker"
SETTINGS = NetworkSettings.from_environment(os.environ)


def stand_in(folder: Path) -> Path:
    """A wheel of a torch of a few lines, with a torchgen that builds write into."""
    folder.mkdir(parents=True, exist_ok=True)
    info = "torch-9.9.9.dist-info"
    files = {
        "torch/__init__.py": "__version__ = '9.9.9'\ndef compiled_with_cxx11_abi(): return True\n",
        "torchgen/__init__.py": "",
        "torchgen/template.h": "pristine\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: torch\nVersion: 9.9.9\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / "torch-9.9.9-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("host")


@pytest.fixture(scope="module")
def request_(place: Path) -> EnvironmentRequest:
    if find_interpreter(PYTHON) is None:
        pytest.skip(f"this machine has no Python {PYTHON} with headers")
    return EnvironmentRequest(
        arch=os.uname().machine,
        python=PYTHON,
        torch="9.9.9",
        torch_source="find-links",
        requirements=(),
        base_image="none",
        find_links=(stand_in(place / "wheels with space"),),
    )


def ready(place: Path, request: EnvironmentRequest, *, fixed: bool) -> Ready:
    return ready_host(
        request,
        settings=SETTINGS,
        workspace_environments=place / "environments",
        log=place / "log",
        reporter=Reporter(quiet=True),
        resources=DOCKER,
        fixed_paths=fixed,
    )


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    made = {name: tmp_path / name for name in ("tree", "mirrors", "cache", "out", "launcher", "codegen")}
    for folder in made.values():
        folder.mkdir()
    return Folders(**made)


def said(opened: Opened, script: str) -> list[str]:
    lines: list[str] = []
    argv = ["sh", "-c", script]
    outcome = opened.run(argv, env={}, cwd=opened.paths.tree, on_line=lines.append, limits=Limits(timeout=60))
    assert outcome.exit_code == 0, lines
    return lines


@pytest.mark.parametrize("fixed", [True, False])
def test_commands_run_with_the_targets_python_and_torch(
    place: Path, request_: EnvironmentRequest, folders: Folders, fixed: bool
) -> None:
    if fixed and find_namespaces() is None:
        pytest.skip("this machine allows no namespaces")
    made = ready(place, request_, fixed=fixed)
    assert made.fixed_paths is fixed
    with made.open(folders) as opened:
        facts = probe(opened, PYTHON)
        assert facts.torch == "9.9.9"
        assert facts.torch_path == f"{opened.paths.torch}/torch"
        assert facts.cxx11_abi is True
        assert facts.gcc
        assert facts.auditwheel
        assert facts.ninja
        assert said(opened, "pwd; echo made > made; echo $HOME") == [
            opened.paths.tree,
            opened.base_env["HOME"],
        ]
    assert (folders.tree / "made").read_text() == "made\n"
    assert opened.base_env["HOME"] != os.environ.get("HOME")


def test_fixed_paths_stand_over_whatever_this_machine_has_there(
    place: Path, request_: EnvironmentRequest, folders: Folders
) -> None:
    namespaces = find_namespaces()
    if namespaces is None:
        pytest.skip("this machine allows no namespaces")
    (folders.tree / "inside").touch()
    (folders.mirrors / "kept").write_text("as it was")
    made = ready(place, request_, fixed=True)
    assert made.build_user == namespaces.user
    assert made.exposure == exposure(namespaces)
    with made.open(folders) as opened:
        assert opened.paths.tree == "/work/pytorch"
        lines = said(
            opened, "ls /work/pytorch; ls -d /usr/bin/env; echo spoiled > /mirrors/kept || true; cat /mirrors/kept"
        )
        assert lines[:2] == ["inside", "/usr/bin/env"]
        # What stands beside a fixed path stays visible.
        siblings = {path.name for path in Path("/opt").iterdir()} - {"python", "torch", "launcher", "cann"}
        assert siblings <= set(said(opened, "ls /opt"))
    assert (folders.mirrors / "kept").read_text() == "as it was"


def test_a_toolkit_stands_at_its_own_path_too(
    place: Path, request_: EnvironmentRequest, folders: Folders, tmp_path: Path
) -> None:
    if find_namespaces() is None:
        pytest.skip("this machine allows no namespaces")
    # Below a temporary folder, which is hidden: nothing else of it is seen.
    toolkit = tmp_path / "Ascend" / "cann 8.5.0"
    toolkit.mkdir(parents=True)
    (toolkit / "set_env.sh").write_text(f"cat '{toolkit}/version'\n")
    (toolkit / "version").write_text("8.5.0\n")
    (toolkit.parent / "beside").touch()
    made = ready(place, request_, fixed=True)
    with made.open(replace(folders, cann=toolkit)) as opened:
        script = f". {opened.paths.cann}/set_env.sh; ls '{toolkit.parent}'; echo x > '{toolkit}/x' || ls '{toolkit}'"
        lines = said(opened, script)
        assert opened.warnings == ()
    assert [line for line in lines if "Read-only" not in line and "Permission" not in line] == [
        *("8.5.0", "cann 8.5.0", "set_env.sh", "version")
    ]
    with made.open(replace(folders, cann=Path("/tmp"))) as opened:
        assert len(opened.warnings) == 1
        assert "/tmp, as that folder is hidden from builds" in opened.warnings[0]


def test_a_command_sees_no_network(place: Path, request_: EnvironmentRequest, folders: Folders) -> None:
    namespaces = find_namespaces()
    if namespaces is None or not namespaces.network:
        pytest.skip("this machine allows no network namespaces")
    with ready(place, request_, fixed=True).open(folders) as opened:
        # Two lines of headings, one of the loopback interface.
        assert len(said(opened, "cat /proc/net/dev")) == 3


@pytest.mark.parametrize("fixed", [True, False])
def test_what_a_build_does_to_torchgen_ends_with_it(
    place: Path, request_: EnvironmentRequest, folders: Folders, fixed: bool
) -> None:
    made = ready(place, request_, fixed=fixed)
    find = f'd=$(python{PYTHON} -c "import os, torchgen; print(os.path.dirname(torchgen.__file__))")'
    for _ in range(2):
        with made.open(folders) as opened:
            assert said(opened, f"{find}; cat $d/template.h; echo spoiled > $d/template.h") == ["pristine"]


def test_an_environment_is_made_once_and_again_when_half_made(
    place: Path, request_: EnvironmentRequest, folders: Folders
) -> None:
    first = ready(place, request_, fixed=False)
    (marker,) = (place / "environments").glob(f"*/{MARKER}")
    made = marker.stat().st_mtime_ns
    assert ready(place, request_, fixed=False).facts == first.facts
    assert marker.stat().st_mtime_ns == made
    marker.unlink()
    (marker.parent / "tools" / "bin" / "ccache").unlink()
    # Of a root with a strict umask: builds run as another user, who has to read it.
    before = os.umask(0o077)
    try:
        with ready(place, request_, fixed=find_namespaces() is not None).open(folders) as opened:
            facts = probe(opened, PYTHON)
    finally:
        os.umask(before)
    assert facts.torch == "9.9.9"
    # The pinned one, whatever this machine has.
    assert facts.ccache == "4.14.2"
    assert marker.is_file()


def test_an_environment_that_cannot_be_made_leaves_nothing(
    place: Path, request_: EnvironmentRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from builder.core.errors import FailureKind, TargetError

    # Its own, because others make PyTorch in the one that all tests share.
    monkeypatch.setenv("BUILDER_PACKAGES", str(tmp_path / "packages"))
    before = {path.name for path in (place / "environments").iterdir() if path.is_dir()}
    for wrong in (replace(request_, torch="9.9.8"), replace(request_, requirements=("nowhere==9.9.8",))):
        with pytest.raises(TargetError) as raised:
            ready(place, wrong, fixed=False)
        assert raised.value.kind is FailureKind.IMAGE
        assert "9.9.8" in str(raised.value.details)
    assert not list((packages_folder() / "making").iterdir())
    assert {path.name for path in (place / "environments").iterdir() if path.is_dir()} == before


def test_another_architecture_is_refused(place: Path, request_: EnvironmentRequest) -> None:
    other = {"x86_64": "aarch64", "aarch64": "x86_64"}[request_.arch]
    with pytest.raises(MachineError, match=other):
        ready(place, replace(request_, arch=other), fixed=False)


@pytest.mark.skipif(find_namespaces() is None, reason="this machine allows no namespaces")
def test_namespaces_are_found_with_an_ordinary_users_path(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = find_namespaces()
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # chroot is a program of the system folders
    find_namespaces.cache_clear()
    try:
        assert find_namespaces() == expected
    finally:
        find_namespaces.cache_clear()


def test_a_view_that_cannot_be_composed_is_told_and_not_taken_for_an_empty_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it may be a mount that just changes; twice it is an error, with what was said."""
    view = HostView(None, tmp_path, os.environ["PATH"], os.environ)
    plain, calls = host.run_process, []

    def failing(command: Sequence[str], **how: Any) -> Outcome:
        calls.append(command)
        if len(calls) in broken:
            return plain(["sh", "-c", "echo mount: it is gone; exit 32"], **how)
        return plain(command, **how)

    monkeypatch.setattr(host, "run_process", failing)
    broken = {1}
    assert "git" in host.look_around(DOCKER, view).programs
    calls.clear()
    broken = {1, 2}
    with pytest.raises(MachineError, match=r"could not be looked at \(exit code 32\)") as caught:
        host.look_around(DOCKER, view)
    assert caught.value.details == "mount: it is gone"

"""What doctor makes of what its container said: which of network and folders is wrong, why, and what to do."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from builder.core.errors import FailureKind, MachineError, TargetError
from builder.environments import checks, engine_proof
from builder.environments.docker_engine import DockerEngine
from builder.environments.engine_client import Place
from builder.environments.engine_proof import Finding, archive_of, prove

USER = (os.getuid(), os.getgid())
Inside = Callable[[Any], list[str]]


def engine(*options: str, url: str = "unix:///run/x.sock") -> DockerEngine:
    info = {"ServerVersion": "7.7", "SecurityOptions": list(options)}
    return DockerEngine(None, url, info, Place(url, False, "DOCKER_HOST"))  # type: ignore[arg-type]


def well(place: Any) -> list[str]:
    """What the container says and does where all is well."""
    (place.tree / "written").write_text("x")
    return [f"stage {place.token}", f"tree {place.token}", "written", "route eth0", "end"]


@pytest.fixture
def findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Finding]]:
    def ask(inside: Inside, found: DockerEngine | None = None, user: tuple[int, int] = USER) -> list[Finding]:
        @contextmanager
        def image(_: DockerEngine) -> Iterator[str]:
            yield "sha256:1"

        monkeypatch.setattr(engine_proof, "_image", image)
        monkeypatch.setattr(engine_proof, "_run", lambda _, __, place, **___: inside(place))
        result = prove(found or engine(), tmp_path / "not" / "there" / "yet", user)
        assert list(tmp_path.iterdir()) == [], "what was made is removed"
        return result

    return ask


def only(findings: list[Finding]) -> Finding:
    (fault,) = [finding for finding in findings if finding.fault is not None]
    return fault


def without(word: str, *said: str) -> Inside:
    return lambda place: [*(line for line in well(place) if not line.startswith(word)), *said]


def test_all_is_well(findings: Callable[..., list[Finding]], tmp_path: Path) -> None:
    network, folders = findings(well)
    assert (network.fault, folders.fault) == (None, None)
    assert str(tmp_path) in folders.text


def test_a_network_that_leads_nowhere(findings: Callable[..., list[Finding]]) -> None:
    fault = only(findings(without("route")))
    assert fault.name == "container network"
    assert "no way out" in str(fault.fault)


DENIED = "doctor: 3: cannot open /work/token: Permission denied"


def test_selinux_is_named(
    findings: Callable[..., list[Finding]], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    enforce = tmp_path_factory.mktemp("selinux") / "enforce"
    enforce.write_text("1")
    monkeypatch.setattr(engine_proof, "SELINUX", enforce)
    fault = only(findings(without("tree", DENIED)))
    assert "SELinux keeps containers from it" in str(fault.fault)
    assert "chcon -Rt container_file_t" in str(fault.advice)
    enforce.write_text("0")
    assert "SELinux" not in str(only(findings(without("tree", DENIED))))


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        (("name=userns",), "userns-remap"),
        (("name=rootless",), "as the user whose rootless engine it is"),
        ((), "this machine's user numbers"),
    ],
)
def test_shifted_users_are_named(findings: Callable[..., list[Finding]], options: tuple[str, ...], advice: str) -> None:
    # That of files that cannot be read, and that of files that are written as somebody else.
    for inside in (without("tree", DENIED), without("written", "doctor: 5: cannot create /work/written: denied")):
        fault = only(findings(inside, engine(*options)))
        assert fault.name == "container folders"
        assert "may not use" in str(fault.fault)
        assert advice in str(fault.advice)


def test_files_that_belong_to_somebody_else_are_told(findings: Callable[..., list[Finding]]) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give files away")

    def shifted(place: Any) -> list[str]:
        said = well(place)
        os.chown(place.tree / "written", 165536, 165537)
        return said

    fault = only(findings(shifted))
    assert "belongs to 165536:165537 here" in str(fault.fault)


def test_another_folder_of_that_name_is_not_seen(findings: Callable[..., list[Finding]]) -> None:
    fault = only(findings(lambda place: [line.replace(place.token, "0") for line in well(place)]))
    assert "does not see" in str(fault.fault)
    assert str(fault.advice).endswith("--workspace")
    fault = only(findings(without("stage")))
    assert str(fault.advice).endswith("TMPDIR")


def raises(error: Exception) -> Inside:
    def inside(_: Any) -> list[str]:
        raise error

    return inside


def test_an_engine_of_another_machine_is_told_what_cannot_work(findings: Callable[..., list[Finding]]) -> None:
    unseen = raises(MachineError("the container engine does not see this machine's folders (/x)"))
    fault = only(findings(unseen, engine(url="tcp://192.0.2.7:2375")))
    assert "is on another machine" in str(fault.fault)
    assert "run the builder on that machine" in str(fault.advice)
    fault = only(findings(unseen))
    assert "does not see" in str(fault.fault)
    assert "another machine" not in str(fault.fault)


def test_an_engine_of_another_architecture_is_told(findings: Callable[..., list[Finding]]) -> None:
    error = TargetError("proving the engine: exec /bin/sh: exec format error", kind=FailureKind.ENGINE)
    assert "runs no programs of this machine" in str(only(findings(raises(error))).fault)


def test_a_bridge_that_vanished_does_not_hide_the_folders(findings: Callable[..., list[Finding]]) -> None:
    left = [TargetError("failed to create endpoint x on network bridge: no docker0", kind=FailureKind.ENGINE)]

    def inside(place: Any) -> list[str]:
        if left:
            raise left.pop()
        return well(place)

    found = findings(inside)
    assert only(found).name == "container network"
    assert "systemctl restart docker" in str(only(found).advice)
    assert len(found) == 2


def test_a_fault_fails_doctor_with_its_advice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    faults = [Finding("container folders", "", "not seen", "name another"), Finding("container network", "fine")]
    monkeypatch.setattr(engine_proof, "prove", lambda *_: faults)
    first, second = checks.check_containers(engine(), tmp_path)
    assert (first.status, first.text) == ("fail", "not seen")
    assert first.advice == "name another; or build with --environment host"
    assert (second.status, second.text, second.advice) == ("ok", "fine", None)


def test_the_archive_holds_a_program_and_all_that_it_loads(tmp_path: Path) -> None:
    import subprocess

    with tarfile.open(fileobj=io.BytesIO(archive_of())) as tar:
        assert all(member.mode == 0o755 for member in tar)
        tar.extractall(tmp_path, filter="data")
    if os.getuid() != 0:
        pytest.skip("only root can change its root folder")
    done = subprocess.run(["chroot", str(tmp_path), "/bin/sh", "-c", "echo up"], capture_output=True, check=True)
    assert done.stdout == b"up\n"

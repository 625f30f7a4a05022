"""Engines that people run, beside the machine's own: what doctor proves, containers, commits, a terminal, leftovers.

Each is started once, by ``tests/engines/start.sh``; one that this machine cannot run is skipped with the reason.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from engine_support import Standin, newer_engine
from index_site import torch_wheel
from support import MACHINE, CommandLine, Ran, typed

from builder.core.errors import FailureKind, TargetError
from builder.core.workspace import resource
from builder.environments import engine_calls, engine_client, engine_search
from builder.environments.base_images import Base, standing_base
from builder.environments.docker import Container, build_user, ready_docker
from builder.environments.docker_engine import (
    LABEL,
    OWNER_LABEL,
    DockerEngine,
    commit,
    find_engine,
    labels,
    owner,
    remove_container,
)
from builder.environments.engine_proof import archive_of, prove
from builder.environments.images import Image, image_digests
from builder.environments.interface import EnvironmentRequest, Folders, Limits, Opened, Ready
from builder.environments.inventory import Inventory
from builder.environments.network import NetworkSettings
from builder.environments.orphans import remove_leftovers
from builder.environments.pytorch_store import PyTorch, remove_unused
from builder.progress.reporter import Reporter

pytestmark = [pytest.mark.engine, pytest.mark.slow]

START = Path(__file__).resolve().parents[1] / "engines" / "start.sh"
#: What the wrapper of a command and the tests call.
PROGRAMS = ["/bin/sh", *(f"/usr/bin/{name}" for name in ("head", "sed", "id", "cat", "stat", "sleep"))]
KINDS = ("docker", "docker-containerd", "docker-userns", "podman", "rootless")
#: Those that builds can use here: with userns-remap folders belong to others, as doctor says.
SERVING = tuple(kind for kind in KINDS if kind != "docker-userns")
#: Whose containers write files that belong to somebody else than the builder, when that runs as root.
FOREIGN = {"docker-userns": "userns-remap", "rootless": "run the builder as"}


@dataclass(frozen=True)
class Other:
    """An engine that was started for these tests. ``process`` is the script that holds it."""

    kind: str
    url: str
    process: int
    engine: DockerEngine
    #: A folder that its daemon can reach, whoever that is.
    folder: Path

    @property
    def env(self) -> dict[str, str]:
        return {"DOCKER_HOST": self.url}

    @property
    def first(self) -> str:
        """The process number of the engine's own first process, which has its namespaces."""
        (child,) = Path(f"/proc/{self.process}/task/{self.process}/children").read_text().split()[:1]
        return Path(f"/proc/{child}/task/{child}/children").read_text().split()[0]


@contextmanager
def started(kind: str, **env: str) -> Iterator[Other]:
    """An engine of ``kind``, for as long as the block runs."""
    # Not below pytest's own folder, which only root may enter: a rootless engine is another user.
    with tempfile.TemporaryDirectory(prefix="engine-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        process = subprocess.Popen(
            ["sh", str(START), kind, str(folder / "engine")],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **env}, start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            select.select([process.stdout], [], [], 240)
            url = process.stdout.readline().strip()
            if not url:
                reason = process.stderr.read().strip()
                if process.wait() == 3:
                    pytest.skip(f"no {kind} engine here: {reason}")
                pytest.fail(reason)
            found = find_engine({"DOCKER_HOST": url})
            assert isinstance(found, DockerEngine), found
            yield Other(kind, url, process.pid, found, folder)
            found.close()
            engine_search._asked.clear()
        finally:
            process.terminate()
            process.wait(60)
            process.stdout.close()
            process.stderr.close()


@pytest.fixture(scope="module", params=KINDS)
def other(request: pytest.FixtureRequest) -> Iterator[Other]:
    with started(request.param) as engine:
        yield engine


@pytest.fixture(scope="module")
def image(other: Other) -> str:
    return shell_image(other.engine)


def shell_image(engine: DockerEngine) -> str:
    """The identity of an image with a few of this machine's programs."""
    said = engine.client.api.import_image_from_data(archive_of(PROGRAMS), "torch-npu-builder/env", "programs")
    return str(json.loads(said.strip().splitlines()[-1])["status"])


@pytest.fixture
def opened(other: Other, image: str) -> Iterator[Opened]:
    with opened_on(other.engine, image, other.folder) as container:
        yield container


@contextmanager
def opened_on(engine: DockerEngine, image: str, parent: Path) -> Iterator[Container]:
    """Containers of ``image`` with folders below ``parent``, which belong to whom a build writes as."""
    with tempfile.TemporaryDirectory(dir=parent) as name:
        place = Path(name)
        made = {
            name: place / name for name in ("tree", "mirrors", "cache", "out", "launcher", "codegen", "scratch", "site")
        }
        for folder in (place, *made.values()):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)
            if engine.rootless:
                os.chown(folder, 61100, 61100)
        scratch, site = made.pop("scratch"), made.pop("site")
        request = EnvironmentRequest(engine.arch, "3.11", "2.5.1", "pypi", (), "base", ())
        base = Base("base", "base", image, "0", (), Inventory())
        standing = Image(image, image, "0", base, "/usr/bin:/bin", (), False)
        pytorch = PyTorch(site, "0", {})
        yield Container(engine, standing, request, Folders(**made), build_user(engine), scratch, pytorch)


def said(opened: Opened, script: str) -> tuple[list[str], Any]:
    lines: list[str] = []
    limits = Limits(memory=256 << 20, timeout=60)
    return lines, opened.run(
        ["/bin/sh", "-c", script], env={"X": "here"}, cwd="/work/pytorch", on_line=lines.append, limits=limits
    )


def test_doctor_says_what_it_is_and_what_works(other: Other, cli: CommandLine) -> None:
    # Where the engine's user comes to, too.
    with tempfile.TemporaryDirectory(dir=other.folder) as workspace:
        Path(workspace).chmod(0o755)
        ran = cli("doctor", "--offline", f"--workspace={workspace}", env=other.env)
        assert list(Path(workspace).iterdir()) == []
    assert f"{other.engine.version} at {other.url}" in ran.text
    assert "a container gets a network with a way out" in ran.text
    if other.kind in FOREIGN:
        assert ran.code == 3
        assert "a container may not use" in ran.text
        assert FOREIGN[other.kind] in ran.text
    else:
        assert ran.code == 0, ran.text
        assert "seen, written and owned as they must be" in ran.text
    mine = {"label": f"{LABEL}=1"}
    assert other.engine.client.containers.list(all=True, filters=mine) == []
    assert [image for image in other.engine.client.images.list(filters=mine) if "doctor" in str(image.tags)] == []


@pytest.mark.parametrize("other", ["rootless"], indirect=True)
def test_a_rootless_engine_serves_its_own_user(other: Other) -> None:
    user = ["setpriv", "--reuid=61100", "--regid=61100", "--clear-groups"]
    home = other.folder / "engine" / "home"
    env = {**os.environ, **other.env, "HOME": str(home), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    reason = "it is root's own"
    # That of a virtual environment may be in root's own folder.
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        command = [*user, python, "-B", "-m", "builder", "doctor", "--offline", f"--workspace={home}/build"]
        with suppress(OSError):
            ran = subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, check=False)
            if "container engine" in ran.stdout:
                break
            reason = ran.stderr[-200:]
    else:
        pytest.skip(f"no Python that another user may run imports the builder: {reason}")
    assert ran.returncode == 0, ran.stdout
    assert "rootless" in ran.stdout
    assert "seen, written and owned as they must be" in ran.stdout


def test_the_highest_version_is_spoken(other: Other) -> None:
    expected = {"docker": "1.45", "docker-containerd": "1.45", "docker-userns": "1.45"}
    assert other.engine.api == expected.get(other.kind, "1.41")


@pytest.mark.parametrize("other", SERVING, indirect=True)
def test_a_command_runs_as_in_a_build(other: Other, opened: Opened) -> None:
    lines, outcome = said(opened, "echo $X; id -un; id -u; cat /proc/net/dev; echo t >t; stat -c %u t; exit 7")
    assert outcome.exit_code == 7
    assert outcome.cpu_seconds is not None
    assert lines[:3] == ["here", "root" if other.engine.rootless else "builder", str(build_user(other.engine)[0])]
    assert lines[-1] == lines[2]
    assert not any("eth0" in line or "tap0" in line for line in lines), "no network"


def test_a_container_becomes_an_image(other: Other, image: str) -> None:
    client = other.engine.client
    container = client.containers.create(
        image, ["/bin/sh", "-c", "echo made >/made"], network_mode="none", labels=labels()
    )
    name = "torch-npu-builder/env:made"
    try:
        container.start()
        assert container.wait()["StatusCode"] == 0
        changes = [
            "ENV PATH=/opt/x/bin:/usr/bin",
            "ENV PYTHONPATH=/opt/torch",
            'CMD ["/bin/sh"]',
            f"LABEL {LABEL}=1",
            f'LABEL {OWNER_LABEL}=""',
        ]
        commit(other.engine, container, *name.split(":"), changes, 60)
    finally:
        remove_container(container)
    made = client.images.get(name)
    config = made.attrs["Config"]
    assert "PATH=/opt/x/bin:/usr/bin" in config["Env"]
    assert (config["Cmd"], config["Labels"][LABEL], config["Labels"][OWNER_LABEL]) == (["/bin/sh"], "1", "")
    assert made.attrs["Architecture"] == {"x86_64": "amd64", "aarch64": "arm64"}[other.engine.arch]
    # By identity too, as an environment's base is named.
    for which in (name, str(made.id)):
        output = client.containers.run(
            which, ["/usr/bin/cat", "/made"], network_mode="none", remove=True, labels=labels()
        )
        assert output == b"made\n"
    client.images.remove(name)


@pytest.mark.parametrize("other", SERVING, indirect=True)
def test_a_shell_on_a_terminal(other: Other, image: str) -> None:
    shell_through(other.url, image, other.folder)


def shell_through(url: str, image: str, folder: Path) -> None:
    """Type at a build's shell of the engine at ``url``."""
    code, seen = typed(
        [sys.executable, str(Path(__file__).with_name("shell_of_an_engine.py")), image, str(folder)],
        folder,
        "echo $((6 * 7))-$X; exit 7\n",
        env={"DOCKER_HOST": url, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert code == 7, seen
    assert "42-here" in seen


def test_leftovers_of_killed_builders_go(other: Other, image: str) -> None:
    host, _, begun = owner().split(":")
    dead = {LABEL: "1", OWNER_LABEL: f"{host}:999999999:{begun}"}
    client = other.engine.client
    argv = ["/bin/sh", "-c", "echo x >/x"]
    containers = [client.containers.create(image, argv, labels=each) for each in (dead, labels(), {})]
    # Half an image has no name.
    containers[0].start()
    containers[0].wait()
    half = client.api.commit(containers[0].id)["Id"]
    whole = f"{client.api.commit(containers[2].id, 'torch-npu-builder/env', 'whole')['Id']}"
    try:
        removed = remove_leftovers(other.engine)
        assert f"container {containers[0].name}" in removed
        assert any(str(half).removeprefix("sha256:") in name for name in removed), removed
        left = {item.id for item in client.containers.list(all=True)}
        assert {containers[1].id, containers[2].id} <= left
        assert client.images.get(whole)
        for container in containers[1:]:
            container.remove(force=True)
        assert any("torch-npu-builder/env:whole" in name for name in remove_leftovers(other.engine, images=True))
    finally:
        for container in containers:
            remove_container(container)
        assert shell_image(other.engine)


@pytest.mark.parametrize("other", ["docker"], indirect=True)
def test_a_bridge_that_vanished_is_told(other: Other, cli: CommandLine) -> None:
    inside = ["nsenter", "--target", other.first, "--net", "ip"]
    subprocess.run([*inside, "link", "delete", "docker0"], check=True)
    try:
        ran = cli("doctor", "--offline", env=other.env)
        assert ran.code == 3
        assert "the engine cannot give a container its network" in ran.text
        assert "docker0" in ran.text
        # And only that.
        assert "seen, written and owned as they must be" in ran.text
    finally:
        for command in (["link", "add", "docker0", "type", "bridge"], ["link", "set", "docker0", "up"]):
            subprocess.run([*inside, *command], check=True)


@pytest.mark.parametrize("option", ["TMPDIR", "--workspace"])
def test_folders_that_the_engine_does_not_see_are_told(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, seen = tmp_path / "hidden", tmp_path / "seen"
    hidden.mkdir()
    seen.mkdir()
    with started("docker", HIDE=str(hidden)) as engine:
        monkeypatch.setattr(tempfile, "tempdir", str(hidden if option == "TMPDIR" else seen))
        workspace = seen if option == "TMPDIR" else hidden / "build"
        findings = prove(engine.engine, workspace, build_user(engine.engine))
    assert [finding.name for finding in findings if finding.fault is not None] == ["container folders"]
    finding = findings[-1]
    assert f"does not see {hidden}" in str(finding.fault)
    assert str(finding.advice).endswith(option)
    assert list(seen.iterdir()) == []


def test_an_engine_that_stalls_ends_what_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with started("docker") as other:
        first = int(other.first)
        found = other.engine
        monkeypatch.setattr(engine_client, "QUESTION", 1.0)
        monkeypatch.setattr(engine_calls, "PULSE", 1.0)
        with opened_on(found, shell_image(found), other.folder) as opened:
            begun: list[float] = []

            def up(_: str) -> None:
                begun.append(time.monotonic())
                os.kill(first, signal.SIGSTOP)

            with pytest.raises(TargetError, match="went away") as raised:
                opened.run(["/bin/sh", "-c", "echo; echo up; sleep 60"], env={}, cwd="/", on_line=up, limits=Limits())
            assert raised.value.kind is FailureKind.ENGINE
            assert time.monotonic() - begun[0] < 20
            os.kill(first, signal.SIGCONT)
            # What could not be removed is when it is found again.
            assert find_engine(other.env) is found
            assert found.client.containers.list(all=True, ignore_removed=True) == []


def test_an_engine_that_hangs_is_told_within_half_a_minute(
    tmp_path: Path, cli: CommandLine, miniature_options: Callable[..., list[str]]
) -> None:
    standin = Standin(tmp_path, lambda *_: None)
    standin.start()

    def ask(*command: str) -> tuple[Ran, float]:
        begun = time.monotonic()
        return cli(*command, env=standin.env), time.monotonic() - begun

    try:
        with ThreadPoolExecutor(2) as both:
            answers = [
                both.submit(ask, "doctor", "--offline"),
                both.submit(ask, "plan", "--pytorch=v2.5.1-7.1.0", *miniature_options()),
            ]
        for ran, seconds in (answer.result() for answer in answers):
            assert ran.code == 3, ran.text
            assert "takes connections" in ran.text
            assert "systemctl restart docker" in ran.text
            assert seconds < 30
    finally:
        standin.stop()


def test_docker_29_is_doctored_typed_at_and_cleaned(engine: DockerEngine, tmp_path: Path, cli: CommandLine) -> None:
    image = shell_image(engine)
    # A short path, so that it stays on one line of doctor's table.
    with tempfile.TemporaryDirectory(dir="/tmp") as short, newer_engine(Path(short) / "s") as url:
        ran = cli("doctor", "--offline", env={"DOCKER_HOST": url})
        assert ran.code == 0, ran.text
        assert f"{engine.version} at {url}" in ran.text
        assert "seen, written and owned as they must be" in ran.text
        found = find_engine({"DOCKER_HOST": url})
        assert isinstance(found, DockerEngine)
        assert float(found.api.partition(".")[2]) >= 44
        folder = tmp_path / "shell"
        folder.mkdir()
        shell_through(url, image, folder)
        host, _, begun = owner().split(":")
        dead = {LABEL: "1", OWNER_LABEL: f"{host}:999999999:{begun}"}
        container = found.client.containers.create(image, ["/bin/sh"], labels=dead)
        assert f"container {container.name}" in remove_leftovers(found)
        found.close()
    engine.client.images.remove(image, force=True)


def test_a_commit_whose_answer_never_comes_has_made_its_image(engine: DockerEngine, tmp_path: Path) -> None:
    image = shell_image(engine)
    name = f"torch-npu-builder/test-commit:{os.getpid()}"
    with newer_engine(tmp_path / "newer.sock", silent="/commit") as url:
        found = find_engine({"DOCKER_HOST": url})
        assert isinstance(found, DockerEngine)
        container = found.client.containers.create(image, ["/bin/sh"], labels=labels())
        try:
            commit(found, container, *name.split(":"), ["LABEL made=yes"], 3)
        finally:
            remove_container(container)
            found.close()
    try:
        assert engine.client.images.get(name).labels["made"] == "yes"
    finally:
        for one in (name, image):
            engine.client.images.remove(one, force=True)


def test_docker_29_builds(
    base_image: str, tmp_path: Path, cli: CommandLine, miniature_options: Callable[..., list[str]],
    compiled: Callable[[str, Path], None],
) -> None:  # fmt: skip
    compiled("container", cli.build)
    with newer_engine(tmp_path / "newer.sock") as url:
        options = miniature_options("--environment=docker", f"--base-image={base_image}")
        ran = cli("--pytorch=v2.5.1-7.1.0", "--python=3.11", *options, env={"DOCKER_HOST": url})
    assert ran.code == 0, ran.text
    assert any(name.endswith(".whl") for name in cli.dist)


def test_auto_is_not_the_host_where_an_engine_refuses(
    tmp_path: Path, cli: CommandLine, miniature_options: Callable[..., list[str]]
) -> None:
    with newer_engine(tmp_path / "newest.sock", least=90, highest=99) as url:
        for command in ("build", "plan"):
            ran = cli(
                command, "--pytorch=v2.5.1-7.1.0", "--python=3.11", *miniature_options(), env={"DOCKER_HOST": url}
            )
            assert ran.code == 3, ran.text
            assert "wants API version 1.90 or later" in ran.text
            assert "--environment host" in ran.text
    assert cli.dist == []


def test_an_environment_is_made_once_and_goes_again(
    engine: DockerEngine, base_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages, wheels, log = tmp_path / "packages", tmp_path / "wheels", tmp_path / "log"
    monkeypatch.setenv("BUILDER_PACKAGES", str(packages))
    wheels.mkdir()
    (wheels / "torch-2.5.1-py3-none-any.whl").write_bytes(torch_wheel("2.5.1"))
    request = EnvironmentRequest(
        MACHINE, "3.11", "2.5.1", "find-links", ("six==1.16.0",), base_image, find_links=(wheels,)
    )
    settings = NetworkSettings.from_environment(os.environ)
    with started("podman", UPLINK="yes") as podman:
        podman.engine.client.api.load_image(engine.client.images.get(base_image).save(named=True))

        def ready(**more: Any) -> Ready:
            resources, reporter = resource("docker"), Reporter(quiet=True)
            return ready_docker(
                request, settings=settings, resources=resources, log=log, reporter=reporter, env=podman.env, **more
            )

        first, written = ready(), log.read_text()
        # Both engines know the base by its content, so that both give the environment the same name.
        base = standing_base(engine, request)
        assert base is not None
        assert first.facts["image_digest"] == image_digests(request, base, resource("docker"))[1]
        # All of it is this user's, whoever is root in there.
        assert {path.lstat().st_uid for path in packages.rglob("*")} == {os.getuid()}
        again = ready()
        assert (again.facts, log.read_text()) == (first.facts, written)
        with again.open(Folders(*(tmp_path / name for name in ("tree", ".", "out", ".", ".")))) as opened:
            lines, outcome = said(opened, "python -c 'import torch, six; print(torch.__version__)'; touch /opt/torch/x")
        assert lines[0] == "2.5.1"
        assert outcome.exit_code != 0, "PyTorch could be written"
        removed = remove_leftovers(podman.engine, images=True)
        assert {name.split(":")[0].rpartition("/")[2] for name in removed} == {"env", "system"}, removed
        assert len(podman.engine.client.images.list()) == 1, "the base stays"
        remove_unused(packages)
        assert not [path for path in packages.rglob("*") if path.is_file() and path.suffix != ".lock"]

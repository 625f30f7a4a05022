"""Builds in containers, on a real engine: the image, what a command may, and how it ends."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support import base_image_for

from builder.core.cancellation import stop_all
from builder.core.errors import FailureKind, TargetError
from builder.environments import base_images
from builder.environments.docker import ready_docker, remove_leftovers
from builder.environments.docker_engine import LABEL, OWNER_LABEL, DockerEngine, labels, owner
from builder.environments.images import has_image
from builder.environments.interface import EnvironmentRequest, Folders, Limits, Opened, Ready
from builder.environments.network import NetworkSettings
from builder.environments.probe import probe
from builder.environments.pytorch import packages_folder
from builder.progress.reporter import Reporter
from builder.target.deadlines import deadline

pytestmark = [pytest.mark.engine, pytest.mark.slow]

DOCKER = Path(__file__).resolve().parents[2] / "docker"
SECRETS = ("hush-proxy-4711", "hush-config-4711")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("docker")


@pytest.fixture(scope="module")
def request_(engine: DockerEngine, place: Path) -> EnvironmentRequest:
    wheels = place / "wheels"
    wheels.mkdir()
    info = "torch-9.9.9.dist-info"
    files = {
        "torch/__init__.py": "__version__ = '9.9.9'\ndef compiled_with_cxx11_abi(): return True\n",
        "torchgen/__init__.py": "",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: torch\nVersion: 9.9.9\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(wheels / "torch-9.9.9-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            # A fixed time: the wheel's content decides the image's name.
            wheel.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), text)
    return EnvironmentRequest(
        arch=engine.arch,
        python="3.11",
        torch="9.9.9",
        torch_source="find-links",
        requirements=(),
        base_image=base_image_for(engine, engine.arch),
        find_links=(wheels,),
    )


@pytest.fixture(scope="module")
def settings(place: Path) -> NetworkSettings:
    config = place / "pip.conf"
    config.write_text(f"[global]\ntimeout = 60\n# http://user:{SECRETS[1]}@index.example/simple\n")
    found = NetworkSettings.from_environment(os.environ)
    # A proxy with a password that nothing uses, because every host is excepted from it.
    proxies = {**found.proxies, "HTTPS_PROXY": f"http://user:{SECRETS[0]}@127.0.0.1:9", "NO_PROXY": "*"}
    return replace(found, proxies=proxies if "HTTPS_PROXY" not in found.proxies else found.proxies, pip_config=config)


@pytest.fixture(scope="module")
def made(engine: DockerEngine, request_: EnvironmentRequest, settings: NetworkSettings, place: Path) -> Iterator[Ready]:
    # Made afresh, so that this very recipe is what is tested; its wheel's name is of no other image.
    ready = _ready(request_, settings, place / "log")
    if not (place / "log").exists():
        engine.client.images.remove(str(ready.facts["image"]))
        ready = _ready(request_, settings, place / "log")
    yield ready
    engine.client.images.remove(str(ready.facts["image"]), force=True)


def _ready(request: EnvironmentRequest, settings: NetworkSettings, log: Path) -> Ready:
    return ready_docker(request, settings=settings, resources=DOCKER, log=log, reporter=Reporter(quiet=True))


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    made = {name: tmp_path / name for name in ("tree", "mirrors", "cache", "out", "launcher", "codegen")}
    for folder in made.values():
        folder.mkdir()
    return Folders(**made)


@pytest.fixture
def opened(made: Ready, folders: Folders) -> Iterator[Opened]:
    with made.open(folders) as environment:
        yield environment


def said(opened: Opened, script: str, limits: Limits | None = None) -> list[str]:
    lines: list[str] = []
    argv = ["sh", "-c", script]
    opened.run(argv, env={}, cwd="/work/pytorch", on_line=lines.append, limits=limits or Limits(timeout=60))
    return lines


def own_containers(engine: DockerEngine) -> list[str]:
    mine = {"label": f"{OWNER_LABEL}={owner()}"}
    return [item.name for item in engine.client.containers.list(all=True, filters=mine, ignore_removed=True)]


def test_the_image_has_what_a_build_calls(opened: Opened) -> None:
    facts = probe(opened, "3.11")
    absent = [
        name for name in ("cmake", "ccache", "patchelf", "eu-strip", "auditwheel", "git") if not facts.tools()[name]
    ]
    assert absent == []
    assert facts.torch == "9.9.9"
    assert facts.torch_path == "/opt/torch/torch"
    assert facts.python_path == "/opt/python/cp311-cp311/bin/python3.11"
    assert facts.machine == os.uname().machine


def test_the_image_holds_no_pytorch(engine: DockerEngine, made: Ready) -> None:
    image = str(made.facts["image"])
    listed = engine.client.containers.run(image, ["ls", "/opt"], entrypoint=[], remove=True, labels=labels())
    assert "torch" not in listed.decode().split()
    sizes = [engine.client.images.get(name).attrs["Size"] for name in (image, str(made.facts["base_image"]))]
    # What was added to the base: tools and build requirements.
    assert sizes[0] - sizes[1] < 300 << 20


def test_builds_see_pytorch_read_only(opened: Opened) -> None:
    assert "Read-only" in said(opened, "touch /opt/torch/torch/x 2>&1")[0]


def test_the_image_is_made_once(
    made: Ready, request_: EnvironmentRequest, settings: NetworkSettings, tmp_path: Path
) -> None:
    again = _ready(request_, settings, tmp_path / "log")
    assert again.facts == made.facts
    assert not (tmp_path / "log").exists()


def test_secrets_are_in_no_layer_history_or_log(engine: DockerEngine, made: Ready, place: Path) -> None:
    needles = [secret.encode() for secret in SECRETS]
    image = engine.client.images.get(str(made.facts["image"]))
    assert not any(secret in str(image.history()) + str(image.attrs) for secret in SECRETS)
    assert not any(secret in (place / "log").read_text() for secret in SECRETS)
    tail = b""
    for chunk in image.save():
        window = tail + chunk
        assert not any(needle in window for needle in needles)
        tail = chunk[-64:]


def test_a_command_is_nobody_and_sees_nothing_else(opened: Opened, made: Ready) -> None:
    assert made.build_user is not None
    uid = made.build_user[0]
    assert uid != 0
    lines = said(
        opened,
        "id -un; id -u; echo $HOME $USER; touch $HOME/x && echo home; "
        "grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status; "
        "grep -c : /proc/net/dev; ls /var/run/docker.sock 2>&1; touch /opt/torch/torchgen/x && echo torchgen",
    )
    assert lines[:4] == ["builder", str(uid), "/home/builder builder", "home"]
    assert lines[4:7] == ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"]
    assert lines[7] == "1"  # the loopback interface
    assert "No such file" in lines[8]
    assert lines[9] == "torchgen"


def test_folders_stand_at_their_places(opened: Opened, folders: Folders, made: Ready) -> None:
    (folders.mirrors / "kept").write_text("as it was")
    (folders.mirrors / "kept").chmod(0o666)
    lines = said(
        opened,
        "echo t > /work/pytorch/t; echo c > /cache/c; echo o > /out/o; echo m > /mirrors/kept; "
        "git init -q . && git config --get-all safe.directory; ls /opt/launcher /opt/cann",
    )
    assert (folders.tree / "t").read_text() == "t\n"
    assert (folders.cache / "c").read_text() == "c\n"
    assert (folders.out / "o").read_text() == "o\n"
    assert (folders.mirrors / "kept").read_text() == "as it was"
    assert "*" in lines
    assert any("/opt/cann" in line and "No such file" in line for line in lines)
    assert (folders.tree / "t").stat().st_uid == (made.build_user or (0, 0))[0]


def test_a_toolkit_stands_at_its_own_path_too(made: Ready, folders: Folders, place: Path) -> None:
    toolkit = place / "home builder" / "cann-8.5.0"
    toolkit.mkdir(parents=True)
    (toolkit / "set_env.sh").write_text(f"cat '{toolkit}/version'\n")
    (toolkit / "version").write_text("8.5.0\n")
    with made.open(replace(folders, cann=toolkit)) as opened:
        assert opened.warnings == ()
        # In one stream, because two come in no order.
        script = f". {opened.paths.cann}/set_env.sh; ls '{toolkit.parent}'; echo x > '{toolkit}/x'"
        lines = said(opened, f"exec 2>&1; {script}")
    assert lines[:2] == ["8.5.0", "cann-8.5.0"]
    assert "Read-only" in lines[2]
    # Its own path would hide the system of the container: it stands at the fixed path, and that is said.
    with made.open(replace(folders, cann=Path("/usr/share"))) as opened:
        assert said(opened, f"test -d {opened.paths.cann}/doc && echo there") == ["there"]
        assert "/usr/share, as the system of a container is there" in opened.warnings[0]


def test_the_outcome_tells_code_lines_and_cost(opened: Opened) -> None:
    lines: list[str] = []
    script = "printf 'a\\rb\\rc\\n'; printf 'bad \\377\\n'; echo e >&2; python3.11 -c 'sum(range(10**7))'"
    script += "; printf tail; exit 7"
    outcome = opened.run(["sh", "-c", script], env={"X": "1"}, cwd="/", on_line=lines.append, limits=Limits())
    assert sorted(lines) == sorted(["a", "b", "c", "bad \ufffd", "e", "tail"])
    assert outcome.exit_code == 7
    assert outcome.cpu_seconds is not None
    assert 0.02 < outcome.cpu_seconds < 60
    assert not outcome.out_of_memory


def test_empty_lines_of_the_command_are_kept(opened: Opened) -> None:
    assert said(opened, "echo a; echo; echo b; echo") == ["a", "", "b", ""]


def test_a_timeout_kills_and_removes(engine: DockerEngine, opened: Opened) -> None:
    started = time.monotonic()
    lines: list[str] = []
    outcome = opened.run(
        ["sh", "-c", "trap '' TERM; echo up; sleep 100"],
        env={},
        cwd="/",
        on_line=lines.append,
        limits=Limits(timeout=3),
    )
    assert outcome.timed_out
    assert lines == ["up"]
    assert time.monotonic() - started < 15
    assert own_containers(engine) == []


def test_the_memory_limit_is_kept_and_named(opened: Opened) -> None:
    outcome = opened.run(
        ["python3.11", "-c", "x = bytearray(400 << 20)"],
        env={},
        cwd="/",
        on_line=lambda _: None,
        limits=Limits(memory=128 << 20, timeout=60),
    )
    assert outcome.out_of_memory
    assert outcome.exit_code != 0


def test_ctrl_c_removes_the_container_within_two_seconds(engine: DockerEngine, opened: Opened) -> None:
    interrupted: list[float] = []

    def line(_: str) -> None:
        interrupted.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        opened.run(["sh", "-c", "trap '' INT TERM; echo up; sleep 100"], env={}, cwd="/", on_line=line, limits=Limits())
    assert time.monotonic() - interrupted[0] < 2
    assert own_containers(engine) == []


def test_stop_all_ends_a_container_of_another_thread(engine: DockerEngine, opened: Opened) -> None:
    up = threading.Event()
    raised: list[BaseException] = []

    def work() -> None:
        try:
            opened.run(["sh", "-c", "echo up; sleep 100"], env={}, cwd="/", on_line=lambda _: up.set(), limits=Limits())
        except KeyboardInterrupt as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert up.wait(30)
    assert stop_all() == 1
    thread.join(10)
    assert raised
    assert own_containers(engine) == []


def test_a_container_that_is_killed_from_outside_is_no_fault_of_its_command(
    engine: DockerEngine, opened: Opened
) -> None:
    def line(_: str) -> None:
        for name in own_containers(engine):
            engine.client.containers.get(name).kill()

    with pytest.raises(TargetError, match=r"ended from outside \(exit code 137\)") as raised:
        opened.run(["sh", "-c", "echo up; sleep 100"], env={}, cwd="/", on_line=line, limits=Limits())
    assert raised.value.kind is FailureKind.ENGINE
    assert raised.value.kind.passing
    assert own_containers(engine) == []


def test_a_command_that_is_killed_inside_is_its_own_fault(opened: Opened) -> None:
    outcome = opened.run(["sh", "-c", "kill -9 $$"], env={}, cwd="/", on_line=lambda _: None, limits=Limits())
    assert outcome.exit_code == 137
    assert not outcome.out_of_memory


def test_an_error_in_the_callers_own_code_removes_the_container(engine: DockerEngine, opened: Opened) -> None:
    def line(_: str) -> None:
        raise ValueError("the caller's own")

    with pytest.raises(ValueError, match="own"):
        opened.run(["sh", "-c", "echo up; sleep 100"], env={}, cwd="/", on_line=line, limits=Limits())
    assert own_containers(engine) == []


def test_a_base_without_the_python_names_what_it_has(
    request_: EnvironmentRequest, settings: NetworkSettings, tmp_path: Path
) -> None:
    with pytest.raises(TargetError) as raised:
        _ready(replace(request_, python="3.77"), settings, tmp_path / "log")
    assert raised.value.kind is FailureKind.IMAGE
    assert "cp377-cp377" in raised.value.message
    assert "cp311-cp311" in raised.value.message


def test_a_base_that_cannot_be_had_names_the_script(
    request_: EnvironmentRequest, settings: NetworkSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_images, "FIRST_WAIT", 0.1)
    made_by = "'debian.sh --suite x' makes one"
    request = replace(request_, base_image="registry.invalid/none/such:1", base_made_by=made_by)
    with pytest.raises(TargetError) as raised:
        _ready(request, settings, tmp_path / "log")
    assert raised.value.kind is FailureKind.NETWORK
    assert raised.value.tried
    assert made_by in str(raised.value.hint)
    assert "registry.invalid/none/such:1" in raised.value.message


def test_a_torch_that_cannot_be_had_leaves_nothing(
    engine: DockerEngine, request_: EnvironmentRequest, made: Ready, settings: NetworkSettings, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # Its own, because others make PyTorch in the one that all tests share.
    monkeypatch.setenv("BUILDER_PACKAGES", str(tmp_path / "packages"))
    with pytest.raises(TargetError) as raised:
        _ready(replace(request_, torch="9.9.8"), settings, tmp_path / "log")
    assert raised.value.kind is FailureKind.IMAGE
    assert "9.9.8" in str(raised.value.details)
    assert raised.value.log == tmp_path / "log"
    making = packages_folder() / "making"
    assert not list(making.iterdir())
    assert own_containers(engine) == []


@pytest.mark.parametrize("part", ["packages.sh", "requirements.sh", "pytorch.sh"])
def test_an_image_that_is_never_ready_is_given_up_in_a_thread_too(
    part: str,
    engine: DockerEngine,
    request_: EnvironmentRequest,
    made: Ready,
    settings: NetworkSettings,
    tmp_path: Path,
) -> None:
    resources = tmp_path / "docker"
    shutil.copytree(DOCKER, resources)
    # Its time is in it, because the engine would remember a part that was made before.
    (resources / part).write_text(f"echo up {time.time()}\nsleep 600\n")
    raised: list[BaseException] = []

    def work() -> None:
        try:
            with deadline(4):
                ready_docker(
                    request_,
                    settings=settings,
                    resources=resources,
                    log=tmp_path / "log",
                    reporter=Reporter(quiet=True),
                )
        except TargetError as error:
            raised.append(error)

    before = set(own_containers(engine))
    thread = threading.Thread(target=work)
    started = time.monotonic()
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert time.monotonic() - started < 30
    assert isinstance(raised[0], TargetError)
    assert raised[0].kind is FailureKind.TIMEOUT
    # It was the making of the image that hung, and the engine does not go on with it.
    assert "up " in (tmp_path / "log").read_text()
    until = time.monotonic() + 20
    while set(own_containers(engine)) - before:
        assert time.monotonic() < until
        time.sleep(0.2)
    assert made.facts["image"]


def test_leftovers_of_a_killed_builder_go_and_those_of_a_live_one_stay(engine: DockerEngine, made: Ready) -> None:
    image = str(made.facts["image"])
    host, _, started = owner().split(":")
    dead = engine.client.containers.create(image, labels={LABEL: "1", OWNER_LABEL: f"{host}:999999999:{started}"})
    live = engine.client.containers.create(image, labels={LABEL: "1", OWNER_LABEL: owner()})
    somebodys = engine.client.containers.create(image)
    try:
        assert f"container {dead.name}" in remove_leftovers(engine)
        names = {item.name for item in engine.client.containers.list(all=True, ignore_removed=True)}
        assert dead.name not in names
        assert live.name in names
        assert somebodys.name in names
    finally:
        live.remove(force=True)
        somebodys.remove(force=True)


def test_the_other_architecture_runs_under_emulation(
    engine: DockerEngine, request_: EnvironmentRequest, settings: NetworkSettings, folders: Folders, tmp_path: Path
) -> None:
    other = {"x86_64": "aarch64", "aarch64": "x86_64"}[engine.arch]
    name = f"torch-npu-builder/base:bookworm-{other}"
    if not has_image(engine, name):
        pytest.skip(f"there is no {name}")
    ready = _ready(replace(request_, arch=other, base_image=name), settings, tmp_path / "log")
    with ready.open(folders) as opened:
        assert probe(opened, "3.11").machine == other
    assert ready.facts["emulated"] is True


def test_a_container_that_fills_the_disk_is_removed(opened: Opened, folders: Folders) -> None:
    script = "n=1; while head -c 4000000 /dev/zero > /out/$n; do n=$((n + 1)); done"
    outcome = opened.run(
        ["sh", "-c", script],
        env={},
        cwd="/out",
        on_line=lambda line: None,
        limits=Limits(disk=64 << 20, timeout=300),
    )
    assert (outcome.timed_out, outcome.failed) == (False, True)
    assert "are allowed" in str(outcome.excess)

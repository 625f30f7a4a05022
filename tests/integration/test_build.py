"""Whole builds of the miniature upstream in real containers: what comes out, and what the vices cannot do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from difflib import unified_diff
from pathlib import Path

import pytest
from support import CommandLine, Ran, containers_of, typed

from builder.cli.demo_upstream import Miniature
from builder.environments.docker_engine import DockerEngine

pytestmark = pytest.mark.engine

LINE = "--pytorch=v2.5.1-7.1.0"
Build = Callable[..., Ran]
MACHINE = os.uname().machine


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """One workspace for the module: its compile cache makes the later builds quick."""
    return CommandLine(tmp_path_factory.mktemp("builds"))


@pytest.fixture(scope="module")
def options(base_image: str, miniature_options: Callable[..., list[str]]) -> list[str]:
    return miniature_options("--environment=docker", f"--base-image={base_image}")


@pytest.fixture(scope="module")
def build(cli: CommandLine, options: list[str]) -> Build:
    def run(*more: str) -> Ran:
        return cli(LINE, *options, *more)

    return run


Insert = Callable[..., str]


@pytest.fixture
def insert(cli: CommandLine, upstream: Miniature) -> Iterator[Insert]:
    """Write a patch series that inserts lines after the first line of a file; gives the option that uses it."""
    folder = cli.folder / "patches"
    sources = {"torch_npu": (upstream.torch_npu, "v2.5.1-7.1.0"), "op-plugin": (upstream.op_plugin, "7.1.0")}

    def write(repository: str, name: str, *lines: str) -> str:
        path, branch = sources[repository]
        show = ["git", "-C", str(path), "show", f"{branch}:{name}"]
        before = subprocess.run(show, capture_output=True, text=True, check=True).stdout.splitlines(keepends=True)
        after = [before[0], *(f"{line}\n" for line in lines), *before[1:]]
        place = folder / "v2.5.1-*" / repository
        place.mkdir(parents=True)
        (place / "series").write_text("edit.patch\n")
        (place / "edit.patch").write_text("".join(unified_diff(before, after, f"a/{name}", f"b/{name}")))
        return f"--patches={folder}"

    yield write
    shutil.rmtree(folder)


def last_result(cli: CommandLine) -> dict:
    newest = max((cli.build / "runs").iterdir(), key=lambda run: run.stat().st_mtime)
    return json.loads((newest / "result.json").read_text())


def wheel_of(cli: CommandLine, python: str) -> Path:
    (wheel,) = (cli.folder / "dist").glob(f"*-cp{python.replace('.', '')}-*.whl")
    return wheel


def test_two_pythons_and_the_same_bytes_again(cli: CommandLine, build: Build, upstream: Miniature) -> None:
    first = build("--python=3.11,3.9")
    assert first.code == 0, first.text
    result = last_result(cli)
    assert [target["status"] for target in result["targets"]] == ["built", "built"]
    head = subprocess.run(
        ["git", "-C", str(upstream.torch_npu), "rev-parse", "v2.5.1-7.1.0"], capture_output=True, text=True, check=True
    ).stdout.strip()
    # The series has made the order of sets irrelevant, so one Python's generated code is the other's, too.
    assert sorted(target["generation"]["result"] for target in result["targets"]) == ["hit", "miss"]
    before = {}
    for target, python in zip(result["targets"], ("3.9", "3.11"), strict=True):
        wheel = wheel_of(cli, python)
        assert target["wheel"] == wheel.name
        assert target["files_compiled"] == 16
        assert {phase["name"] for phase in target["phases"]} >= {"prepare", "image", "compile", "repair", "verify"}
        record = json.loads(wheel.with_name(wheel.name + ".json").read_text())
        assert record["git_version"] == record["commits"]["torch_npu"] == head
        assert record["commits"]["op-plugin"] != record["commits"]["op-plugin (pinned)"]
        assert record["sha256"] == target["sha256"]
        assert record["compiler"].startswith("gcc 12.")
        with zipfile.ZipFile(wheel) as archive:
            assert f"git_version = '{head}'" in archive.read("torch_npu/version.py").decode()
        before[python] = wheel.read_bytes()
    # The scripts insert with sed, append without truncating, leave files in build/packages: a second
    # build of the same target shows none of it.
    again = build("--python=3.11,3.9", "--rebuild")
    assert again.code == 0, again.text
    assert {python: wheel_of(cli, python).read_bytes() for python in before} == before
    assert all(target["cache"]["misses"] == 0 for target in last_result(cli)["targets"])


def test_the_container_was_cut_off(cli: CommandLine, build: Build, insert: Insert) -> None:
    look = "id -u; wc -l </proc/net/dev; ls /var/run/docker.sock; touch /mirrors/x; grep CapEff /proc/self/status"
    option = insert(
        "torch_npu",
        "generate_code.sh",
        f'( {look} ) 2>&1 | sed "s/^/LOOK /"',
        "echo LOOK $USER $HOME $(getent passwd $(id -u) | cut -d: -f1)",
    )
    ran = build("--python=3.11", option)
    assert ran.code == 0, ran.text
    log = Path(last_result(cli)["targets"][0]["log"]).read_text()
    seen = [line.removeprefix("LOOK ") for line in log.splitlines() if line.startswith("LOOK ")]
    assert seen[0] != "0", "the build ran as root"
    assert seen[1] == "3", "there is a network interface beside loopback"
    assert any("docker.sock" in line and "No such file" in line for line in seen)
    assert any("touch" in line and "Read-only" in line for line in seen)
    assert "CapEff:\t0000000000000000" in seen
    assert seen[-1] == "builder /home/builder builder"


def test_silent_failure_of_code_generation_is_a_failure(cli: CommandLine, build: Build, insert: Insert) -> None:
    published = cli.dist
    ran = build("--python=3.11", insert("op-plugin", "codegen/utils.py", 'raise ValueError("no such operator")'))
    assert ran.code == 1
    failure = last_result(cli)["targets"][0]["failure"]
    assert failure["kind"] == "code-generation"
    assert "no such operator" in failure["message"]
    assert cli.dist == published


def test_compiler_error_is_named_with_its_place(cli: CommandLine, build: Build, insert: Insert) -> None:
    published = cli.dist
    lines = ("int broken = ;", "static int nothing() { }")
    ran = build("--python=3.11", insert("torch_npu", "torch_npu/csrc/core/npu/NPUFunctions.cpp", *lines))
    assert ran.code == 1
    failure = last_result(cli)["targets"][0]["failure"]
    assert (failure["kind"], failure["phase"]) == ("compile", "compile")
    assert "NPUFunctions.cpp:2" in failure["message"]
    assert "error: expected primary-expression" in failure["message"]
    assert "shell v2.5.1-7.1.0-py3.11" in ran.text
    assert str(last_result(cli)["targets"][0]["log"]) in ran.text
    # A source that warns is compiled twice here, with a header and without; what is told once counts once.
    assert last_result(cli)["targets"][0]["compiler_warnings"]["return-type"] == 1
    said = " ".join(ran.text.split())
    assert "compilers warned: " in said
    # The base has another gcc than the matrix wants, which was accepted.
    assert "which may be why: v2.5.1-7.1.0 is made for " in said
    assert cli.dist == published


def test_outputs_that_code_generation_left_out_are_missed(cli: CommandLine, build: Build, insert: Insert) -> None:
    ran = build("--python=3.11", insert("torch_npu", "generate_code.sh", "exit 0"))
    assert ran.code == 1
    failure = last_result(cli)["targets"][0]["failure"]
    assert failure["kind"] == "code-generation"
    assert "RegisterNPU.cpp (missing)" in ran.text


def test_unknown_commit_is_a_failure(cli: CommandLine, build: Build, insert: Insert) -> None:
    published = cli.dist
    ran = build("--python=3.11", insert("torch_npu", "ci/build.sh", "export GIT_DIR=/nowhere"))
    assert ran.code == 1
    failure = last_result(cli)["targets"][0]["failure"]
    assert failure["kind"] == "verify"
    assert "git_version 'Unknown'" in failure["message"]
    assert cli.dist == published


def test_what_an_earlier_build_left_reaches_no_wheel(cli: CommandLine, build: Build) -> None:
    assert build("--python=3.11").code == 0
    clean = wheel_of(cli, "3.11").read_bytes()
    left = cli.build / "compile" / f"v2.5.1-7.1.0-py3.11-{MACHINE}"
    (left / "dist").mkdir(parents=True)
    (left / "dist" / "aaa-1-linux_x86_64.whl").write_bytes(b"another build's wheel")
    stale = left / "build" / "packages" / "torch_npu" / "stale.py"
    stale.parent.mkdir(parents=True)
    stale.write_text("stale = True\n")
    ran = build("--python=3.11", "--rebuild")
    assert ran.code == 0, ran.text
    with zipfile.ZipFile(wheel_of(cli, "3.11")) as archive:
        assert "torch_npu/stale.py" not in archive.namelist()
        # __DATE__ is that of the commit, whatever day it is.
        assert b"Jul  1 2" in archive.read("torch_npu/lib/libtorch_npu.so")
    assert wheel_of(cli, "3.11").read_bytes() == clean
    assert not left.exists()


def test_only_needed_submodules_are_fetched(cli: CommandLine, build: Build) -> None:
    assert build("--python=3.11").code == 0
    names = {mirror.name for mirror in (cli.build / "mirrors").iterdir() if mirror.suffix == ".git"}
    assert names == {"torch_npu.git", "op-plugin.git", "nlohmann-json.git"}


def test_a_tree_that_stands_needs_no_network(cli: CommandLine, build: Build) -> None:
    assert build("--python=3.11").code == 0
    ran = build("--python=3.11", "--offline")
    assert ran.code == 0, ran.text
    assert "fetching" not in ran.text
    other = build("--python=3.11", "--offline", "--torch-npu-url=https://localhost:9/torch_npu.git")
    assert other.code == 1, "a tree from another host must not pass for the one that was asked for"
    assert build("--python=3.11").code == 0


def test_shell_opens_what_a_failed_build_left(
    cli: CommandLine, build: Build, insert: Insert, options: list[str]
) -> None:
    assert (
        build("--python=3.11", insert("torch_npu", "torch_npu/csrc/core/npu/NPUFunctions.cpp", "int x = ;")).code == 1
    )
    target = f"v2.5.1-7.1.0-py3.11-{MACHINE}"
    code, seen = typed(
        [sys.executable, "-m", "builder", "shell", target, *options],
        cli.folder,
        "pwd; head -2 torch_npu/csrc/core/npu/NPUFunctions.cpp; id -un; command -v ccache; exit 7\n",
    )
    assert code == 7, seen
    for words in ("/work/pytorch", "int x = ;", "builder", "/opt/launcher/ccache"):
        assert words in seen, seen


def test_clean_spares_changes_by_hand(cli: CommandLine, build: Build) -> None:
    assert build("--python=3.11,3.9").code == 0
    edited, other = (cli.build / "pytorch" / f"v2.5.1-7.1.0-py{python}-{MACHINE}" for python in ("3.11", "3.9"))
    (edited / "notes.txt").write_text("mine\n")
    ran = cli("clean", "--trees")
    assert ran.code == 0, ran.text
    assert (edited / "notes.txt").exists()
    assert f"kept {edited}" in ran.text
    assert not other.exists()
    assert cli("clean", "--mirrors").code == 2
    (edited / "notes.txt").unlink()
    assert cli("clean", "--mirrors", "--cache").code == 0
    assert not (cli.build / "mirrors").exists()
    assert not edited.exists()


def test_changes_by_hand_are_neither_lost_nor_built_silently(cli: CommandLine, build: Build) -> None:
    assert build("--python=3.11", "--rebuild").code == 0
    (tree,) = (cli.build / "pytorch").glob("v2.5.1-7.1.0-py3.11-*")
    edited = tree / "torch_npu" / "__init__.py"
    edited.write_text(edited.read_text() + "edited_by_hand = True\n")
    refused = build("--python=3.11")
    assert refused.code == 1
    for words in ("torch_npu/__init__.py", "--rebuild", "--keep-changes"):
        assert words in refused.text
    assert "edited_by_hand" in edited.read_text()
    assert build("--python=3.11", "--refresh").code == 1, "a refresh must not lose the edit either"
    assert "edited_by_hand" in edited.read_text()

    kept = build("--python=3.11", "--keep-changes")
    assert kept.code == 0, kept.text
    wheel = wheel_of(cli, "3.11")
    record = json.loads(wheel.with_name(wheel.name + ".json").read_text())
    assert record["changes_by_hand"] == ["modified torch_npu/__init__.py"]
    with zipfile.ZipFile(wheel) as archive:
        assert "edited_by_hand" in archive.read("torch_npu/__init__.py").decode()

    assert build("--python=3.11", "--rebuild").code == 0
    assert "edited_by_hand" not in edited.read_text()


def test_op_plugin_pinned_branch_and_folder(cli: CommandLine, build: Build, upstream: Miniature) -> None:
    def operators() -> str:
        with zipfile.ZipFile(wheel_of(cli, "3.11")) as archive:
            return archive.read("torch_npu/utils/custom_ops.py").decode()

    assert build("--python=3.11").code == 0
    assert "npu_scale" in operators()
    ran = build("--python=3.11", "--op-plugin=pinned")
    assert ran.code == 0, ran.text
    assert "npu_scale" not in operators()

    local = cli.folder / "op-plugin"
    subprocess.run(["git", "clone", "-q", "-b", "7.1.0", str(upstream.op_plugin), str(local)], check=True)
    source = local / "op_plugin" / "ops" / "opapi" / "AddKernelNpuOpApi.cpp"
    source.write_text(source.read_text() + "// an edit that nobody committed\n")
    ran = build("--python=3.11", f"--op-plugin={local}")
    assert ran.code == 0, ran.text
    wheel = wheel_of(cli, "3.11")
    record = json.loads(wheel.with_name(wheel.name + ".json").read_text())
    assert record["overlay"]["dirty"] is True
    assert build("--python=3.11").code == 0


def test_toolchain_mismatch_is_an_error_unless_accepted(cli: CommandLine, options: list[str]) -> None:
    strict = [option for option in options if option != "--allow-toolchain-mismatch"]
    ran = cli(LINE, *strict, "--python=3.11")
    assert ran.code == 1
    assert "gcc is 12.2.0, the matrix wants 9.3.1" in ran.text
    assert "gcc 9.3 has to be built from source on Debian GNU/Linux 12 (bookworm)" in ran.text
    assert "docker/bases/debian.sh --suite bullseye --gcc 9 --python 3.11=PREFIX' makes one with gcc 9.3.0" in ran.text
    assert last_result(cli)["targets"][0]["failure"]["kind"] == "toolchain"


def test_timeout_kills_and_removes_the_container(
    cli: CommandLine, build: Build, engine: DockerEngine, insert: Insert
) -> None:
    started = time.monotonic()
    ran = build("--python=3.11", insert("torch_npu", "generate_code.sh", "sleep 300"), "--timeout=15")
    assert ran.code == 1, ran.text
    failure = last_result(cli)["targets"][0]["failure"]
    assert (failure["kind"], failure["phase"]) == ("timeout", "compile")
    assert time.monotonic() - started < 200
    assert containers_of(engine, cli.build) == []


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interruption_leaves_nothing(
    cli: CommandLine, options: list[str], engine: DockerEngine, insert: Insert, sent: signal.Signals
) -> None:
    option = insert("torch_npu", "generate_code.sh", "echo the build is under way", "sleep 300")
    published = cli.dist
    earlier = newest_run(cli)
    process = subprocess.Popen(
        [sys.executable, "-m", "builder", LINE, *options, "--python=3.11", option],
        cwd=cli.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 240
        while newest_run(cli) == earlier or not any(
            "is under way" in log.read_text() for log in newest_run(cli).glob(f"*-{MACHINE}.log")
        ):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert containers_of(engine, cli.build) != []
        sent_at = time.monotonic()
        process.send_signal(sent)
        _, said = process.communicate(timeout=60)
        assert time.monotonic() - sent_at < 30
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "Traceback" not in said
    # Above it no target counts as failed.
    assert "1 interrupted in " in said
    assert "failed" not in said
    assert containers_of(engine, cli.build) == []
    assert cli.dist == published
    assert last_result(cli)["targets"][0]["failure"]["kind"] == "interrupted"


def newest_run(cli: CommandLine) -> Path:
    return max((cli.build / "runs").iterdir(), key=lambda run: run.name)


def test_custom_operator_from_the_folder_to_a_call(
    tmp_path: Path, base_image: str, compiled: Callable[[str, Path], None]
) -> None:
    cli = CommandLine(tmp_path)
    compiled("container", cli.build / "demo")
    ran = cli("demo", "--environment=docker", f"--base-image={base_image}", "--python=3.11", "--custom-ops")
    assert ran.code == 0, ran.text
    assert "npu_add_custom([1, 2], [3, 4]) = [4.0, 6.0]" in ran.text

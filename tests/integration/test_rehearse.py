"""``rehearse`` on the miniature upstream in real containers: what it compiles, tells, and leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from difflib import unified_diff
from pathlib import Path

import pytest
from support import CommandLine, settle

from builder.cli.demo_upstream import Miniature
from builder.environments.docker_engine import DockerEngine

pytestmark = pytest.mark.engine

LINE = "v2.5.1-7.1.0"
MACHINE = os.uname().machine
TARGET = f"{LINE}-py3.11-{MACHINE}"
Patch = Callable[..., str]


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    return CommandLine(tmp_path_factory.mktemp("rehearsals"))


@pytest.fixture(scope="module")
def options(base_image: str, miniature_options: Callable[..., list[str]]) -> list[str]:
    return miniature_options("--environment=docker", f"--base-image={base_image}")


@pytest.fixture
def patch(cli: CommandLine, upstream: Miniature, tmp_path: Path) -> Iterator[Patch]:
    """Write a series that puts lines before the first of a file; gives the option that uses it."""
    sources = {"torch_npu": (upstream.torch_npu, LINE), "op-plugin": (upstream.op_plugin, "7.1.0")}

    def write(repository: str, *names: str, line: str) -> str:
        path, branch = sources[repository]
        place = tmp_path / "patches" / "v2.5.1-*" / repository
        place.mkdir(parents=True)
        text = ""
        for name in names:
            show = ["git", "-C", str(path), "show", f"{branch}:{name}"]
            before = subprocess.run(show, capture_output=True, text=True, check=True).stdout.splitlines(keepends=True)
            text += "".join(unified_diff(before, [f"{line}\n", *before], f"a/{name}", f"b/{name}"))
        (place / "series").write_text("edit.patch\n")
        (place / "edit.patch").write_text(text)
        return f"--patches={tmp_path / 'patches'}"

    return write


def last_result(cli: CommandLine) -> dict:
    newest = max((cli.build / "runs").iterdir(), key=lambda run: run.stat().st_mtime)
    return json.loads((newest / "result.json").read_text())


def containers(engine: DockerEngine, cli: CommandLine) -> list[str]:
    """Containers of this workspace."""
    found = engine.client.containers.list(all=True, filters={"label": "torch-npu-builder=1"}, ignore_removed=True)
    return [
        container.name
        for container in found
        if any(str(cli.build) in mount.get("Source", "") for mount in container.attrs.get("Mounts") or ())
    ]


def left(cli: CommandLine) -> list[str]:
    """Trees of targets that stand, prepared ones and copies."""
    folders = (cli.build / "pytorch", cli.build / "compile")
    return [f"{folder.name}/{path.name}" for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())
            if path.is_dir()]  # fmt: skip


def test_two_pythons_then_the_build(cli: CommandLine, options: list[str]) -> None:
    settle()
    ran = cli("rehearse", f"--pytorch={LINE}", "--python=3.9,3.11", *options, "--files=4")
    assert ran.code == 0, ran.text
    result = last_result(cli)
    assert result["purpose"] == "rehearse"
    first, second = result["targets"]
    assert [first["status"], second["status"]] == ["rehearsed", "rehearsed"]
    assert [phase["name"] for phase in first["phases"]] == ["prepare", "image", "toolchain", "configure", "compile"]
    # What code generation writes comes on top of the four.
    assert 4 < first["files_compiled"] < 16
    assert second["files_compiled"] == first["files_compiled"]
    assert first["reason"] == f"{first['files_compiled']} of 16 sources compile; no wheel was made"
    done = sorted(result["targets"], key=lambda target: target["phases"][0]["started"])
    # What does not depend on Python.h comes from the first one's compiles.
    assert (done[0]["cache"]["hits"], done[0]["cache"]["misses"]) == (0, first["files_compiled"])
    assert done[1]["cache"]["hits"] > 0
    assert done[1]["cache"]["hits"] + done[1]["cache"]["misses"] == first["files_compiled"]
    assert sorted(target["generation"]["result"] for target in done) == ["hit", "miss"]
    assert (cli.dist, left(cli)) == ([], [])
    assert not list((cli.build / "runs" / result["run"]).glob("*-py*/"))

    # It is no build: nothing is skipped for it, and nothing is expected of it.
    planned = cli("plan", f"--target={TARGET}", *options, "--json")
    assert [plan["action"] for plan in json.loads(planned.out)] == ["build"]
    built = cli(f"--target={TARGET}", *options, "--json-lines")
    assert built.code == 0, built.text
    events = [json.loads(line) for line in built.out.splitlines()]
    assert [event["estimate"] for event in events if event["event"] == "target-started"] == [None]
    cache = last_result(cli)["targets"][0]["cache"]
    assert cache["hits"] == first["files_compiled"]
    history = json.loads(cli("history", "--json").out)
    assert [(entry["purpose"], entry["status"]) for entry in history] == [
        ("build", "built"), ("rehearse", "rehearsed"), ("rehearse", "rehearsed"),
    ]  # fmt: skip
    # The same again: nothing to compile, and the tree of the build stays.
    again = cli("rehearse", f"--target={TARGET}", *options, "--files=4")
    assert again.code == 0, again.text
    assert last_result(cli)["targets"][0]["cache"]["misses"] == 0
    assert left(cli) == [f"pytorch/{TARGET}"]


def test_each_source_that_does_not_compile_is_named(cli: CommandLine, options: list[str], patch: Patch) -> None:
    names = ("op_plugin/ops/aclops/AbsKernelNpu.cpp", "op_plugin/ops/opapi/MulKernelNpuOpApi.cpp")
    broken = patch("op-plugin", *names, line="int broken = no_such_name;")
    ran = cli("rehearse", f"--target={TARGET}", *options, broken, "--files=100")
    assert ran.code == 1
    (result,) = last_result(cli)["targets"]
    assert (result["status"], result["failure"]["kind"], result["failure"]["phase"]) == ("failed", "compile", "compile")
    assert result["failure"]["message"].startswith("2 of 16 sources do not compile; the first is third_party/op-plugin")
    for name in names:
        assert f"{name}:" in ran.text.replace("\n", " ")
    assert "no_such_name" in ran.text
    assert "shell" in ran.text
    # The others were compiled all the same, and are in the cache.
    assert (result["files_compiled"], result["cache"]["failed"]) == (16, 2)
    assert f"compile/{TARGET}" in left(cli)
    assert "Traceback" not in ran.text
    shown = json.loads(cli("history", "--json", "--limit=1").out)
    assert (shown[0]["purpose"], shown[0]["status"]) == ("rehearse", "failed")
    assert "rehearse: compile:" in " ".join(cli("history", "--limit=1", env={"COLUMNS": "300"}).out.split())


def test_a_tree_that_cannot_be_configured(cli: CommandLine, options: list[str], patch: Patch) -> None:
    broken = patch("torch_npu", "torch_npu/csrc/npu/CMakeLists.txt", line="no_such_command()")
    ran = cli("rehearse", f"--target={TARGET}", *options, broken)
    assert ran.code == 1
    (result,) = last_result(cli)["targets"]
    assert result["failure"]["phase"] == "configure"
    assert "no_such_command" in ran.text
    assert "Traceback" not in ran.text


def test_silent_failure_of_code_generation(cli: CommandLine, options: list[str], patch: Patch) -> None:
    ran = cli("rehearse", f"--target={TARGET}", *options, patch("op-plugin", "codegen/utils.py", line="raise 1 / 0"))
    assert ran.code == 1
    failure = last_result(cli)["targets"][0]["failure"]
    assert (failure["kind"], failure["phase"]) == ("code-generation", "configure")


def test_custom_operators_are_always_compiled(cli: CommandLine, options: list[str], upstream: Miniature) -> None:
    ran = cli("rehearse", f"--target={TARGET}", *options, f"--custom-ops={upstream.custom_ops}", "--files=1")
    assert ran.code == 0, ran.text
    log = Path(last_result(cli)["targets"][0]["log"]).read_text()
    assert "AddCustomKernelNpuApi.cpp" in "\n".join(line for line in log.splitlines() if line.startswith("compiled "))


def test_ctrl_c_leaves_nothing(
    cli: CommandLine, options: list[str], patch: Patch, engine: DockerEngine, upstream: Miniature
) -> None:
    slow = patch("torch_npu", "generate_code.sh", line="sleep 300")
    before = left(cli)
    target = f"{LINE}-py3.9-{MACHINE}"
    command = [sys.executable, "-m", "builder", "rehearse", f"--target={target}", *options, slow, "--no-cache"]
    with subprocess.Popen(command, cwd=cli.folder, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 120
        while not any(path.stat().st_size for path in (cli.build / "runs").glob(f"*/{target}.log")) or not containers(
            engine, cli
        ):
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.1)
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert containers(engine, cli) == []
    assert left(cli) == before
    (result,) = last_result(cli)["targets"]
    assert result["failure"]["kind"] == "interrupted"

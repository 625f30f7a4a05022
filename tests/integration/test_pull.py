"""``pull``, and builds without network after it: hosts that are gone, an index that does not answer."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from support import CommandLine, Ran

from builder.cli.demo_upstream import Miniature
from builder.environments.docker_engine import DockerEngine

MACHINE = os.uname().machine
LINE = "v2.5.1-7.1.0"
TARGET = f"{LINE}-py3.11-{MACHINE}"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def git_server(root: Path, port: int) -> Iterator[str]:
    """git's own server for the repositories below ``root``, as long as the block runs."""
    command = ["git", "daemon", "--reuseaddr", "--export-all", "--listen=127.0.0.1", f"--port={port}"]
    command += [f"--base-path={root}", str(root)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        until = time.monotonic() + 30
        while True:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < until
            time.sleep(0.05)
        try:
            yield f"git://127.0.0.1:{port}"
        finally:
            server.terminate()


class World:
    """The miniature upstream behind a server that can be stopped, and the options of builds from it."""

    def __init__(self, cli: CommandLine, upstream: Miniature) -> None:
        self.cli = cli
        self.upstream = upstream
        self.port = free_port()
        self.packages = cli.folder / "packages"
        sources = cli.folder / "sources.yaml"
        names = {"torch_npu": upstream.torch_npu, "op-plugin": upstream.op_plugin, "nlohmann-json": upstream.nlohmann}
        hosts = {
            name: {"urls": [f"git://127.0.0.1:{self.port}/{path.relative_to(upstream.root)}"]}
            for name, path in names.items()
        }
        sources.write_text(yaml.safe_dump({"repositories": hosts}))
        self.options = [f"--sources={sources}", f"--find-links={upstream.wheelhouse}", "--allow-toolchain-mismatch"]

    def run(self, *arguments: str, env: dict[str, str] | None = None) -> Ran:
        return self.cli(*arguments, *self.options, env={"BUILDER_PACKAGES": str(self.packages), **(env or {})})

    def cut_off(self, *arguments: str) -> Ran:
        """A command on a machine that reaches nothing: the server is stopped, and no index is where it should be."""
        nowhere = f"http://127.0.0.1:{free_port()}/simple"
        names = ("PIP_INDEX_URL", "BUILDER_PIP_INDEX_URL", "BUILDER_TORCH_INDEX_URL", "PIP_EXTRA_INDEX_URL")
        variables = dict.fromkeys(names, nowhere) | {"PIP_FIND_LINKS": "", "BUILDER_FIND_LINKS": ""}
        return self.run(*arguments, env=variables)

    def result(self) -> dict:
        newest = max((self.cli.build / "runs").iterdir(), key=lambda run: run.stat().st_mtime)
        return json.loads((newest / "result.json").read_text())


@pytest.fixture
def world(cli: CommandLine, upstream: Miniature) -> World:
    return World(cli, upstream)


def pulled_then_built_offline(world: World, *place: str) -> Ran:
    """What both kinds of environments have in common; returns what ``pull`` said."""
    with git_server(world.upstream.root, world.port):
        pulled = world.run("pull", f"--target={TARGET}", *place)
    assert pulled.code == 0, pulled.text
    result = world.result()
    assert result["purpose"] == "pull"
    (target,) = result["targets"]
    assert (target["status"], [phase["name"] for phase in target["phases"]]) == ("pulled", ["prepare", "image"])
    assert not (world.cli.build / "pytorch").is_dir() or not any((world.cli.build / "pytorch").iterdir())
    assert world.cli.dist == []
    # A lock can follow, and it needs no network either.
    locked = world.cut_off("lock", f"--target={TARGET}", "--offline", *place)
    assert locked.code == 0, locked.text
    rehearsed = world.cut_off("rehearse", f"--target={TARGET}", "--offline", "--files=1", *place)
    assert rehearsed.code == 0, rehearsed.text
    built = world.cut_off(f"--target={TARGET}", "--offline", *place)
    assert built.code == 0, built.text
    assert [entry["status"] for entry in world.result()["targets"]] == ["built"]
    return pulled


@pytest.mark.engine
def test_a_container_build_without_network_after_a_pull(
    world: World, base_image: str, compiled: Callable[[str, Path], None]
) -> None:
    compiled("container", world.cli.build)
    pulled = pulled_then_built_offline(world, "--environment=docker", f"--base-image={base_image}")
    words = " ".join(pulled.text.split())
    for name in ("torch_npu.git", "op-plugin.git", "nlohmann-json.git", base_image, "torch-npu-builder/env:"):
        assert name in words
    assert str(world.packages) in pulled.text.replace("\n", "")


def test_a_host_build_without_network_after_a_pull(world: World, compiled: Callable[[str, Path], None]) -> None:
    compiled("host", world.cli.build)
    pulled_then_built_offline(world, "--environment=host")


@pytest.mark.engine
def test_all_that_is_missing_is_told_at_once(world: World, base_image: str, engine: DockerEngine) -> None:
    place = ("--environment=docker", f"--base-image={base_image}", "--python=3.11,3.9")
    started = time.monotonic()
    refused = world.cut_off(f"--pytorch={LINE}", "--offline", "--components=full", *place)
    assert time.monotonic() - started < 30
    assert refused.code == 1, refused.text
    words = " ".join(refused.text.replace("|", " ").split())
    assert "2 of 2 targets cannot be built with --offline" in words
    assert f"branch {LINE} of torch_npu is not in" in words
    assert "branch 7.1.0 of op-plugin is not in" in words
    assert "nothing of nlohmann-json is in" in words
    command = words.split("python -m builder pull ")[1].split()
    wanted = [f"--pytorch={LINE}", "--python=3.11", "--python=3.9", "--components=full", f"--base-image={base_image}"]
    assert set(command) >= {*wanted, *world.options}
    assert "--offline" not in command
    result = world.result()
    failures = [target["failure"] for target in result["targets"]]
    assert [(failure["kind"], failure["phase"]) for failure in failures] == [("source", "prepare")] * 2
    assert not list((world.cli.build / "runs" / result["run"]).glob("*.image.log"))
    assert "Traceback" not in refused.text

    # One of two targets lacks something: the other is not begun either.
    with git_server(world.upstream.root, world.port):
        pulled = world.run("pull", f"--target={TARGET}", *place[:2])
    assert pulled.code == 0, pulled.text
    other = f"v2.1.0-7.1.0-py3.11-{MACHINE}"
    refused = world.cut_off(f"--target={TARGET},{other}", "--offline", "--torch-source=pypi", *place[:2])
    assert refused.code == 1
    statuses = {target["id"]: target["status"] for target in world.result()["targets"]}
    assert statuses[other] == "failed"
    assert not (world.cli.build / "compile").exists()


@pytest.mark.engine
def test_a_base_image_and_pytorch_that_are_missing(world: World, upstream: Miniature) -> None:
    world.options = [option for option in world.options if not option.startswith("--find-links")]
    base = "registry.example/no/such:1"
    with git_server(world.upstream.root, world.port):
        # The sources alone can be had so.
        failed = world.run("pull", f"--target={TARGET}", "--environment=docker", f"--base-image={base}")
    assert failed.code == 1
    refused = world.cut_off(f"--target={TARGET}", "--offline", "--environment=docker", f"--base-image={base}")
    assert refused.code == 1
    words = " ".join(refused.text.replace("|", " ").split())
    for thing in (f"the base image {base} for", f"the environment of Python 3.11 on {base}", "PyTorch 2.5.1"):
        assert thing in words
    assert "of torch_npu is not in" not in words
    (target,) = world.result()["targets"]
    assert (target["failure"]["kind"], target["failure"]["phase"]) == ("image", "image")


def test_what_pip_would_need_on_a_host_is_told_at_once(world: World, environments: Path) -> None:
    # One of Python 3.9 is in there for nobody.
    world.cli.build.mkdir()
    (world.cli.build / "environments").symlink_to(environments)
    with git_server(world.upstream.root, world.port):
        pulled = world.run("pull", f"--target={TARGET}", "--environment=host")
    assert pulled.code == 0, pulled.text
    other = f"{LINE}-py3.9-{MACHINE}"
    started = time.monotonic()
    refused = world.cut_off(f"--target={TARGET},{other}", "--offline", "--environment=host")
    assert time.monotonic() - started < 30
    assert refused.code == 1, refused.text
    words = " ".join(refused.text.split())
    assert "1 of 2 targets cannot be built with --offline" in words
    assert "the environment of Python 3.9 on this host, which is made of" in words
    assert "setuptools==" in words
    statuses = {target["id"]: target["status"] for target in world.result()["targets"]}
    assert statuses == {TARGET: "skipped", other: "failed"}

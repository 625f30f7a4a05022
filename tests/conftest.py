"""What tests share: the miniature upstream, an engine with a base image, and the command line."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import CommandLine

from builder.environments.engine import DockerEngine, NoEngine, find_engine
from builder.environments.images import has_image
from builder.miniature import Miniature, materialise
from builder.workspace import resource

MACHINE = os.uname().machine


@pytest.fixture(scope="session", autouse=True)
def _plain_environment() -> Iterator[None]:
    """Settings of the person who runs the tests do not reach them."""
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("BUILDER_")}
    for name in ("BUILDER_CA_BUNDLE", "BUILDER_REQUIRE_ENGINE"):
        if name in kept:
            os.environ[name] = kept[name]
    yield
    os.environ.update(kept)


@pytest.fixture(scope="session")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    """The miniature upstream's repositories."""
    return materialise(tmp_path_factory.mktemp("miniature"))


def unavailable(reason: str) -> None:
    """Skip, or fail where the run promised an engine."""
    if os.environ.get("BUILDER_REQUIRE_ENGINE") == "1":
        pytest.fail(f"BUILDER_REQUIRE_ENGINE=1, but {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def engine() -> DockerEngine:
    """A container engine that answers."""
    found = find_engine()
    if isinstance(found, NoEngine):
        unavailable(found.reason)
    assert isinstance(found, DockerEngine)
    return found


def base_image_for(engine: DockerEngine, arch: str) -> str:
    """The name of a bookworm base image for ``arch``, made from Debian's packages where it is absent."""
    name = f"torch-npu-builder/base:bookworm-{arch}"
    if not has_image(engine, name):
        if os.geteuid() != 0 or shutil.which("debootstrap") is None:
            unavailable(f"there is no image {name}, and only root with debootstrap can make it")
        script = resource("docker") / "bases" / "debian.sh"
        more = ["--with-bullseye-python"] if arch == "x86_64" else []
        subprocess.run(["sh", str(script), "--suite", "bookworm", "--arch", arch, *more], check=True)
    return name


@pytest.fixture(scope="session")
def base_image(engine: DockerEngine) -> str:
    """A base image of this machine's architecture, with Python 3.11 and 3.9."""
    return base_image_for(engine, MACHINE)


@pytest.fixture
def cli(tmp_path: Path) -> CommandLine:
    """The command line, in an empty folder."""
    return CommandLine(tmp_path)


@pytest.fixture(scope="session")
def miniature_options(upstream: Miniature) -> Callable[..., list[str]]:
    """Options that point a build at the miniature upstream."""

    def options(*more: str) -> list[str]:
        return [
            f"--sources={upstream.sources_file}",
            f"--find-links={upstream.wheelhouse}",
            "--allow-toolchain-mismatch",
            *more,
        ]

    return options

"""What tests share: the miniature upstream, an engine with a base image, and the command line.

Where they run in several processes, what takes long to make is made once for all of them, in the folder ``common``.
"""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from support import (
    MACHINE,
    CommandLine,
    base_image_for,
    copy_cache,
    may_have_host_names,
    take_host_name,
    unavailable,
)

from builder.cli.demo_upstream import Miniature, materialise
from builder.environments.docker_engine import DockerEngine, NoEngine, find_engine

#: What stands in a file of which some test needs the engine.
ENGINE = re.compile(r"mark\.engine\b|\bengine: DockerEngine\b|\bbase_image: str\b")


@cache
def _uses_engine(file: Path) -> bool:
    return ENGINE.search(file.read_text(encoding="utf-8")) is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test that needs the engine is in a file that is known to."""
    for item in items:
        needs = item.get_closest_marker("engine") or "base_image" in getattr(item, "fixturenames", ())
        if needs and not _uses_engine(item.path):
            raise pytest.UsageError(f"{item.nodeid} needs the engine: mark it with pytest.mark.engine")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where tests run in several processes, those of a file run in one: they share fixtures.

    So do all files that use the engine where processes cannot have host names of their own (see ``_host_of_its_own``).
    (Groups by marks are of no use here: xdist 3.8 does not see them under pytest 9.2.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return "engine" if not may_have_host_names() and _uses_engine(config.rootpath / file) else file

    # Also for plain `-n2`, whose own way would deal the tests of a file over both.
    return ByFile(config, log) if config.getoption("dist") in {"load", "loadfile", "worksteal"} else None


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this run of tests have in common; whoever makes something there holds a lock."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "common"
    folder.mkdir(exist_ok=True)
    return folder


def pytest_configure() -> None:
    """Let each of several processes pass for another machine that uses the same engine.

    Before test modules are imported, some of which note the name. Builders remove what dead ones of their own machine
    have left in the engine, which some tests make, and count.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and may_have_host_names():
        take_host_name(f"{socket.gethostname()[:32]}-{worker}")


@pytest.fixture(scope="session", autouse=True)
def _plain_environment(common: Path) -> Iterator[None]:
    """Settings of the person who runs the tests do not reach them, nor do tests reach that person's folders."""
    # On a CI system the output of commands looks different, and summaries would go to the system's own file.
    theirs = ("BUILDER_", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITLAB_CI")
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(theirs)}
    for name in ("BUILDER_CA_BUNDLE", "BUILDER_REQUIRE_ENGINE"):
        if name in kept:
            os.environ[name] = kept[name]
    os.environ["BUILDER_PACKAGES"] = str(common / "packages")
    # A shell that starts the tests in the background has them ignore Ctrl-C, which some of them send.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    del os.environ["BUILDER_PACKAGES"]
    os.environ.update(kept)


@pytest.fixture(scope="session")
def upstream(common: Path) -> Miniature:
    """The miniature upstream's repositories, which no test writes to: ``copy_of`` gives one that it may."""
    with FileLock(common / "miniature.lock"):
        return materialise(common / "miniature")


@pytest.fixture(scope="session")
def environments(common: Path) -> Path:
    """Environments on this host, made once: for workspaces of tests that are not about how they are made."""
    folder = common / "environments"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def compiled(
    common: Path, environments: Path, miniature_options: Callable[..., list[str]], request: pytest.FixtureRequest
) -> Callable[[str, Path], None]:
    """Gives a workspace the objects of a build in a ``container`` or on the ``host``, which is done once.

    For tests that need a build, and nothing of how its sources are compiled.
    """

    def give(place: str, workspace: Path) -> None:
        made = CommandLine(common / f"compiled-{place}")
        options = ["--environment=host"]
        if place == "container":
            options = ["--environment=docker", f"--base-image={request.getfixturevalue('base_image')}"]
        with FileLock(common / f"compiled-{place}.lock"):
            if not made.dist:
                made.build.mkdir(parents=True, exist_ok=True)
                (made.build / "environments").symlink_to(environments)
                ran = made(f"--target=v2.5.1-7.1.0-py3.11-{MACHINE}", *miniature_options(*options))
                assert ran.code == 0, ran.text
        copy_cache(made.build / "cache", workspace / "cache")

    return give


@pytest.fixture(scope="session")
def engine() -> DockerEngine:
    """A container engine that answers."""
    found = find_engine()
    if isinstance(found, NoEngine):
        unavailable(found.reason)
    assert isinstance(found, DockerEngine)
    return found


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

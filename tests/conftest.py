"""What tests share: the miniature upstream, an engine with a base image, and the command line."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import MACHINE, CommandLine, base_image_for, unavailable

from builder.environments.engine import DockerEngine, NoEngine, find_engine
from builder.miniature import Miniature, materialise


@pytest.fixture(scope="session", autouse=True)
def _plain_environment() -> Iterator[None]:
    """Settings of the person who runs the tests do not reach them."""
    # On a CI system the output of commands looks different, and summaries would go to the system's own file.
    theirs = ("BUILDER_", "GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITLAB_CI")
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(theirs)}
    for name in ("BUILDER_CA_BUNDLE", "BUILDER_REQUIRE_ENGINE"):
        if name in kept:
            os.environ[name] = kept[name]
    # A shell that starts the tests in the background has them ignore Ctrl-C, which some of them send.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    os.environ.update(kept)


@pytest.fixture(scope="session")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    """The miniature upstream's repositories."""
    return materialise(tmp_path_factory.mktemp("miniature"))


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

"""Scenes of attacks, and the table of what came of them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hostile_support import Row, Scene, Told, Victim

from builder.cli.demo_upstream import Miniature
from builder.core.untrusted import remove_tree

#: Where the table goes, for ``nox -s hostile``.
TABLE = "BUILDER_SECURITY_TABLE"
#: Read now: tests run without the variables of whoever starts them.
WANTED = os.environ.get(TABLE)
HEAD = """\
# Attacks that were tried

Written by `nox -s hostile`, which builds a miniature upstream whose `ci/build.sh` attacks whoever builds it
(tests/hostile/), and gives commands damaged inputs. Each line was run; a build that got anywhere, and a command that
hung or ended without a word for what was wrong, would fail its test. What is promised, and what is not, is in
[SECURITY.md](../SECURITY.md).

| where | attack | what happened |
|---|---|---|
"""


@pytest.fixture(scope="session")
def _rows() -> Iterator[list[Row]]:
    rows: list[Row] = []
    yield rows
    if WANTED:
        lines = [f"| {row.place} | {row.attack} | {row.happened} |\n" for row in rows]
        Path(WANTED).write_text(HEAD + "".join(lines), encoding="utf-8")


@pytest.fixture
def held(_rows: list[Row], place: str) -> Told:
    """Note that an attack was tried and held."""

    def note(attack: str, happened: str) -> None:
        _rows.append(Row(place, attack, happened))

    return note


@pytest.fixture
def web_port() -> Iterator[int]:
    """The port of a server on this machine's loopback that takes whoever comes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def scene(
    place: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    environments: Path,
    upstream: Miniature,
    miniature_options: Callable[..., list[str]],
    compiled: Callable[[str, Path], None],
) -> Iterator[Scene]:
    """An empty workspace beside files that no build may reach."""
    where = ["--environment=host"]
    if place == "container":
        where = ["--environment=docker", f"--base-image={request.getfixturevalue('base_image')}"]
    (tmp_path / "scene" / "build").mkdir(parents=True)
    (tmp_path / "scene" / "build" / "environments").symlink_to(environments)
    made = Scene(tmp_path / "scene", upstream, miniature_options(*where), Victim.make(tmp_path / "machine"))
    made.warm = lambda: compiled(place, made.cli.build)
    yield made
    # What attacks leave is more than pytest's own removal can take.
    remove_tree(tmp_path / "scene")

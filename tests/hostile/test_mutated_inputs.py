"""Every command over damaged inputs: files, records, databases, wheels, options and variables."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from everything_support import Everything
from fork_support import Server
from fuzz_support import KINDS, Kind, Tally, try_files, try_options, try_variables
from hostile_support import Told

from builder.cli.demo_upstream import Miniature

#: How many inputs are tried over all kinds, and the seed; read now, as the tests run without these variables. Where no
#: number is asked for, an input goes to one of the commands that read it, else to all.
ASKED = os.environ.get("BUILDER_FUZZ_INPUTS")
INPUTS = int(ASKED or 17)
SEED = os.environ.get("BUILDER_FUZZ_SEED", "11")
NAMES = (*(kind.name for kind in KINDS), "options", "variables")

pytestmark = [
    pytest.mark.parametrize("place", ["command line"]),
    # Hundreds of inputs take as long as they take; a command that hangs has a limit of its own.
    pytest.mark.timeout(3600),
]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory, upstream: Miniature) -> Iterator[Everything]:
    """A workspace with all that commands read."""
    folder = tmp_path_factory.mktemp("everything")
    with closing(Server(folder / "said")) as server:
        yield Everything.make(folder / "made", upstream, server)


def _inputs(name: str) -> int:
    """How many inputs of a kind are tried: what is left over when they are dealt out goes to the first kinds."""
    return INPUTS // len(NAMES) + (NAMES.index(name) < INPUTS % len(NAMES))


def _judged(name: str, tally: Tally, held: Told) -> None:
    print(f"\n{name}: {tally}", *tally.bad, sep="\n", flush=True)
    assert not tally.bad, f"{name}: {tally}"
    held(f"damaged: {name}", str(tally))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_damaged_files_end_commands_in_words(kind: Kind, everything: Everything, tmp_path: Path, held: Told) -> None:
    place = tmp_path / "case"
    tally = try_files(kind, SEED, _inputs(kind.name), everything, place, every=ASKED is not None)
    _judged(kind.name, tally, held)


def test_values_that_nobody_means_end_commands_in_words(everything: Everything, tmp_path: Path, held: Told) -> None:
    _judged("options", try_options(SEED, _inputs("options"), everything, tmp_path / "case"), held)


def test_variables_that_nobody_means_end_commands_in_words(everything: Everything, tmp_path: Path, held: Told) -> None:
    place = tmp_path / "case"
    tally = try_variables(SEED, _inputs("variables"), everything, place, every=ASKED is not None)
    _judged("variables", tally, held)

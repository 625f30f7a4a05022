"""Nights on machines with faults of their own: folders that builds cannot write, a umask that lets nobody read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nightly_support import FIRST, Nights, write_channel
from support import CommandLine, Ran, settle

from builder.core.untrusted import remove_tree
from builder.nightly.previous import FAILURES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="builds are another user's only where root starts them"),
]

PROGRAM = Path(__file__).with_name("faulty_builder.py")


@pytest.fixture
def nights(tmp_path: Path, environments: Path) -> Iterator[Nights]:
    """A channel of one target, which is built on this host."""
    cli = CommandLine(tmp_path / "nights")
    cli.build.mkdir(parents=True)
    (cli.build / "environments").symlink_to(environments)
    made = Nights(cli, "--environment=host")
    write_channel(cli.folder, targets={"target": [FIRST]})
    yield made
    remove_tree(cli.folder)


def night(nights: Nights, day: str, *program: str, umask: str = "022", more: tuple[str, ...] = ()) -> Ran:
    """One night by another program, or under another umask."""
    command = [sys.executable, *(program or ("-m", "builder")), "nightly", "mini", f"--night={day}"]
    shell = ["sh", "-c", f'umask {umask}; exec "$@"', "sh", *command, *nights.options, *more]
    done = subprocess.run(shell, cwd=nights.cli.folder, capture_output=True, text=True, timeout=600, check=False)
    return Ran(done.returncode, done.stdout, done.stdout + done.stderr)


def newest_target(nights: Nights) -> dict[str, Any]:
    """The target's entry of the newest run."""
    newest = max((nights.cli.build / "runs").glob("*/result.json"), key=lambda path: path.stat().st_mtime_ns)
    (entry,) = json.loads(newest.read_text())["targets"]
    return dict(entry)


def test_a_tree_that_the_build_cannot_write_is_no_failure_of_the_source(
    nights: Nights, compiled: Callable[[str, Path], None]
) -> None:
    """As under userns-remap, where the engine's users are others than the builder gives the tree to."""
    ran = night(nights, "2026-11-20", str(PROGRAM), "compile", "foreign", str(nights.cli.build / "compile"))
    assert ran.code == 3, ran.text
    # The only traceback is that of upstream's script, below the error.
    assert "defect of the builder" not in ran.text
    failure = newest_target(nights)["failure"]
    assert (failure["kind"], failure["phase"]) == ("machine", "compile")
    assert "Permission denied" in failure["message"]
    assert "YAML entry" not in ran.text
    assert "nothing was published, because this machine could build nothing" in " ".join(ran.text.split())
    assert list((nights.cli.folder / "dist").rglob(FAILURES)) == []

    # The next night has the same inputs, and tries again.
    compiled("host", nights.cli.build)
    again = night(nights, "2026-11-21")
    assert again.code == 0, again.text
    assert newest_target(nights)["status"] == "built"
    assert nights.latest == "2026-11-21"


def test_nights_under_077_and_022_know_the_same_objects(nights: Nights) -> None:
    counts = {}
    for day, umask in (("2026-11-20", "077"), ("2026-11-21", "077"), ("2026-11-22", "022")):
        settle()
        ran = night(nights, day, umask=umask, more=("--rebuild",))
        assert ran.code == 0, ran.text
        assert "cannot read" not in ran.text
        entry = newest_target(nights)
        assert entry["status"] == "built"
        counts[day] = entry["cache"]["hits"]
    assert counts["2026-11-20"] == 0
    # Every night has another version, which some objects hold.
    assert counts["2026-11-21"] == counts["2026-11-22"] > entry["files_compiled"] // 2

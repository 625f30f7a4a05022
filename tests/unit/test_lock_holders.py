"""Whoever finds a lock taken is told by whom."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.core import lock_holders
from builder.core.errors import MachineError
from builder.core.workspace import Workspace
from builder.ledger import database
from builder.store import folder as folder_module
from builder.store import open_store

#: Holds a lock of the workspace in its first argument, says so, and waits for its standard input to end.
HOLD = """
import sys
from pathlib import Path
from builder.ledger import database
from builder.store import open_store
from builder.core.workspace import Workspace

root = Path(sys.argv[1])
with Workspace(root, root / "dist").locked("target-x"), open_store(str(root / "store")).locked("nightly"):
    database.lock(root / "ledger.sqlite", alone=False)
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[int]:
    """A process that holds locks below the folder."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "held\n"
            yield process.pid
        finally:
            process.stdin.close()


def refusals(root: Path) -> list[str]:
    workspace = Workspace(root, root / "dist")
    found = []
    with pytest.raises(MachineError) as caught, workspace.locked("target-x", wait_seconds=0):
        pass
    found.append(caught.value.message)
    with pytest.raises(MachineError) as caught, open_store(str(root / "store")).locked("nightly"):
        pass
    found.append(caught.value.message)
    with pytest.raises(MachineError) as caught:
        database.lock(root / "ledger.sqlite", alone=True)
    return [*found, caught.value.message]


def test_the_process_that_holds_a_lock_is_named(other: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "LOCK_WAIT", 0.1)
    assert refusals(tmp_path) == [
        f"another builder holds target-x in {tmp_path} (process {other})",
        f"another builder holds nightly in the store {tmp_path / 'store'} (process {other})",
        f"another builder holds the ledger {tmp_path / 'ledger.sqlite'} (process {other})",
    ]


def test_of_another_host_the_note_beside_the_lock_tells(
    other: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module, "LOCK_WAIT", 0.1)
    # As a file system of several hosts has it: this one's kernel knows nothing of the holder.
    monkeypatch.setattr(lock_holders, "_by_kernel", lambda lock: [])
    assert f"(process {other})" in refusals(tmp_path)[0]
    here = socket.gethostname()
    monkeypatch.setattr(socket, "gethostname", lambda: "another-host")
    assert [re.sub(r".*\(", "(", text) for text in refusals(tmp_path)[:2]] == [
        f"(process {other} of the host {here})"
    ] * 2


@pytest.mark.parametrize("note", ["", "a host of \x1b[31m 12\n", "HERE 999999999\n", "x" * 4096])
def test_a_note_that_says_nothing_of_use(tmp_path: Path, note: str) -> None:
    lock = tmp_path / "x.lock"
    (tmp_path / "x.lock.holder").write_text(note.replace("HERE", socket.gethostname()))
    assert lock_holders.holder(lock) == ""


def test_nobody_is_named_afterwards(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, tmp_path / "dist")
    lock = tmp_path / "locks" / "target-x.lock"
    with workspace.locked("target-x"):
        assert lock_holders.holder(lock) == f" (process {os.getpid()})"
    assert lock_holders.holder(lock) == ""
    assert [path.name for path in lock.parent.glob("*.holder")] == []

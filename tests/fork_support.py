"""Commands in processes of their own, forked from one that has imported the builder, and what became of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

#: Exit codes that are documented.
CODES = frozenset({0, 1, 2, 3, 130})
#: Seconds that a command may take, and bytes of memory that it may have besides what the server had.
LIMIT, MEMORY = 60.0, 1_500 << 20


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (None: it had to be killed), what it said, its peak memory in bytes."""

    code: int | None
    out: str
    err: str
    memory: int
    seconds: float

    @property
    def text(self) -> str:
        """Both streams."""
        return self.out + self.err

    @property
    def faults(self) -> list[str]:
        """What of it no user should ever meet."""
        found = []
        if self.code is None:
            found.append("hang")
        elif self.code not in CODES:
            found.append(f"exit code {self.code}")
        if "Traceback (most recent" in self.text or "Exception ignored" in self.text:
            found.append("traceback")
        if "defect of the builder" in self.text:
            found.append("defect")
        if self.memory > MEMORY:
            found.append("memory")
        # What nobody has a word for: the name of a file, and what the system says of it.
        if "--debug shows where this happened" in self.text:
            found.append("no next step")
        if self.code in {1, 2, 3} and not self.text.strip():
            found.append("no word")
        return found


class Server:
    """Runs the builder's command line in forks of one process that has imported it."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is for what commands say."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # The tests' own folder, as pytest has put it there.
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (_HERE, os.environ.get("PYTHONPATH"))))}
        self._process = subprocess.Popen(
            [sys.executable, "-c", "import fork_server; fork_server.serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env,
            start_new_session=True,
        )

    def __call__(self, arguments: Sequence[str], cwd: Path, env: dict[str, str] | None = None) -> Ended:
        """Run a command; one that takes longer than LIMIT is killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        out, err = self._folder / "out", self._folder / "err"
        request = {"arguments": list(arguments), "cwd": str(cwd), "env": env or {}, "out": str(out), "err": str(err)}
        request |= {"limit": LIMIT, "memory": MEMORY}
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return Ended(out=_start_of(out), err=_start_of(err), **answer)

    def close(self) -> None:
        """End it."""
        self._process.communicate()


_HERE = str(Path(__file__).parent)


def _start_of(path: Path) -> str:
    with path.open("rb") as stream:
        return stream.read(4 << 20).decode(errors="replace")

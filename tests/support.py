"""Helpers that tests import by name."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


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

"""The shell scripts of this repository, and the shells that old systems run them with.

python tests/shells.py    prints the scripts, one a line
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
#: What /bin/sh may be inside an environment, besides bash; busybox brings its own programs, too.
SHELLS = ("dash", "busybox")
#: The oldest Python that scripts for the inside of environments are written for.
OLDEST_PYTHON = "3.7"

#: Folders that hold no script of the project: examples imitate upstream's.
_ELSEWHERE = {"examples", "build", "dist", "node_modules"}
_HIDDEN = {".ci"}
_SHEBANG = re.compile(rb"#![^\n]*\b(ba|da)?sh\b")


def shell_scripts(root: Path = ROOT) -> list[Path]:
    """Every file below ``root`` that says in its first line that a shell runs it."""
    found = []
    for parent, folders, names in os.walk(root):
        folders[:] = [
            name for name in folders if name not in _ELSEWHERE and (not name.startswith(".") or name in _HIDDEN)
        ]
        found += [path for name in names if (path := Path(parent, name)).is_file() and _shebang(path)]
    return sorted(found)


def programs(shell: str, folder: Path) -> Path:
    """A folder for PATH with ``sh`` as this shell, and its programs where it has some. Skips where it is absent."""
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"there is no {shell} on this machine")
    folder.mkdir(parents=True)
    names = ["sh"]
    if shell == "busybox":
        names = subprocess.run([found, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for name in names:
        (folder / name).symlink_to(found)
    return folder


def under(shell: str, source: Path, folder: Path) -> tuple[Path, str]:
    """A copy of a folder of scripts that ``shell`` runs, also where one calls another; and the PATH for it."""
    path = programs(shell, folder / "programs")
    copy = folder / source.name
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for script in shell_scripts(copy):
        first, _, rest = script.read_text().partition("\n")
        assert first == "#!/bin/sh", f"{script.name} is not run by /bin/sh"
        script.write_text(f"#!{path}/sh\n{rest}")
    return copy, f"{path}:/usr/bin:/bin"


def oldest_python() -> str:
    """A Python 3.7 that is one. Skips where there is none."""
    places = sorted(Path.home().glob(f".pyenv/versions/{OLDEST_PYTHON}.*/bin/python{OLDEST_PYTHON}"))
    found = str(places[-1]) if places else shutil.which(f"python{OLDEST_PYTHON}")
    if found is None:
        pytest.skip(f"there is no Python {OLDEST_PYTHON} on this machine")
    return found


def _shebang(path: Path) -> bool:
    with open(path, "rb") as stream:
        return _SHEBANG.match(stream.readline(200)) is not None


if __name__ == "__main__":
    print("\n".join(str(path.relative_to(ROOT)) for path in shell_scripts()))

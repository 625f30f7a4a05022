"""Interpreters of this machine that can build extension modules."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from builder.core.errors import MachineError
from builder.core.workspace import expanded

_QUESTION = """
import json, os, platform, sys, sysconfig
header = os.path.join(sysconfig.get_paths()["include"], "Python.h")
try:
    import venv, ensurepip
    pip = True
except ImportError:
    pip = False
link = (sysconfig.get_config_var("LDSHARED") or "").split()
kept = [part for part in link if not part.startswith("-Wl,-rpath")]
print(json.dumps([platform.python_version(), os.path.exists(header), pip, platform.machine(), sys.executable,
                  " ".join(kept) if kept != link else ""]))
"""


#: What a program said of itself: version, headers, pip, machine, its own path, ``Interpreter.ldshared``; None where it
#: does not run.
_Answer = tuple[str, bool, bool, str, str, str] | None
#: Answers by the path of the program.
Answers = dict[Path, _Answer]
#: Where the answers are kept inside ``asked_once``.
_answers: ContextVar[Answers | None] = ContextVar("answers", default=None)


@contextmanager
def asked_once(answers: Answers) -> Iterator[None]:
    """In the block (of this thread) a program that is among ``answers`` is not started; others are added."""
    token = _answers.set(answers)
    try:
        yield
    finally:
        _answers.reset(token)


@dataclass(frozen=True)
class Interpreter:
    """One that serves: ``path`` of the program, its full ``version``, and where it was found.

    ``ldshared`` is the command by which setuptools would link extension modules, less the RPATH that pyenv and conda
    put into it: a wheel would look for libraries in this machine's folders. Empty where there is none.
    """

    path: Path
    version: str
    origin: str
    ldshared: str = ""


def find_interpreter(python: str, env: Mapping[str, str] | None = None) -> Interpreter | None:
    """The first interpreter of version ``python`` (``3.11``) with headers and pip: /opt/python, pyenv, PATH."""
    found, _ = search(python, os.environ if env is None else env)
    return found


def need_interpreter(python: str, env: Mapping[str, str]) -> Interpreter:
    """The same, or MachineError that says what was found and why it does not serve."""
    found, reasons = search(python, env)
    if found is None:
        raise MachineError(
            f"this machine has no Python {python} that can build extension modules "
            "(looked in /opt/python, pyenv's versions and PATH)",
            details="\n".join(reasons) or None,
            hint=f"install it (apt-get install python{python}-dev python{python}-venv, or pyenv install {python}), "
            "or build in a container with --environment docker",
        )
    return found


def search(python: str, env: Mapping[str, str]) -> tuple[Interpreter | None, list[str]]:
    """The first that serves, and why each one before it does not."""
    reasons: list[str] = []
    seen: set[Path] = set()
    for path, origin in _candidates(python, env):
        real = path.resolve()
        if not os.access(path, os.X_OK) or real in seen:
            continue
        seen.add(real)
        answer = _ask(path, env)
        if answer is None:
            reasons.append(f"{path} does not run")
            continue
        version, headers, pip, machine, _, ldshared = answer
        if not version.startswith(f"{python}."):
            reasons.append(f"{path} is Python {version}")
        elif machine != os.uname().machine:
            reasons.append(f"{path} is for {machine}")
        elif not headers:
            reasons.append(f"{path} lacks its headers (Python.h)")
        elif not pip:
            reasons.append(f"{path} lacks the modules venv and ensurepip")
        else:
            return Interpreter(path, version, origin, ldshared), reasons
    return None, reasons


def _candidates(python: str, env: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    short = "cp" + python.replace(".", "")
    for abi in ("", "m"):
        yield Path(f"/opt/python/{short}-{short}{abi}/bin/python"), "/opt/python"
    versions = expanded(env.get("PYENV_ROOT") or "~/.pyenv") / "versions"
    if versions.is_dir():
        releases = [path for path in versions.iterdir() if re.fullmatch(re.escape(python) + r"\.\d+", path.name)]
        for release in sorted(releases, key=lambda path: int(path.name.rpartition(".")[2]), reverse=True):
            yield release / "bin" / f"python{python}", "pyenv"
    on_path = shutil.which(f"python{python}", path=env.get("PATH"))
    if on_path:
        yield Path(on_path), "PATH"


def _ask(path: Path, env: Mapping[str, str]) -> _Answer:
    answers = _answers.get()
    if answers is None:
        return _start(path, env)
    if path not in answers:
        answers[path] = _start(path, env)
    return answers[path]


def _start(path: Path, env: Mapping[str, str]) -> _Answer:
    clean = {name: value for name, value in env.items() if not name.startswith("PYTHON")}
    try:
        done = subprocess.run([str(path), "-c", _QUESTION], capture_output=True, text=True, timeout=60, env=clean)
        version, headers, pip, machine, executable, ldshared = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return version, headers, pip, machine, executable, ldshared

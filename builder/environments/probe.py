"""Asks an opened environment what it really holds, before anything is compiled."""

from __future__ import annotations

import json
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from builder.core.errors import FailureKind, TargetError
from builder.environments.interface import Limits, Opened

#: Seconds; importing PyTorch under emulation takes most of a minute.
TIMEOUT = 600.0


def probe(opened: Opened, python: str) -> dict[str, Any]:
    """Facts about the tools inside: version texts (None where absent), by name.

    Keys: gcc, g++, glibc, cmake, ccache, patchelf, eu-strip, auditwheel, make, ninja, mold, git, python,
    python_path, python_include (the folder of Python.h), machine, system, os_id and os_version (PRETTY_NAME, ID and
    VERSION_ID in /etc/os-release), torch, torch_path, cxx11_abi (bool or None), and torch_error when PyTorch cannot
    be imported. ``python`` is the target's (``3.11``).
    Raises TargetError (TOOLCHAIN) when the interpreter itself does not run.
    """
    script = (Path(__file__).resolve().parents[1] / "payload" / "probe.py").read_text(encoding="utf-8")
    lines = deque[str](maxlen=1000)
    outcome = opened.run(
        [f"python{python}", "-c", script],
        env={"LC_ALL": "C", "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
        on_line=lines.append,
        limits=Limits(timeout=TIMEOUT),
    )
    for line in reversed(lines):
        if line.startswith("probe: "):
            with suppress(ValueError, RecursionError):
                facts: dict[str, Any] = json.loads(line.removeprefix("probe: "))
                return facts
    raise TargetError(
        f"python{python} does not run in the environment (exit code {outcome.exit_code})",
        kind=FailureKind.TOOLCHAIN,
        details="\n".join(list(lines)[-10:]),
        hint="take another base image with --base-image; 'clean --images' lets the image be made again",
    )

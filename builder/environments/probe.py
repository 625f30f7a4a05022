"""Asks an opened environment what it really holds, before anything is compiled."""

from __future__ import annotations

import json
from collections import deque
from contextlib import suppress

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from builder.core.errors import FailureKind, TargetError
from builder.environments.interface import Limits, Opened
from builder.payload import FOLDER

#: Seconds; importing PyTorch under emulation takes most of a minute.
TIMEOUT = 600.0
#: Facts that say where something is, not what it is.
_PLACES = {"python_path", "python_include", "torch_path"}


class Probed(BaseModel):
    """What an environment has: versions of tools (None where one is absent), PyTorch, and the system.

    ``system``, ``os_id`` and ``os_version`` are PRETTY_NAME, ID and VERSION_ID of ``/etc/os-release``; ``cxx11_abi`` is
    None for a PyTorch that does not say; ``torch_error`` says why one cannot be imported.
    """

    # A build's environment prints it: what it adds is not taken over.
    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    gcc: str | None = None
    gxx: str | None = Field(default=None, alias="g++")
    glibc: str | None = None
    cmake: str | None = None
    ccache: str | None = None
    patchelf: str | None = None
    eu_strip: str | None = Field(default=None, alias="eu-strip")
    auditwheel: str | None = None
    make: str | None = None
    ninja: str | None = None
    mold: str | None = None
    git: str | None = None
    python: str | None = None
    python_path: str = ""
    python_include: str | None = None
    machine: str | None = None
    system: str | None = None
    os_id: str | None = None
    os_version: str | None = None
    torch: str | None = None
    torch_path: str | None = None
    torch_error: str | None = None
    cxx11_abi: bool | None = None

    @classmethod
    def from_json(cls, text: str) -> Probed:
        """Read what ``payload/probe.py`` prints. Raises ValueError for anything else."""
        try:
            return cls.model_validate(json.loads(text), strict=True)
        except (ValidationError, RecursionError) as error:
            raise ValueError(f"not what the probe prints: {error}") from error

    def tools(self) -> dict[str, JsonValue]:
        """Return what a wheel's record says of its tools: every fact but the places, by name, as the probe told it."""
        told = self.model_dump(by_alias=True, exclude_unset=True)
        return {name: told[name] for name in sorted(told) if name not in _PLACES}


def probe(opened: Opened, python: str) -> Probed:
    """Ask the environment what it has. ``python`` is the target's (``3.11``).

    Raises TargetError (TOOLCHAIN) when the interpreter itself does not run.
    """
    script = (FOLDER / "probe.py").read_text(encoding="utf-8")
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
            with suppress(ValueError):
                return Probed.from_json(line.removeprefix("probe: "))
    raise TargetError(
        f"python{python} does not run in the environment (exit code {outcome.exit_code})",
        kind=FailureKind.TOOLCHAIN,
        details="\n".join(list(lines)[-10:]),
        hint="take another base image with --base-image; 'clean --images' lets the image be made again",
    )

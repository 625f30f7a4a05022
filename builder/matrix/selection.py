"""From what a person typed to targets: names of release lines, Pythons, architectures, CANN."""

from __future__ import annotations

import difflib
import platform
import re
from collections.abc import Sequence

from builder.errors import MachineError, RequestError
from builder.matrix.loader import Matrix
from builder.matrix.model import ARCHITECTURES, Arch, ReleaseLine, Target, python_key

_NAME = re.compile(r"[A-Za-z0-9]+([._-][A-Za-z0-9]+)*")
_PYTHON = re.compile(r"3\.[0-9]{1,2}")
_PYTHON_LIKE = re.compile(r"(?:py|cp|python|python-)?3[._]?([0-9]{1,2})(?:\.[0-9]+)?t?", re.IGNORECASE)
_TARGET = re.compile(rf"(?P<branch>.+)-py(?P<python>[^-]+)-(?P<arch>{'|'.join(ARCHITECTURES)})")
_MACHINES: dict[str, Arch] = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


def native_arch() -> Arch:
    """The architecture of this machine. Raises MachineError where the matrix has none for it."""
    machine = platform.machine()
    if machine.lower() not in _MACHINES:
        raise MachineError(
            f"this machine is {machine or 'of unknown architecture'}; release lines exist for "
            f"{' and '.join(ARCHITECTURES)}",
            hint="name the architecture with --arch",
        )
    return _MACHINES[machine.lower()]


def resolve_release(matrix: Matrix, text: str) -> ReleaseLine:
    """The release line that ``text`` means: a branch with or without its ``v``, ``2.5.1``, ``2.5`` or ``master``.

    A version means its newest numbered release line. Raises RequestError with the nearest names.
    """
    if _NAME.fullmatch(text) is None or len(text) > 100:
        raise RequestError(
            f"--pytorch: {_quoted(text)} cannot be the name of a release line",
            hint="expected a name such as v2.5.1-7.1.0, 2.5.1 or 2.5; 'list' shows all",
        )
    for branch in (text, f"v{text}"):
        line = matrix.release(branch)
        # v2.7.1 is the name of a development branch; 2.7.1 means the newest release of it.
        if line is not None and (branch == text or not _is_version(text)):
            return line
    if _is_version(text):
        of_version = [line for line in matrix.releases if text in (line.pytorch, line.minor)]
        if of_version:
            return max(of_version, key=lambda line: line.order)
    raise RequestError(
        f"--pytorch: the matrix has no release line {_quoted(text)}", hint=_nearest_release(matrix, text)
    )


def select(
    matrix: Matrix,
    *,
    pytorch: Sequence[str],
    python: Sequence[str] = (),
    arch: Sequence[str] = ("native",),
    cann: Sequence[str] = (),
) -> list[Target]:
    """The targets of a request, each once: lines as asked for, Pythons from old to new, x86_64 first.

    Every option may repeat or hold several values with commas. Without ``python``: every Python of
    the line. ``cann`` narrows the lines, or chooses them where ``pytorch`` is empty. Raises
    RequestError for a value that names nothing and for a combination that the matrix does not have.
    """
    lines = _lines(matrix, _values(pytorch), _values(cann))
    pythons = [_python(text) for text in _values(python)]
    architectures = _values(arch) or ["native"]
    targets: dict[str, Target] = {}
    for line in lines:
        chosen = _architectures(line, architectures)
        for minor in sorted(set(pythons), key=python_key) or line.pythons:
            if minor not in line.pythons:
                raise RequestError(
                    f"--python: {line.branch} does not support Python {minor}; it supports {', '.join(line.pythons)}",
                    hint=f"choose one of them, or another release line: {_lines_with(matrix, minor)}",
                )
            for name in chosen:
                target = Target(line, minor, name)
                targets[target.id] = target
    return list(targets.values())


def parse_target_id(matrix: Matrix, text: str) -> Target:
    """The target of an id such as ``v2.5.1-7.1.0-py3.9-x86_64``. Raises RequestError where there is none."""
    known = [target.id for target in matrix.targets()]
    parts = _TARGET.fullmatch(text)
    if parts is not None:
        line = matrix.release(parts["branch"])
        for name in line.architectures if line else ():
            if line and name == parts["arch"] and parts["python"] in line.pythons:
                return Target(line, parts["python"], name)
    near = difflib.get_close_matches(text, known, n=3, cutoff=0.5)
    raise RequestError(
        f"no target is called {_quoted(text)}",
        hint=f"did you mean {_either(near)}?" if near else "expected an id such as v2.5.1-7.1.0-py3.9-x86_64",
    )


def minors_and_pythons(matrix: Matrix) -> list[tuple[str, str]]:
    """Each PyTorch minor with each Python of its newest release line, from old to new: the nox sessions."""
    newest: dict[str, ReleaseLine] = {}
    for line in matrix.releases:  # from old to new
        newest[line.minor] = line
    return [(minor, python) for minor, line in newest.items() for python in line.pythons]


def _values(options: Sequence[str]) -> list[str]:
    """Options repeat or take commas; the order stays, repetitions go. One that holds nothing stays, to be refused."""
    return list(dict.fromkeys(part.strip() for option in options for part in option.split(",")))


def _lines(matrix: Matrix, pytorch: list[str], cann: list[str]) -> list[ReleaseLine]:
    known = sorted({line.cann for line in matrix.releases}, key=str.lower)
    wanted = set()
    for text in cann:
        match = next((version for version in known if version.lower() == text.lower()), None)
        if match is None:
            raise RequestError(
                f"--cann: no release line is for CANN {_quoted(text)}", hint=f"known: {', '.join(known)}"
            )
        wanted.add(match)
    if not pytorch and not cann:
        raise RequestError(
            "--pytorch is missing",
            hint="name a release line such as --pytorch=v2.5.1-7.1.0; 'list' shows all",
        )
    asked = [resolve_release(matrix, text) for text in pytorch] if pytorch else list(matrix.releases)
    lines = [line for line in dict.fromkeys(asked) if not wanted or line.cann in wanted]
    if not lines:
        raise RequestError(
            f"--cann: none of {', '.join(line.branch for line in asked)} is for CANN {', '.join(sorted(wanted))}",
            hint="; ".join(f"{line.branch} is for {line.cann}" for line in asked),
        )
    return lines


def _python(text: str) -> str:
    if _PYTHON.fullmatch(text):
        return text
    like = _PYTHON_LIKE.fullmatch(text)
    raise RequestError(
        f"--python: {_quoted(text)}: expected a version such as 3.9",
        hint=f"did you mean 3.{int(like[1])}?" if like else "give major.minor, such as --python 3.9",
    )


def _architectures(line: ReleaseLine, asked: list[str]) -> list[Arch]:
    chosen: set[Arch] = set()
    for text in asked:
        if text == "all":
            chosen.update(line.architectures)
            continue
        name = native_arch() if text == "native" else next((arch for arch in ARCHITECTURES if arch == text), None)
        if name is None:
            meant = _MACHINES.get(text.lower())
            raise RequestError(
                f"--arch: {_quoted(text)}: expected x86_64, aarch64, native or all",
                hint=f"did you mean {meant}?" if meant else "native is the architecture of this machine",
            )
        if name not in line.toolchains:
            raise RequestError(
                f"--arch: {line.branch} is not built for {name}; it is for {', '.join(line.architectures)}",
                hint=f"use --arch {line.architectures[0]}",
            )
        chosen.add(name)
    return [arch for arch in ARCHITECTURES if arch in chosen]


def _is_version(text: str) -> bool:
    return re.fullmatch(r"[0-9]+\.[0-9]+(\.[0-9]+)?", text) is not None


def _lines_with(matrix: Matrix, python: str) -> str:
    lines = [line.branch for line in reversed(matrix.releases) if python in line.pythons]
    return ", ".join(lines[:3]) if lines else f"none is for Python {python}"


def _nearest_release(matrix: Matrix, text: str) -> str:
    names = [name for line in reversed(matrix.releases) for name in (line.branch, line.pytorch, line.minor)]
    names = list(dict.fromkeys(names))
    near = difflib.get_close_matches(text, names, n=3, cutoff=0.6)
    if not near and not text.startswith("v"):
        near = difflib.get_close_matches(f"v{text}", names, n=3, cutoff=0.6)
    if near:
        return f"did you mean {_either(near)}? 'list' shows all"
    newest = ", ".join(line.branch for line in list(reversed(matrix.releases))[:5])
    return f"the newest are {newest}; 'list' shows all"


def _either(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _quoted(text: str) -> str:
    """``text`` for a message: in quotes, control characters escaped, no longer than a line."""
    return repr(text if len(text) <= 60 else text[:57] + "...")

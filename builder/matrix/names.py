"""What people type for release lines and machines, what that means, and the nearest of what means nothing."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from builder.core.errors import RequestError
from builder.matrix.base import Arch
from builder.matrix.loader import Matrix
from builder.matrix.model import ReleaseLine

_NAME = re.compile(r"[A-Za-z0-9]+([._-][A-Za-z0-9]+)*")
_VERSION = re.compile(r"[0-9]+\.[0-9]+(\.[0-9]+)?")
GLOB = re.compile(r"[*?\[]")
#: What systems and people call the two architectures.
MACHINES: dict[str, Arch] = {
    **dict.fromkeys(("x86_64", "amd64", "x86-64", "x86", "x64"), "x86_64"),
    **dict.fromkeys(("aarch64", "arm64", "arm"), "aarch64"),
}
#: No name, version or glob that means anything is longer.
LONGEST = 200


def require_lines(matrix: Matrix) -> None:
    """Raises RequestError where the matrix has no release line at all."""
    if not matrix.releases:
        raise RequestError(
            f"the matrix in {matrix.directory} has no release lines",
            hint="add some to its pytorch-*.yaml files, or leave --matrix out to use the builder's own",
        )


def known_lines(matrix: Matrix, text: str, option: str = "--pytorch") -> list[ReleaseLine]:
    """The release lines that ``text`` means: one that is called so, with or without its ``v``, or all of a version.

    Raises RequestError with the nearest names.
    """
    require_lines(matrix)
    if _NAME.fullmatch(text) is None or len(text) > LONGEST:
        glob = f"; for a glob over targets use --target {text!r}" if GLOB.search(text) and len(text) <= 60 else ""
        raise RequestError(
            f"{option}: {quoted(text)} cannot be the name of a release line",
            hint=f"expected a name such as v2.5.1-7.1.0, 2.5.1 or 2.5; 'list' shows all{glob}",
        )
    text = _as_upstream_writes(matrix, text)
    version = is_version(text)
    # v2.7.1 is the name of a development branch; 2.7.1 means the releases of it.
    named = matrix.release(text) or (None if version else matrix.release(f"v{text}"))
    lines = [named] if named else [line for line in matrix.releases if version and text in (line.pytorch, line.minor)]
    if not lines:
        lines = _of_version_and_release(matrix, text)
    if not lines:
        _refuse_released(matrix, text, option)
        is_release = option == "--pytorch" and text in {line.release for line in matrix.releases}
        raise RequestError(
            f"{option}: the matrix has no release line {quoted(text)}",
            hint=f"did you mean --release {text}?" if is_release else _nearest_release(matrix, text),
        )
    return lines


def nearest(text: str, names: Iterable[str], count: int = 3) -> list[str]:
    """Names that ``text`` may have been meant for, the likeliest first."""
    return difflib.get_close_matches(text, list(dict.fromkeys(names)), n=count, cutoff=0.6)


def nearest_ids(text: str, ids: Sequence[str]) -> list[str]:
    """As ``nearest``, for ids of targets and globs; ``arm64`` at the end can only have meant ``aarch64``."""
    head, dash, machine = text.rpartition("-")
    respelt = f"{head}{dash}{MACHINES.get(machine.lower(), machine)}"
    if dash and len(text) <= LONGEST and any(fnmatchcase(name, respelt) for name in ids):
        return [respelt if respelt in ids else f"'{respelt}'"]
    return nearest(text, ids)


def either(names: Sequence[str], word: str = "or") -> str:
    """``a``, ``a or b``, ``a, b or c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


def quoted(text: str) -> str:
    """``text`` for a message: in quotes, control characters escaped, no longer than a line."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


def is_version(text: str) -> bool:
    """True for ``2.5`` and ``2.5.1``, which stand for their release lines."""
    return _VERSION.fullmatch(text) is not None


def _as_upstream_writes(matrix: Matrix, text: str) -> str:
    """``V2.5.1-7.1.0`` with a small letter; ``main`` where upstream's branch is called master."""
    if re.match(r"V[0-9]", text):
        return f"v{text[1:]}"
    if text == "main" and matrix.release("main") is None and matrix.release("master") is not None:
        return "master"
    return text


def _of_version_and_release(matrix: Matrix, text: str) -> list[ReleaseLine]:
    """The lines of a PyTorch version and the beginning of a plugin release: ``2.5.1-7.1``, ``2.5-7.1.0``."""
    pytorch, dash, release = text.removeprefix("v").partition("-")
    return [
        line
        for line in matrix.releases
        if dash and pytorch in (line.pytorch, line.minor) and f"{line.release}.".startswith(f"{release}.")
    ]


def _refuse_released(matrix: Matrix, text: str, option: str) -> None:
    """Raises RequestError where ``text`` is the version of a released wheel: not a line, and not its head's version."""
    bare = text.removeprefix("v")
    lines = [line.branch for line in matrix.releases if bare in line.released]
    if lines:
        raise RequestError(
            f"{option}: {quoted(text)} is a wheel that upstream has released, not a release line",
            hint=f"it was built from {either(lines)}, whose head may have moved on since; "
            f"{option} {lines[0]} builds that head",
        )


def _nearest_release(matrix: Matrix, text: str) -> str:
    names = [name for line in reversed(matrix.releases) for name in (line.branch, line.pytorch, line.minor)]
    near = nearest(text, names) or (nearest(f"v{text}", names) if not text.startswith("v") else [])
    if near:
        return f"did you mean {either(near)}? 'list' shows all"
    newest = ", ".join(line.branch for line in list(reversed(matrix.releases))[:5])
    return f"the newest are {newest}; 'list' shows all"

"""The command ``compare``: how two wheels differ, each difference with what explains it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from packaging.version import Version
from rich.markup import escape

from builder.audit.index import FETCHED, open_index
from builder.core.errors import EXIT_OK, EXIT_TARGET_FAILED, RequestError
from builder.core.workspace import Workspace
from builder.matrix.loader import Matrix
from builder.progress.reporter import Reporter, standard_output
from builder.wheels.compare import Difference, Side, differences, read_side
from builder.wheels.inspect import Wheel
from builder.wheels.record import RecordError, read_record
from builder.wheels.verify import expectation_of


def compare_wheels(first: Path, second: Path, *, as_json: bool) -> int:
    """Show how two wheels differ; 1 where something has no explanation.

    Raises RequestError for a file that is not there, TargetError for one that is no wheel of torch_npu.
    """
    sides = _side(first), _side(second)
    found = differences(*sides)
    unexplained = [one for one in found if one.because is None]
    if as_json:
        print(json.dumps([one.to_json() for one in found], indent=2))
    else:
        _show(sides, found)
    return EXIT_TARGET_FAILED if unexplained else EXIT_OK


def released_like(wheel: Path, matrix: Matrix, workspace: Workspace, reporter: Reporter) -> Path:
    """Fetch the wheel that upstream released last from the same line, for the same Python and architecture.

    Raises RequestError where there is none, TargetError where the index does not answer.
    """
    with Wheel(wheel) as opened:
        version, expected = opened.version, expectation_of(opened)
    lines = [line for line in matrix.releases if str(version.public) in (line.package_version, *line.released)]
    wanted = [name for line in lines for name in line.released] or [str(version.public)]
    index = open_index(workspace, reporter)
    python = f"{expected.python_tag[2]}.{expected.python_tag[3:]}"
    files = [file for file in index.files() if (file.arch, file.python) == (expected.arch, python)]
    found = [file for file in files if file.version in wanted]
    if not found:
        have = ", ".join(dict.fromkeys(file.version for file in files)) or "none at all"
        raise RequestError(
            f"upstream has released no wheel of {', '.join(wanted)} for Python {python} on {expected.arch}",
            hint=f"it has {have}; name one by its file",
        )
    last = max(found, key=lambda file: Version(file.version))
    with reporter.task(f"fetching {last.filename}"):
        return index.download(last.url, last.filename, last.sha256, workspace.root / FETCHED)


def _side(path: Path) -> Side:
    if not path.is_file():
        raise RequestError(f"there is no wheel {path}", hint="'ls dist' shows what builds have published")
    return read_side(path, _facts(path))


def _facts(path: Path) -> Mapping[str, str]:
    """What the wheel's record adds: the commits of what it was made of."""
    try:
        return dict(read_record(path).commits)
    except (OSError, RecordError):
        return {}


def _show(sides: tuple[Side, Side], found: list[Difference]) -> None:
    console = standard_output()
    for mark, side in zip("AB", sides, strict=True):
        console.print(f"{mark}: {escape(side.path.name)}", soft_wrap=True)
    for one in found:
        where = f" of {one.where}" if one.where else ""
        style, because = ("dim", one.because) if one.because is not None else ("bold red", "not explained")
        console.print(f"[bold]{one.kind}[/]{escape(where)}: [{style}]{escape(str(because))}[/]", soft_wrap=True)
        for mark, text in (("A", one.first), ("B", one.second)):
            if text:
                console.print(f"  {mark}: {escape(text)}", soft_wrap=True)
    left = sum(one.because is None for one in found)
    same = "they are the same" if not found else f"{len(found)} differences, {left} without an explanation"
    console.print(same)

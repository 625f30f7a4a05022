"""The ``list`` command: what can be built, as a table for people or JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from builder.console import standard_output
from builder.matrix.loader import Matrix
from builder.matrix.model import Target
from builder.matrix.selection import select


def show_targets(
    matrix: Matrix,
    *,
    pytorch: Sequence[str],
    python: Sequence[str],
    arch: Sequence[str],
    cann: Sequence[str],
    as_json: bool,
) -> None:
    """Print the selected targets; without ``--pytorch`` all of them, of all architectures."""
    everything = tuple(release.branch for release in matrix.releases)
    wanted: dict[str, Sequence[str]] = {"pytorch": pytorch or everything, "arch": arch or ("all",), "cann": cann}
    chosen = [target for target in select(matrix, **wanted) if not python or target.python in python]
    if not chosen:
        # Says which Pythons there are.
        chosen = select(matrix, **wanted, python=python)
    if as_json:
        json.dump([target.describe() for target in chosen], sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    standard_output().print(_table(chosen))


def _table(targets: Sequence[Target]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("release line", "CANN", "op-plugin", "Python", "gcc, manylinux", "status"):
        # Names that a person copies stay whole at 80 columns; the Pythons may take a second line.
        table.add_column(heading, no_wrap=heading != "Python")
    lines: dict[str, list[Target]] = {}
    for target in targets:
        lines.setdefault(target.release.branch, []).append(target)
    for branch, members in lines.items():
        release = members[0].release
        toolchains = {target.arch: target.toolchain for target in members}
        table.add_row(
            escape(branch),
            release.cann,
            release.op_plugin or "none",
            " ".join(dict.fromkeys(target.python for target in members)),
            "\n".join(
                f"{arch} {toolchain.gcc} {toolchain.manylinux.removeprefix('manylinux_')}"
                for arch, toolchain in toolchains.items()
            ),
            release.status,
        )
    return table

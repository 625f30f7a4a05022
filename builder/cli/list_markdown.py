"""The compatibility table as a page in Markdown, for a README or a site."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence

from builder.matrix.loader import Matrix
from builder.matrix.model import ReleaseLine, Target
from builder.matrix.selection import Query
from builder.matrix.toolchains import Toolchain

_HEADINGS = ("release line", "PyTorch", "CANN", "op-plugin", "Python", "gcc", "manylinux", "status")


def compatibility_page(matrix: Matrix, query: Query, targets: Sequence[Target]) -> str:
    """The page for ``targets``, which ``query`` selected: what it is, how it was made, and a row for each line."""
    pythons: dict[ReleaseLine, list[str]] = {}
    for target in targets:
        pythons.setdefault(target.release, []).append(target.python)
    newest_first = sorted(pythons, key=lambda line: (line.order, line.branch), reverse=True)
    notes = list(dict.fromkeys(line.refusal for line in newest_first if line.refusal))
    rows = [_cells(line, list(dict.fromkeys(pythons[line])), notes) for line in newest_first]
    table = [_row(_HEADINGS), _row(["---"] * len(_HEADINGS)), *map(_row, rows)]
    footnotes = [f"{number}. {text[0].upper()}{text[1:]}." for number, text in enumerate(notes, 1)]
    return "\n".join(
        [
            "# Compatibility",
            "",
            "What goes together. A release line is a branch of torch_npu, made for one PyTorch, one CANN and one",
            "op-plugin; lines without a CANN version are development branches, or have wheels but no known branch. gcc",
            "and the manylinux policy are given for x86_64 / aarch64 where the two differ. `explain` says where a fact",
            f"is from. Statuses are as of {matrix.as_of}. This page is made by:",
            "",
            f"    {_command(matrix, query)}",
            "",
            *table,
            *(["", "Not built:", "", *footnotes] if notes else []),
            "",
        ]
    )


def _command(matrix: Matrix, query: Query) -> str:
    """The command that makes the page, on any day."""
    options = [f"--{name}={','.join(values)}" for name, values in vars(query).items() if values]
    return shlex.join(["python", "-m", "builder", "list", *options, "--markdown", f"--as-of={matrix.as_of}"])


def _cells(line: ReleaseLine, pythons: list[str], notes: list[str]) -> list[str]:
    refused = f"; not built ({notes.index(line.refusal) + 1})" if line.refusal else ""
    return [
        f"`{line.branch}`",
        line.pytorch,
        line.cann or "",
        line.op_plugin or "",
        ", ".join(pythons),
        _by_arch(line, lambda toolchain: toolchain.gcc),
        _by_arch(line, lambda toolchain: toolchain.manylinux.removeprefix("manylinux_")),
        f"{line.phase.describe()}{refused}",
    ]


def _by_arch(line: ReleaseLine, fact: Callable[[Toolchain], str]) -> str:
    """A fact of each architecture, once where they agree; a line of one architecture says which."""
    values = {arch: fact(line.toolchains[arch]) for arch in line.architectures}
    if len(values) == 1:
        return "".join(f"{value} ({arch} only)" for arch, value in values.items())
    return " / ".join(dict.fromkeys(values.values()))


def _row(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"

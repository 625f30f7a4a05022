"""Whether the generators of a tree write the same bytes whatever the order of a set is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from builder.sources import patches as series

#: The names of the patches that replace the iteration over a set by one over sorted items.
PREFIX = "sorted-"


def order_is_fixed(tree: Path, branch: str, patches_dirs: Sequence[Path]) -> bool:
    """True where the code generation of ``tree``, of the release line ``branch``, depends on no order of a set.

    That is known of generators that hold what the series' ``sorted-...`` patches write, and nothing that one of them
    replaces: what release lines with them generate has been compared byte by byte. False says that it is not known.
    Raises RequestError as ``find_series`` does.
    """
    found = False
    for patch in series.find_series(patches_dirs, branch, "torch_npu", options=()):
        if not patch.path.name.startswith(PREFIX):
            continue
        for name, sign, line in series.changed_lines(patch):
            there = line.rstrip(b"\r") in _lines(tree / name)
            if there and sign == b"-":
                return False
            found = found or there
    return found


def _lines(path: Path) -> set[bytes]:
    try:
        return {line.rstrip(b"\r") for line in path.read_bytes().split(b"\n")}
    except OSError:
        return set()

"""What is compared once for the matrix rather than line by line, and what decisions.yaml accepts."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from packaging.version import Version

from builder.audit.branches import TORCH_NPU, Upstream
from builder.audit.drift import Drift, Facts, Outcome, shown
from builder.matrix.decisions import Accepted
from builder.matrix.loader import Matrix
from builder.matrix.model import ReleaseLine
from builder.matrix.toolchains import gcc_minor


@dataclass(frozen=True)
class Whole:
    """The matrix, the release lines that are audited, and what was read of upstream.

    ``complete`` is False where only some lines are audited: then the absence of something says nothing.
    """

    matrix: Matrix
    lines: Sequence[ReleaseLine]
    upstream: Upstream
    complete: bool


#: Each item is one comparison: None where matrix and upstream agree.
Check = Callable[[Whole], Iterator[Drift | None]]
#: Facts about the matrix as a whole.
MATRIX_FACTS: Facts[Check] = Facts()


def compare(whole: Whole, outcome: Outcome) -> None:
    """Compare all facts of the matrix as a whole, into ``outcome``."""
    for fact in MATRIX_FACTS.values():
        found = list(fact.check(whole))
        outcome.add(fact.name, [drift for drift in found if drift is not None], compared=len(found))


def place_in(matrix: Matrix, document: str, *keys: str | int) -> str:
    """The place of a value in one of the files beside the release lines; the folder where there is none."""
    found = matrix.documents.get(document)
    return found.place(*keys) if found is not None else str(matrix.directory)


@MATRIX_FACTS("branch", of=TORCH_NPU)
def _branch(whole: Whole) -> Iterator[Drift | None]:
    """The branch exists on the host; for a line of source unknown it does not, or it is known now."""
    for line in whole.lines:
        there, known = line.branch in whole.upstream.heads, line.source == "branch"
        key, stated = ("branch", line.branch) if known else ("source", "source: unknown")
        found = "there is no such branch" if known else "a branch is known now"
        withheld = whole.upstream.withheld.get(line.branch) if known else None
        if withheld is not None:
            found = shown(f"the host lists it and does not give it: {withheld}")
        place, source = whole.matrix.place_of(line.branch, key), f"branches of {TORCH_NPU}"
        agrees = there == known and withheld is None
        yield None if agrees else Drift(line.branch, "branch", stated, found, place, source)


@MATRIX_FACTS("unlisted", of=TORCH_NPU)
def _unlisted(whole: Whole) -> Iterator[Drift | None]:
    """Every branch of upstream is a release line or left out by decisions.yaml."""
    for branch in sorted(whole.upstream.heads) if whole.complete else ():
        listed = whole.matrix.release(branch) is not None or whole.matrix.decisions.left_out_because(branch) is not None
        place = str(whole.matrix.directory)
        source = f"{branch} of {TORCH_NPU} at {whole.upstream.heads[branch][:12]}"
        yield None if listed else Drift(branch, "unlisted", "none", "a branch without a row", place, source)


@MATRIX_FACTS("left_out", of=TORCH_NPU)
def _left_out(whole: Whole) -> Iterator[Drift | None]:
    """Every branch that decisions.yaml leaves out is there, and is no release line."""
    for index, entry in enumerate(whole.matrix.decisions.left_out if whole.complete else ()):
        matching = fnmatch.filter(whole.upstream.heads, entry.branch)
        # A glob may cover release lines beside what it is for; a name may not.
        idle = not matching or all(whole.matrix.release(branch) is not None for branch in matching)
        found = "a release line" if matching else "no branch is called so"
        place = place_in(whole.matrix, "decisions", "left_out", index, "branch")
        source = f"branches of {TORCH_NPU}"
        yield Drift(entry.branch, "left_out", "left out", found, place, source) if idle else None


@MATRIX_FACTS("compiler_cmake", of="CMakeLists.txt")
def _compiler_cmake(whole: Whole) -> Iterator[Drift | None]:
    """cmake_minimum of a gcc in toolchains.yaml is the highest that the branches compiled with it require."""
    for minor, compiler in whole.matrix.compilers.items() if whole.complete else ():
        required = {
            seen.cmake: branch
            for branch, seen in whole.upstream.seen.items()
            if seen.cmake is not None and minor in {gcc_minor(tool.gcc) for tool in seen.line.toolchains.values()}
        }
        if not required:
            continue
        highest = max(required, key=Version)
        same = Version(highest) == Version(compiler.cmake_minimum)
        place = place_in(whole.matrix, "toolchains", "compilers", minor, "cmake_minimum")
        source = f"CMakeLists.txt of {required[highest]}"
        yield None if same else Drift(f"gcc-{minor}", "compiler_cmake", compiler.cmake_minimum, highest, place, source)


def settle(matrix: Matrix, outcome: Outcome, known: Collection[str], *, complete: bool) -> None:
    """Mark the drift that decisions.yaml accepts; decisions about drift that is gone are drift themselves.

    ``known`` are the names of all facts, also of those that this audit did not compare.
    """
    entries = matrix.decisions.accepted
    used: set[int] = set()
    for position, drift in enumerate(outcome.drift):
        covering = [index for index, entry in enumerate(entries) if entry.covers(drift.line, drift.fact, drift.found)]
        if covering:
            outcome.drift[position] = replace(drift, accepted=entries[covering[0]].reason)
            used.update(covering)
    idle = [
        (index, entry)
        for index, entry in enumerate(entries)
        if index not in used and (entry.fact not in known or (complete and entry.fact in outcome.facts))
    ]
    stale = [_stale(matrix, index, entry, known) for index, entry in idle]
    outcome.add("accepted", stale, compared=len(entries))


def _stale(matrix: Matrix, index: int, entry: Accepted, known: Collection[str]) -> Drift:
    found = "there is no such drift any more" if entry.fact in known else f"no audited fact is called {entry.fact}"
    stated = f"{entry.fact}: {entry.found}" if entry.found is not None else entry.fact
    return Drift(entry.line, "accepted", stated, found, place_in(matrix, "decisions", "accepted", index), "this audit")

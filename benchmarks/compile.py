"""What compiling costs with the builder, as ratios to upstream's own ``ci/build.sh`` in the same container.

    (a) a cold first Python, with precompiled headers and without
    (b) a second Python
    (c) the same Python again, its wheel gone
    (d) one source of op-plugin changed
    (e) one header of op-plugin changed
    (f) a new commit of the same files
    (g) a wheel builder's way: a fresh container for each Python, ccache with its default settings

By default the miniature upstream is compiled, whole. ``--real`` with ``--sources`` compiles a real release line. With
``--sample N`` either side compiles N of the files, after CMake has configured the tree; code generation, linking and
packing are then not measured. What is compared is the container's CPU time: of the builder's phase "compile", as its
result.json has it, and of upstream's script.

Upstream has no compile cache, as in its own images. It starts from a fresh tree and keeps nothing: (c) to (f) cost it
what (a) does. In whole builds they are also measured in the tree that stands, as somebody has it who goes on working
there. The builder prepares its tree anew each time, and has its compile cache.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType

from compile_parts.builders import Builder, CommandBuilder, SampleBuilder
from compile_parts.measured import Measured, Row, notes, show
from compile_parts.sample import Sample
from compile_parts.subject import NEW_DECLARATION, NEW_FUNCTION, Subject
from compile_parts.upstream import Upstream, UpstreamTree

from builder.cli.demo_upstream import DEFAULT_LINE, materialise
from builder.core.build_options import BuildOptions
from builder.core.errors import EXIT_INTERRUPTED, BuilderError, MachineError
from builder.core.untrusted import remove_tree
from builder.core.workspace import atomic_json, resource
from builder.environments.docker_engine import engine
from builder.environments.images import has_image
from builder.target.compile_spec import jobs_for

CASES = {
    "a": "cold first Python",
    "b": "second Python",
    "c": "same Python again",
    "d": "one .cpp changed",
    "e": "one header changed",
    "f": "new commit, same files",
    "g": "ccache as it comes",
}


class Benchmark:
    """Runs cases; each adds rows to the table."""

    def __init__(
        self, subject: Subject, sample: Sample | None, *, old_tree: bool, measured: Callable[[list[Row]], None]
    ) -> None:
        """``old_tree`` asks for what upstream takes in a tree that stands; ``measured`` hears of each new row."""
        self.rows: list[Row] = []
        self._old_tree = old_tree and sample is None
        self._measured = measured
        self._subject = subject
        self._sample = sample
        self._upstream = Upstream(subject, subject.scratch / "upstream")
        self._bases: dict[str, Measured] = {}
        self._tree: UpstreamTree | None = None
        self._warm: Builder | None = None

    def run(self, cases: str) -> None:
        """Measure ``cases``, and what they need: upstream's cold build, and the builder's that fills the cache."""
        first, second = self._subject.pythons
        self._base(first)
        if set(cases) - {"g"}:
            self._warm = self._builder(pch=True)
            self._add("a", first, "builder, --pch auto", lambda: self._build(first))
        if "a" in cases:
            plain = self._builder(pch=False)
            self._add("a", first, "builder, --pch off", lambda: plain.build(first))
        if "b" in cases:
            self._base(second)
            self._add("b", second, "builder", lambda: self._build(second))
        changes: dict[str, tuple[Callable[[], None], Callable[[UpstreamTree], None]]] = {
            "c": (lambda: None, lambda _: None),
            "d": (
                lambda: self._subject.op_plugin.append(self._subject.source, NEW_FUNCTION),
                lambda tree: tree.append(self._subject.source, NEW_FUNCTION),
            ),
            "e": (
                lambda: self._subject.op_plugin.append(self._subject.header, NEW_DECLARATION),
                lambda tree: tree.append(self._subject.header, NEW_DECLARATION),
            ),
            "f": (self._subject.torch_npu.commit_nothing, lambda tree: tree.commit()),
        }
        for case, (change, change_in_place) in changes.items():
            if case in cases:
                self._changed(case, change, change_in_place)
        if "g" in cases:
            self._wheel_builder()

    def _changed(self, case: str, change: Callable[[], None], change_in_place: Callable[[UpstreamTree], None]) -> None:
        first = self._subject.pythons[0]
        change()
        try:
            self._add(case, first, "builder", lambda: self._build(first))
        finally:
            self._subject.op_plugin.restore()
            self._subject.torch_npu.restore()
        tree = self._tree
        if tree is not None and self._old_tree:

            def again() -> Measured:
                change_in_place(tree)
                return tree.compile()

            self._add(case, first, "upstream in its old tree", again)

    def _wheel_builder(self) -> None:
        cache = self._subject.scratch / "ccache"
        for python in self._subject.pythons:
            self._base(python)
            tree = self._upstream.with_ccache(python, cache)
            self._add("g", python, f"upstream with ccache, {python}", lambda tree=tree: self._compile(tree))  # type: ignore[misc]
            tree.remove()

    def _base(self, python: str) -> None:
        """Upstream's build for a Python from a fresh tree; that of the first one stays for what follows."""
        if python in self._bases:
            return
        tree = self._upstream.fresh(python)
        self._say(f"upstream, cold, {python}")
        measured = self._bases[python] = self._compile(tree)
        case = "a" if python == self._subject.pythons[0] else "b"
        self._append(Row(case, f"({case}) {CASES[case]}: upstream, {python}", python, measured, measured))
        if case == "a":
            self._tree = tree
        else:
            tree.remove()

    def _compile(self, tree: UpstreamTree) -> Measured:
        return tree.compile() if self._sample is None else tree.sample(self._sample)

    def _builder(self, *, pch: bool) -> Builder:
        root = self._subject.scratch / f"builder-{'auto' if pch else 'off'}"
        if self._sample is not None:
            return SampleBuilder(self._subject, root, self._sample, pch=pch)
        return CommandBuilder(self._subject, root, pch=pch)

    def _build(self, python: str) -> Measured:
        assert self._warm is not None
        return self._warm.build(python)

    def _add(self, case: str, python: str, side: str, measure: Callable[[], Measured]) -> None:
        """Measure; a side that fails has its row too."""
        name = f"({case}) {CASES[case]}: {side}"
        self._say(name)
        try:
            measured = measure()
        except BuilderError as error:
            measured = Measured(failure="\n".join(filter(None, [error.message, error.details])))
        self._append(Row(case, name, python, measured, self._bases[python]))

    def _append(self, row: Row) -> None:
        self.rows.append(row)
        self._measured(self.rows)

    def _say(self, text: str) -> None:
        print(f"{datetime.now():%H:%M:%S} {text}", file=sys.stderr, flush=True)


def described(subject: Subject, sample: Sample | None) -> str:
    """The table's title: what was compiled, where."""
    what = "real sources" if subject.real else "the miniature upstream"
    how = f"a sample of {len(sample.sources)} of {sample.total} files" if sample else "whole builds"
    return (
        f"{subject.line} of {what}, {how}, Pythons {' and '.join(subject.pythons)}, {subject.jobs} compilers at once, "
        f"{datetime.now():%Y-%m-%d}"
    )


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(CASES), help="cases, such as a,b (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there, anew after each row")
    parser.add_argument("--line", default=DEFAULT_LINE, help=f"release line (default: {DEFAULT_LINE})")
    parser.add_argument("--pythons", default="3.11,3.9", help="the first and the second (default: 3.11,3.9)")
    parser.add_argument("--base-image", help="base image with both Pythons (default: the one of debian.sh)")
    parser.add_argument("--jobs", type=int, help="compilers at once, on either side (default: as for a build)")
    parser.add_argument("--sample", type=int, metavar="N", help="compile N files instead of all")
    parser.add_argument("--fresh-only", action="store_true", help="leave out upstream in a tree that stands")
    parser.add_argument("--source", default="", help="source of op-plugin to change (default: an operator)")
    parser.add_argument("--header", default="op_plugin/utils/OpUtils.h", help="header of op-plugin to change")
    parser.add_argument("--scratch", type=Path, help="existing folder for everything (default: the system's)")
    parser.add_argument("--real", action="store_true", help="real sources instead of the miniature upstream")
    parser.add_argument("--sources", type=Path, help="with --real: YAML file with URLs or paths of repositories")
    parser.add_argument("--matrix", type=Path, help="with --real: folder of matrix files")
    parser.add_argument("--torch-source", default="cpu-index", help="with --real: where PyTorch comes from")
    chosen = parser.parse_args()
    chosen.only = "".join(chosen.only.split(","))
    if not set(chosen.only) <= set(CASES) or not chosen.only:
        parser.error(f"--only: cases are {', '.join(CASES)}")
    chosen.pythons = tuple(chosen.pythons.split(","))
    if len(set(chosen.pythons)) != 2:
        parser.error("--pythons: two Pythons, such as 3.11,3.10")
    if chosen.sample is not None and chosen.sample < 1:
        parser.error("--sample: at least one file")
    if not chosen.real and (chosen.sources or chosen.matrix):
        parser.error("--sources and --matrix go with --real")
    return chosen


def subject_of(chosen: argparse.Namespace, scratch: Path) -> Subject:
    """What is compiled. Raises MachineError without an engine or the base image."""
    base_image = chosen.base_image or f"torch-npu-builder/base:bookworm-{os.uname().machine}"
    if not has_image(engine(), base_image):
        script = resource("docker") / "bases" / "debian.sh"
        raise MachineError(
            f"the engine has no image {base_image}", hint=f"{script} --suite bookworm --with-bullseye-python makes one"
        )
    made = None if chosen.real else materialise(scratch / "miniature")
    return Subject(
        line=chosen.line,
        pythons=chosen.pythons,
        base_image=base_image,
        torch_source="find-links" if made else chosen.torch_source,
        scratch=scratch,
        real=chosen.real,
        matrix_folder=chosen.matrix and chosen.matrix.resolve(),
        sources=made.sources_file if made else chosen.sources and chosen.sources.resolve(),
        find_links=(made.wheelhouse,) if made else (),
        jobs=jobs_for(BuildOptions(jobs=chosen.jobs)),
        source=chosen.source,
        header=chosen.header,
    )


def write(file: Path, rows: list[Row], subject: Subject, sample: Sample | None) -> None:
    """All numbers as JSON."""
    atomic_json(
        file,
        {
            "schema": 1,
            "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": {"arch": subject.arch, "cores": len(os.sched_getaffinity(0)), "compilers": subject.jobs},
            "release_line": subject.line,
            "real": subject.real,
            "sample": {"files": sample.sources, "of": sample.total} if sample else None,
            "changed": {"source": subject.source, "header": subject.header},
            "rows": [row.to_json() for row in rows],
        },
    )


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Measure and print the table; the exit code."""
    chosen = parsed()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)
    scratch = Path(tempfile.mkdtemp(prefix="compile-", dir=chosen.scratch)).resolve()
    try:
        subject = subject_of(chosen, scratch)
        sample = Sample(chosen.sample, subject.source) if chosen.sample else None

        def keep(rows: list[Row]) -> None:
            if chosen.json:
                write(chosen.json, rows, subject, sample)

        benchmark = Benchmark(subject, sample, old_tree=not chosen.fresh_only, measured=keep)
        try:
            benchmark.run(chosen.only)
        finally:
            # What was measured is shown, whatever came after it.
            if benchmark.rows:
                show(described(subject, sample), benchmark.rows)
                print("\n".join(notes(benchmark.rows)))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BuilderError as error:
        print("\n".join(filter(None, [error.message, error.details, error.hint])), file=sys.stderr)
        return error.exit_code
    finally:
        remove_tree(scratch)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The command ``verify-objects``: what shortcuts make of a target's sources, held against plain compiles.

The tree is prepared, and configured by upstream's own script, as for a build; the build ends at its first compile.
``launcher/verify_objects.py`` then compares inside the environment. What it has compared is kept, so that a
killed run goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, ValidationError
from rich.markup import escape
from rich.table import Table

from builder.compilation import ccache
from builder.core.build_options import BuildOptions
from builder.core.errors import EXIT_OK, EXIT_TARGET_FAILED, FailureKind, RequestError, TargetError
from builder.core.results import Run
from builder.core.untrusted import open_inside, read_regular, remove_tree
from builder.core.workspace import Workspace, atomic_write
from builder.environments.interface import Opened
from builder.environments.orphans import remove_leftovers
from builder.executors.local import gatherer
from builder.ledger.entries import clean
from builder.matrix.loader import Matrix
from builder.matrix.model import Target
from builder.progress.reporter import Reporter, print_table, standard_output
from builder.target.build import BuildContext, TargetBuild
from builder.target.compile_spec import CompileSpec
from builder.target.configure import configure
from builder.target.resolve_sources import check_request

#: Sources of each group that are compared unless the user says otherwise.
SAMPLE = 20
#: Below the results folder of the run: where both objects of a difference stay.
FOLDER = "verify"
#: The group of sources that share no header (launcher/verify_objects.py).
ALONE = "-"
#: Characters of a line of the comparison that are read; those of a real one are under a thousand.
_LONGEST = 1 << 20
#: Bytes of what was compared that are read.
_LARGEST = 256 << 20


class Line(BaseModel):
    """A line that ``launcher/verify_objects.py`` prints: a group where ``file`` is None, else a source."""

    model_config = ConfigDict(frozen=True)

    group: str = ""
    file: str | None = None
    members: NonNegativeInt = 0
    includes: tuple[str, ...] = ()
    header_cpu: NonNegativeFloat = 0.0
    refused: str | None = None
    sources: NonNegativeInt | None = None
    finished: bool = False
    same: bool | None = None
    fallback: str | None = None
    plain_cpu: NonNegativeFloat = 0.0
    with_cpu: NonNegativeFloat = 0.0
    differences: tuple[str, ...] = ()
    plain_again_same: bool | None = None
    error: str | None = None


@dataclass
class Group:
    """What was found of the sources that share a precompiled header. Times are CPU seconds, sums over sources."""

    key: str
    members: int = 0
    includes: tuple[str, ...] = ()
    header_cpu: float = 0.0
    refused: str | None = None
    same: int = 0
    different: list[Line] = field(default_factory=list)
    fallbacks: Counter[str] = field(default_factory=Counter)
    plain_cpu: float = 0.0
    with_cpu: float = 0.0

    @property
    def compared(self) -> int:
        """Sources that were compiled both ways."""
        return self.same + len(self.different)

    def add(self, line: Line) -> None:
        """Take in a line of this group."""
        if line.file is None:
            self.members, self.includes, self.refused = line.members, line.includes, line.refused
            self.header_cpu = line.header_cpu
            return
        self.plain_cpu += line.plain_cpu
        self.with_cpu += line.with_cpu
        if line.fallback is not None:
            self.fallbacks[line.fallback] += 1
        elif line.same:
            self.same += 1
        else:
            self.different.append(line)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "group": None if self.key == ALONE else self.key,
            "includes": list(self.includes),
            "members": self.members,
            "compared": self.compared,
            "identical": self.same,
            "different": [
                {"file": line.file, "differences": list(line.differences), "error": line.error}
                for line in self.different
            ],
            "fallbacks": dict(self.fallbacks),
            **({} if self.refused is None else {"refused": self.refused}),
            "cpu_seconds": {
                "header": round(self.header_cpu, 2),
                "plain": round(self.plain_cpu, 2),
                "with": round(self.with_cpu, 2),
            },
        }


@dataclass(frozen=True)
class Scope:
    """What is compared: ``sample`` sources of each group (None: all), with headers or, ``cached``, from the cache."""

    sample: int | None = SAMPLE
    cached: bool = False


def verify_objects(
    target: Target,
    matrix: Matrix,
    workspace: Workspace,
    options: BuildOptions,
    reporter: Reporter,
    scope: Scope,
    *,
    as_json: bool = False,
) -> int:
    """Compare, print a table of groups (or JSON), and return the exit code: 1 where a source differs.

    Raises BuilderError where the tree cannot be configured, TargetError (VERIFY) where nothing could be compared.
    """
    # What the cache answers was compiled as the user's options say; headers are what the other comparison is about.
    if scope.cached and not options.cached:
        raise RequestError("--cached compares what the compile cache has, and --no-cache leaves it out")
    options = options if scope.cached else replace(options, pch=True)
    check_request([target], options)
    workspace.create()
    if options.environment != "host":
        for name in remove_leftovers():
            reporter.message(f"removed {name}, which a killed builder left")
    run = Run(workspace.runs)
    context = BuildContext(
        matrix, workspace, options, reporter, run, gatherer(matrix, workspace, options, reporter, None)
    )
    with workspace.locked(f"target-{target.id}", wait_seconds=0):
        verification = Verification(TargetBuild(target, context, run.target(target.id)), reporter, scope)
        groups = verification.run()
        if not any(group.different for group in groups):
            verification.clean()
    compared = sum(group.compared for group in groups)
    refused = {group.refused for group in groups if group.refused is not None}
    if refused and not compared:
        raise TargetError(
            f"{target.id}: no precompiled header can be made: {clean('; '.join(sorted(refused)))}",
            kind=FailureKind.VERIFY,
            hint="a build compiles such sources plainly; the log has what the compiler says",
        )
    if not compared and (scope.cached or not any(group.fallbacks for group in groups)):
        raise TargetError(
            f"{target.id}: there is nothing to compare"
            + (": the cache has none of its objects" if scope.cached else ""),
            kind=FailureKind.VERIFY,
            hint="build it first, with the same options" if scope.cached else "no group of its sources is large enough",
        )
    if as_json:
        print(json.dumps({"target": target.id, "cached": scope.cached, "groups": [each.to_json() for each in groups]}))
    else:
        _show(target, groups, scope, verification.kept)
    return EXIT_TARGET_FAILED if any(group.different for group in groups) else EXIT_OK


class Verification:
    """One comparison: configure, compare, count."""

    def __init__(self, build: TargetBuild, reporter: Reporter, scope: Scope) -> None:
        self._build = build
        self._reporter = reporter.for_target(build.target.id)
        self._scope = scope
        #: Where both objects of a difference are.
        self.kept = build.out / FOLDER
        self._known = 0

    def run(self) -> list[Group]:
        """Compare; the groups with the most sources come first."""
        build = self._build
        with ExitStack() as stack:
            with self._reporter.phase("prepare"):
                tree = build.gatherer.gather(build.target)
                changes = build.fresh_copy(tree)
            environment = build.environment()
            opened, spec = stack.enter_context(build.ready_to_compile(tree, environment))
            inputs = build.inputs(tree, changes, environment).fingerprint
            if self._scope.cached and not spec.cached:
                raise TargetError("the compile cache cannot be used (see above)", kind=FailureKind.VERIFY, hint="")
            results = self._results(inputs)
            with self._reporter.phase("configure"):
                configure(build, opened, tree, build.scratch.scripts()[1], spec)
            with self._reporter.phase("compare"):
                self._compare(opened, spec, results)
        groups = _groups(_read(results))
        # What is known of a comparison that has ended says nothing of the next one: caches change.
        results.unlink()
        return groups

    def clean(self) -> None:
        """Remove what only a difference would need."""
        self._build.scratch.remove()
        remove_tree(self._build.out)

    def _results(self, inputs: str) -> Path:
        """The file of what was compared before a comparison was interrupted; a new one where the inputs are others."""
        folder = self._build.workspace.verified
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self._build.target.id}.{'cached' if self._scope.cached else 'headers'}.jsonl"
        first = json.dumps({"inputs": inputs, "launcher": _launcher()}) + "\n"
        lines: list[str] = []
        with suppress(OSError):
            lines = read_regular(path, _LARGEST).decode(errors="replace").splitlines(keepends=True)
        # What differed is compared again: that is why somebody asks again. So is what the cache did not have.
        kept = [text for text in lines[1:] if text.endswith("\n") and _settled(text)] if lines[:1] == [first] else []
        self._known = sum(_line(text).file is not None for text in kept)
        if self._known:
            self._reporter.message(f"{self._known} sources were compared before")
        atomic_write(path, "".join([first, *kept]))
        return path

    def _compare(self, opened: Opened, spec: CompileSpec, results: Path) -> None:
        """Have the environment compare; each line is kept as it comes."""
        out, folder = opened.paths.out, self._build.out
        # The environment, whose user is another one, writes to a copy of its own.
        copied = folder / "verified.jsonl"
        atomic_write(copied, "".join(results.read_text().splitlines(keepends=True)[1:]))
        copied.chmod(0o666)
        command = [spec.python, "-S", "-E", f"{opened.paths.launcher}/verify_objects.py", f"{opened.paths.tree}/build"]
        command += ["--folder", f"{out}/{FOLDER}", "--results", f"{out}/verified.jsonl", "--jobs", str(spec.jobs)]
        command += ["--cached"] if self._scope.cached else []
        command += [] if self._scope.sample is None else ["--sample", str(self._scope.sample)]
        done, finished = self._known, False
        problems: list[str] = []
        with (
            open(results, "a", encoding="utf-8", buffering=1) as kept,
            self._reporter.task(f"{self._build.target.id} compare") as task,
        ):

            def on_line(text: str) -> None:
                nonlocal done, finished
                self._build.note(text)
                line = _line(text) if text.startswith("{") and len(text) < _LONGEST else None
                if line is None:
                    problems.append(text)
                    return
                kept.write(text + "\n")
                finished = finished or line.finished
                if line.sources is not None:
                    task.update(total=line.sources)
                if line.file is not None:
                    done += 1
                    task.update(completed=done, detail=PurePosixPath(line.file).name)

            outcome = opened.run(
                spec.among_compilers(opened.paths, *command),
                env={**spec.environment(opened.paths), **self._build.remote_cache.variables(opened.paths.remote)},
                cwd=opened.paths.tree,
                on_line=on_line,
                limits=spec.limits,
            )
        if not finished:
            raise TargetError(
                f"the comparison ended with {outcome.exit_code}" + (": out of time" if outcome.timed_out else ""),
                kind=FailureKind.TIMEOUT if outcome.timed_out else FailureKind.VERIFY,
                log=self._build.result.log,
                details="\n".join(problems[-20:]),
                hint="the same command goes on where this one ended",
            )


def _launcher() -> str:
    """A digest of what compares, and of what makes headers."""
    digest = hashlib.sha256()
    for path in sorted(path for path in ccache.LAUNCHER.iterdir() if path.is_file()):
        digest.update(f"{path.name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _line(text: str) -> Line:
    """A line, empty where it is none: what an environment writes may be anything."""
    try:
        return Line.model_validate_json(text)
    except ValidationError:
        return Line()


def _settled(text: str) -> bool:
    line = _line(text)
    return line.same is True if line.file is not None else bool(line.group)


def _read(path: Path) -> Iterable[Line]:
    with open_inside(path.parent, path.name) as stream:
        for text in stream:
            yield _line(text.decode(errors="replace"))


def _groups(lines: Iterable[Line]) -> list[Group]:
    groups: dict[str, Group] = {}
    for line in lines:
        if line.group:
            groups.setdefault(line.group, Group(line.group)).add(line)
    return sorted(groups.values(), key=lambda group: (group.key == ALONE, -group.members))


def _show(target: Target, groups: list[Group], scope: Scope, kept: Path) -> None:
    console = standard_output()
    table = Table(box=None, header_style="bold", pad_edge=False)
    headings = ["group", "sources", "compared", "identical", "differ", "no answer" if scope.cached else "fell back"]
    for heading in [*headings, "plain CPU s", *([] if scope.cached else ["with header", "ratio", "header CPU s"])]:
        table.add_column(heading, justify="left" if heading == "group" else "right")
    for group in groups:
        last = PurePosixPath(group.includes[-1].strip('<>"')).name if group.includes else ""
        name = "no shared header" if group.key == ALONE else f"{group.key[:8]} {last}".strip()
        timed = [f"{group.plain_cpu:.1f}"]
        if not scope.cached:
            ratio = f"{group.with_cpu / group.plain_cpu:.2f}" if group.plain_cpu else ""
            timed += [f"{group.with_cpu:.1f}", ratio, f"{group.header_cpu:.1f}"]
        counts = [group.members, group.compared, group.same, len(group.different), sum(group.fallbacks.values())]
        table.add_row(escape(clean(name)), *map(str, counts), *timed)
    print_table(table, console)
    compared, same = sum(group.compared for group in groups), sum(group.same for group in groups)
    what = "the compile cache's objects are" if scope.cached else "objects with precompiled headers are"
    console.print(f"\n{target.id}: of {compared} sources, {same} {what} identical to plain ones", soft_wrap=True)
    for group in groups:
        for reason, count in group.fallbacks.items():
            console.print(f"  {count} of {group.key[:8]}: {escape(clean(reason))}", soft_wrap=True)
        if group.refused is not None:
            console.print(f"  {group.key[:8]} has no header: {escape(clean(group.refused))}", soft_wrap=True)
        for line in group.different:
            why = line.error or ", ".join(line.differences)
            again = "; two plain compiles differ, too" if line.plain_again_same is False else ""
            console.print(f"[red]differs[/]: {escape(clean(f'{line.file}: {why}{again}'))}", soft_wrap=True)
    if any(group.different for group in groups):
        console.print(f"both objects of each are in {escape(str(kept))}", soft_wrap=True)

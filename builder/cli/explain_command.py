"""The ``explain`` command: every fact of a target, the line of the file that states it, and its source."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from builder.core.errors import MachineError
from builder.matrix.base import ARCHITECTURES, project_of
from builder.matrix.filters import native_arch
from builder.matrix.lifecycle import Phase
from builder.matrix.loader import Matrix
from builder.matrix.model import Target
from builder.matrix.selection import parse_target_id, resolve_release
from builder.progress.reporter import standard_output
from builder.target.compile_spec import debian_base

#: The least width of the column of names, so that most groups align.
_NAMES = 20
#: What a release line calls the source of a fact that no file of a branch and no document states.
THIS_ROW = "this row"

#: What is said of a fact whose key is left out.
BY_DEFAULT = "not written, so the default"
#: Facts that only a line with op-plugin has.
_OF_OP_PLUGIN = ("overlay", "custom_operators")

Value = None | bool | int | str | list[str]

#: Facts of a row, in groups: each key with what people call it. A mapping by architecture gives the target's part.
_ROW_FACTS: Mapping[str, Mapping[str, str]] = {
    "identity": {
        "branch": "release line",
        "pytorch": "PyTorch",
        "release": "plugin release",
        "channel": "channel",
        "package_version": "package version",
        "released": "released as",
        "cann": "CANN",
        "ascendhub": "AscendHub image",
    },
    "sources": {
        "op_plugin": "op-plugin branch",
        "overlay": "laid over",
        "custom_operators": "custom operators",
    },
    "toolchain": {"toolchains": "toolchain", "ci_images": "upstream's image"},
    "Python and PyTorch": {"pythons": "Pythons", "torch_requirement": "wheel requires"},
    "build": {
        "build_options": "ci/build.sh options",
        "version_source": "version stands in",
        "cmake_minimum": "CMake at least",
        "honours_max_jobs": "reads MAX_JOBS",
        "finds_ccache": "finds ccache",
        "redefines_file": "redefines __FILE__",
        "uses_ninja": "takes ninja",
        "uses_mold": "takes mold",
    },
}
#: Keys that are shown of lines that cannot be built too; of others somebody must have said where they are from.
_OF_EVERY_LINE = frozenset({*_ROW_FACTS["identity"], "toolchains", "pythons"})
_TOOLCHAIN_FACTS = {
    "gcc": "gcc",
    "gcc_toolset": "gcc is in",
    "manylinux": "manylinux policy",
    "base_image": "base image",
    "base_image_digest": "its digest",
    "cxx11_abi": "C++ ABI of 2011",
}


@dataclass(frozen=True)
class Fact:
    """One thing that is known of a target; ``place`` is ``file:line``, empty where no file states it."""

    group: str
    name: str
    value: Value
    place: str
    source: str

    @property
    def text(self) -> str:
        """The value for people."""
        if isinstance(self.value, bool):
            return "yes" if self.value else "no"
        if isinstance(self.value, list):
            return ", ".join(self.value) or "none"
        return "none" if self.value is None else str(self.value)


def explain_target(matrix: Matrix, text: str, *, as_json: bool) -> None:
    """Print every fact of the target that ``text`` means: an id, or a release line's name or version.

    Of a line the newest Python is shown, and this machine's architecture where the line is built for it.
    Raises RequestError where ``text`` means neither.
    """
    target = _target(matrix, text)
    facts = list(facts_of(matrix, target))
    if as_json:
        described = {"id": target.id, "as_of": matrix.as_of.isoformat(), "facts": [asdict(fact) for fact in facts]}
        json.dump(described, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    console = standard_output()
    console.print(Text(target.id, style="bold"))
    others = len(target.release.pythons) * len(target.release.architectures) - 1
    if others and text != target.id:
        said = f"one of the {others + 1} targets of {target.release.branch}; the others may differ, name one by its id"
        console.print(Text(said, style="dim"), soft_wrap=not console.is_terminal)
    for group, members in groupby(facts, key=lambda fact: fact.group):
        console.print()
        console.print(Text(group, style="bold cyan"))
        _show(list(members), console)


def facts_of(matrix: Matrix, target: Target) -> Iterator[Fact]:
    """Every fact of ``target``, group by group."""
    explained = _Explained(matrix, target)
    yield from explained.identity()
    yield from explained.sources()
    yield from explained.toolchain()
    yield from explained.python_and_torch()
    yield from explained.build()
    yield from explained.lifecycle()
    yield from explained.decisions()


def _target(matrix: Matrix, text: str) -> Target:
    if any(f"-{part}" in text for part in (*ARCHITECTURES, "py3")):
        return parse_target_id(matrix, text)
    line = resolve_release(matrix, text, option="TARGET")
    try:
        native = native_arch()
    except MachineError:
        native = line.architectures[0]
    return Target(line, line.pythons[-1], native if native in line.architectures else line.architectures[0])


def _show(facts: list[Fact], console: Console) -> None:
    """Each fact with its value, and below it, dimmed, where it stands and where it is from."""
    origins = [_origin(fact) for fact in facts]
    if not console.is_terminal:
        # A file has no width to wrap to.
        for fact, origin in zip(facts, origins, strict=True):
            console.print(Text(f"  {fact.name}: {fact.text}"), soft_wrap=True)
            console.print(Text(f"    {origin}"), soft_wrap=True)
        return
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, min_width=_NAMES)
    grid.add_column(overflow="fold")
    for fact, origin in zip(facts, origins, strict=True):
        grid.add_row(Text(fact.name), Text(fact.text))
        grid.add_row("", Text(origin, style="dim"))
    console.print(Padding(grid, (0, 0, 0, 2), expand=False))


def _origin(fact: Fact) -> str:
    """Place and source; that a row itself is the source goes without saying."""
    return ": ".join(filter(None, (fact.place, "" if fact.source == THIS_ROW else fact.source)))


class _Explained:
    """The facts of one target, each group a method."""

    def __init__(self, matrix: Matrix, target: Target) -> None:
        self.matrix = matrix
        self.target = target
        self.line = target.release

    def identity(self) -> Iterator[Fact]:
        """Names and versions, and whether it can be built."""
        yield from self._row_facts("identity")
        key = "legacy" if self.line.legacy else "source"
        source = self.line.source_of("legacy") if self.line.legacy else ""
        can = f"no: {self.line.refusal}" if self.line.refusal else True
        yield Fact("identity", "can be built", can, self._row_place(key), source)

    def sources(self) -> Iterator[Fact]:
        """What is fetched, and from where."""
        if not self.line.refusal:
            yield self._repository("torch_npu")
        yield from self._row_facts("sources")
        if self.line.op_plugin and not self.line.refusal:
            yield self._repository("op-plugin")
        if not self._is_stated("submodules"):
            return
        for part, name in (("required", "submodules"), ("full", "with --components full")):
            names = list(getattr(self.line.submodules, part))
            yield self._row_fact("sources", name, names, "submodules", part)

    def toolchain(self) -> Iterator[Fact]:
        """What compiles it."""
        yield from self._row_facts("toolchain")
        toolchain, name = self.target.toolchain, self.matrix.toolchain_name(self.line, self.target.arch)
        for key, title in _TOOLCHAIN_FACTS.items():
            place = self._place("toolchains", "toolchains", name, key)
            yield Fact("toolchain", title, getattr(toolchain, key), place, toolchain.source)
        compiler = self.target.compiler
        if compiler is not None:
            provided = [f"{provider.name}: {compiler.offer(provider)}" for provider in compiler.providers]
            place = self._place("toolchains", "compilers", compiler.minor, "provided_by")
            yield Fact("toolchain", f"gcc {compiler.minor} comes from", provided, place, compiler.source)
            made = debian_base(self.target, compiler)
            text = "by no suite of docker/bases/debian.sh" if made is None else f"by {made[0]}"
            yield Fact("toolchain", "base with it made here", text, self._place("toolchains", "bases"), compiler.source)

    def python_and_torch(self) -> Iterator[Fact]:
        """What it is built with and for."""
        group = "Python and PyTorch"
        yield from self._row_facts(group)
        python, torch = self.target.python, self.line.torch
        own = {project_of(pin) for pin in self.line.requirements_by_python.get(python, ())}
        for pin in self.target.requirements:
            project = project_of(pin)
            keys = ("requirements_by_python", python) if project in own else ("requirements",)
            if self._is_stated(keys[0]):
                yield self._row_fact(group, f"{project} beside Python {python}", pin, *keys)
        place = self._place("torch", "torch", self.line.pytorch, "requirements", self.target.arch)
        yield Fact(group, "built against", torch.requirements.get(self.target.arch), place, torch.source)
        wheels = list(self.target.torch_hashes) if self.target.torch_on_index else ["on no index: --find-links"]
        place = self._place("torch", "torch", self.line.pytorch, "wheels", self.target.arch, python)
        yield Fact(group, "torch's wheels", wheels or ["on an index, no hash is known"], place, torch.source)

    def build(self) -> Iterator[Fact]:
        """How upstream's script is run, and what it does with the machine."""
        yield from self._row_facts("build")
        if self._is_stated("environment"):
            variables = [f"{name}={value}" for name, value in self.line.environment.items()]
            yield self._row_fact("build", "environment", variables, "environment")

    def lifecycle(self) -> Iterator[Fact]:
        """Its phase of life."""
        phase = self.line.phase
        place = self._lifecycle_place(phase)
        yield Fact("lifecycle", f"status on {self.matrix.as_of}", phase.describe(), place, phase.source)
        yield Fact("lifecycle", "rule", phase.rule, place, phase.source)

    def decisions(self) -> Iterator[Fact]:
        """Where documents disagree about this line, and drift that is accepted."""
        decided = self.matrix.decisions
        subjects = (self.line.branch, self.line.pytorch, self.line.release)
        for contradiction in decided.contradictions_about(*subjects):
            place = self._place("decisions", "contradictions", decided.contradictions.index(contradiction))
            for claim in (claim for claim in contradiction.claims if claim.subject in subjects):
                name = f"contradiction: {claim.fact}"
                value = f"{contradiction.decision} (against {claim.document}: {claim.says})"
                yield Fact("decisions", name, value, place, contradiction.reason)
        for index, accepted in enumerate(decided.accepted):
            if fnmatchcase(self.line.branch, accepted.line):
                name = f"accepted drift: {accepted.fact}"
                place = self._place("decisions", "accepted", index)
                yield Fact("decisions", name, accepted.found or "whatever is found", place, accepted.reason)

    def _row_facts(self, group: str) -> Iterator[Fact]:
        for key, name in _ROW_FACTS[group].items():
            if not self._is_stated(key) or (key in _OF_OP_PLUGIN and self.line.op_plugin is None):
                continue
            keys: tuple[str, ...] = (key,)
            value = getattr(self.line, key)
            if key == "toolchains":
                value = self.matrix.toolchain_name(self.line, self.target.arch)
                keys = (key, self.target.arch)
            elif isinstance(value, Mapping):
                value = value.get(self.target.arch)
                keys = (key, self.target.arch)
            elif isinstance(value, tuple):
                value = list(value)
            yield self._row_fact(group, name, value, *keys)

    def _row_fact(self, group: str, name: str, value: Value, *keys: str) -> Fact:
        """A fact under ``keys`` of the release line's row."""
        # What cannot be built may have no branch whose files could say it.
        named = not self.line.refusal or keys[0] in self.line.sources
        source = self.line.source_of(keys[0]) if named else THIS_ROW
        document, index = self.matrix.rows[self.line.branch]
        if not _is_written(document.data, ("releases", index, *keys)):
            source = BY_DEFAULT if source == THIS_ROW else f"{source}; {BY_DEFAULT}"
        return Fact(group, name, value, self._row_place(*keys), source)

    def _is_stated(self, key: str) -> bool:
        """False for how to build a line that cannot be built, unless its row says where it knows that from."""
        return not self.line.refusal or key in _OF_EVERY_LINE or key in self.line.sources

    def _repository(self, name: str) -> Fact:
        urls = list(self.matrix.sources.repositories[name].urls)
        return Fact("sources", f"{name} from", urls, self._place("sources", "repositories", name, "urls"), "")

    def _lifecycle_place(self, phase: Phase) -> str:
        """Where the days stand that decide: those of the plugin release, or of PyTorch."""
        document = self.matrix.documents["lifecycle"]
        keys = ("pytorch", self.line.pytorch)
        releases = document.data.get("releases") if isinstance(document.data, dict) else None
        own = releases.get(self.line.release) if isinstance(releases, dict) else None
        if isinstance(own, dict) and (own.get("rule"), own.get("source")) == (phase.rule, phase.source):
            keys = ("releases", self.line.release)
        return self._place("lifecycle", *keys)

    def _row_place(self, *keys: str | int) -> str:
        return self._relative(self.matrix.place_of(self.line.branch, *keys))

    def _place(self, file: str, *keys: str | int) -> str:
        return self._relative(self.matrix.documents[file].place(*keys))

    def _relative(self, place: str) -> str:
        """``file:line`` of ``file:line:column``, relative to the current folder, else to the one of the matrix."""
        file, line, _ = place.rsplit(":", 2)
        path = Path(file).absolute()
        base = next(
            (base for base in (Path.cwd(), self.matrix.directory.absolute().parent) if base in path.parents), None
        )
        return f"{path.relative_to(base) if base else path}:{line}"


def _is_written(data: Any, keys: tuple[str | int, ...]) -> bool:
    """True where a file's ``data`` has a value under ``keys``."""
    try:
        for key in keys:
            data = data[key]
    except (KeyError, TypeError):  # TypeError: a value where the key of a mapping was looked for
        return False
    return True

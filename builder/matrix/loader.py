"""Loads a folder of matrix files into one ``Matrix``, or says exactly what is wrong and where."""

from __future__ import annotations

import difflib
import gc
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

from builder.core.errors import RequestError
from builder.core.workspace import resource
from builder.matrix.base import python_key
from builder.matrix.decisions import DecisionFile
from builder.matrix.documents import Document, read_document
from builder.matrix.lifecycle import LifecycleFile, phase_on
from builder.matrix.model import ReleaseFile, ReleaseLine, ReleaseRow, Target
from builder.matrix.repositories import SourceTable
from builder.matrix.toolchains import Compiler, Toolchain, ToolchainFile, TorchBuild, TorchFile, gcc_minor

_RELEASES = re.compile(r"pytorch-([0-9]+\.[0-9]+)\.ya?ml")
#: Files beside the release lines, by the name of what they hold.
FILES = {name: f"{name}.yaml" for name in ("toolchains", "torch", "lifecycle", "decisions", "sources", "nightly")}


@dataclass(frozen=True)
class Matrix:
    """All that can be built, as of the day ``as_of``.

    ``releases`` are ordered from old to new; ``places`` gives each branch's ``file:line:column``.
    """

    releases: tuple[ReleaseLine, ...]
    toolchains: Mapping[str, Toolchain]
    sources: SourceTable
    directory: Path
    as_of: date = date.min
    compilers: Mapping[str, Compiler] = field(default_factory=dict)
    decisions: DecisionFile = field(default_factory=DecisionFile)
    places: Mapping[str, str] = field(default_factory=dict)
    rows: Mapping[str, tuple[Document, int]] = field(default_factory=dict, repr=False, compare=False)
    documents: Mapping[str, Document] = field(default_factory=dict, repr=False, compare=False)

    def release(self, branch: str) -> ReleaseLine | None:
        """The release line of exactly this branch."""
        return next((line for line in self.releases if line.branch == branch), None)

    def targets(self) -> list[Target]:
        """Every cell: release lines from old to new, Pythons from old to new, x86_64 before aarch64."""
        return [
            Target(line, python, arch)
            for line in self.releases
            for python in line.pythons
            for arch in line.architectures
        ]

    def place_of(self, branch: str, *keys: str | int) -> str:
        """``file:line:column`` of a value of a release line, also where the value stands under ``defaults``."""
        document, index = self.rows[branch]
        return document.place("releases", index, *keys)

    def toolchain_name(self, line: ReleaseLine, arch: str) -> str:
        """The name in ``toolchains.yaml`` of what compiles ``line`` on ``arch``."""
        return next(name for name, toolchain in self.toolchains.items() if toolchain is line.toolchains[arch])  # type: ignore[index]


@contextmanager
def _all_stays() -> Iterator[None]:
    """No search for garbage among many new values that all stay: it would take a fifth of the time of loading."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_all_stays()
def load_matrix(directory: Path | None = None, sources_file: Path | None = None, as_of: date | None = None) -> Matrix:
    """Load ``directory`` (by default the matrices that ship with the builder).

    ``sources_file`` is a YAML file in the format of ``sources.yaml`` that replaces the URLs of the
    repositories it names; relative paths in it are relative to it. ``as_of`` is the day that statuses are for,
    by default today (UTC). Raises RequestError with file, line and column for whatever is wrong.
    """
    folder = directory if directory is not None else resource("matrices")
    files = _files(folder)
    day = as_of or datetime.now(timezone.utc).date()
    documents = {
        name: read_document(folder / file)
        for name, file in FILES.items()
        if name in ("toolchains", "torch", "lifecycle", "sources") or (folder / file).exists()
    }
    toolchain_file = documents["toolchains"].check(ToolchainFile)
    _compilers_known(documents["toolchains"], toolchain_file)
    _bases_known(documents["toolchains"], toolchain_file)
    tables = _Tables(
        toolchains=toolchain_file.toolchains,
        compilers=toolchain_file.resolved(),
        torch=documents["torch"].check(TorchFile),
        lifecycle=documents["lifecycle"].check(LifecycleFile),
        sources=documents["sources"].check(SourceTable).relative_to(folder.absolute()),
        as_of=day,
    )
    lines: list[ReleaseLine] = []
    places: dict[str, str] = {}
    rows: dict[str, tuple[Document, int]] = {}
    for path in files:
        document = read_document(path).with_defaults("releases", joined="sources", own="branch")
        content = document.check(ReleaseFile)
        _same_minor(document, content)
        for index, row in enumerate(content.releases):
            place = document.place("releases", index, "branch")
            if row.branch in places:
                raise RequestError(
                    f"{place}: the release line {row.branch!r} stands twice; the first is at {places[row.branch]}",
                    hint="keep one of them",
                )
            places[row.branch] = place
            rows[row.branch] = (document, index)
            lines.append(_line(document, index, row, tables))
    lines.sort(key=lambda line: (line.order, line.branch))
    decided = documents["decisions"].check(DecisionFile) if "decisions" in documents else DecisionFile()
    return Matrix(
        releases=tuple(lines),
        toolchains=tables.toolchains,
        sources=tables.sources if sources_file is None else _overridden(tables.sources, sources_file),
        directory=folder,
        as_of=day,
        compilers=tables.compilers,
        decisions=decided,
        places=places,
        rows=rows,
        documents=documents,
    )


@dataclass(frozen=True)
class _Tables:
    """What rows refer to by name."""

    toolchains: Mapping[str, Toolchain]
    compilers: Mapping[str, Compiler]
    torch: TorchFile
    lifecycle: LifecycleFile
    sources: SourceTable
    as_of: date


def _compilers_known(document: Document, content: ToolchainFile) -> None:
    for name, toolchain in content.toolchains.items():
        if content.compilers and gcc_minor(toolchain.gcc) not in content.compilers:
            place = document.place("toolchains", name, "gcc")
            raise _unknown(place, f"toolchains.{name}.gcc", gcc_minor(toolchain.gcc), content.compilers, "compilers")


def _bases_known(document: Document, content: ToolchainFile) -> None:
    """A base that a compiler does not speak of would pass for one that lacks it."""
    for minor, row in content.compilers.items():
        place = document.place("compilers", minor)
        for key, names in (("provided_by", row.provided_by), ("from_source", row.from_source)):
            for name in set(names) - set(content.bases):
                place = document.place("compilers", minor, key)
                raise _unknown(place, f"compilers.{minor}.{key}", name, content.bases, "bases")
        named = [*row.provided_by, *row.from_source]
        if missing := [name for name in content.bases if named.count(name) != 1]:
            raise RequestError(
                f"{place}: compilers.{minor}: expected {', '.join(missing)} once, under provided_by or from_source",
                hint="every base has a gcc by a package, or from source",
            )


def _files(folder: Path) -> list[Path]:
    """The release files of ``folder``; a YAML file that would be passed over in silence is an error.

    Names with a dot before them are other programs' (an editor's lock is called ``.#pytorch-2.5.yaml``).
    """
    try:
        with os.scandir(folder) as entries:
            is_file = {entry.name: entry.is_file() for entry in entries if not entry.name.startswith(".")}
    except OSError as error:
        raise RequestError(
            f"the matrix folder {folder} cannot be read: {error.strerror or error}",
            hint="give a folder with toolchains.yaml, sources.yaml and pytorch-<minor>.yaml",
        ) from error
    names = sorted(name for name in is_file if name.endswith((".yaml", ".yml")))
    for name in names:
        if not is_file[name]:
            raise RequestError(
                f"{folder / name} is no file",
                hint="a matrix consists of files, and links to files: rename or remove what is called so",
            )
    strange = [name for name in names if name not in FILES.values() and not _RELEASES.fullmatch(name)]
    if strange:
        raise RequestError(
            f"{folder / strange[0]}: no file of a matrix is called so",
            hint="release lines stand in pytorch-<minor>.yaml, such as pytorch-2.5.yaml; rename or remove it",
        )
    return [folder / name for name in names if _RELEASES.fullmatch(name)]


def _same_minor(document: Document, content: ReleaseFile) -> None:
    """A row in the wrong file is never found by the next person who looks for it."""
    named = _RELEASES.fullmatch(document.path.name)
    if named and named[1] != content.pytorch:
        raise RequestError(
            f"{document.place('pytorch')}: pytorch: {content.pytorch!r}: "
            f"expected {named[1]!r}, as the file's name says",
            hint="change the value or rename the file",
        )
    for index, row in enumerate(content.releases):
        if row.minor != content.pytorch:
            raise RequestError(
                f"{document.place('releases', index, 'pytorch')}: releases[{index}].pytorch: {row.pytorch!r}: "
                f"expected a version of PyTorch {content.pytorch}, as the file is for it",
                hint=f"move the row to pytorch-{row.minor}.yaml",
            )


def _line(document: Document, index: int, row: ReleaseRow, tables: _Tables) -> ReleaseLine:
    """``row`` with its names resolved."""

    def at(*keys: str | int) -> str:
        return document.place("releases", index, *keys)

    toolchains = tables.toolchains
    chosen: dict[str, Toolchain] = {}
    for arch, name in row.toolchains.items():
        if name not in toolchains:
            field_name = f"releases[{index}].toolchains.{arch}"
            raise _unknown(at("toolchains", arch), field_name, name, toolchains, FILES["toolchains"])
        if toolchains[name].arch != arch:
            raise RequestError(
                f"{at('toolchains', arch)}: releases[{index}].toolchains.{arch}: {name!r}: "
                f"expected a toolchain for {arch}, this one is for {toolchains[name].arch}",
                hint="choose another name of toolchains.yaml",
            )
        chosen[arch] = toolchains[name]
    for part in ("required", "full"):
        for position, name in enumerate(getattr(row.submodules, part)):
            if name not in tables.sources.repositories:
                field_name = f"releases[{index}].submodules.{part}[{position}]"
                place = at("submodules", part, position)
                raise _unknown(place, field_name, name, tables.sources.repositories, FILES["sources"])
    for table, file in ((tables.torch.torch, "torch"), (tables.lifecycle.pytorch, "lifecycle")):
        if row.pytorch not in table:
            raise RequestError(
                f"{at('pytorch')}: releases[{index}].pytorch: {row.pytorch!r}: expected a version of {FILES[file]}",
                hint=f"add it to {FILES[file]}, or correct it here",
            )
    torch = tables.torch.torch[row.pytorch]
    _torch_serves(at("pythons"), index, row, torch)
    phase = phase_on(tables.as_of, tables.lifecycle.pytorch[row.pytorch], tables.lifecycle.releases.get(row.release))
    # Every field has been checked as part of the row; only these differ, and those are checked values.
    minors = {arch: gcc_minor(toolchain.gcc) for arch, toolchain in chosen.items()}
    compilers = {arch: tables.compilers[minor] for arch, minor in minors.items() if minor in tables.compilers}
    fields: dict[str, Any] = {**dict(row), "toolchains": chosen, "compilers": compilers, "torch": torch, "phase": phase}
    return ReleaseLine.model_construct(**fields)


def _torch_serves(place: str, index: int, row: ReleaseRow, torch: TorchBuild) -> None:
    """A Python without a torch wheel on any index cannot be built for; a line that is not built may name it."""
    without = [python for python in row.pythons if python not in torch.pythons]
    if without and torch.wheels and row.refusal is None:
        raise RequestError(
            f"{place}: releases[{index}].pythons: {', '.join(without)}: expected Pythons that torch {row.pytorch} has "
            f"wheels for, {', '.join(sorted(torch.pythons, key=python_key))}",
            hint="leave them out, or add the wheels to torch.yaml",
        )


def _unknown(place: str, name: str, value: str, known: Mapping[str, object], file: str) -> RequestError:
    near = difflib.get_close_matches(value, known, n=1)
    return RequestError(
        f"{place}: {name}: {value!r}: expected a name of {file}",
        hint=f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}",
    )


def _overridden(sources: SourceTable, path: Path) -> SourceTable:
    document = read_document(path)
    theirs = document.check(SourceTable)
    for name in theirs.repositories:
        if name not in sources.repositories:
            # Adding it would let a misspelt name pass and the real repository be fetched from elsewhere.
            place = document.place("repositories", name)
            raise _unknown(place, f"repositories.{name}", name, sources.repositories, "sources.yaml")
    return sources.merged(theirs.relative_to(path.absolute().parent))

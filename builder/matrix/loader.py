"""Loads a folder of matrix files into one ``Matrix``, or says exactly what is wrong and where."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.errors import RequestError
from builder.matrix.documents import Document, read_document
from builder.matrix.model import (
    ReleaseFile,
    ReleaseLine,
    ReleaseRow,
    SourceTable,
    Target,
    Toolchain,
    ToolchainFile,
)
from builder.workspace import resource

_RELEASES = re.compile(r"pytorch-([0-9]+\.[0-9]+)\.ya?ml")
_OTHERS = frozenset({"toolchains.yaml", "sources.yaml", "nightly.yaml"})


@dataclass(frozen=True)
class Matrix:
    """All that can be built.

    ``releases`` are ordered from old to new; ``places`` gives each branch's ``file:line:column``.
    """

    releases: tuple[ReleaseLine, ...]
    toolchains: Mapping[str, Toolchain]
    sources: SourceTable
    directory: Path
    places: Mapping[str, str] = field(default_factory=dict)

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


def load_matrix(directory: Path | None = None, sources_file: Path | None = None) -> Matrix:
    """Load ``directory`` (by default the matrices that ship with the builder).

    ``sources_file`` is a YAML file in the format of ``sources.yaml`` that replaces the URLs of the
    repositories it names; relative paths in it are relative to it. Raises RequestError with file,
    line and column for whatever is wrong.
    """
    folder = directory if directory is not None else resource("matrices")
    files = _files(folder)
    toolchains = read_document(folder / "toolchains.yaml").check(ToolchainFile).toolchains
    sources = read_document(folder / "sources.yaml").check(SourceTable).relative_to(folder.absolute())
    if sources_file is not None:
        sources = _overridden(sources, sources_file)
    lines: list[ReleaseLine] = []
    places: dict[str, str] = {}
    for path in files:
        document = read_document(path)
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
            lines.append(_line(document, index, row, toolchains, sources))
    lines.sort(key=lambda line: (line.order, line.branch))
    return Matrix(releases=tuple(lines), toolchains=toolchains, sources=sources, directory=folder, places=places)


def _files(folder: Path) -> list[Path]:
    """The release files of ``folder``; a YAML file that would be passed over in silence is an error."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
    except OSError as error:
        raise RequestError(
            f"the matrix folder {folder} cannot be read: {error.strerror or error}",
            hint="give a folder with toolchains.yaml, sources.yaml and pytorch-<minor>.yaml",
        ) from error
    strange = [n for n in names if n.endswith((".yaml", ".yml")) and n not in _OTHERS and not _RELEASES.fullmatch(n)]
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


def _line(
    document: Document, index: int, row: ReleaseRow, toolchains: Mapping[str, Toolchain], sources: SourceTable
) -> ReleaseLine:
    """``row`` with its names resolved."""
    chosen: dict[str, Toolchain] = {}
    for arch, name in row.toolchains.items():
        place = document.place("releases", index, "toolchains", arch)
        if name not in toolchains:
            raise _unknown(place, f"releases[{index}].toolchains.{arch}", name, toolchains, "toolchains.yaml")
        if toolchains[name].arch != arch:
            raise RequestError(
                f"{place}: releases[{index}].toolchains.{arch}: {name!r}: expected a toolchain for {arch}, "
                f"this one is for {toolchains[name].arch}",
                hint="choose another name of toolchains.yaml",
            )
        chosen[arch] = toolchains[name]
    for part in ("required", "full"):
        for position, name in enumerate(getattr(row.submodules, part)):
            if name not in sources.repositories:
                place = document.place("releases", index, "submodules", part, position)
                field_name = f"releases[{index}].submodules.{part}[{position}]"
                raise _unknown(place, field_name, name, sources.repositories, "sources.yaml")
    fields = {name: getattr(row, name) for name in type(row).model_fields}
    # Every field has been checked as part of the row; only the toolchains differ, and those are models.
    return ReleaseLine.model_construct(**{**fields, "toolchains": chosen})


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

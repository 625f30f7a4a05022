"""docs/matrix.md names every key of the matrix files, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from builder.matrix.base import Frozen
from builder.matrix.decisions import Accepted, Claim, Contradiction, DecisionFile, LeftOut
from builder.matrix.lifecycle import Lifecycle, LifecycleFile
from builder.matrix.loader import FILES, load_matrix
from builder.matrix.model import NEEDS_SOURCE, ReleaseRow, Submodules
from builder.matrix.repositories import Repository, SourceTable
from builder.matrix.toolchains import Base, CompilerRow, Package, Toolchain, TorchBuild

PAGE = Path(__file__).parents[2] / "docs" / "matrix.md"
MODELS: dict[str, tuple[type[BaseModel], ...]] = {
    "A release line": (ReleaseRow, Submodules),
    "Toolchains": (Toolchain, CompilerRow, Package, Base),
    "PyTorch": (TorchBuild,),
    "Phases of life": (Lifecycle, LifecycleFile),
    "Decisions": (DecisionFile, Accepted, LeftOut, Contradiction, Claim),
    "Sources": (SourceTable, Repository),
}


def section(title: str) -> str:
    return re.split(r"^## ", PAGE.read_text().partition(f"\n## {title}\n")[2], flags=re.MULTILINE)[0]


@pytest.mark.parametrize("title", MODELS)
def test_every_key_is_named_in_its_section(title: str) -> None:
    words = set(re.findall(r"`([^`]+)`", section(title))) | set(re.findall(r"^ +(\w+):", section(title), re.MULTILINE))
    for model in MODELS[title]:
        assert set(model.model_fields) - words == set(), model.__name__


@pytest.mark.parametrize(("title", "model"), [("A release line", ReleaseRow), ("Toolchains", Toolchain)])
def test_tables_name_keys_only(title: str, model: type[Frozen]) -> None:
    table = section(title).partition("| key |")[2].partition("\n\n")[0]
    keys = [key for row in table.splitlines()[2:] for key in re.findall(r"`([^`]+)`", row.split("|")[1])]
    assert sorted(keys) == sorted(model.model_fields)


def test_files_that_a_row_is_read_off_are_those_of_the_models() -> None:
    rows = {
        key: cells[3].strip()
        for cells in (line.split("|") for line in section("A release line").splitlines() if line.startswith("| `"))
        for key in re.findall(r"`([^`]+)`", cells[1])
        if len(cells) == 5
    }
    for name, field in ReleaseRow.model_fields.items():
        stated = re.match(r"\[(?:(op-plugin): )?([^\]]+)\]", field.description or "")
        if stated is None:
            assert not rows[name]
        elif stated[1]:
            assert rows[name].startswith("op-plugin")
        else:
            assert rows[name] == stated[2]


def test_every_file_and_every_fact_that_needs_a_source_is_named() -> None:
    text = PAGE.read_text()
    for name in ("toolchains", "torch", "lifecycle", "decisions", "sources"):
        assert f"| `{FILES[name]}` |" in text
    sentence = text.partition("Required for ")[2].partition("which no branch states")[0]
    assert set(re.findall(r"`(\w+)`", sentence)) == set(NEEDS_SOURCE)


def test_the_table_of_compilers_is_the_matrix() -> None:
    matrix = load_matrix()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section("Toolchains").splitlines()]
    shown = {row[0]: row[1:] for row in rows if re.fullmatch(r"\d+\.\d", row[0] if row else "")}
    assert list(shown) == list(matrix.compilers)
    for minor, compiler in matrix.compilers.items():
        for cell, provider in zip(shown[minor], compiler.providers, strict=True):
            package, _, version = cell.partition(" (")
            assert package == (provider.package or "source"), (minor, provider.name)
            assert not version or version.startswith(str(provider.version)), (minor, provider.name)
            assert version or provider.version in (None, compiler.version), (minor, provider.name)

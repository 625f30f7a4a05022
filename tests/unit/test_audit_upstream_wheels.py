"""The matrix against released wheels: each fact, changed alone on either side, is drift of that name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from audit_support import (
    COMMIT,
    LINE,
    NIGHTLY,
    UNKNOWN,
    index,
    released_file,
    released_wheel,
    small_matrix,
    torch_hash,
)

from builder.audit import upstream_wheels
from builder.audit.drift import Outcome
from builder.audit.index import chosen_files
from builder.audit.upstream_wheels import INDEX_FACTS, WHEEL_FACTS, Index
from builder.matrix.loader import Matrix
from builder.wheels.upstream_wheels import ReleasedFile, ReleasedWheel, TorchWheel

ROWS, TOOLS, TORCH = "pytorch-2.6.yaml", "toolchains.yaml", "torch.yaml"
NEW = "f" * 64


def wheel(**values: Any) -> Callable[[Index], Index]:
    """An index whose x86_64 wheel of 2.6.0.post2 says something else."""

    def change(one: ReleasedWheel) -> ReleasedWheel:
        return replace(one, **values) if (one.file.version, one.file.arch) == ("2.6.0.post2", "x86_64") else one

    return lambda index: replace(index, wheels=[change(one) for one in index.wheels])


def file(**values: Any) -> Callable[[Index], Index]:
    """An index with one more file of 2.6.0.post2."""
    return lambda index: replace(index, files=[*index.files, replace(released_file("2.6.0.post2", "x86_64"), **values)])


def without(version: str) -> Callable[[Index], Index]:
    """An index that does not have this version."""
    return lambda index: replace(
        index,
        files=[one for one in index.files if one.version != version],
        wheels=[one for one in index.wheels if one.file.version != version],
    )


def having(version: str, commit: str = "") -> Callable[[Index], Index]:
    """An index with one more version."""
    return lambda index: replace(
        index,
        files=[*index.files, released_file(version, "aarch64")],
        wheels=[*index.wheels, replace(released_wheel(version, "aarch64"), git_version=commit)],
    )


def torch(**values: Any) -> Callable[[Index], Index]:
    """An index with another wheel of PyTorch for Python 3.10 on aarch64."""

    def change(one: TorchWheel) -> TorchWheel:
        return one._replace(**values) if (one.arch, one.python) == ("aarch64", "3.10") else one

    return lambda index: replace(index, torch=[change(one) for one in index.torch])


Change = tuple[str, str, str] | Callable[[Index], Index]
#: By fact: what is changed alone, and the drift: line, stated, found and, where it is certain, its correction.
CASES: dict[str, list[tuple[Change, tuple[str, str, str] | tuple[str, str, str, object]]]] = {
    "gcc": [
        ((TOOLS, 'arch: x86_64\n    gcc: "9.3.1"', 'arch: x86_64\n    gcc: "11.2.1"'),
         (LINE, "x86_64: 11.2.1", "x86_64: 9.3.1 (2.6.0, 2.6.0.post2)")),
        (wheel(gcc="13.3.1"), (LINE, "x86_64: 9.3.1", "x86_64: 13.3.1 (2.6.0.post2)")),
        (wheel(gcc=None), (LINE, "x86_64: 9.3.1", "x86_64: none (2.6.0.post2)")),
    ],
    "manylinux": [
        ((TOOLS, "manylinux_2_28\n", "manylinux_2_34\n"),
         (LINE, "aarch64: manylinux_2_34", "aarch64: manylinux_2_28 (2.6.0, 2.6.0.post2)")),
        (file(manylinux="manylinux_2_27"), (LINE, "x86_64: manylinux_2_17", "x86_64: manylinux_2_27 (2.6.0.post2)")),
    ],
    "wheel_cxx11_abi": [
        ((TOOLS, "cxx11_abi: 1", "cxx11_abi: 0"), (LINE, "aarch64: 0", "aarch64: 1 (2.6.0, 2.6.0.post2)")),
        (wheel(cxx11_abi=1), (LINE, "x86_64: 0", "x86_64: 1 (2.6.0.post2)")),
    ],
    "wheel_pythons": [
        (file(python="3.11"), (LINE, "x86_64: 3.9, 3.10", "x86_64: a wheel for 3.11 (2.6.0.post2)")),
    ],
    "wheel_requirement": [
        ((ROWS, '"torch==2.6.0+cpu"', '"torch==2.6.0"'),
         (LINE, "x86_64: torch==2.6.0", "x86_64: torch==2.6.0+cpu (2.6.0, 2.6.0.post2)")),
        (wheel(requires=("torch==2.6.0",)), (LINE, "x86_64: torch==2.6.0+cpu", "x86_64: torch==2.6.0 (2.6.0.post2)")),
        (wheel(requires=("???", "numpy")), (LINE, "x86_64: torch==2.6.0+cpu", "x86_64: none (2.6.0.post2)")),
    ],
    "wheel_version": [
        (wheel(version="2.6.0.post3"), (LINE, "x86_64: 2.6.0.post2", "x86_64: 2.6.0.post3 (2.6.0.post2)")),
    ],
    "wheel_commit": [
        (lambda index: replace(index, commits={COMMIT: frozenset({NIGHTLY})}),
         (LINE, f"x86_64: on {LINE}", f"x86_64: cccccccccccc on {NIGHTLY} (2.6.0, 2.6.0.post2)")),
        (lambda index: replace(index, commits={COMMIT: frozenset()}),
         (LINE, f"x86_64: on {LINE}", "x86_64: cccccccccccc on no branch (2.6.0, 2.6.0.post2)")),
    ],
    "released": [
        ((ROWS, '["2.6.0", "2.6.0.post2"]', '["2.6.0"]'),
         (LINE, "2.6.0", "2.6.0.post2 on the index", ["2.6.0", "2.6.0.post2"])),
        ((ROWS, '["2.6.0.post4"]', '["2.6.0.post4", "2.6.0.post2"]'),
         (UNKNOWN, "2.6.0.post2 by one line", f"2.6.0.post2 by {LINE}, {UNKNOWN}")),
        (without("2.6.0.post2"), (LINE, "2.6.0.post2", "no such version on the index")),
        (having("2.7.0"), ("2.7.0", "of no line", "2.7.0 on the index")),
        (having("2.6.0.post8", COMMIT), (LINE, "2.6.0, 2.6.0.post2", "2.6.0.post8 on the index",
                                         ["2.6.0", "2.6.0.post2", "2.6.0.post8"])),
        (having("2.7.0", COMMIT),
         ("2.7.0", "of no line", f"2.7.0 on the index, built from a commit on {NIGHTLY}, {LINE}")),
    ],
    "torch_wheels": [
        ((TORCH, torch_hash("x86_64", "3.9"), NEW),
         ("torch-2.6.0", "x86_64 3.9: sha256:ffffffffffff", f"x86_64 3.9: sha256:{torch_hash('x86_64', '3.9')[:12]}",
          [f"sha256:{torch_hash('x86_64', '3.9')}"])),
        ((TORCH, f"          - sha256:{torch_hash('x86_64', '3.9')}\n",
          f"          - sha256:{NEW}\n          - sha256:{torch_hash('x86_64', '3.9')}\n"),
         ("torch-2.6.0", f"x86_64 3.9: sha256:ffffffffffff, sha256:{torch_hash('x86_64', '3.9')[:12]}",
          f"x86_64 3.9: sha256:{torch_hash('x86_64', '3.9')[:12]}", [f"sha256:{torch_hash('x86_64', '3.9')}"])),
        ((TORCH, f'        "3.10":\n          - sha256:{torch_hash("aarch64", "3.10")}\n', ""),
         ("torch-2.6.0", "aarch64 3.10: no wheel", f"aarch64 3.10: sha256:{torch_hash('aarch64', '3.10')[:12]}",
          [f"sha256:{torch_hash('aarch64', '3.10')}"])),
        (torch(version="2.6.1"), ("torch-2.6.0", f"aarch64 3.10: sha256:{torch_hash('aarch64', '3.10')[:12]}",
                                  "aarch64 3.10: no such wheel on the index")),
        (torch(python="3.8"), ("torch-2.6.0", "aarch64 3.8: no wheel",
                               f"aarch64 3.8: sha256:{torch_hash('aarch64', '3.10')[:12]}",
                               [f"sha256:{torch_hash('aarch64', '3.10')}"])),
    ],
}  # fmt: skip


def audit(matrix: Matrix, index: Index, *, complete: bool = True) -> Outcome:
    outcome = Outcome()
    upstream_wheels.compare(matrix, matrix.releases, index, outcome, complete=complete)
    return outcome


def test_an_index_that_agrees_gives_no_drift(tmp_path: Path) -> None:
    outcome = audit(small_matrix(tmp_path), index())
    assert outcome.drift == []
    # Six wheels tell four facts each, four of them the commit on a known branch, twelve files policy and Python;
    # three versions are listed here and there; PyTorch has four cells.
    assert outcome.compared == 6 * 4 + 4 + 12 * 2 + 3 * 2 + 4
    # A version of a line whose branch is not known: where its commit stands is worth knowing.
    assert [(note.line, note.text) for note in outcome.notes] == [
        (UNKNOWN, f"2.6.0.post4 is of cccccccccccc, which is on {NIGHTLY}, {LINE}")
    ]


@pytest.mark.parametrize(
    ("fact", "change", "expected"),
    [pytest.param(fact, *case, id=f"{fact}-{index}") for fact in CASES for index, case in enumerate(CASES[fact])],
)
def test_each_fact_changed_alone_is_drift_of_that_name(
    tmp_path: Path, fact: str, change: Change, expected: tuple[Any, ...]
) -> None:
    if isinstance(change, tuple):
        outcome = audit(small_matrix(tmp_path, *change), index())
    else:
        outcome = audit(small_matrix(tmp_path), change(index()))
    assert {drift.fact for drift in outcome.open} == {fact}
    found = [drift for drift in outcome.open if (drift.line, drift.stated) == tuple(expected[:2])]
    assert [drift.found for drift in found] == [expected[2]]
    correction = found[0].correction
    assert (correction is None) == (len(expected) == 3)
    if correction is not None:
        assert correction.value == expected[3]
    assert Path(found[0].place.partition(":")[0]).exists()
    assert found[0].source


def test_every_audited_fact_is_tested() -> None:
    assert set(CASES) == {*WHEEL_FACTS, *INDEX_FACTS}


def test_a_python_without_a_wheel_is_no_drift(tmp_path: Path) -> None:
    full = index()
    some = replace(full, files=[one for one in full.files if one.python == "3.9" or one.version != "2.6.0"])
    outcome = audit(small_matrix(tmp_path), some)
    assert outcome.drift == []
    assert {note.text for note in outcome.notes if note.fact == "wheel_pythons"} == {
        "2.6.0 on x86_64 has no wheel for 3.10",
        "2.6.0 on aarch64 has no wheel for 3.10",
    }
    one_arch = replace(full, files=[one for one in full.files if one.arch == "x86_64" or one.version != "2.6.0"])
    texts = [note.text for note in audit(small_matrix(tmp_path), one_arch).notes]
    assert "2.6.0 was not released for aarch64" in texts


def test_a_commit_that_the_mirror_lacks_is_no_drift(tmp_path: Path) -> None:
    outcome = audit(small_matrix(tmp_path), replace(index(), commits={}))
    assert outcome.drift == []
    assert (LINE, "wheel_commit", "2.6.0 is of cccccccccccc, which the mirror does not have") in {
        (note.line, note.fact, note.text) for note in outcome.notes
    }
    unknown = wheel(cxx11_abi=None)(index())
    assert "2.6.0.post2 for x86_64 does not tell its C++ ABI" in {
        note.text for note in audit(small_matrix(tmp_path), unknown).notes
    }


@pytest.mark.parametrize(
    ("requirement", "agrees"),
    [("torch==2.6.0", True), ("torch==2.6.0+cpu", True), ("torch==2.6.0.*", True), ("torch==2.6.01", False),
     ("torch>=2.6.0", False), ("torch==2.5.1", False)],
)  # fmt: skip
def test_a_line_that_requires_the_installed_torch_requires_its_pytorch(
    tmp_path: Path, requirement: str, agrees: bool
) -> None:
    matrix = small_matrix(tmp_path, ROWS, '"torch==2.6.0+cpu"', '"torch==<version>"')
    full = index()
    wheels = [replace(one, requires=(requirement,)) if one.file.arch == "x86_64" else one for one in full.wheels]
    assert (audit(matrix, replace(full, wheels=wheels)).drift == []) == agrees


def test_versions_are_compared_as_versions(tmp_path: Path) -> None:
    matrix = small_matrix(tmp_path, ROWS, '["2.6.0", "2.6.0.post2"]', '["2.6.0.rc1", "2.6.0", "2.6.0.post2"]')
    assert audit(matrix, having("2.6.0rc1", COMMIT)(index())).drift == []


def test_several_new_versions_of_one_line_are_all_in_the_last_correction(tmp_path: Path) -> None:
    found = audit(small_matrix(tmp_path), having("2.6.0.post8", COMMIT)(having("2.6.0.post7", COMMIT)(index()))).drift
    assert [drift.found for drift in found] == ["2.6.0.post7 on the index", "2.6.0.post8 on the index"]
    assert found[-1].correction is not None
    assert found[-1].correction.value == ["2.6.0", "2.6.0.post2", "2.6.0.post7", "2.6.0.post8"]


def test_other_builds_of_pytorch_are_not_its_wheels(tmp_path: Path) -> None:
    full = index()
    others = [
        TorchWheel(version, "3.9", "x86_64", "x.whl", NEW) for version in ("2.6.0+cpu", "2.6.0rc1", "odd version")
    ]
    assert audit(small_matrix(tmp_path), replace(full, torch=[*full.torch, *others])).drift == []
    # A later build of the same version is one that pip prefers.
    built = replace(full, torch=[*full.torch, TorchWheel("2.6.0", "3.9", "x86_64", "torch-2.6.0-3-x.whl", NEW)])
    (drift,) = audit(small_matrix(tmp_path), built).drift
    assert drift.found == "x86_64 3.9: sha256:ffffffffffff"
    unhashed = replace(full, torch=[one._replace(sha256=None) for one in full.torch])
    assert audit(small_matrix(tmp_path), unhashed).drift == []


def test_an_audit_of_some_lines_leaves_other_versions_alone(tmp_path: Path) -> None:
    assert audit(small_matrix(tmp_path), having("2.7.0")(index()), complete=False).drift == []


def test_one_wheel_of_each_version_and_architecture_is_read() -> None:
    def name(file: ReleasedFile) -> tuple[str, str, str]:
        return file.version, file.arch, file.python

    files = [released_file("2.6.0", arch, python) for arch in ("x86_64", "aarch64") for python in ("3.10", "3.9")]
    assert [name(file) for file in chosen_files([*files, released_file("2.6.0rc1", "x86_64", "3.11")])] == [
        ("2.6.0rc1", "x86_64", "3.11"),
        ("2.6.0", "aarch64", "3.9"),
        ("2.6.0", "x86_64", "3.9"),
    ]

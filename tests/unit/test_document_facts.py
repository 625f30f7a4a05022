"""Every fact that the customer's documents state is in the matrix, or in its list of decided contradictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

from builder.matrix.loader import Matrix, load_matrix

FACTS = Path(__file__).parent.parent / "data" / "document_facts.yaml"


def stated() -> Iterator[tuple[str, str, str, str]]:
    for document, facts in yaml.safe_load(FACTS.read_text()).items():
        for subject, fact, says in facts:
            yield document, subject, fact, says


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return load_matrix()


def lines_of(matrix: Matrix, subject: str) -> list[object]:
    return [line for line in matrix.releases if subject in (line.branch, line.pytorch, line.release)]


def released(matrix: Matrix, subject: str, says: str) -> bool:
    line = matrix.release(subject)
    return line is not None and Version(says) in {Version(version) for version in line.released}


def same(name: str) -> Callable[[Matrix, str, str], bool]:
    def check(matrix: Matrix, subject: str, says: str) -> bool:
        line = matrix.release(subject)
        return line is not None and getattr(line, name) == says

    return check


def pythons(matrix: Matrix, subject: str, says: str) -> bool:
    """Each Python that is stated is one of some line, and for a branch these are all."""
    found = [line.pythons for line in matrix.releases if subject in (line.branch, line.pytorch, line.release)]
    wanted = tuple(says.split())
    return wanted in found


def gcc(arch: str) -> Callable[[Matrix, str, str], bool]:
    def check(matrix: Matrix, subject: str, says: str) -> bool:
        line = matrix.release(subject)
        return line is not None and line.toolchains[arch].gcc_minor == ".".join(says.split(".")[:2])  # type: ignore[index]

    return check


def gcc_of_release(matrix: Matrix, subject: str, says: str) -> bool:
    found = {t.gcc_minor for line in matrix.releases if line.release == subject for t in line.toolchains.values()}
    return found == {".".join(says.split(".")[:2])}


def first_day(table: str, phase: str | None) -> Callable[[Matrix, str, str], bool]:
    def check(matrix: Matrix, subject: str, says: str) -> bool:
        document = matrix.documents["lifecycle"].data
        assert isinstance(document, dict)
        entry = document[table].get(subject, {})  # type: ignore[union-attr,call-overload]
        days = [value for key, value in entry.items() if key not in ("rule", "source")]
        return says == (days[0] if phase is None else entry.get(phase))

    return check


def ended_before(matrix: Matrix, subject: str, says: str) -> bool:
    then = load_matrix(as_of=date.fromisoformat(says))
    return {line.status for line in then.releases if line.release == subject} == {"end-of-life"}


def torch_hash(matrix: Matrix, subject: str, says: str) -> bool:
    arch, python, digest = says.split()
    return any(
        f"sha256:{digest}" in line.torch.hashes("cpu-index", arch, python)  # type: ignore[arg-type]
        for line in matrix.releases
        if line.pytorch == subject
    )


def environment(matrix: Matrix, subject: str, says: str) -> bool:
    name, _, value = says.partition("=")
    lines = [line for line in matrix.releases if line.pytorch == subject]
    return bool(lines) and all(line.environment.get(name) == value for line in lines)


def cmake(matrix: Matrix, subject: str, says: str) -> bool:
    lines = [line for line in matrix.releases if line.release == subject and line.refusal is None]
    return bool(lines) and all(line.cmake_minimum == says for line in lines)


CHECKS: dict[str, Callable[[Matrix, str, str], bool]] = {
    "line": lambda matrix, subject, _: matrix.release(subject) is not None,
    "release": same("release"),
    "cann": same("cann"),
    "pytorch": same("pytorch"),
    "op_plugin": same("op_plugin"),
    "ascendhub": same("ascendhub"),
    "released": released,
    "pythons": pythons,
    "gcc": gcc_of_release,
    "gcc-x86_64": gcc("x86_64"),
    "gcc-aarch64": gcc("aarch64"),
    "first-release": first_day("pytorch", None),
    "end-of-life": first_day("pytorch", "end_of_life"),
    "unmaintained": first_day("pytorch", "unmaintained"),
    "release-published": first_day("releases", None),
    "release-unmaintained": first_day("releases", "unmaintained"),
    "ended-before": ended_before,
    "torch-hash": torch_hash,
    "environment": environment,
    "cmake-minimum": cmake,
}


@pytest.mark.parametrize(("document", "subject", "fact", "says"), list(stated()))
def test_fact_is_in_the_matrix_or_decided_otherwise(
    matrix: Matrix, document: str, subject: str, fact: str, says: str
) -> None:
    claims = [claim for contradiction in matrix.decisions.contradictions for claim in contradiction.claims]
    decided = (document, subject, fact, says) in {(c.document, c.subject, c.fact, c.says) for c in claims}
    followed = CHECKS[fact](matrix, subject, says)
    # A decision against a claim that the matrix follows would be a decision about nothing.
    assert followed != decided, "stated, not in the matrix and not decided" if not followed else "decided, yet followed"


def test_every_decided_contradiction_is_about_a_stated_fact(matrix: Matrix) -> None:
    facts = set(stated())
    strangers = [
        claim
        for contradiction in matrix.decisions.contradictions
        for claim in contradiction.claims
        if (claim.document, claim.subject, claim.fact, claim.says) not in facts and claim.document.endswith(".txt")
    ]
    assert strangers == []

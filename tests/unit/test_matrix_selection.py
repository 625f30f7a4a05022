"""From options to targets, and what is said to those who mistype them."""

from __future__ import annotations

import dataclasses
import platform
from typing import Any

import pytest

from builder.errors import MachineError, RequestError
from builder.matrix.loader import Matrix, load_matrix
from builder.matrix.model import ReleaseLine
from builder.matrix.selection import minors_and_pythons, parse_target_id, resolve_release, select


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return load_matrix()


def with_lines(matrix: Matrix, *changes: dict[str, Any]) -> Matrix:
    """The matrix with more lines, each like v2.5.1-7.1.0 but for ``changes``."""
    model = matrix.release("v2.5.1-7.1.0")
    assert model is not None
    extra = [model.model_copy(update=change) for change in changes]
    releases = sorted([*matrix.releases, *extra], key=lambda line: (line.order, line.branch))
    return dataclasses.replace(matrix, releases=tuple(releases))


def refused(matrix: Matrix, **options: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        select(matrix, **options)
    assert caught.value.hint
    return caught.value


def ids(matrix: Matrix, **options: Any) -> list[str]:
    return [target.id for target in select(matrix, **options)]


@pytest.mark.parametrize("text", ["v2.5.1-7.1.0", "2.5.1-7.1.0", "2.5.1", "2.5"])
def test_names_of_a_release_line(matrix: Matrix, text: str) -> None:
    assert resolve_release(matrix, text).branch == "v2.5.1-7.1.0"


def test_a_version_means_its_newest_numbered_line(matrix: Matrix) -> None:
    more = with_lines(
        matrix,
        {"branch": "v2.5.1-6.0.0", "release": "6.0.0"},
        {"branch": "v2.5.1-26.0.0", "release": "26.0.0"},
        {"branch": "v2.5.1-26.0.rc1", "release": "26.0.rc1"},
        {"branch": "v2.5.1", "release": "development"},
        {"branch": "v2.5.0-30.0.0", "pytorch": "2.5.0", "release": "30.0.0"},
        {"branch": "master", "pytorch": "2.14.0", "release": "development"},
    )
    assert resolve_release(more, "2.5").branch == "v2.5.1-26.0.0"
    assert resolve_release(more, "2.5.1").branch == "v2.5.1-26.0.0"
    assert resolve_release(more, "2.5.0").branch == "v2.5.0-30.0.0"
    assert resolve_release(more, "v2.5.1").branch == "v2.5.1"
    assert resolve_release(more, "master").branch == "master"
    assert ("2.5", "3.9") in minors_and_pythons(more)
    assert [line.branch for line in more.releases if line.minor == "2.5"] == [
        "v2.5.0-30.0.0", "v2.5.1", "v2.5.1-6.0.0", "v2.5.1-7.1.0", "v2.5.1-26.0.rc1", "v2.5.1-26.0.0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("v2.5.1-7.1.1", "v2.5.1-7.1.0"),
        ("2.5.1-7.10", "v2.5.1-7.1.0"),
        ("v2.5.1", "2.5.1"),
        ("2.5.2", "2.5.1"),
        ("V2.6.0-7.1.0", "v2.6.0-7.1.0"),
    ],
)
def test_unknown_line_gets_the_nearest(matrix: Matrix, text: str, near: str) -> None:
    error = refused(matrix, pytorch=[text])
    assert repr(text) in error.message
    assert error.hint is not None
    assert "did you mean" in error.hint
    assert near in error.hint


@pytest.mark.parametrize("text", ["master", "nothing.like.it"])
def test_unknown_line_without_a_near_one_lists_the_newest(matrix: Matrix, text: str) -> None:
    assert "v2.6.0-7.1.0" in str(refused(matrix, pytorch=[text]).hint)


@pytest.mark.parametrize(
    "text", ["--upload-pack=x", "../../etc", "-h", "a/b", "a..b", "", " ", "a\nb", "$(id)", "v" * 5000, "２.５"]
)
def test_what_cannot_be_a_name(matrix: Matrix, text: str) -> None:
    error = refused(matrix, pytorch=[text])
    assert "cannot be the name of a release line" in error.message
    assert len(error.message) < 200
    assert "\n" not in error.message


def test_pytorch_is_required(matrix: Matrix) -> None:
    assert refused(matrix, pytorch=[]).message == "--pytorch is missing"


def test_every_python_by_default_in_order(matrix: Matrix) -> None:
    assert ids(matrix, pytorch=["2.1"], arch=["x86_64"]) == [
        f"v2.1.0-7.1.0-py{python}-x86_64" for python in ("3.8", "3.9", "3.10", "3.11")
    ]


def test_commas_repetition_and_both_architectures(matrix: Matrix) -> None:
    assert ids(matrix, pytorch=["2.6,2.5.1", "v2.5.1-7.1.0"], python=["3.11, 3.9"], arch=["all"]) == [
        f"{branch}-py{python}-{arch}"
        for branch in ("v2.6.0-7.1.0", "v2.5.1-7.1.0")
        for python in ("3.9", "3.11")
        for arch in ("x86_64", "aarch64")
    ]


@pytest.mark.parametrize(("machine", "arch"), [("x86_64", "x86_64"), ("arm64", "aarch64"), ("AMD64", "x86_64")])
def test_native(matrix: Matrix, monkeypatch: pytest.MonkeyPatch, machine: str, arch: str) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert ids(matrix, pytorch=["2.5"], python=["3.9"]) == [f"v2.5.1-7.1.0-py3.9-{arch}"]


def test_native_of_another_machine(matrix: Matrix, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(MachineError, match="riscv64"):
        select(matrix, pytorch=["2.5"])


def test_python_that_the_line_does_not_support(matrix: Matrix) -> None:
    error = refused(matrix, pytorch=["2.5"], python=["3.8"])
    assert error.message == "--python: v2.5.1-7.1.0 does not support Python 3.8; it supports 3.9, 3.10, 3.11"
    assert "v2.1.0-7.1.0" in str(error.hint)


@pytest.mark.parametrize(
    ("text", "meant"), [("py3.9", "3.9"), ("cp39", "3.9"), ("cp311", "3.11"), ("3.9.18", "3.9"), ("python3.10", "3.10")]
)
def test_python_in_another_spelling(matrix: Matrix, text: str, meant: str) -> None:
    error = refused(matrix, pytorch=["2.5"], python=[text])
    assert "expected a version such as 3.9" in error.message
    assert error.hint == f"did you mean {meant}?"


@pytest.mark.parametrize("text", ["2.7", "three", "--x", ""])
def test_python_that_is_none(matrix: Matrix, text: str) -> None:
    assert "expected a version such as 3.9" in refused(matrix, pytorch=["2.5"], python=[text]).message


def test_architecture(matrix: Matrix) -> None:
    error = refused(matrix, pytorch=["2.5"], arch=["arm64"])
    assert error.hint == "did you mean aarch64?"
    line = resolve_release(matrix, "2.5")
    only = {"branch": "v2.5.1-9.0.0", "release": "9.0.0", "toolchains": {"x86_64": line.toolchains["x86_64"]}}
    more = with_lines(matrix, only)
    assert ids(more, pytorch=["2.5.1-9.0.0"], python=["3.9"], arch=["all"]) == ["v2.5.1-9.0.0-py3.9-x86_64"]
    assert "is not built for aarch64" in refused(more, pytorch=["2.5.1-9.0.0"], arch=["aarch64"]).message


def test_cann_narrows_and_chooses(matrix: Matrix) -> None:
    more = with_lines(matrix, {"branch": "v2.5.1-7.0.0", "release": "7.0.0", "cann": "8.1.RC1"})
    assert ids(more, pytorch=[], cann=["8.1.rc1"], python=["3.9"], arch=["x86_64"]) == ["v2.5.1-7.0.0-py3.9-x86_64"]
    error = refused(more, pytorch=["v2.5.1-7.0.0"], cann=["8.2.RC1"])
    assert error.hint == "v2.5.1-7.0.0 is for 8.1.RC1"
    assert refused(more, pytorch=["2.5"], cann=["9"]).hint == "known: 8.1.RC1, 8.2.RC1"


def test_target_ids_round_trip(matrix: Matrix) -> None:
    for target in matrix.targets():
        assert parse_target_id(matrix, target.id) == target


@pytest.mark.parametrize(
    "text", ["v2.5.1-7.1.0-py3.8-x86_64", "v2.5.1-7.1.0-3.9-x86_64", "v2.5.1-7.1.0-py3.9-arm", "--x", "../../etc"]
)
def test_wrong_target_ids(matrix: Matrix, text: str) -> None:
    with pytest.raises(RequestError, match="no target is called") as caught:
        parse_target_id(matrix, text)
    assert "v2.5.1-7.1.0-py3" in str(caught.value.hint)


def test_nox_sessions(matrix: Matrix) -> None:
    assert minors_and_pythons(matrix) == [
        ("2.1", "3.8"), ("2.1", "3.9"), ("2.1", "3.10"), ("2.1", "3.11"),
        ("2.5", "3.9"), ("2.5", "3.10"), ("2.5", "3.11"),
        ("2.6", "3.9"), ("2.6", "3.10"), ("2.6", "3.11"),
    ]  # fmt: skip


def test_release_lines_are_frozen(matrix: Matrix) -> None:
    line: ReleaseLine = matrix.releases[0]
    with pytest.raises(ValueError, match="frozen"):
        line.branch = "other"

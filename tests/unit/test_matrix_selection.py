"""From options to targets, and what is said to those who mistype them or ask for what there is not."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterable
from dataclasses import fields
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_matrix import small_matrix, write_matrix
from support import examples

from builder.core.errors import MachineError, RequestError
from builder.matrix.loader import Matrix, load_matrix
from builder.matrix.model import Target
from builder.matrix.selection import (
    Query,
    Selection,
    minors_and_pythons,
    parse_target_id,
    resolve_release,
    select,
    select_for_build,
)

RELEASES = [
    "v1.5.0-3.0.0", "v1.8.1-3.0.0", "v2.1.0-6.0.0", "v2.1.0-7.1.0", "v2.5.1-7.0.0", "v2.5.1-7.1.0", "v2.6.0-7.1.0",
    "v2.6.0-7.2.0", "v2.6.0-7.10.0", "v2.7.1-26.0.rc1", "v2.7.1-26.0.0", "v2.7.1-26.1.0", "v2.8.0-26.1.0",
]  # fmt: skip
BRANCHES = ["v2.1.0", "v2.5.1", "v2.7.1", "master"]


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    return small_matrix(tmp_path_factory.mktemp("matrix"))


@pytest.fixture(autouse=True)
def _native_is_x86_64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


def query(**options: str | list[str]) -> Query:
    return Query(**{name: (text,) if isinstance(text, str) else tuple(text) for name, text in options.items()})


def lines(matrix: Matrix, **options: str | list[str]) -> list[str]:
    """The release lines that a listing of these options shows."""
    return list(dict.fromkeys(target.release.branch for target in select(matrix, query(**options))))


def built(matrix: Matrix, **options: str | list[str]) -> list[str]:
    """The ids of the targets that a build with these options makes."""
    return [target.id for target in select_for_build(matrix, query(**options)).targets]


def built_lines(matrix: Matrix, **options: str | list[str]) -> list[str]:
    return list(dict.fromkeys(name.rpartition("-py")[0] for name in built(matrix, **options)))


def refused(matrix: Matrix, *, build: bool = True, **options: str | list[str]) -> RequestError:
    with pytest.raises(RequestError) as caught:
        (select_for_build if build else select)(matrix, query(**options))
    error = caught.value
    assert error.hint
    assert "\n" not in error.message + error.hint
    return error


# Names and versions


@pytest.mark.parametrize("text", ["v2.5.1-7.1.0", "2.5.1-7.1.0", "2.5.1", "2.5"])
def test_names_of_a_release_line(matrix: Matrix, text: str) -> None:
    assert resolve_release(matrix, text).branch == "v2.5.1-7.1.0"
    assert built_lines(matrix, pytorch=text) == ["v2.5.1-7.1.0"]


def test_a_version_is_its_newest_buildable_release(matrix: Matrix) -> None:
    # 7.10.0 is newer than 7.2.0; 26.1.0 has no known branch, 26.0.rc1 came before 26.0.0.
    assert built_lines(matrix, pytorch="2.6") == ["v2.6.0-7.10.0"]
    assert built_lines(matrix, pytorch="2.7") == ["v2.7.1-26.0.0"]
    assert resolve_release(matrix, "2.7.1").branch == "v2.7.1-26.0.0"


def test_a_development_branch_is_built_by_its_name_only(matrix: Matrix) -> None:
    assert built_lines(matrix, pytorch="v2.7.1") == ["v2.7.1"]
    assert built_lines(matrix, pytorch="master") == ["master"]
    assert resolve_release(matrix, "v2.7.1").branch == "v2.7.1"
    assert resolve_release(matrix, "master").branch == "master"
    assert built_lines(matrix, pytorch="2.7", channel="nightly") == ["v2.7.1"]


def test_a_version_lists_all_its_releases(matrix: Matrix) -> None:
    assert lines(matrix, pytorch="2.1") == ["v2.1.0-6.0.0", "v2.1.0-7.1.0"]
    assert lines(matrix, pytorch="2.1", channel="all") == ["v2.1.0", "v2.1.0-6.0.0", "v2.1.0-7.1.0"]
    assert lines(matrix, pytorch="v2.1.0-6.0.0") == ["v2.1.0-6.0.0"]


def test_other_options_narrow_a_version_before_its_newest_is_taken(matrix: Matrix) -> None:
    assert built_lines(matrix, pytorch="2.6", cann="8.2.RC1") == ["v2.6.0-7.1.0"]
    assert built_lines(matrix, pytorch="2.6", release="7.2.0") == ["v2.6.0-7.2.0"]
    assert built_lines(matrix, pytorch="2.6", target="*-py3.12-*") == ["v2.6.0-7.2.0"]
    # A Python does not choose among lines: the newest line is asked for it.
    assert "v2.6.0-7.2.0" in str(refused(matrix, pytorch="2.6", python="3.12").hint)


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("v2.5.1-7.1.1", "v2.5.1-7.1.0"),
        ("2.5.1-7.10", "v2.5.1-7.1.0"),
        ("2.5.2", "2.5.1"),
        ("mastr", "master"),
    ],
)
def test_unknown_line_gets_the_nearest(matrix: Matrix, text: str, near: str) -> None:
    error = refused(matrix, pytorch=text)
    assert repr(text) in error.message
    assert "did you mean" in str(error.hint)
    assert near in str(error.hint)


def test_unknown_line_without_a_near_one_lists_the_newest(matrix: Matrix) -> None:
    assert "v2.8.0-26.1.0" in str(refused(matrix, pytorch="nothing.like.it").hint)


@pytest.mark.parametrize(
    "text", ["--upload-pack=x", "../../etc", "-h", "a/b", "a..b", "", " ", "a\nb", "$(id)", "v" * 5000, "２.５"]
)
def test_what_cannot_be_a_name(matrix: Matrix, text: str) -> None:
    error = refused(matrix, pytorch=text)
    assert "cannot be the name of a release line" in error.message
    assert len(error.message) < 200


def test_a_glob_is_not_for_pytorch(matrix: Matrix) -> None:
    assert "--target 'v2.*'" in str(refused(matrix, pytorch="v2.*").hint)


# Each option


def test_every_python_by_default_in_order(matrix: Matrix) -> None:
    assert built(matrix, pytorch="2.1") == [
        f"v2.1.0-7.1.0-py{python}-x86_64" for python in ("3.8", "3.9", "3.10", "3.11")
    ]


def test_commas_repetition_and_both_architectures(matrix: Matrix) -> None:
    options: dict[str, Any] = {"pytorch": ["v2.6.0-7.2.0,2.5.1", "v2.5.1-7.1.0"], "python": "3.11, 3.9", "arch": "all"}
    assert built(matrix, **options) == [
        f"{branch}-py{python}-{arch}"
        for branch in ("v2.6.0-7.2.0", "v2.5.1-7.1.0")
        for python in ("3.9", "3.11")
        for arch in ("x86_64", "aarch64")
    ]


def test_release_and_cann_choose_lines(matrix: Matrix) -> None:
    assert lines(matrix, release="7.1.0") == ["v2.1.0-7.1.0", "v2.5.1-7.1.0", "v2.6.0-7.1.0"]
    assert lines(matrix, release="26.0.RC1") == ["v2.7.1-26.0.rc1"]
    for text in ("8.2.RC1", "8.2.rc1", "CANN 8.2.RC1", "cann8.2.rc1"):
        assert lines(matrix, cann=text) == ["v2.1.0-7.1.0", "v2.5.1-7.1.0", "v2.6.0-7.1.0"]
    assert lines(matrix, cann="8.1.RC1,8.0.0") == ["v2.1.0-6.0.0", "v2.5.1-7.0.0"]
    assert built_lines(matrix, release="7.1.0") == lines(matrix, release="7.1.0")


@pytest.mark.parametrize(
    ("texts", "pythons"),
    [
        (["3.9"], ["3.9"]),
        (["3.11,3.8"], ["3.8", "3.11"]),
        ([">=3.10"], ["3.10", "3.11"]),
        ([">=3.9,<3.11"], ["3.9", "3.10"]),
        ([">= 3.9", " < 3.11"], ["3.9", "3.10"]),
        (["3.8,>=3.10,<3.11"], ["3.8", "3.10"]),
        (["3.8", ">=3.11"], ["3.8", "3.11"]),
        (["!=3.9"], ["3.8", "3.10", "3.11"]),
        (["~=3.10"], ["3.10", "3.11"]),
    ],
)
def test_pythons_and_ranges(matrix: Matrix, texts: list[str], pythons: list[str]) -> None:
    assert built(matrix, pytorch="2.1", python=texts) == [f"v2.1.0-7.1.0-py{python}-x86_64" for python in pythons]


@pytest.mark.parametrize(
    ("text", "meant"), [("py3.9", "3.9"), ("cp39", "3.9"), ("cp311", "3.11"), ("3.9.18", "3.9"), ("python3.10", "3.10")]
)
def test_python_in_another_spelling(matrix: Matrix, text: str, meant: str) -> None:
    assert select(matrix, query(python=text)) == select(matrix, query(python=meant))


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("V2.6.0-7.1.0", ["v2.6.0-7.1.0"]),
        ("2.6.0-7.1", ["v2.6.0-7.1.0"]),
        ("v2.6-7.1", ["v2.6.0-7.1.0"]),
        ("2.6-7.1.0", ["v2.6.0-7.1.0"]),
        ("2.6.0-7", ["v2.6.0-7.1.0", "v2.6.0-7.2.0", "v2.6.0-7.10.0"]),
        ("main", ["master"]),
    ],
)
def test_lines_in_other_words(matrix: Matrix, text: str, meant: list[str]) -> None:
    assert sorted(lines(matrix, pytorch=text)) == sorted(meant)


def test_a_released_wheel_is_no_line() -> None:
    error = refused(load_matrix(), pytorch="2.7.1.post2")
    assert error.message == "--pytorch: '2.7.1.post2' is a wheel that upstream has released, not a release line"
    lines_of_it = [line.branch for line in load_matrix().releases if "2.7.1.post2" in line.released]
    assert lines_of_it
    assert all(line in str(error.hint) for line in lines_of_it)


def test_releases_and_cann_in_other_words(matrix: Matrix) -> None:
    assert lines(matrix, release="v7.1.0") == lines(matrix, release="7.1.0")
    every = {line.cann for line in matrix.releases if line.cann}
    some = next(cann for cann in sorted(every) if cann.count(".") >= 2)
    begun = {cann for cann in every if cann.startswith(some.rpartition(".")[0] + ".")}
    found = select(matrix, query(cann=some.rpartition(".")[0]))
    assert {target.release.cann for target in found} == begun


@pytest.mark.parametrize("text", ["2.7", "three", "--x", "", ">=x", "> =3.9", "3.13t"])
def test_python_that_is_none(matrix: Matrix, text: str) -> None:
    assert "expected a version such as 3.9" in refused(matrix, pytorch="2.5", python=text).message


@pytest.mark.parametrize("text", ["3.15", ">=3.15", "<3.7"])
def test_python_that_no_line_has(matrix: Matrix, text: str) -> None:
    error = refused(matrix, build=False, python=text)
    assert repr(text) in error.message
    assert error.hint == "known: 3.7, 3.8, 3.9, 3.10, 3.11, 3.12"


@pytest.mark.parametrize(
    ("text", "minors"),
    [
        ("maintained", {"2.6"}),
        ("maintenance", {"2.6"}),
        ("supported", {"2.6", "2.7"}),
        ("unmaintained", {"2.5"}),
        ("planned", {"2.8"}),
        ("maintained,development", {"2.6", "2.7"}),
        *((text, {"1.5", "1.8", "2.1"}) for text in ("eol", "EOL", "end-of-life", "End of life", "end_of_life")),
    ],
)
def test_statuses(matrix: Matrix, text: str, minors: set[str]) -> None:
    assert {target.release.minor for target in select(matrix, query(status=text))} == minors


def test_statuses_follow_the_day(tmp_path: Path) -> None:
    assert "v2.1.0-7.1.0" in lines(small_matrix(tmp_path, date(2025, 12, 29)), status="maintained")
    assert "v2.1.0-7.1.0" in lines(small_matrix(tmp_path, date(2025, 12, 30)), status="eol")


def test_channels(matrix: Matrix) -> None:
    assert lines(matrix) == lines(matrix, channel="release") == RELEASES
    assert lines(matrix, channel="nightly") == BRANCHES
    assert sorted(lines(matrix, channel="all")) == sorted([*RELEASES, *BRANCHES])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"pytorch": "v2.7.1"}, ["v2.7.1"]),
        ({"pytorch": ["v2.7.1", "2.1"]}, ["v2.7.1", "v2.1.0-6.0.0", "v2.1.0-7.1.0"]),
        ({"target": "v2.7.1-py3.*"}, ["v2.7.1"]),
        ({"target": "master*"}, ["master"]),
        ({"target": "v2.7.1*"}, ["v2.7.1-26.0.rc1", "v2.7.1-26.0.0", "v2.7.1-26.1.0"]),
        ({"release": "development"}, BRANCHES),
    ],
)
def test_naming_a_development_branch_selects_it(matrix: Matrix, options: dict[str, Any], expected: list[str]) -> None:
    assert lines(matrix, **options) == expected


def test_targets_are_globs_and_ids(matrix: Matrix) -> None:
    assert built(matrix, target="v2.?.1-7.1.0-py3.1?-aarch64") == [
        "v2.5.1-7.1.0-py3.10-aarch64",
        "v2.5.1-7.1.0-py3.11-aarch64",
    ]
    # The architecture that an id names is asked for, whatever this machine is.
    both = ["v2.5.1-7.0.0-py3.9-aarch64", "v2.6.0-7.1.0-py3.9-x86_64"]
    assert built(matrix, target=both) == both
    assert built(matrix, target="v2.5.1-7.0.0-py3.9-*") == ["v2.5.1-7.0.0-py3.9-x86_64"]
    assert len(built(matrix, target="v2.5.1-7.0.0-py3.9-*", arch="all")) == 2


@pytest.mark.parametrize(
    ("skip", "left"),
    [
        ("v2.5.1-7.0.0", ["v2.5.1-7.1.0"]),
        ("*-7.0.0", ["v2.5.1-7.1.0"]),
        ("v2.5.1-7.0.0-py3.*", ["v2.5.1-7.1.0"]),
        ("v2.6.0-7.1.0", ["v2.5.1-7.0.0", "v2.5.1-7.1.0"]),
    ],
)
def test_skip_takes_away(matrix: Matrix, skip: str, left: list[str]) -> None:
    assert lines(matrix, pytorch="2.5", skip=skip) == left


def test_skip_of_single_targets(matrix: Matrix) -> None:
    skip = ["v2.5.1-7.1.0-py3.9-x86_64", "*-py3.10-x86_64"]
    assert built(matrix, pytorch="2.5", skip=skip) == ["v2.5.1-7.1.0-py3.11-x86_64"]


@pytest.mark.parametrize(("machine", "arch"), [("x86_64", "x86_64"), ("arm64", "aarch64"), ("AMD64", "x86_64")])
def test_native(matrix: Matrix, monkeypatch: pytest.MonkeyPatch, machine: str, arch: str) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    for options in ({}, {"arch": "native"}):
        assert built(matrix, pytorch="2.5", python="3.9", **options) == [f"v2.5.1-7.1.0-py3.9-{arch}"]


def test_native_of_another_machine(matrix: Matrix, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(MachineError, match="riscv64"):
        built(matrix, pytorch="2.5")
    assert lines(matrix, pytorch="2.6") == ["v2.6.0-7.1.0", "v2.6.0-7.2.0", "v2.6.0-7.10.0"]


def test_architecture(matrix: Matrix) -> None:
    for meant, texts in {"aarch64": ("arm64", "ARM", "AArch64"), "x86_64": ("amd64", "X86", "x64", "x86-64")}.items():
        for text in texts:
            assert built(matrix, pytorch="2.5", python="3.9", arch=text) == [f"v2.5.1-7.1.0-py3.9-{meant}"]
    assert "expected x86_64" in refused(matrix, pytorch="2.5", arch="riscv64").message
    assert built(matrix, pytorch="v2.6.0-7.10.0", python="3.10", arch="all") == ["v2.6.0-7.10.0-py3.10-x86_64"]
    error = refused(matrix, pytorch="v2.6.0-7.10.0", arch="aarch64")
    assert error.message == "--arch aarch64 leaves none of the 2 targets that --pytorch v2.6.0-7.10.0 selects"
    assert str(error.hint).startswith("they are for x86_64; ")


# Selections that come out empty


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (
            {"pytorch": "2.6", "cann": "8.1.RC1"},
            "--cann 8.1.RC1 leaves none of the 16 targets that --pytorch 2.6 selects",
            "they are for CANN 8.2.RC1, 8.3.RC1 or 8.5.0; with --cann 8.1.RC1: v2.5.1-7.0.0",
        ),
        (
            {"pytorch": "2.5", "release": "7.1.0", "python": "3.8"},
            "--python 3.8 leaves none of the 6 targets that --pytorch 2.5 and --release 7.1.0 select",
            "they are for Python 3.9, 3.10 or 3.11; with --python 3.8: v2.1.0-7.1.0",
        ),
        (
            {"pytorch": "2.5", "status": "maintained"},
            "--status maintained leaves none of the 12 targets that --pytorch 2.5 selects",
            "they are unmaintained; with --status maintained: v2.6.0-7.10.0, v2.6.0-7.2.0, v2.6.0-7.1.0",
        ),
        (
            {"release": "7.1.0", "target": "v2.6.0-7.2*"},
            "--target v2.6.0-7.2* leaves none of the 20 targets that --release 7.1.0 selects",
            "they are of v2.1.0-7.1.0, v2.5.1-7.1.0 or v2.6.0-7.1.0; with --target v2.6.0-7.2*: v2.6.0-7.2.0",
        ),
        (
            {"pytorch": "2.5", "skip": "v2.5*"},
            "--skip v2.5* leaves none of the 12 targets that --pytorch 2.5 selects",
            "'list' with the other options shows what there is to skip",
        ),
        (
            {"pytorch": "v2.5.1-7.1.0", "channel": "nightly"},
            "--channel nightly leaves none of the 6 targets that --pytorch v2.5.1-7.1.0 selects",
            "they are of the channel release; with --channel nightly: master, v2.7.1, v2.5.1, ...",
        ),
    ],
)
def test_an_empty_selection_says_which_filter_emptied_it(
    matrix: Matrix, options: dict[str, Any], message: str, hint: str
) -> None:
    error = refused(matrix, build=False, **options)
    assert error.message == message
    assert str(error.hint).startswith(hint)


def test_an_empty_selection_of_a_single_filter(tmp_path: Path) -> None:
    error = refused(small_matrix(tmp_path, date(2030, 1, 1)), build=False, status="planned")
    assert error.message == "--status planned leaves none of the 68 targets"
    assert error.hint == "they are end-of-life or development"


def test_suggestions_of_a_build_can_be_built(matrix: Matrix) -> None:
    hint = str(refused(matrix, pytorch="v2.7.1-26.0.0", python="3.12").hint)
    assert hint == "they are for Python 3.10 or 3.11; with --python 3.12: v2.6.0-7.2.0"
    assert "v2.7.1-26.1.0" in str(refused(matrix, build=False, pytorch="v2.7.1-26.0.0", python="3.12").hint)


def test_a_build_gives_every_named_line_every_named_python(matrix: Matrix) -> None:
    for python in ("3.8", "3.8,3.9"):
        error = refused(matrix, pytorch="2.1,2.5", python=python)
        assert error.message == "--python 3.8 leaves none of the 6 targets that --pytorch 2.5 selects"
    assert built_lines(matrix, pytorch="2.1,2.5", python=">=3.8") == ["v2.1.0-7.1.0", "v2.5.1-7.1.0"]
    # A filter only narrows, and a listing shows what there is.
    assert built_lines(matrix, release="7.1.0", python="3.8") == ["v2.1.0-7.1.0"]
    assert lines(matrix, pytorch="2.1,2.5", python="3.8") == ["v2.1.0-6.0.0", "v2.1.0-7.1.0"]


@pytest.mark.parametrize(
    ("option", "text", "near"),
    [
        ("release", "7.1.1", "7.1.0"),
        ("release", "26.0", "26.0.0"),
        ("cann", "8.2.RC3", "8.2.RC1"),
        ("cann", "nothing", "known: 6.0.1, 8.0.0"),
        ("status", "maintaned", "maintained"),
        ("status", "dead", "known: planned, "),
        ("channel", "releases", "release"),
        ("target", "v2.5.1-7.1.9-py3*", "v2.5.1-7.1.0-py3.9"),
        ("target", "v2.5.1-7.1.0", "'v2.5.1-7.1.0-*'"),
        ("target", "nothing", "expected a glob"),
        ("skip", "v2.5.1-7.1.9", "v2.5.1-7.1.0"),
        ("skip", "nothing", "'list' shows all"),
        *((option, text, "") for option in ("release", "cann", "status", "channel") for text in ("", "x" * 5000)),
        *((option, text, "") for option in ("target", "skip") for text in ("", "*?" * 5000, "a\nb", "[")),
    ],
)
def test_a_value_that_names_nothing_gets_the_nearest(matrix: Matrix, option: str, text: str, near: str) -> None:
    error = refused(matrix, build=False, **{option: text})
    assert error.message.startswith(f"--{option}: no ")
    assert len(error.message) < 200
    assert near in str(error.hint)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"pytorch": "7.1.0"}, "did you mean --release 7.1.0?"),
        ({"release": "2.5.1"}, "did you mean --pytorch 2.5.1?"),
        ({"release": "v2.5.1-7.1.0"}, "did you mean --pytorch v2.5.1-7.1.0?"),
        ({"target": "v2.5.1-7.1.0-py3.9-arm64"}, "did you mean v2.5.1-7.1.0-py3.9-aarch64?"),
        ({"target": "v2.5*-AMD64"}, "did you mean 'v2.5*-x86_64'?"),
        ({"skip": "v2.5.1-7.1.0-py3.9-arm64"}, "did you mean v2.5.1-7.1.0-py3.9-aarch64?"),
    ],
)
def test_a_value_of_another_kind_or_spelling(matrix: Matrix, options: dict[str, Any], hint: str) -> None:
    assert refused(matrix, build=False, **options).hint == hint


def test_of_many_values_only_the_nearest_are_listed() -> None:
    shipped = load_matrix()
    known = {line.cann for line in shipped.releases if line.cann}
    hint = str(refused(shipped, build=False, cann="8-9").hint)
    named = re.findall(r"\d+\.\d+\.[\w.]*\w", hint)
    assert len(named) == 5
    assert set(named) <= known
    assert len(known) > 8


def test_a_matrix_without_lines(tmp_path: Path) -> None:
    folder = write_matrix(tmp_path)
    for file in folder.glob("pytorch-*.yaml"):
        file.write_text(re.sub(r"releases:.*", "releases: []\n", file.read_text(), flags=re.DOTALL))
    empty = load_matrix(folder)
    for ask in (
        lambda: select(empty, Query()),
        lambda: select_for_build(empty, query(pytorch="2.5")),
        lambda: select_for_build(empty, query(status="maintained")),
        lambda: resolve_release(empty, "2.5"),
        lambda: parse_target_id(empty, "v2.5.1-7.1.0-py3.9-x86_64"),
    ):
        with pytest.raises(RequestError) as caught:
            ask()
        assert caught.value.message == f"the matrix in {folder} has no release lines"
        assert caught.value.hint


# What a build refuses


def test_a_build_names_what_it_builds(matrix: Matrix) -> None:
    for options in ({}, {"arch": "all"}):
        assert refused(matrix, **options).message == "--pytorch is missing"
    error = refused(matrix, status="maintained")
    assert error.message == "--pytorch is missing: the other options alone select 9 targets"
    assert "--target '*'" in str(error.hint)
    assert built_lines(matrix, target="*", status="maintained") == ["v2.6.0-7.1.0", "v2.6.0-7.2.0", "v2.6.0-7.10.0"]


@pytest.mark.parametrize(
    ("options", "line", "instead"),
    [
        ({"pytorch": "v1.5.0-3.0.0"}, "v1.5.0-3.0.0", "v1.8.1-3.0.0"),
        ({"pytorch": "1.5"}, "v1.5.0-3.0.0", "v1.8.1-3.0.0"),
        ({"pytorch": ["2.6", "1.5"]}, "v1.5.0-3.0.0", "v1.8.1-3.0.0"),
        ({"target": "v1.5.0-3.0.0-py3.7-x86_64"}, "v1.5.0-3.0.0", "v1.8.1-3.0.0"),
        ({"target": "v1.5*"}, "v1.5.0-3.0.0", "v1.8.1-3.0.0"),
        ({"pytorch": "v2.7.1-26.1.0"}, "v2.7.1-26.1.0", "v2.7.1-26.0.0"),
        ({"pytorch": "2.8"}, "v2.8.0-26.1.0", "master"),
        ({"release": "26.1.0"}, "v2.7.1-26.1.0", "v2.7.1-26.0.0"),
    ],
)
def test_a_line_that_cannot_be_built(matrix: Matrix, options: dict[str, Any], line: str, instead: str) -> None:
    error = refused(matrix, **options)
    release = matrix.release(line)
    assert release is not None
    assert error.message.startswith(f"{line} cannot be built: {release.refusal}")
    assert error.hint == f"the nearest line that can be built is {instead}"


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("v1.5.0-3.0.0", "v1.8.1-3.0.0"),  # the same plugin release, rather than an older neighbour
        ("2.0.2.tr5", "v1.8.1-3.0.rc1"),  # a release, rather than the development branch before it
    ],
)
def test_the_nearest_line_of_the_shipped_matrix(line: str, instead: str) -> None:
    assert str(refused(load_matrix(), pytorch=line).hint).endswith(f" {instead}")


def test_a_glob_leaves_out_what_cannot_be_built(matrix: Matrix) -> None:
    selection = select_for_build(matrix, query(target="v2.7.1-26*"))
    assert {target.release.branch for target in selection.targets} == {"v2.7.1-26.0.rc1", "v2.7.1-26.0.0"}
    assert [line.branch for line, _ in selection.left_out] == ["v2.7.1-26.1.0"]
    [warning] = selection.warnings()
    assert warning.startswith("left out v2.7.1-26.1.0: wheels of it are released")


def test_one_warning_for_each_line_that_upstream_has_left(matrix: Matrix) -> None:
    def warnings(**options: str | list[str]) -> list[str]:
        return list(select_for_build(matrix, query(**options)).warnings())

    assert warnings(pytorch="2.6") == []
    assert warnings(pytorch="2.1,2.5") == [
        "v2.1.0-7.1.0 is end-of-life since 2025-12-30: upstream takes no more changes",
        "v2.5.1-7.1.0 is unmaintained since 2026-02-08: upstream makes no more releases of it",
    ]


# Ids, and what nox shows


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
        ("1.8", "3.7"),
        ("2.1", "3.8"), ("2.1", "3.9"), ("2.1", "3.10"), ("2.1", "3.11"),
        ("2.5", "3.9"), ("2.5", "3.10"), ("2.5", "3.11"),
        ("2.6", "3.10"), ("2.6", "3.11"),
        ("2.7", "3.10"), ("2.7", "3.11"),
    ]  # fmt: skip


def test_a_nox_session_is_a_build(matrix: Matrix) -> None:
    for minor, python in minors_and_pythons(matrix):
        [target] = select_for_build(matrix, query(pytorch=minor, python=python)).targets
        assert (target.release.minor, target.python) == (minor, python)


def test_every_line_of_the_shipped_matrix_can_be_named() -> None:
    shipped = load_matrix()
    for line in shipped.releases:
        assert lines(shipped, pytorch=line.branch) == [line.branch]
        if line.refusal:
            assert refused(shipped, pytorch=line.branch).message.startswith(f"{line.branch} cannot be built: ")
        else:
            assert built_lines(shipped, pytorch=line.branch, arch="all") == [line.branch]


def test_an_empty_query_asks_for_every_release_and_every_field_narrows(matrix: Matrix) -> None:
    assert isinstance(select_for_build(matrix, query(pytorch="2.5")), Selection)
    everything = {target.id for target in select(matrix, Query(channel=("all",)))}
    assert everything == {target.id for target in matrix.targets()}
    values = {
        "pytorch": "2.6", "release": "7.1.0", "cann": "8.2.RC1", "python": "3.10", "arch": "aarch64",
        "status": "maintained", "channel": "nightly", "target": "v2.6*", "skip": "v2.6*",
    }  # fmt: skip
    # What a version means says all_lines, and of itself it names nothing.
    assert {field.name for field in fields(Query)} == {*values, "all_lines"}
    for name, value in values.items():
        narrowed = {target.id for target in select(matrix, query(**{name: value}))}
        assert narrowed < everything


def test_all_lines_of_a_version(matrix: Matrix) -> None:
    def lines(pytorch: str, *, all_lines: bool) -> Selection:
        return select_for_build(matrix, Query(pytorch=(pytorch,), arch=("x86_64",), all_lines=all_lines))

    def branches(selection: Selection) -> list[str]:
        return list(dict.fromkeys(target.release.branch for target in selection.targets))

    newest, every = lines("2.7", all_lines=False), lines("2.7", all_lines=True)
    assert len(branches(newest)) == 1
    assert set(branches(newest)) < set(branches(every))
    # One that cannot be built was not named, so that it is left out, as where a glob finds it.
    assert [line.branch for line, _ in every.left_out] == ["v2.7.1-26.1.0"]
    with pytest.raises(RequestError, match=r"v2\.7\.1-26\.1\.0 cannot be built"):
        lines("v2.7.1-26.1.0", all_lines=True)
    with pytest.raises(RequestError, match="--pytorch is missing"):
        select_for_build(matrix, Query(all_lines=True))


_JUNK = st.one_of(st.text(max_size=12), st.text("vpy0123456789.-_*?[]!<>=~, rc", max_size=20))
_SENSIBLE = {
    "pytorch": ["2.6", "2.7.1", "v2.7.1", "1.5", "master", "v2.5.1-7.0.0", "2.1,2.5"],
    "release": ["7.1.0", "26.1.0", "development"],
    "cann": ["8.2.RC1", "6.0.1"],
    "python": ["3.10", ">=3.9", "<3.11", "3.7", "3.12"],
    "arch": ["all", "native", "aarch64"],
    "status": ["eol", "supported", "unmaintained"],
    "channel": ["all", "nightly", "release"],
    "target": ["*", "v2.?.*-py3.9-*", "v2.7.1*", "*-aarch64", "v1.5.0-3.0.0-py3.7-x86_64"],
    "skip": ["v2.5*", "*-x86_64", "master"],
}
_OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        name: st.lists(st.one_of(st.sampled_from(values), st.sampled_from(values), _JUNK), min_size=1, max_size=2)
        for name, values in _SENSIBLE.items()
    },
)


@settings(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_OPTIONS)
def test_whatever_is_typed_ends_in_targets_or_in_one_error(matrix: Matrix, options: dict[str, Any]) -> None:
    def ended(select_them: Callable[[], Iterable[Target]]) -> set[str]:
        try:
            return {target.id for target in select_them()}
        except RequestError as error:
            clear = bool(error.hint) and error.message.isprintable() and len(error.message) < 1000
            if not clear:
                raise
            return set()

    listed = ended(lambda: select(matrix, query(**options)))
    # A build takes no more than a listing shows.
    assert ended(lambda: select_for_build(matrix, query(**options)).targets) <= listed

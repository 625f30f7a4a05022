"""Each audited fact, changed alone in the matrix or in what a branch says, is drift that names it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from audit_support import COMMIT, FACTS, LEGACY, LINE, NIGHTLY, PIN, UNKNOWN, seen, small_matrix, write_matrix

from builder.audit import facts, matrix_checks
from builder.audit.branches import Upstream
from builder.audit.command import audited_facts
from builder.audit.drift import Drift, Outcome, shown
from builder.audit.facts import BRANCH_FACTS, Pin, Seen
from builder.audit.matrix_checks import MATRIX_FACTS, Whole
from builder.audit.upstream_wheels import INDEX_FACTS, WHEEL_FACTS
from builder.matrix.loader import Matrix, load_matrix

ROWS, TOOLS, DECISIONS = "pytorch-2.6.yaml", "toolchains.yaml", "decisions.yaml"
HEADS = dict.fromkeys((LINE, NIGHTLY, LEGACY, "ci-test"), COMMIT)
#: Of a legacy branch nothing can be read.
LEGACY_FACTS: dict[str, Any] = {
    "branch": LEGACY, "build_options": None, "pythons": (), "package_version": None, "version_source": None,
    "torch_requirement": {}, "cxx11_abi": {}, "cmake_minimum": None, "honours_max_jobs": False, "finds_ccache": False,
    "redefines_file": False, "ci_images": {}, "op_plugin_branch": None, "op_plugin_commit": None, "submodules": (),
}  # fmt: skip


def says(**values: Any) -> Callable[[Seen], Seen]:
    """A branch of torch_npu that says something else."""
    return lambda seen: replace(seen, facts=replace(seen.facts, **values))


def overlays(**values: Any) -> Callable[[Seen], Seen]:
    """A branch of op-plugin that says something else."""
    return lambda seen: replace(seen, overlay=replace(seen.overlay, **values))  # type: ignore[type-var]


def has(**values: Any) -> Callable[[Seen], Seen]:
    """Something else that was read."""
    return lambda seen: replace(seen, **values)


Change = tuple[str, str, str] | Callable[[Seen], Seen] | dict[str, str | None]
#: By fact: what is changed alone (in a file of the matrix, of a branch, or in the list of branches), and the drift:
#: line, stated, found and, where it is certain, the value that corrects it.
CASES: dict[str, list[tuple[Change, tuple[str, str, str] | tuple[str, str, str, object]]]] = {
    "branch": [
        ({LINE: None}, (LINE, LINE, "there is no such branch")),
        ({UNKNOWN: COMMIT}, (UNKNOWN, "source: unknown", "a branch is known now")),
    ],
    "unlisted": [
        ({"v2.6.0-7.3.0": COMMIT}, ("v2.6.0-7.3.0", "none", "a branch without a row")),
        ((DECISIONS, "branch: ci-*", "branch: cj-*"), ("ci-test", "none", "a branch without a row")),
    ],
    "left_out": [
        ({"ci-test": None}, ("ci-*", "left out", "no branch is called so")),
        ((DECISIONS, "left_out:", f"left_out:\n  - {{branch: {LINE}, reason: x}}"),
         (LINE, "left out", "a release line")),
    ],
    "compiler_cmake": [
        ((TOOLS, 'gcc-toolset-11}\n    cmake_minimum: "3.18"', 'gcc-toolset-11}\n    cmake_minimum: "3.5"'),
         ("gcc-11.2", "3.5", "3.18")),
        ((TOOLS, 'devtoolset-9}\n    cmake_minimum: "3.18"', 'devtoolset-9}\n    cmake_minimum: "3.21"'),
         ("gcc-9.3", "3.21", "3.18")),
    ],
    "legacy": [
        ((ROWS, '"7.1.0"\n    package', '"7.1.0"\n    legacy: "x"\n    package'),
         (LINE, "legacy", "there is a ci/build.sh")),
        (says(build_options=None), (LINE, "can be built", "there is no ci/build.sh")),
    ],
    "build_options": [
        ((ROWS, '["--disable_rpc", ', "["),
         (LINE, "--disable_torchair", "--disable_rpc, --disable_torchair", ["--disable_rpc", "--disable_torchair"])),
        (says(build_options=("--disable_rpc", "--disable_torchair", "--torch")),
         (LINE, "--disable_rpc, --disable_torchair", "--disable_rpc, --disable_torchair, --torch",
          ["--disable_rpc", "--disable_torchair", "--torch"])),
    ],
    "pythons": [
        ((ROWS, 'pythons: ["3.9", "3.10"]', 'pythons: ["3.9"]'), (LINE, "3.9", "3.9, 3.10")),
        (says(pythons=("3.10", "3.12")), (LINE, "3.9, 3.10", "3.10", ["3.10"])),
        (says(pythons=("3.12",)), (LINE, "3.9, 3.10", "none")),
    ],
    "op_plugin": [
        ((ROWS, 'op_plugin: "7.1.0"', 'op_plugin: "7.2.0"'), (LINE, "7.2.0", "7.1.0", "7.1.0")),
        ((ROWS, 'op_plugin: "7.1.0"', "op_plugin: null"), (LINE, "none", "7.1.0", "7.1.0")),
        (says(op_plugin_branch="7.1.1"), (LINE, "7.1.0", "7.1.1", "7.1.1")),
        (has(overlay=None), (LINE, "7.1.0", "op-plugin has no such branch")),
    ],
    "op_plugin_pin": [
        (has(pin=Pin(PIN, known=False)), (LINE, "on 7.1.0", "op-plugin has no commit dddddddddddd")),
        (has(pin=Pin(PIN, known=True, behind=1, ahead=1)),
         (LINE, "on 7.1.0", "dddddddddddd has 1 commit that it lacks")),
    ],
    "overlay": [
        ((ROWS, 'overlay: [op_plugin, "*.sh"]', "overlay: [op_plugin]"),
         (LINE, "op_plugin", "op_plugin, *.sh", ["op_plugin", "*.sh"])),
        (overlays(overlay=("op_plugin", "*.sh", "test")),
         (LINE, "op_plugin, *.sh", "op_plugin, *.sh, test", ["op_plugin", "*.sh", "test"])),
        (overlays(overlay=None), (LINE, "op_plugin, *.sh", "none")),
    ],
    "custom_operators": [
        ((ROWS, "custom_operators: true", "custom_operators: false"), (LINE, "false", "true", True)),
        (overlays(custom_operators=False), (LINE, "true", "false", False)),
    ],
    "package_version": [
        ((ROWS, '"2.6.0.post3"', '"2.6.0.post2"'), (LINE, "2.6.0.post2", "2.6.0.post3", "2.6.0.post3")),
        ((ROWS, '"2.6.0.post3"', '"2.6.0.post4"'), (LINE, "2.6.0.post4", "2.6.0.post3")),
        (says(package_version="2.6.0.post4"), (LINE, "2.6.0.post3", "2.6.0.post4", "2.6.0.post4")),
        (says(package_version="2.6.1"), (LINE, "2.6.0.post3", "2.6.1")),
    ],
    "next_version": [
        ((ROWS, '"2.6.0.post2"]', '"2.6.0.post4"]'),
         (LINE, "2.6.0.post4 is released", "the next build is 2.6.0.post3")),
    ],
    "version_source": [
        ((ROWS, "version_source: version.txt", "version_source: setup.py"),
         (LINE, "setup.py", "version.txt", "version.txt")),
        (says(version_source="setup.py"), (LINE, "version.txt", "setup.py", "setup.py")),
    ],
    "torch_requirement": [
        ((ROWS, '"torch==2.6.0+cpu"', '"torch==2.6.0"'),
         (LINE, "x86_64: torch==2.6.0", "x86_64: torch==2.6.0+cpu",
          {"x86_64": "torch==2.6.0+cpu", "aarch64": "torch==2.6.0"})),
        (says(torch_requirement={"x86_64": "torch==2.6.1+cpu", "aarch64": "torch==2.6.0"}),
         (LINE, "x86_64: torch==2.6.0+cpu", "x86_64: torch==2.6.1+cpu")),
        (says(torch_requirement={}),
         (LINE, "x86_64: torch==2.6.0+cpu; aarch64: torch==2.6.0", "x86_64: none; aarch64: none", {})),
    ],
    "base_image": [
        ((TOOLS, "base_image: images.example/old:1", "base_image: images.example/old:0"),
         (LINE, "x86_64: images.example/old:0", "x86_64: images.example/old:1")),
        (says(ci_images={"x86_64": "images.example/old:1", "aarch64": "images.example/new:2"}),
         (LINE, "aarch64: images.example/new:1", "aarch64: images.example/new:2")),
    ],
    "cxx11_abi": [
        ((TOOLS, "cxx11_abi: 1", "cxx11_abi: 0"), (LINE, "aarch64: 0", "aarch64: 1")),
        (says(cxx11_abi={"x86_64": 1}), (LINE, "x86_64: 0", "x86_64: 1")),
    ],
    "ci_images": [
        ((ROWS, "x86_64: images.example/old:1", "x86_64: images.example/old:0"),
         (LINE, "x86_64: images.example/old:0", "x86_64: images.example/old:1",
          {"x86_64": "images.example/old:1", "aarch64": "images.example/new:1"})),
        (says(ci_images={"x86_64": "images.example/old:1"}),
         (LINE, "aarch64: images.example/new:1", "aarch64: none", {"x86_64": "images.example/old:1"})),
    ],
    "cmake_minimum": [
        ((ROWS, 'cmake_minimum: "3.18"', 'cmake_minimum: "3.5"'), (LINE, "3.5", "3.18", "3.18")),
        (says(cmake_minimum=None), (LINE, "3.18", "none", None)),
    ],
    "honours_max_jobs": [
        ((ROWS, "honours_max_jobs: true", "honours_max_jobs: false"), (LINE, "false", "true", True)),
        (says(honours_max_jobs=False), (LINE, "true", "false", False)),
    ],
    "finds_ccache": [
        ((ROWS, "finds_ccache: true", "finds_ccache: false"), (LINE, "false", "true", True)),
        (says(finds_ccache=False), (LINE, "true", "false", False)),
    ],
    "redefines_file": [
        ((ROWS, "redefines_file: true", "redefines_file: false"), (LINE, "false", "true", True)),
        (says(redefines_file=False), (LINE, "true", "false", False)),
    ],
    "uses_ninja": [
        ((ROWS, "redefines_file: true", "redefines_file: true\n    uses_ninja: true"), (LINE, "true", "false", False)),
        (says(uses_ninja=True), (LINE, "false", "true", True)),
    ],
    "uses_mold": [
        ((ROWS, "redefines_file: true", "redefines_file: true\n    uses_mold: true"), (LINE, "true", "false", False)),
        (says(uses_mold=True), (LINE, "false", "true", True)),
    ],
    "submodules": [
        # A name that no branch has as its own submodule only stands inside others, and is not judged.
        ((ROWS, "required: [nlohmann-json]", "required: [torch_npu]"),
         (LINE, "torch_npu", "no submodule of the branch")),
        (says(submodules=()), (LINE, "nlohmann-json", "no submodule of the branch")),
    ],
    "submodule_urls": [
        (("sources.yaml", "https://code.example/json.git", "https://code.example/js.git"),
         (LINE, "a repository of sources.yaml", "third_party/nlohmann is https://code.example/json.git")),
        (says(submodules=(("third_party/nlohmann", "https://code.example/json.git"), ("x", "https://other.example/x"))),
         (LINE, "a repository of sources.yaml", "x is https://other.example/x")),
    ],
    "readable": [
        (says(unread=("setup.py: not Python: line 3",)), (LINE, "understood", "setup.py: not Python: line 3")),
        (has(missing=("CMakeLists.txt",)), (LINE, "understood", "CMakeLists.txt: there is no such file")),
        (overlays(unread=("ci/build.sh: odd",)), (LINE, "understood", "op-plugin's ci/build.sh: odd")),
    ],
    "accepted": [
        ((DECISIONS, 'found: "true"', 'found: "maybe"'),
         (NIGHTLY, "uses_mold: maybe", "there is no such drift any more")),
        ((DECISIONS, "accepted:", "accepted:\n  - {line: '*', fact: uses_glue, reason: x}"),
         ("*", "uses_glue", "no audited fact is called uses_glue")),
    ],
}  # fmt: skip
#: What else is drift after the same change, because the fact is stated twice.
ALSO = {
    "legacy": {"build_options"},
    "unlisted": {"left_out"},
    "submodules": {"submodule_urls"},
    "op_plugin": {"overlay", "custom_operators"},
    "accepted": {"uses_mold"},
    "base_image": {"ci_images"},
    "ci_images": {"base_image"},
}


def audit(matrix: Matrix, change: Callable[[Seen], Seen] | None = None, heads: dict[str, str] = HEADS) -> Outcome:
    """All that an audit of branches compares, on values."""
    read = {branch: seen(matrix, branch) for branch in (NIGHTLY, LINE) if branch in heads}
    if LEGACY in heads:
        line = matrix.release(LEGACY)
        assert line is not None
        read[LEGACY] = Seen(line, replace(FACTS, **LEGACY_FACTS))
    if change is not None:
        read[LINE] = change(read[LINE])
    # One that is a submodule of another branch.
    read = {branch: replace(one, direct=one.direct | {"torch_npu"}) for branch, one in read.items()}
    outcome = Outcome()
    matrix_checks.compare(Whole(matrix, matrix.releases, Upstream(heads, read), complete=True), outcome)
    for one in read.values():
        facts.compare(matrix, one, outcome)
    matrix_checks.settle(matrix, outcome, audited_facts(), complete=True)
    return outcome


def test_a_matrix_that_agrees_has_no_drift_but_what_is_accepted(tmp_path: Path) -> None:
    outcome = audit(small_matrix(tmp_path))
    assert outcome.open == []
    assert [(drift.line, drift.fact, drift.accepted) for drift in outcome.accepted] == [
        (NIGHTLY, "uses_mold", "switched off by hand")
    ]
    # Nothing was released from the development branch. A legacy branch tells neither Pythons nor a version, an ABI
    # or images, and pins nothing. Then four branches, each of them listed, one left out, two compilers, one decision.
    assert outcome.compared == (len(BRANCH_FACTS) - 1) + len(BRANCH_FACTS) + (len(BRANCH_FACTS) - 6) + 12


@pytest.mark.parametrize(
    ("fact", "change", "expected"),
    [pytest.param(fact, *case, id=f"{fact}-{index}") for fact in CASES for index, case in enumerate(CASES[fact])],
)  # fmt: skip
def test_each_fact_changed_alone_is_drift_of_that_name(
    tmp_path: Path, fact: str, change: Change, expected: tuple[Any, ...]
) -> None:
    if isinstance(change, tuple):
        outcome = audit(small_matrix(tmp_path, *change))
    elif isinstance(change, dict):
        heads = {name: commit for name, commit in {**HEADS, **change}.items() if commit is not None}
        outcome = audit(small_matrix(tmp_path), heads=heads)
    else:
        outcome = audit(small_matrix(tmp_path), change)
    assert fact in {drift.fact for drift in outcome.open}
    assert {drift.fact for drift in outcome.open} <= {fact, *ALSO.get(fact, ())}
    found = [drift for drift in outcome.open if (drift.line, drift.fact) == (expected[0], fact)]
    assert [(drift.stated, drift.found) for drift in found] == [expected[1:3]]
    correction = found[0].correction
    if len(expected) == 3:
        assert correction is None
    else:
        assert correction is not None
        assert (correction.path.name, correction.keys) == (ROWS, ("releases", 1, fact))
        assert correction.value == expected[3]
    assert Path(found[0].place.partition(":")[0]).exists()
    assert found[0].source


def test_every_audited_fact_is_tested() -> None:
    assert set(CASES) == {*BRANCH_FACTS, *MATRIX_FACTS, "accepted"}
    assert set(audited_facts()) == {*CASES, *WHEEL_FACTS, *INDEX_FACTS}


def test_a_place_points_at_the_value_also_under_defaults(tmp_path: Path) -> None:
    (drift,) = audit(small_matrix(tmp_path), says(package_version="2.6.0.post4")).open
    text = (tmp_path / ROWS).read_text().splitlines()
    line, column = map(int, drift.place.removeprefix(f"{tmp_path / ROWS}:").split(":"))
    assert text[line - 1][column - 1 :] == '"2.6.0.post3"'
    assert drift.source == f"setup.py, version.txt of {LINE} at cccccccccccc"
    (drift,) = audit(small_matrix(tmp_path), says(honours_max_jobs=False)).open
    line = int(drift.place.split(":")[-2])
    assert text[line - 1] == "  honours_max_jobs: true"


@pytest.mark.parametrize(
    ("choices", "found"),
    [(("2.7.0", "2.6.0"), []), (("2.7.0", "2.8.0"), ["one of 2.7.0, 2.8.0"]), ((), []), (("odd",), [])],
)
def test_a_version_that_follows_torch_is_one_that_the_branch_lists(
    tmp_path: Path, choices: tuple[str, ...], found: list[str]
) -> None:
    matrix = small_matrix(tmp_path, ROWS, "version_source: version.txt", "version_source: torch")
    change = says(package_version=None, version_source="torch", version_choices=choices)
    outcome = audit(matrix, change)
    assert [drift.found for drift in outcome.open if drift.fact == "package_version"] == found
    assert all(drift.line != LINE or drift.fact == "package_version" for drift in outcome.open)


def test_a_development_branch_may_pin_any_commit_that_op_plugin_has(tmp_path: Path) -> None:
    matrix = small_matrix(tmp_path)
    nightly = seen(matrix, NIGHTLY)
    outcome = Outcome()
    facts.compare(matrix, replace(nightly, pin=Pin(PIN, known=False)), outcome)
    assert {(drift.fact, drift.found) for drift in outcome.drift if drift.fact != "uses_mold"} == {
        ("op_plugin_pin", "op-plugin has no commit dddddddddddd")
    }
    # A release line's pin without its branch's whole history cannot be judged.
    assert audit(matrix, has(pin=Pin(PIN, known=True))).open == []


def test_a_part_of_op_plugins_history_does_not_tell_that_a_commit_is_not_there(tmp_path: Path) -> None:
    assert audit(small_matrix(tmp_path), has(pin=Pin(PIN, known=False, shallow=True))).open == []


@pytest.mark.parametrize(
    "unread",
    [says(unread=("setup.py: not Python: line 3",)), has(missing=("CMakeLists.txt",)), has(missing=("ci/build.sh",)),
     overlays(unread=("ci/build.sh: odd",))],
)  # fmt: skip
def test_nothing_is_certain_of_a_branch_with_a_file_that_is_not_understood(
    tmp_path: Path, unread: Callable[[Seen], Seen]
) -> None:
    matrix = small_matrix(tmp_path)
    change = says(cmake_minimum=None, honours_max_jobs=False, package_version="2.6.0.post4")
    found = {drift.fact: drift.correction for drift in audit(matrix, lambda seen: unread(change(seen))).open}
    expected = {"readable", "cmake_minimum", "honours_max_jobs", "package_version"}
    assert found == dict.fromkeys(expected)
    assert all(drift.correction is not None for drift in audit(matrix, change).open)


def test_a_row_that_states_nothing_of_a_file_does_not_need_it(tmp_path: Path) -> None:
    text = 'cmake_minimum: "3.18"\n  honours_max_jobs: true\n  custom_operators: true\n  finds_ccache: true'
    without = text.replace('"3.18"', "null").replace("finds_ccache: true", "finds_ccache: false")
    matrix = small_matrix(tmp_path, ROWS, text, without)
    dropped = says(cmake_minimum=None, finds_ccache=False)
    branch = audit(matrix, lambda seen: replace(dropped(seen), missing=("CMakeLists.txt",)))
    assert [drift.fact for drift in branch.open if drift.line == LINE] == []
    # Nor does a line that cannot be built.
    outcome = Outcome()
    line = matrix.release(LEGACY)
    assert line is not None
    read = Seen(line, replace(FACTS, **LEGACY_FACTS), missing=("setup.py", "ci/build.sh"))
    facts.compare(matrix, read, outcome)
    assert outcome.drift == []


def test_a_pin_without_a_branch_is_drift_where_the_row_has_no_op_plugin(tmp_path: Path) -> None:
    matrix = small_matrix(tmp_path, ROWS, 'op_plugin: "master"', "op_plugin: null")
    found = [drift.found for drift in audit(matrix).open if drift.fact == "op_plugin"]
    assert found == ["pins dddddddddddd, names no branch"]


def test_upstreams_text_cannot_break_the_table(tmp_path: Path) -> None:
    (drift,) = audit(small_matrix(tmp_path), says(version_source="a\x1b[31m\nb" + "x" * 900)).open
    assert drift.found.startswith("a [31m b")
    assert len(drift.found) == 500


def test_an_audit_of_some_lines_does_not_judge_what_is_absent(tmp_path: Path) -> None:
    write_matrix(tmp_path, DECISIONS, "ci-*", "cj-*")
    matrix = load_matrix(tmp_path)
    line = matrix.release(LINE)
    assert line is not None
    outcome = Outcome()
    matrix_checks.compare(Whole(matrix, [line], Upstream(HEADS, {LINE: seen(matrix)}), complete=False), outcome)
    matrix_checks.settle(matrix, outcome, audited_facts(), complete=False)
    assert outcome.drift == []


def test_accepted_drift_is_for_one_finding_only(tmp_path: Path) -> None:
    entry = "accepted:\n  - {line: 'v2.6.0-*', fact: cmake_minimum, found: '3.20', reason: 'newer'}"
    matrix = small_matrix(tmp_path, DECISIONS, "accepted:", entry)
    assert audit(matrix, says(cmake_minimum="3.20")).open == [
        Drift("gcc-9.3", "compiler_cmake", "3.18", "3.20", _place(matrix, "9.3"), f"CMakeLists.txt of {LINE}"),
        Drift("gcc-11.2", "compiler_cmake", "3.18", "3.20", _place(matrix, "11.2"), f"CMakeLists.txt of {LINE}"),
    ]
    found = {(drift.fact, drift.found) for drift in audit(matrix, says(cmake_minimum="3.21")).open}
    assert ("cmake_minimum", "3.21") in found
    assert ("accepted", "there is no such drift any more") in found


def _place(matrix: Matrix, compiler: str) -> str:
    return matrix.documents["toolchains"].place("compilers", compiler, "cmake_minimum")


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "none"), ((), "none"), ({}, "none"), (True, "true"), (0, "0"), (["3.9", "3.10"], "3.9, 3.10"),
     ({"x86_64": 1, "aarch64": None}, "x86_64: 1; aarch64: none"), ("a\n b", "a b")],
)  # fmt: skip
def test_values_are_shown_on_one_line(value: object, text: str) -> None:
    assert shown(value) == text

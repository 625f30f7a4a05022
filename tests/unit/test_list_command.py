"""What ``list`` and ``explain`` show, as tables, Markdown and JSON."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest
from rich.cells import cell_len
from rich.console import Console
from small_matrix import DAY, small_matrix

from builder.cli import explain_command, list_command
from builder.cli.explain_command import explain_target
from builder.cli.list_command import show_targets
from builder.cli.list_markdown import compatibility_page
from builder.core.errors import RequestError
from builder.core.workspace import resource
from builder.matrix.lifecycle import STATUSES
from builder.matrix.loader import Matrix, load_matrix
from builder.matrix.selection import Query, parse_target_id, select

ALL = Query(channel=("all",))
Show = Callable[..., str]


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    return small_matrix(tmp_path_factory.mktemp("matrix"))


@pytest.fixture(scope="module")
def shipped() -> Matrix:
    return load_matrix(as_of=DAY)


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Show:
    """What a function of the module ``listing`` or ``explain`` prints on a console of this kind."""

    def shown(print_it: Callable[[], None], **console: Any) -> str:
        file = io.TextIOWrapper(io.BytesIO(), encoding=console.pop("encoding", "utf-8"))
        made = Console(file=file, highlight=False, **{"force_terminal": True, "width": 80, **console})
        for module in (list_command, explain_command):
            monkeypatch.setattr(module, "standard_output", lambda: made)
        print_it()
        file.seek(0)
        return file.read()

    return shown


def table(matrix: Matrix, query: Query = ALL) -> Callable[[], None]:
    return lambda: show_targets(matrix, query, form=None)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def row_of(text: str, branch: str) -> str:
    """The row of a release line."""
    [row] = [line for line in text.splitlines() if line.startswith(f"{branch} ")]
    return row


# list


@pytest.mark.parametrize("width", [60, 80, 100, 140, 200])
def test_names_stay_whole_at_every_width(shipped: Matrix, show: Show, width: int) -> None:
    text = plain(show(table(shipped), width=width))
    assert max(map(cell_len, text.splitlines())) <= width
    assert "…" not in text
    words = [line.split() for line in text.splitlines()]
    shown = {line[0] for line in words if line}
    assert {line.branch for line in shipped.releases} <= shown
    if width >= 80:
        for line in shipped.releases:
            [row] = [row for row in words if row and row[0] == line.branch]
            assert row[1] == (line.cann or "-")
            assert any(line.status in cell for cell in row)


def test_a_terminal_too_narrow_for_a_name_breaks_it_rather_than_cutting(matrix: Matrix, show: Show) -> None:
    text = plain(show(table(matrix, Query(pytorch=("v2.7.1-26.0.rc1",))), width=30))
    assert "…" not in text
    assert "v2.7.1-26.0.rc1" in "".join(line.split(" ")[0] for line in text.splitlines())


def test_lines_stand_under_their_pytorch_the_newest_first(matrix: Matrix, show: Show) -> None:
    text = plain(show(table(matrix)))
    heads = re.findall(r"^PyTorch (\S+)", text, flags=re.MULTILINE)
    assert heads == ["2.8.0", "2.7.1", "2.6.0", "2.5.1", "2.1.0", "1.8.1", "1.5.0"]
    section = text[text.index("PyTorch 2.7.1") : text.index("PyTorch 2.6.0")]
    assert [row.split()[0] for row in section.splitlines()[1:]] == [
        "v2.7.1-26.1.0", "v2.7.1-26.0.0", "v2.7.1-26.0.rc1", "v2.7.1",
    ]  # fmt: skip


def test_a_column_for_each_python(matrix: Matrix, show: Show) -> None:
    text = plain(show(table(matrix)))
    above, head = text.splitlines()[:2]
    assert head.index("7 8 9 10 11 12 ") == above.index("Python 3.")
    assert "- - ✓  ✓  ✓  ✓ 9.3/11.2" in row_of(text, "v2.6.0-7.2.0")
    assert "- ✓ ✓  ✓  ✓  - 9.3  " in row_of(text, "v2.1.0-7.1.0")
    narrow = plain(show(table(matrix, Query(pytorch=("2.5",), python=("3.9", "3.11")))))
    assert "9 11 " in narrow.splitlines()[1]
    assert "✓  ✓ " in row_of(narrow, "v2.5.1-7.0.0")


def test_notes_say_what_a_letter_means(matrix: Matrix, show: Show) -> None:
    text = plain(show(table(matrix), width=100))
    notes = dict(re.findall(r"^([a-z]): (.+?) *$", text, flags=re.MULTILINE))
    for branch, says in {
        "v1.5.0-3.0.0": "cannot be built: the branch has no ci/build.sh",
        "v2.7.1-26.1.0": "cannot be built: wheels of it are released",
        "v1.8.1-3.0.0": "no index has a torch wheel for aarch64: bring one with --find-links",
        "v2.6.0-7.10.0": "x86_64 only",
    }.items():
        row = row_of(text, branch).split()
        letters = {cell for cell in row if len(cell) == 1 and cell.isalpha()}
        assert [notes[letter].startswith(says) for letter in letters] == [True]
        assert "✓" not in row
    # Of one architecture alone there is nothing to say about the other.
    assert "only" not in plain(show(table(matrix, Query(arch=("x86_64",)))))


def test_statuses_have_colours_and_refused_lines_are_dim(matrix: Matrix, show: Show) -> None:
    text = show(table(matrix), color_system="standard", width=100)
    for branch, code in (("v2.8.0-26.1.0", "2;34"), ("v2.6.0-7.2.0", "32"), ("v2.5.1-7.1.0", "33"), ("v2.1.0", "31")):
        assert f"\x1b[{code}m" in next(line for line in text.splitlines() if plain(line).startswith(f"{branch} "))
    assert set(list_command._STYLES) == set(STATUSES)


@pytest.mark.parametrize(
    ("width", "says"),
    [
        (80, "maintained to 2027-01"),
        (100, "maintained until 2027-01-25"),
        (140, "since 2026-01-25, end-of-life from 2027"),
    ],
)
def test_status_is_as_long_as_there_is_room(matrix: Matrix, show: Show, width: int, says: str) -> None:
    assert says in row_of(plain(show(table(matrix), width=width)), "v2.6.0-7.2.0")


@pytest.mark.parametrize(
    ("width", "headings"), [(60, None), (80, "gcc"), (100, "gcc, manylinux"), (200, "gcc, manylinux")]
)
def test_the_note_about_architectures_names_columns_that_are_there(
    matrix: Matrix, show: Show, width: int, headings: str | None
) -> None:
    text = plain(show(table(matrix), width=width))
    head = text.splitlines()[1]
    assert [heading for heading in ("gcc", "manylinux") if heading in head] == (
        headings.split(", ") if headings else []
    )
    said = re.findall(r"^(.+): x86_64/aarch64 where they differ *$", text, flags=re.MULTILINE)
    assert said == ([headings] if headings else [])


def test_a_pipe_gets_plain_whole_lines(shipped: Matrix, show: Show) -> None:
    text = show(table(shipped), force_terminal=False, width=200)
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())
    for line in shipped.releases:
        assert line.phase.describe() in row_of(text, line.branch)
        assert line.refusal is None or f"cannot be built: {line.refusal}\n" in text


def test_a_terminal_that_has_only_ascii(matrix: Matrix, show: Show) -> None:
    text = plain(show(table(matrix), encoding="ascii"))
    assert text.isascii()
    assert "- - x  x  x  x 9.3/11.2" in row_of(text, "v2.6.0-7.2.0")


def test_the_last_line_counts(matrix: Matrix, show: Show) -> None:
    assert show(table(matrix), width=100).splitlines()[-1] == "17 release lines, 94 targets, statuses as of 2026-03-01"
    one = show(table(matrix, Query(target=("v2.5.1-7.1.0-py3.9-x86_64",))))
    assert one.splitlines()[-1] == "1 release line, 1 target, statuses as of 2026-03-01"
    hint = "development branches: --channel all"
    assert hint in show(table(matrix, Query()))
    assert hint not in show(table(matrix))


def test_json_describes_each_target(matrix: Matrix, capsys: pytest.CaptureFixture[str]) -> None:
    show_targets(matrix, Query(release=("7.1.0",)), form="json")
    targets = json.loads(capsys.readouterr().out)
    keys = (
        *("id", "release", "branch", "channel", "pytorch", "python", "arch", "cann", "gcc", "manylinux", "base_image"),
        *("op_plugin", "package_version", "cxx11_abi", "status", "status_since", "buildable", "refusal"),
    )
    jsonschema.validate(targets, {"type": "array", "items": {"type": "object", "required": [*keys]}})
    assert [target["id"] for target in targets] == [target.id for target in select(matrix, Query(release=("7.1.0",)))]
    assert {target["arch"] for target in targets} == {"x86_64", "aarch64"}


# Markdown


def test_markdown_is_a_table_of_the_selected_lines(matrix: Matrix, capsys: pytest.CaptureFixture[str]) -> None:
    query = Query(pytorch=("2.6", "1.5"), skip=("*-7.10.0",))
    show_targets(matrix, query, form="markdown")
    page = capsys.readouterr().out
    assert page == compatibility_page(matrix, query, select(matrix, query))
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert {row.count(" | ") for row in rows} == {7}
    life = "maintained since 2026-01-25, end-of-life from 2027-01-25"
    tools = "9.3.1 / 11.2.1 | 2_17 / 2_28"
    assert rows[2:] == [
        f"| `v2.6.0-7.2.0` | 2.6.0 | 8.3.RC1 | 7.2.0 | 3.9, 3.10, 3.11, 3.12 | {tools} | {life} |",
        f"| `v2.6.0-7.1.0` | 2.6.0 | 8.2.RC1 | 7.1.0 | 3.9, 3.10, 3.11 | {tools} | {life} |",
        "| `v1.5.0-3.0.0` | 1.5.0 | 6.0.1 |  | 3.7 | 9.3.1 | 2_17 | end-of-life since 2022-07-29; not built (1) |",
    ]
    assert "1. The branch has no ci/build.sh." in page
    assert "builder list --pytorch=2.6,1.5 '--skip=*-7.10.0' --markdown --as-of=2026-03-01\n" in page


def test_markdown_of_a_line_with_one_architecture(matrix: Matrix) -> None:
    query = Query(pytorch=("v2.6.0-7.10.0",))
    assert "| 9.3.1 (x86_64 only) | 2_17 (x86_64 only) |" in compatibility_page(matrix, query, select(matrix, query))


def test_the_page_of_the_project_is_up_to_date() -> None:
    """Made anew by the command that it names; its date keeps statuses from changing by themselves."""
    page = Path(__file__).parents[2] / "docs" / "compatibility.md"
    text = page.read_text(encoding="utf-8")
    day = re.search(r"builder list --channel=all --markdown --as-of=(\d{4}-\d{2}-\d{2})\n", text)
    assert day is not None
    matrix = load_matrix(as_of=date.fromisoformat(day[1]))
    assert text == compatibility_page(matrix, ALL, select(matrix, ALL))


# explain


def explained(matrix: Matrix, text: str, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    """The facts of ``explain --json`` by their names."""
    capsys.readouterr()
    explain_target(matrix, text, as_json=True)
    facts = json.loads(capsys.readouterr().out)["facts"]
    assert len({fact["name"] for fact in facts}) == len(facts)
    return {fact["name"]: fact for fact in facts}


def test_each_fact_has_its_place_and_source(matrix: Matrix, capsys: pytest.CaptureFixture[str]) -> None:
    facts = explained(matrix, "v2.6.0-7.2.0-py3.9-aarch64", capsys)
    more = f"{'' if os.uname().machine == 'aarch64' else ' --arch aarch64'} --python 3.9=PREFIX"
    for name, value, file, holds, source in (
        ("release line", "v2.6.0-7.2.0", "pytorch-2.6", "branch: v2.6.0-7.2.0", "this row"),
        ("CANN", "8.3.RC1", "pytorch-2.6", 'cann: "8.3.RC1"', "table"),
        ("op-plugin branch", "7.2.0", "pytorch-2.6", "op_plugin: 7.2.0", ".gitmodules of v2.6.0-7.2.0"),
        ("Pythons", ["3.9", "3.10", "3.11", "3.12"], "pytorch-2.6", "pythons: [", "ci/build.sh of v2.6.0-7.2.0"),
        ("toolchain", "new-aarch64", "pytorch-2.6", "aarch64: new-aarch64", "the wheels"),
        ("gcc", "11.2.1", "toolchains", "new-aarch64: {", "B"),
        ("C++ ABI of 2011", 1, "toolchains", "new-aarch64: {", "B"),
        (
            "gcc 11.2 comes from",
            ["manylinux-2-28: gcc-toolset-11", "debian-bookworm: gcc-11 (11.3.0, needs --allow-toolchain-mismatch)"],
            "toolchains",
            '"11.2": {',
            "wheels",
        ),
        (
            "base with it made here",
            f"by docker/bases/debian.sh --suite bookworm --gcc 11{more}",
            "toolchains",
            "manylinux-2-28: {ids",
            "wheels",
        ),
        ("finds ccache", True, "pytorch-2.6", "finds_ccache: true", "CMakeLists.txt of v2.6.0-7.2.0"),
        ("built against", "torch==2.6.0", "torch", '"2.6.0": {', "an index"),
        ("torch's wheels", ["sha256:" + "9" * 64], "torch", '"2.6.0": {', "an index"),
        ("torch_npu from", ["https://git.example.org/torch_npu.git"], "sources", "torch_npu: {", ""),
        ("can be built", True, "pytorch-2.6", "branch: v2.6.0-7.2.0", ""),
        ("accepted drift: ci-images", "img/other:2", "decisions", "v2.6.0-*", "the wheels were made with the other"),
    ):
        fact = facts[name]
        assert (fact["value"], fact["source"]) == (value, source), name
        path, _, line = fact["place"].partition(":")
        assert path == f"{matrix.directory.name}/{file}.yaml"
        assert holds in (matrix.directory.parent / path).read_text().splitlines()[int(line) - 1], name


def test_a_key_that_is_left_out_is_told_from_one_that_is_written(
    matrix: Matrix, capsys: pytest.CaptureFixture[str]
) -> None:
    written, left_out = (explained(matrix, line, capsys)["finds ccache"] for line in ("v2.6.0-7.2.0", "v2.6.0-7.1.0"))
    assert "default" not in written["source"]
    assert left_out["value"] is False
    assert left_out["source"] == "CMakeLists.txt of v2.6.0-7.1.0; not written, so the default"


@pytest.mark.parametrize(
    ("line", "names", "says"),
    [
        ("v2.5.1-7.1.0", "contradiction: cann", "it is for CANN 8.2.RC1 (against notes.txt: 8.3.RC1)"),
        ("v2.1.0-6.0.0", "contradiction: pythons", "3.8 and later (against notes.txt: 3.7)"),
        ("v2.6.0-7.1.0", "accepted drift: ci-images", "img/other:2"),
    ],
)
def test_decisions_about_the_line(
    matrix: Matrix, capsys: pytest.CaptureFixture[str], line: str, names: str, says: str
) -> None:
    facts = explained(matrix, line, capsys)
    assert [fact["name"] for fact in facts.values() if fact["group"] == "decisions"] == [names]
    assert facts[names]["value"] == says


def test_the_days_that_decide(matrix: Matrix, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    earlier = small_matrix(tmp_path, date(2025, 6, 1))
    lines = (earlier.directory / "lifecycle.yaml").read_text().splitlines()
    for branch, starts in (("v2.1.0-7.1.0", '"2.1.0":'), ("v2.1.0-6.0.0", '"6.0.0":')):
        fact = explained(earlier, branch, capsys)["status on 2025-06-01"]
        assert lines[int(fact["place"].rpartition(":")[2]) - 1].strip().startswith(starts)
    assert explained(earlier, "v2.1.0-6.0.0", capsys)["rule"]["value"] == "half a year"


def test_a_line_that_cannot_be_built_says_why(matrix: Matrix, capsys: pytest.CaptureFixture[str]) -> None:
    facts = explained(matrix, "v1.5.0-3.0.0", capsys)
    assert facts["can be built"]["value"] == "no: the branch has no ci/build.sh"
    assert facts["can be built"]["source"] == "the branch"
    assert facts["torch's wheels"]["value"] == ["on no index: --find-links"]
    # Without op-plugin there is nothing of it to tell.
    assert "laid over" not in facts
    assert "op-plugin from" not in facts


@pytest.mark.parametrize("branch", ["v1.5.0-3.0.0", "v2.7.1-26.1.0"])
def test_nothing_is_made_up_about_building_a_line_that_cannot_be_built(
    matrix: Matrix, capsys: pytest.CaptureFixture[str], branch: str
) -> None:
    facts = explained(matrix, branch, capsys)
    assert {fact["group"] for fact in facts.values()} <= {
        *("identity", "toolchain", "Python and PyTorch", "lifecycle", "decisions"),
    }
    assert {"package version", "Pythons", "toolchain", "torch's wheels"} <= set(facts)
    assert not any("beside Python" in name for name in facts)
    assert not any(fact["source"].endswith(f" of {branch}") for fact in facts.values())


def test_what_is_stated_about_a_line_that_cannot_be_built_is_shown(
    shipped: Matrix, capsys: pytest.CaptureFixture[str]
) -> None:
    [*unknown] = [line for line in shipped.releases if line.source == "unknown"]
    assert unknown
    for line in unknown:
        facts = explained(shipped, line.branch, capsys)
        assert facts["wheel requires"]["source"].startswith(line.sources["torch_requirement"])
        assert "op-plugin branch" not in facts
        assert "ci/build.sh options" not in facts


def test_each_pin_has_its_own_place(shipped: Matrix, capsys: pytest.CaptureFixture[str]) -> None:
    facts = explained(shipped, "v2.5.1-7.1.0-py3.11-aarch64", capsys)
    lines = (shipped.directory / "pytorch-2.5.yaml").read_text().splitlines()
    for project, value, starts in (
        ("numpy", "numpy==1.23.2", '"3.11": ['),
        ("wheel", "wheel==0.41.2", "requirements: ["),
    ):
        fact = facts[f"{project} beside Python 3.11"]
        assert fact["value"] == value
        assert lines[int(fact["place"].rpartition(":")[2]) - 1].strip().startswith(starts)


def test_a_source_is_said_each_time(matrix: Matrix, show: Show) -> None:
    text = show(lambda: explain_target(matrix, "v2.6.0-7.2.0", as_json=False), force_terminal=False, width=200)
    target = parse_target_id(matrix, "v2.6.0-7.2.0-py3.12-x86_64")
    facts = [fact for fact in explain_command.facts_of(matrix, target) if fact.source == "A"]
    assert len(facts) > 2
    assert text.count(": A\n") == len(facts)


def test_of_a_line_one_of_its_targets_is_shown(matrix: Matrix, show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    note = "one of the 8 targets of v2.6.0-7.2.0; the others may differ, name one by its id"
    for text, said in (("v2.6.0-7.2.0", True), ("v2.6.0-7.2.0-py3.12-x86_64", False)):
        shown = plain(show(lambda text=text: explain_target(matrix, text, as_json=False), width=140)).splitlines()
        assert shown[0] == "v2.6.0-7.2.0-py3.12-x86_64"
        assert (shown[1] == note) is said


def test_a_line_means_its_newest_python_on_this_machine(
    matrix: Matrix, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for machine, text, target in (
        ("aarch64", "2.6.0-7.2.0", "v2.6.0-7.2.0-py3.12-aarch64"),
        ("x86_64", "2.5", "v2.5.1-7.1.0-py3.11-x86_64"),
        ("aarch64", "v2.6.0-7.10.0", "v2.6.0-7.10.0-py3.11-x86_64"),
        ("riscv64", "master", "master-py3.12-x86_64"),
        ("x86_64", "2.8", "v2.8.0-26.1.0-py3.12-x86_64"),
    ):
        monkeypatch.setattr("platform.machine", lambda machine=machine: machine)
        explain_target(matrix, text, as_json=True)
        assert json.loads(capsys.readouterr().out)["id"] == target


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("v2.5.1-7.1.9", "TARGET: the matrix has no release line 'v2.5.1-7.1.9'"),
        ("v2.5.1-7.1.0-py3.8-x86_64", "no target is called 'v2.5.1-7.1.0-py3.8-x86_64'"),
        ("../etc", "TARGET: '../etc' cannot be the name of a release line"),
    ],
)
def test_what_cannot_be_explained(matrix: Matrix, text: str, says: str) -> None:
    with pytest.raises(RequestError) as caught:
        explain_target(matrix, text, as_json=False)
    assert caught.value.message == says
    assert caught.value.hint


@pytest.mark.parametrize("width", [60, 80, 140])
def test_explain_fits_a_terminal(shipped: Matrix, show: Show, width: int) -> None:
    text = plain(show(lambda: explain_target(shipped, "v2.5.1-7.1.0-py3.9-aarch64", as_json=False), width=width))
    assert max(map(cell_len, text.splitlines())) <= width
    assert "…" not in text
    squeezed = re.sub(r"\s+", "", text)
    line = shipped.release("v2.5.1-7.1.0")
    assert line is not None
    for value in (line.package_version, line.toolchains["aarch64"].base_image, line.phase.describe()):
        assert value.replace(" ", "") in squeezed


def test_explain_in_a_pipe_has_one_line_for_each_value_and_each_place(shipped: Matrix, show: Show) -> None:
    target = "v2.5.1-7.1.0-py3.9-aarch64"
    text = show(lambda: explain_target(shipped, target, as_json=False), force_terminal=False, width=200)
    assert "\x1b" not in text
    facts = list(explain_command.facts_of(shipped, parse_target_id(shipped, target)))
    lines = text.splitlines()
    for fact in facts:
        assert lines[lines.index(f"  {fact.name}: {fact.text}") + 1].startswith(f"    {fact.place}")


def test_every_line_of_the_shipped_matrix_can_be_explained(shipped: Matrix) -> None:
    for target in {target.release.branch: target for target in shipped.targets()}.values():
        facts = list(explain_command.facts_of(shipped, target))
        assert all(re.fullmatch(r"[\w/.-]+\.yaml:\d+", fact.place) for fact in facts)
        assert all(Path(resource("matrices").parent, fact.place.partition(":")[0]).is_file() for fact in facts)


def test_every_fact_of_a_row_is_explained() -> None:
    from builder.matrix.model import ReleaseLine

    explained_keys = {key for group in explain_command._ROW_FACTS.values() for key in group}
    otherwise = {"source", "legacy", "submodules", "requirements", "requirements_by_python", "environment", "sources"}
    assert explained_keys | otherwise | {"compilers", "torch", "phase"} == set(ReleaseLine.model_fields)


Form = Literal["json", "markdown"] | None


@pytest.mark.parametrize("form", [None, "json", "markdown"])
def test_an_empty_selection_prints_nothing(matrix: Matrix, capsys: pytest.CaptureFixture[str], form: Form) -> None:
    with pytest.raises(RequestError, match="leaves none of the 12 targets"):
        show_targets(matrix, Query(pytorch=("2.5",), status=("maintained",)), form=form)
    assert capsys.readouterr().out == ""

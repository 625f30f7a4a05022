"""summary.md and junit.xml: whatever names, reasons and logs hold, both stay whole and say it as it is."""

from __future__ import annotations

import html
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from support import examples

from builder.core.errors import BuilderError, FailureKind, MachineError, RequestError, TargetError
from builder.core.results import Run, TargetResult
from builder.core.statistics import CacheUse
from builder.executors import reports
from builder.executors.reports import junit_xml, markdown_summary, write_summaries

NASTY = [
    "a|b|c",
    "`code` ``two`` ```three```",
    "<script>alert(1)</script>",
    "</details><b>",
    "*bold* _under_ __init__ ~~gone~~ torch_npu",
    "[link](https://example.com) ![x](y)",
    "&amp; &#124; \\| \\",
    "line\nfeed\r\nand\rmore\u2028end",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07\x00\x08\x9b2J",
    "\ufffe\uffff\udc80",
    "]]> <!-- -->",
    "$x^2$ 名前 e\u0301 😀",
    "",
]
SAME = [text for text in NASTY if not re.search(r"[\x00-\x1f\x80-\x9f\u2028\ufffe\uffff\udc80]", text)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "runs")


def built(run: Run, identity: str = "v2.5.1-7.1.0-py3.9-x86_64") -> TargetResult:
    result = run.target(identity)
    with result.phase("compile") as phase:
        pass
    phase.seconds = 3725.0
    result.status, result.reason = "built", "built from source"
    result.files_compiled, result.cache = 983, CacheUse(hits=900, misses=100)
    result.wheel = Path("dist/torch_npu-2.5.1.post3-cp39-cp39-manylinux_2_17_x86_64.whl")
    return result


def failed(run: Run, identity: str, message: str = "x.cpp:7:3: error: y", log: str | None = None) -> TargetResult:
    result = run.target(identity)
    if log is not None:
        result.log.write_text(log, encoding="utf-8", errors="surrogateescape")
    result.fail(TargetError(message, kind=FailureKind.COMPILE, details="the details", phase="compile"))
    return result


def cells(summary: str) -> list[list[str]]:
    """The table's rows as a person sees them, by a parser of CommonMark with GitHub's tables."""
    rendered = MarkdownIt("commonmark").enable("table").enable("strikethrough").render(summary)
    table = rendered[rendered.index("<tbody>") : rendered.index("</tbody>")] if "<tbody>" in rendered else ""
    rows = re.findall(r"<tr>(.*?)</tr>", table, flags=re.DOTALL)
    return [[html.unescape(cell) for cell in re.findall(r"<td.*?>(.*?)</td>", row, flags=re.DOTALL)] for row in rows]


def parsed(text: str) -> ElementTree.Element:
    """The file as CI systems read it."""
    return ElementTree.fromstring(text.encode())  # noqa: S314  (written by the code under test)


def test_table_of_targets(run: Run) -> None:
    built(run)
    run.target("skipped-one").skip("the same wheel stands")
    failed(run, "failed-one")
    first, second, third = cells(markdown_summary(run))
    assert first == [
        "v2.5.1-7.1.0-py3.9-x86_64",
        "built",
        "1:02:05",
        "983",
        "900 (90%)",
        "torch_npu-2.5.1.post3-cp39-cp39-manylinux_2_17_x86_64.whl",
        "built from source",
    ]
    assert second == ["skipped-one", "skipped", "0:00", "", "", "", "the same wheel stands"]
    assert third[:3] == ["failed-one", "<strong>failed</strong>", "0:00"]
    assert "1 built, 1 failed, 1 skipped in 0:00" in markdown_summary(run)


def test_interrupted_is_called_so(run: Run) -> None:
    run.target("x").fail(TargetError("interrupted", kind=FailureKind.INTERRUPTED))
    assert cells(markdown_summary(run))[0][1] == "<strong>interrupted</strong>"


def test_empty_run(run: Run) -> None:
    assert cells(markdown_summary(run)) == []
    assert "No targets" in markdown_summary(run)
    assert parsed(junit_xml(run)).get("tests") == "0"


@pytest.mark.parametrize("text", SAME)
def test_nasty_text_is_shown_as_it_is(run: Run, text: str) -> None:
    run.target(text).skip(text)
    shown = " ".join(text.split())
    (row,) = cells(markdown_summary(run))
    assert (row[0], row[6]) == (shown, shown)


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.one_of(st.text(st.characters()), st.sampled_from(NASTY), st.text("|`<>*_\\&~[]()!\n\r\x1b x", max_size=30))
)
def test_any_text_keeps_markdown_and_xml_whole(tmp_path: Path, text: str) -> None:
    run = Run(tmp_path)
    result = run.target("before")
    result.id = text
    result.skip(text)
    run.target("second").fail(TargetError(text, kind=FailureKind.COMPILE, details=text, phase=text))
    built(run, "third")
    summary = markdown_summary(run)
    rows = cells(summary)
    assert [len(row) for row in rows] == [7, 7, 7]
    assert rows[2][0] == "third"
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", summary)
    rendered = MarkdownIt("commonmark").enable("table").render(summary)
    assert rendered.count("<details>") == rendered.count("</details>") == 1
    assert rendered.rstrip().endswith("</details>")
    summary.encode()
    suite = parsed(junit_xml(run))[0]
    assert [case.tag for case in suite] == ["testcase"] * 3


def test_failures_show_the_end_of_their_log(run: Run) -> None:
    log = "".join(f"line {number}\n" for number in range(100)) + "```\n\x1b[1;31mThe End\x1b[0m\n"
    failed(run, "broken", log=log)
    summary = markdown_summary(run)
    rendered = MarkdownIt("commonmark").enable("table").render(summary)
    assert "<summary>broken: compile in compile</summary>" in rendered
    (code,) = re.findall(r"<pre><code.*?>(.*?)</code></pre>", rendered, flags=re.DOTALL)
    lines = html.unescape(code).splitlines()
    assert lines[0] == "x.cpp:7:3: error: y"
    assert lines[-3:] == ["line 99", "```", "The End"]
    assert len([line for line in lines if line.startswith("line ")]) == reports.LOG_LINES - 2
    assert FailureKind.COMPILE.advice in html.unescape(rendered)


def test_without_a_log_the_error_speaks(run: Run) -> None:
    failed(run, "broken")
    assert "the details" in markdown_summary(run)
    assert "last lines of" not in markdown_summary(run)


def test_a_log_of_gigabytes_is_not_read_whole(run: Run) -> None:
    result = failed(run, "broken", log="")
    with open(result.log, "r+b") as log:
        log.truncate(1 << 33)  # sparse
        log.seek(0, 2)
        log.write(b"\nthe last line\n")
    assert "the last line" in markdown_summary(run)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TargetError("x", kind=FailureKind.OUT_OF_MEMORY), "out-of-memory"),
        (RequestError("x"), "request"),
        (MachineError("x"), "machine"),
    ],
)
def test_kinds_are_those_of_the_result_file(run: Run, error: BuilderError, kind: str) -> None:
    result = run.target("x")
    result.fail(error)
    (failure,) = parsed(junit_xml(run)).iter("failure")
    assert failure.get("type") == kind == result.to_json()["failure"]["kind"]


def test_junit_has_the_shape_that_ci_systems_read(run: Run) -> None:
    """The attributes and elements that GitLab, Jenkins and GitHub's report actions agree on, in their order."""
    built(run)
    run.target("skipped-one").skip("not asked for")
    failed(run, "failed-one", log="some\nlog\n")
    text = junit_xml(run)
    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>')
    root = parsed(text)
    (suite,) = root
    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    for element in (root, suite):
        totals = {name: element.get(name) for name in ("tests", "failures", "errors", "skipped", "time")}
        assert totals == {"tests": "3", "failures": "1", "errors": "0", "skipped": "1", "time": "3725.000"}
    assert suite.get("timestamp") == run.started.isoformat(timespec="seconds")
    assert suite.get("name") == run.id
    cases = list(suite)
    assert [case.get("name") for case in cases] == ["v2.5.1-7.1.0-py3.9-x86_64", "skipped-one", "failed-one"]
    for case in cases:
        assert set(case.attrib) == {"classname", "name", "time"}
        assert float(case.get("time") or "x") >= 0
    assert [[child.tag for child in case] for case in cases] == [["system-out"], ["skipped"], ["failure"]]
    failure = cases[2][0]
    assert failure.get("message") == "x.cpp:7:3: error: y"
    assert (failure.text or "").splitlines()[-2:] == ["some", "log"]
    assert cases[1][0].get("message") == "not asked for"


@pytest.mark.parametrize("text", SAME)
def test_nasty_text_survives_xml(run: Run, text: str) -> None:
    run.target(text).skip(text)
    (case,) = parsed(junit_xml(run)).iter("testcase")
    assert (case.get("name"), case[0].get("message")) == (text, text)


def test_control_characters_are_gone_from_xml(run: Run) -> None:
    run.target("a\x00b\x1b[31mc\ufffed\x9fe").skip("")
    (case,) = parsed(junit_xml(run)).iter("testcase")
    assert case.get("name") == "abcde"


def test_files_are_written_whole(run: Run) -> None:
    built(run)
    paths = write_summaries(run, run.folder, {})
    assert paths == (run.folder / "summary.md", run.folder / "junit.xml")
    assert paths[0].read_text() == markdown_summary(run)
    assert len(parsed(paths[1].read_text())[0]) == 1
    assert sorted(file.name for file in run.folder.iterdir()) == ["junit.xml", "summary.md"]


def test_step_summary_is_appended_to(run: Run, tmp_path: Path) -> None:
    built(run)
    step = tmp_path / "step"
    step.write_text("# what came before, its line not ended")
    write_summaries(run, run.folder, {"GITHUB_STEP_SUMMARY": str(step)})
    before, after = step.read_text().split("\n\n", 1)
    assert before == "# what came before, its line not ended"
    assert after.startswith(f"## Run {run.id}\n")
    assert cells(after)[0][1] == "built"


@pytest.mark.parametrize("taken", [0, 1000, (1 << 20) - 5000, (1 << 20) - 100, 1 << 20, 2 << 20])
def test_step_summary_keeps_within_what_github_takes(run: Run, tmp_path: Path, taken: int) -> None:
    for number in range(300):
        failed(run, f"target-{number}", log=("y" * 390 + "\n") * 40)
    assert len(markdown_summary(run)) > reports.STEP_SUMMARY_BYTES
    step = tmp_path / "step"
    step.write_bytes(b"x" * taken)
    write_summaries(run, run.folder, {"GITHUB_STEP_SUMMARY": str(step)})
    content = step.read_bytes()
    assert len(content) <= max(taken, reports.STEP_SUMMARY_BYTES)
    added = content[taken:].decode()
    if taken < 1 << 19:
        assert "target-299" in added, "the table is whole, logs are shorter"
        assert added.rstrip().endswith("</details>")
    elif taken < (1 << 20) - 1000:
        assert len(cells(added)) > 20
        assert "summary.md" in added, "it says that it was cut, and where the rest is"


def test_step_summary_that_cannot_be_written_is_told_after_the_files(run: Run, tmp_path: Path) -> None:
    built(run)
    with pytest.raises(OSError, match="No such file"):
        write_summaries(run, run.folder, {"GITHUB_STEP_SUMMARY": str(tmp_path / "no" / "step")})
    assert (run.folder / "junit.xml").exists()


def test_what_compilers_warn_of_is_a_line_of_the_summary(run: Run) -> None:
    built(run)
    assert "warned" not in markdown_summary(run)
    kinds = {f"kind-{number}": 1 for number in range(8)}
    built(run).compiler_warnings = {"sign-compare": 3, "deprecated-declarations": 67, **kinds}
    (line,) = (line for line in markdown_summary(run).splitlines() if line.startswith("- "))
    assert line.endswith(
        ": 67 deprecated-declarations, 3 sign-compare, 1 kind-0, 1 kind-1, 1 kind-2, 1 kind-3, 4 of other kinds"
    )

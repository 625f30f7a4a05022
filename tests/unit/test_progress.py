"""Events, what they add up to, and how each sink shows them: times are given, no clock is waited for."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from support import examples

from builder.progress.jsonlines import JSON_INTERVAL, JsonLines
from builder.progress.lines import HEARTBEAT, PLAIN_INTERVAL, GitHub, GitLab, Groups, Lines
from builder.progress.screen import picture
from builder.progress.state import Event, Sink, State, clean, clock, one_line, short

NASTY = [
    "plain",
    "two\nlines\r\nand\rmore",
    "\x1b[2J\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "\x1bM\x1b7\x1b(0\x9b1A\x00\x08",
    "[bold]no markup[/bold] [/]",
    "::stop-commands::x",
    "  ::set-output name=x::y",
    "##[add-mask]x and ##[group]",
    "a%0Ab %25 :: ,:",
    "\udc80 \ufffe 名前 e\u0301 😀",
    "section_start:1:x\r\x1b[0Kno section",
    "",
]
TEXTS = st.one_of(st.sampled_from(NASTY), st.text(st.characters()), st.text(":#[]%\n\r\x1b ab0m", max_size=20))


class Play:
    """Feeds a sink as the reporter does, at times of the test's choosing (``at``, seconds)."""

    def __init__(self, sink: Sink | None = None) -> None:
        self.sink = sink
        self.state = State()
        self.at = 1000.0

    def __call__(self, name: str, target: str | None = None, **fields: Any) -> None:
        event = Event(name, target, self.at, datetime(2026, 11, 21, 9, 30, 5, 123456, timezone.utc), fields)
        self.state.apply(event)
        if self.sink is not None:
            self.sink.handle(event, self.state)

    def run(self, *targets: str, estimates: Mapping[str, float] | None = None, parallel: int = 1) -> None:
        self("run-started", run="r1", targets=list(targets), estimates=estimates, parallel=parallel)

    def compile(self, target: str, percent: float, **fields: Any) -> None:
        self("progress", target, percent=percent, **fields)


def console(**settings: Any) -> Console:
    return Console(file=io.StringIO(), width=200, **settings)


def text(sink: Lines) -> str:
    stream = sink.console.file
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()


# State


def test_times_as_people_read_them() -> None:
    assert [clock(seconds) for seconds in (-1, 0, 59.6, 61, 3599.4, 35999, 36061)] == [
        "0:00", "0:00", "1:00", "1:01", "59:59", "9:59:59", "10h01m",
    ]  # fmt: skip


def test_the_target_is_said_once() -> None:
    assert short("v2-py3.9: stands", "v2-py3.9") == "stands"
    assert short("v2-py3.9 compile", "v2-py3.9") == "compile"
    assert short("v2-py3.9", "v2-py3.9") == "v2-py3.9"
    assert short("v2-py3.9x: other", "v2-py3.9") == "v2-py3.9x: other"
    assert short("v2: stands", None) == "v2: stands"


@given(TEXTS)
def test_clean_text_moves_no_cursor_and_can_be_encoded(value: str) -> None:
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", clean(value))
    assert not re.search(r"\s[\s]|[\n\t]", one_line(value))
    clean(value).encode()


def test_estimate_counts_down_and_gives_way_to_the_pace_of_the_compile() -> None:
    play = Play()
    play.run("a", estimates={"a": 1000.0})
    play("target-started", "a")
    a = play.state.targets["a"]
    play.at += 100
    assert a.left(play.at) == 900.0
    play("phase-started", "a", phase="compile")
    for percent in range(0, 51, 5):  # 2 percent a second: 100 seconds in all
        play.compile("a", percent)
        play.at += 2.5
    left = a.left(play.at)
    assert left is not None
    # Half by the estimate (872.5), half by the pace (22.5).
    assert left == pytest.approx(0.5 * 872.5 + 0.5 * 22.5)


def test_pace_alone_tells_the_rest_where_nothing_is_estimated() -> None:
    play = Play()
    play.run("a")
    play("target-started", "a")
    play("phase-started", "a", phase="compile")
    a = play.state.targets["a"]
    play.compile("a", 0.0)
    assert a.left(play.at) is None
    play.at += 30
    play.compile("a", 25.0)
    assert a.left(play.at) == pytest.approx(90.0)
    play.at += 10
    assert a.left(play.at) == pytest.approx(80.0), "it counts down between two reports"
    play.compile("a", 3.0)
    assert a.left(play.at) is None, "a compile that begins again has a new pace"


def test_percent_of_a_fetch_says_nothing_about_the_end() -> None:
    play = Play()
    play.run("a")
    play("phase-started", "a", phase="prepare")
    play("task-started", "a", task=1, description="fetching", total=100)
    for done in range(0, 100, 10):
        play("progress", "a", task=1, completed=done)
        play.at += 1
    assert play.state.targets["a"].percent == 90.0
    assert play.state.targets["a"].left(play.at) is None


def test_an_overdue_target_promises_nothing() -> None:
    play = Play()
    play.run("a", estimates={"a": 10.0})
    play("target-started", "a")
    play.at += 11
    assert play.state.targets["a"].left(play.at) is None
    assert play.state.eta(play.at) == 0.0


def test_eta_of_a_run_fills_free_places_in_order() -> None:
    play = Play()
    estimates = {"a": 100.0, "b": 60.0, "c": 50.0, "d": 30.0}
    play.run(*estimates, estimates=estimates, parallel=2)
    # a 0-100, b 0-60, c 60-110, d 100-130
    assert play.state.eta(play.at) == 130.0
    play("target-started", "a")
    play("target-started", "b")
    play.at += 60
    play("target-finished", "b", status="built", seconds=60.0, reason="")
    assert play.state.eta(play.at) == 70.0
    play("target-finished", "a", status="failed", seconds=60.0, reason="")
    assert play.state.eta(play.at) == 50.0


def test_eta_of_unknown_targets_is_that_of_those_built_and_none_before() -> None:
    play = Play()
    play.run("a", "b", "c")
    assert play.state.eta(play.at) is None
    play("target-started", "a")
    play.at += 40
    play("target-finished", "a", status="built", seconds=40.0, reason="")
    assert play.state.eta(play.at) == 80.0
    play("target-started", "b")
    play("target-finished", "b", status="skipped", seconds=0.0, reason="")
    assert play.state.eta(play.at) == 40.0, "what was skipped says nothing about the others"


def test_counts_of_outcomes() -> None:
    play = Play()
    play.run("a", "b", "c", "d")
    for target, status in (("a", "built"), ("b", "failed"), ("c", "skipped")):
        play("target-finished", target, status=status, seconds=0.0, reason="")
    assert play.state.counts == {
        "built": 1,
        "rehearsed": 0,
        "pulled": 0,
        "skipped": 1,
        "failed": 1,
        "interrupted": 0,
        "left": 1,
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -5.0, 250.0])
def test_numbers_that_cannot_be_are_kept_out(value: float) -> None:
    play = Play()
    play.run("a", estimates={"a": value if value != 250.0 else float("nan")})
    play("phase-started", "a", phase="compile")
    play("task-started", "a", task=1, description="x", total=value)
    play("progress", "a", task=1, completed=value)
    play.compile("a", value)
    percent = play.state.targets["a"].percent
    assert percent is None or 0.0 <= percent <= 100.0


# Lines


def test_lines_of_one_target_are_as_they_were() -> None:
    sink = Lines(console(), stamped=False)
    play = Play(sink)
    play("task-started", task=1, description="fetching op-plugin", total=100)
    for _ in range(31):
        play("progress", task=1, completed=42, detail="objects")
        play.at += 1
    play("task-finished", task=1)
    assert text(sink).splitlines() == ["fetching op-plugin"] + ["fetching op-plugin 42% objects"] * 2


def test_lines_of_several_targets_say_which_and_when() -> None:
    sink = Lines(console(), stamped=True)
    play = Play(sink)
    play.run("a", "b", parallel=2, estimates={"a": 700.0})
    play("target-started", "a")
    play("message", "a", text="a: the tree stands")
    play("phase-started", "a", phase="compile")
    play("task-started", "a", task=1, description="a compile", total=100)
    play("warning", "b", text="careful\nsecond line")
    play("error", "b", text="broken", details="x\ny", hint="try again", kind=None)
    play("message", text="for all")
    play("target-finished", "a", status="built", seconds=3605.0, reason="built from source")
    play("target-finished", "b", status="skipped", seconds=0.0, reason="nothing changed")
    play("run-finished", seconds=3700.0, exit_code=0)
    lines = text(sink).splitlines()
    assert all(re.match(r"\d\d:\d\d:05 ", line) for line in lines)
    assert [line[9:] for line in lines] == [
        "a: the tree stands",
        "a: compile",
        "b: warning: careful",
        "b: second line",
        "b: error: broken",
        "b:   | x",
        "b:   | y",
        "b: next step: try again",
        "for all",
        "a: built in 1:00:05",
        "b: skipped: nothing changed",
        "run r1: 1 built, 1 skipped in 1:01:40",
    ]


def test_one_progress_line_a_target_in_a_while() -> None:
    sink = Lines(console(), stamped=False)
    play = Play(sink)
    play.run("a", "b", parallel=2)
    for target in ("a", "b"):
        play("target-started", target)
        play("phase-started", target, phase="compile")
    for step in range(61):
        for target in ("a", "b"):
            play.compile(target, step, files=step * 9, total_files=983, hits=step, detail="X.cpp")
        play.at += 1
    shown = [line for line in text(sink).splitlines() if "%" in line]
    assert len([line for line in shown if line.startswith("a: ")]) == 60 // PLAIN_INTERVAL
    assert shown[0] == "a: compile 15%, 135/983 files, 15 cache hits, 0:15, ETA 1:25, X.cpp"


@given(st.lists(TEXTS, min_size=1, max_size=5), TEXTS.filter(bool))
@example(NASTY, "[a")
@settings(max_examples=examples(60), deadline=None)
def test_every_printed_line_begins_with_its_time_and_target(values: list[str], name: str) -> None:
    sink = Lines(console(), stamped=True)
    play = Play(sink)
    play.run(name, "other")
    for value in values:
        play("message", name, text=value)
        play("warning", name, text=value)
        play("error", name, text=value, details=value, hint=value, kind=None)
        play("task-started", name, task=1, description=value, total=None)
    prefix = re.escape(f"{one_line(name)}: ".rstrip())
    for line in text(sink).split("\n")[:-1]:
        assert re.match(rf"\d\d:\d\d:05 {prefix}", line), repr(line)
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", line)


# CI


def play_github(**settings: Any) -> tuple[GitHub, Play]:
    sink = GitHub(console())
    play = Play(sink)
    play.run("a", "b", **settings)
    return sink, play


def test_one_target_at_a_time_has_its_group_open_while_it_works() -> None:
    sink, play = play_github()
    for target in ("a", "b"):
        play("target-started", target)
        play("message", target, text="working")
        assert text(sink).splitlines()[-1].endswith(" working"), "it is there at once"
        play("target-finished", target, status="built", seconds=1.0, reason="")
    assert [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in text(sink).splitlines()] == [
        "::group::a", "working", "built in 0:01", "::endgroup::",
        "::group::b", "working", "built in 0:01", "::endgroup::",
    ]  # fmt: skip


def test_groups_of_targets_at_once_come_whole_at_their_end() -> None:
    sink, play = play_github(parallel=2)
    for target in ("a", "b"):
        play("target-started", target)
    for step in range(3):
        for target in ("a", "b"):
            play("message", target, text=f"{target}{step}")
    assert text(sink) == ""
    play("target-finished", "b", status="built", seconds=1.0, reason="")
    play("run-finished", seconds=2.0, exit_code=130)
    assert [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in text(sink).splitlines()] == [
        "::group::b", "b0", "b1", "b2", "built in 0:01", "::endgroup::",
        "::group::a", "a0", "a1", "a2", "::endgroup::",
        "run r1: 1 built, 1 left in 0:02",
    ]  # fmt: skip


def test_what_an_earlier_attempt_said_is_kept() -> None:
    sink, play = play_github(parallel=2)
    for attempt in ("first", "second"):
        play("target-started", "a")
        play("message", "a", text=attempt)
    play("target-finished", "a", status="built", seconds=1.0, reason="")
    assert re.findall("first|second", text(sink)) == ["first", "second"]


def test_errors_stand_outside_of_groups() -> None:
    sink, play = play_github(parallel=2)
    play("target-started", "a")
    play("target-started", "b")
    play("message", "a", text="before")
    play("message", "b", text="of another")
    play("error", "a", text="broken: 5%\nmore", details="detail", hint="hint", kind="compile")
    lines = text(sink).splitlines()
    assert lines[0] == "::group::a"
    assert lines[2:4] == ["::endgroup::", "::error title=a::broken: 5%25"]
    assert "of another" not in text(sink), "the group of the other target is not cut in two"


def test_warnings_are_annotations_and_long_silence_is_broken() -> None:
    sink, play = play_github(parallel=2)
    play("warning", text="100%: a, b")
    assert text(sink) == "::warning::100%25: a, b\n"
    play("target-started", "a")
    play("phase-started", "a", phase="compile")
    play.at += HEARTBEAT - 1
    play.compile("a", 40.0)
    assert len(text(sink).splitlines()) == 1
    play.at += 1
    play.compile("a", 41.0)
    play.at += 1
    play.compile("a", 43.0)
    (line,) = text(sink).splitlines()[1:]
    assert line.endswith("2 left; at work: a compile 41%; 1:00"), line


@pytest.mark.parametrize("make", [lambda made: Lines(made, stamped=True), GitHub, GitLab])
def test_the_lines_of_a_table_end_with_their_text(make: Callable[[Console], Lines]) -> None:
    sink = make(console())
    table = Table(box=None, pad_edge=False)
    for heading in ("target", "reason"):
        table.add_column(heading)
    table.add_row("a", "its wheel stands")
    table.add_row("b", "")
    sink.table(table)
    assert text(sink).splitlines() == ["target  reason", "a       its wheel stands", "b"]


@pytest.mark.parametrize("ci", [GitHub, GitLab])
@pytest.mark.parametrize("parallel", [1, 2])
@given(values=st.lists(TEXTS, min_size=1, max_size=4), name=TEXTS.filter(bool))
@example(values=NASTY, name="::set-env::x")
@example(values=NASTY, name="x\n::group::y\r\x1b[0K")
@settings(max_examples=examples(40), deadline=None)
def test_no_text_becomes_a_command_and_groups_are_balanced(
    ci: type[Groups], parallel: int, values: list[str], name: str
) -> None:
    sink = ci(console())
    play = Play(sink)
    play.run(name, "other", parallel=parallel)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    for target in (name, "other", name):
        play("target-started", target)
        for value in values:
            play("message", target, text=value)
            play("warning", target, text=value)
            play("error", target, text=value, details=value, hint=value, kind=None)
            play("message", text=value)
            table.add_row(escape(clean(value)))
        play("target-finished", target, status="failed", seconds=1.0, reason=values[0])
    sink.table(table)
    sink.close()
    depth = 0
    for line in text(sink).split("\n")[:-1]:
        if ci is GitHub:
            assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]|##\[", line), repr(line)
            kind = re.match(r"\s*::(\w*)", line)
            assert kind is None or kind[1] in {"group", "endgroup", "warning", "error"}, repr(line)
            depth += line.startswith("::group::") - line.startswith("::endgroup::")
        else:
            marks = re.findall(r"\x1b\[0Ksection_(start|end):\d+:[\w.-]+(?:\[collapsed=true\])?\r\x1b\[0K", line)
            depth += marks.count("start") - marks.count("end")
            rest = re.sub(r"\x1b\[[\d;]*m", "", line)
            assert marks or not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", rest), repr(line)
        assert depth in {0, 1}, repr(line)
    assert depth == 0


def test_sections_of_gitlab() -> None:
    sink = GitLab(console())
    play = Play(sink)
    play.run("v2.5.1 +x", "b", parallel=2)
    play("target-started", "v2.5.1 +x")
    play("warning", "v2.5.1 +x", text="careful")
    play("target-finished", "v2.5.1 +x", status="built", seconds=1.0, reason="")
    first, second, third, last = text(sink).split("\n")[:-1]
    assert re.fullmatch(
        r"\x1b\[0Ksection_start:\d{10}:target_1_v2\.5\.1__x\[collapsed=true\]\r\x1b\[0Kv2\.5\.1 \+x", first
    )
    assert second.endswith("\x1b[33mwarning:\x1b[0m careful")
    assert third.endswith("in 0:01")
    assert re.fullmatch(r"\x1b\[0Ksection_end:\d{10}:target_1_v2\.5\.1__x\r\x1b\[0K", last)


# JSON


def play_json() -> tuple[io.StringIO, Play]:
    stream = io.StringIO()
    return stream, Play(JsonLines(stream))


def events(stream: io.StringIO) -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return [json.loads(line, parse_constant=refuse) for line in stream.getvalue().split("\n")[:-1]]


def test_events_and_their_keys_are_those_documented() -> None:
    """The contract with programs: this test changes only by adding."""
    stream, play = play_json()
    play.run("a", "b", estimates={"a": 100.12345}, parallel=2)
    play("target-started", "a")
    play("phase-started", "a", phase="compile")
    play("task-started", "a", task=1, description="a compile", total=100)
    play.at += 10
    play("progress", "a", task=1, completed=10, detail="X.cpp")
    play("phase-finished", "a", phase="compile", seconds=10.00049, failed=False)
    play("message", "a", text="a: all is well")
    play("warning", text="careful")
    play("error", "a", text="broken", details="x", hint="y", kind="compile")
    play("task-finished", "a", task=1)
    play.compile("a", 20.0, files=1, hits=2)
    play("target-finished", "a", status="built", seconds=12.0, reason="built from source")
    play("run-finished", seconds=13.0, exit_code=0)
    common = {"time": "2026-11-21T09:30:05.123+00:00", "run": "r1"}
    unknown = {"files": None, "total_files": None, "hits": None}
    expected: list[dict[str, Any]] = [
        {"event": "run-started", "target": None, "schema": 1, "targets": ["a", "b"], "parallel": 2},
        {"event": "target-started", "target": "a", "estimate": 100.123},
        {"event": "phase-started", "target": "a", "phase": "compile"},
        {"event": "progress", "target": "a", "phase": "compile", "task": "compile", "percent": 0.0, **unknown,
         "detail": "", "seconds": 0.0, "eta": 100.123, "run_eta": 100.123},
        {"event": "progress", "target": "a", "phase": "compile", "task": "compile", "percent": 10.0, **unknown,
         "detail": "X.cpp", "seconds": 10.0, "eta": 90.111, "run_eta": 100.117},
        {"event": "phase-finished", "target": "a", "phase": "compile", "seconds": 10.0, "failed": False},
        {"event": "message", "target": "a", "text": "all is well"},
        {"event": "warning", "target": None, "text": "careful"},
        {"event": "error", "target": "a", "text": "broken", "details": "x", "hint": "y", "kind": "compile"},
        {"event": "target-finished", "target": "a", "status": "built", "seconds": 12.0, "reason": "built from source",
         "files": 1, "hits": 2},
        {"event": "run-finished", "target": None, "seconds": 13.0, "exit_code": 0, "built": 1,
         "rehearsed": 0, "pulled": 0, "skipped": 0, "failed": 0, "interrupted": 0, "left": 1},
    ]  # fmt: skip
    assert events(stream) == [{**common, **event} for event in expected]


def test_progress_comes_once_a_second_for_each_target() -> None:
    stream, play = play_json()
    play.run("a", "b", parallel=2)
    play("target-started", "a")
    play("target-started", "b")
    for step in range(41):
        play.compile("a", step)
        play.compile("b", step)
        play.at += JSON_INTERVAL / 4
    found = [event["percent"] for event in events(stream) if event["event"] == "progress" and event["target"] == "a"]
    assert found == list(range(0, 41, 4))


@given(values=st.lists(TEXTS, max_size=5), name=TEXTS, number=st.floats())
@example(values=NASTY, name="\udc80", number=float("nan"))
@settings(max_examples=examples(80), deadline=None)
def test_every_line_of_json_is_one_object(values: list[str], name: str, number: float) -> None:
    stream, play = play_json()
    play.run(name, estimates={name: number})
    for value in values:
        play("message", name, text=value)
        play("error", name, text=value, details=value, hint=None, kind=None)
        play("task-started", name, task=1, description=value, total=number)
        play.at += 2
        play("progress", name, task=1, completed=number, detail=value)
        play("phase-finished", name, phase=value, seconds=number, failed=True)
    play("target-finished", name, status="failed", seconds=number, reason=name)
    play("run-finished", seconds=number, exit_code=None)
    assert stream.getvalue().isascii()
    found = events(stream)
    assert len(found) == 3 + 5 * len(values)
    assert {event["run"] for event in found} == {"r1"}
    assert all(event["target"] in {None, name} for event in found)


# Pictures


def drawn(state: State, now: float, width: int, height: int, *, color: bool = False) -> list[str]:
    system: Any = "truecolor" if color else None
    target = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=system)
    # Wider than the picture may be: what is too long shows as too long, not as wrapped.
    target.width, stream = width + 50, target.file
    target.print(picture(state, now, width, height, Spinner("dots")))
    assert isinstance(stream, io.StringIO)
    return stream.getvalue().rstrip("\n").split("\n")


def busy(count: int, *, names: str = "v2.10.{n}-26.0.0-py3.13-aarch64") -> Play:
    play = Play()
    targets = [names.format(n=number) for number in range(count)]
    play.run(*targets, *(f"waiting-{number}" for number in range(4)), "done", parallel=count)
    play("target-finished", "done", status="built", seconds=4000.0, reason="")
    for number, target in enumerate(targets):
        play("target-started", target)
        play("phase-started", target, phase="toolchain" if number % 3 == 2 else "compile")
        play("task-started", target, task=number, description=f"{target} compile", total=100)
        play.compile(target, 0)
    play.at += 5000.0
    for number, target in enumerate(targets):
        play("progress", target, task=number, completed=number, detail="Very\x1b[31mLong\nName" * 30)
        play.compile(target, 10.0 + number, files=1234, total_files=2800, hits=1111)
    return play


def test_eighty_columns_show_everything_of_a_target() -> None:
    play = busy(8)
    lines = drawn(play.state, play.at, 80, 24)
    assert len(lines) == 10
    assert lines[0].split() == ["target", "phase", "done", "files", "hits", "time", "ETA"]
    assert re.sub(r"^. ", "", lines[1]).split() == [
        "v2.10.0-26.0.0-py3.13-aarch64", "compile", "10%", "1234/2800", "1111", "1:23:20", "12h30m",
    ]  # fmt: skip
    assert lines[-1].endswith("1 built, 12 left  1:23:20 ETA 17h12m")
    assert max(map(cell_len, lines)) < 80


@pytest.mark.parametrize("count", [1, 2, 5, 8, 40])
@pytest.mark.parametrize("names", ["v2.10.{n}-26.0.0-py3.13-aarch64", "名前{n}" * 12, "x{n}", "a" * 200 + "{n}"])
def test_pictures_keep_within_their_terminal(count: int, names: str) -> None:
    play = busy(count, names=names)
    for number in range(99, 109):
        play("task-started", task=number, description="fetching " + "x" * 100, total=None)
    for width in (12, 20, 33, 40, 50, 60, 79, 80, 81, 99, 100, 120, 140, 200):
        for height in (5, 10, 24, 60):
            lines = drawn(play.state, play.at, width, height)
            # The heading, one target, how many more, the task, the run: fewer lines cannot say it.
            assert len(lines) <= max(5, height - 1), (width, height, lines)
            assert max(map(cell_len, lines)) < width, (width, height, lines)
            assert lines[0].split()[0] == "target"


def test_wide_terminals_show_bars_and_what_is_done() -> None:
    play = busy(4)
    lines = drawn(play.state, play.at, 140, 40)
    assert "━" in lines[1]
    assert "VeryLong NameVeryLong" in lines[1]


def test_lines_of_targets_do_not_wrap_where_names_are_cut() -> None:
    play = busy(3)
    for width in (25, 45, 65):
        lines = drawn(play.state, play.at, width, 24)
        assert len(lines) == 5
        assert all("…" in line and "arch64" in line for line in lines[1:4]), "both ends of a name are shown"


def test_one_target_has_spinner_bar_percent_and_detail() -> None:
    play = Play()
    play.run("v2.5.1-7.1.0-py3.9-x86_64", estimates={"v2.5.1-7.1.0-py3.9-x86_64": 100.0})
    name = "v2.5.1-7.1.0-py3.9-x86_64"
    play("phase-started", name, phase="compile")
    play("task-started", name, task=1, description=f"{name} compile", total=100)
    play("target-started", name)
    play("phase-started", name, phase="compile")
    play.at += 20
    play("progress", name, task=1, completed=50, detail="KernelNpu.cpp")
    play.compile(name, 50.0, files=7, hits=3)
    (line,) = drawn(play.state, play.at, 100, 24)
    assert re.fullmatch(r"[⠀-⣿] compile ━{7}[╸╺]?━* +50% +0:20 +1:20 7 files, 3 cache hits, KernelNpu.cpp *", line), (
        line
    )


def test_tasks_without_a_run_are_drawn_one_a_line() -> None:
    play = Play()
    play("task-started", task=1, description="reading branches", total=4)
    play("task-started", task=2, description="image for Python 3.9 on x86_64", total=None)
    play("progress", task=1, completed=1, detail="v2.5.1")
    play.at += 3
    first, second = drawn(play.state, play.at, 80, 24)
    assert re.search(r"reading branches +━+.* 25% +0:03 v2\.5\.1", first)
    assert "%" not in second, "no percentage without a total"


def test_pictures_of_phases_without_tasks_and_of_runs_not_begun() -> None:
    play = Play()
    play.run("a")
    assert drawn(play.state, play.at, 80, 24) == [""]
    play("target-started", "a")
    play("phase-started", "a", phase="verify")
    (line,) = drawn(play.state, play.at, 80, 24)
    assert "verify" in line
    play.run("a", "b")
    (line,) = drawn(play.state, play.at, 80, 24)
    assert "2 left" in line


@pytest.mark.parametrize("count", [3, 8])
def test_no_control_character_of_a_name_or_detail_reaches_the_terminal(count: int) -> None:
    play = busy(count, names="evil\x1b[2J\r\n{n}")
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", "\n".join(drawn(play.state, play.at, 140, 40)))

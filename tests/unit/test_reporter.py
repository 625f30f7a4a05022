"""The reporter: which sink it takes, many threads at once, and terminals and readers that go away."""

from __future__ import annotations

import errno
import fcntl
import io
import itertools
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from builder.core.errors import BuilderError, FailureKind, MachineError, RequestError, TargetError
from builder.progress.reporter import Reporter, TargetReporter, print_table
from builder.progress.state import Event, State

THREADS = 8
ROUNDS = 60


class Kept:
    """A sink that keeps the names of events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def handle(self, event: Event, state: State) -> None:
        self.events.append(event)

    def table(self, table: Table) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def close(self) -> None:
        pass

    @property
    def told(self) -> list[tuple[str, str | None]]:
        return [(event.name, event.target) for event in self.events]


def hammer(reporter: Reporter, pause: float = 0.0) -> None:
    """As many targets at once as there are threads, each telling as much as it can."""
    targets = [f"target-{number}" for number in range(THREADS)]
    reporter.run_started("r1", targets, {"target-0": 10.0}, parallel=THREADS)
    start = threading.Barrier(THREADS)

    def work(target: str) -> None:
        own = reporter.for_target(target)
        start.wait()
        with own.phase("compile"), own.task(f"{target} compile", total=ROUNDS) as task:
            for step in range(ROUNDS):
                time.sleep(pause)
                task.update(step, detail=f"File{step}.cpp")
                own.update(files=step, hits=step)
                own.message(f"{target} says <{step}> {'x' * 100} end")
                if step % 20 == 0:
                    own.error(RequestError(f"{target} error <{step}>", details="one\ntwo", hint="next"))
        reporter.target_finished(target, "built", 1.0)

    threads = [threading.Thread(target=work, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reporter.run_finished(2.0, 0)


def in_order(text: str) -> None:
    """Every message of every target is there whole, once, in the order in which it was said."""
    said: dict[str, list[int]] = {}
    for target, step in re.findall(r"(target-\d) ?:? says <(\d+)> x{100} end\n", text):
        said.setdefault(target, []).append(int(step))
    assert said == {f"target-{number}": list(range(ROUNDS)) for number in range(THREADS)}


def test_threads_do_not_cut_each_others_lines() -> None:
    stream = io.StringIO()
    hammer(Reporter(Console(file=stream)))
    lines = stream.getvalue().splitlines()
    stamped = re.compile(
        r"\d\d:\d\d:\d\d (run r1: 8 built in 0:02|target-\d: "
        r"(says <\d+> x{100} end|compile|built in 0:01, 59 files, 59 cache hits"
        r"|error: error <\d+>|  \| (one|two)|next step: next))"
    )
    assert [line for line in lines if not stamped.fullmatch(line)] == []
    in_order(re.sub(r"(target-\d): says", r"\1 says", stream.getvalue()))
    blocks = re.findall(
        r"(target-\d): error: error <\d+>\n.{9}\1:   \| one\n.{9}\1:   \| two\n.{9}\1: next", "\n".join(lines)
    )
    assert len(blocks) == THREADS * ROUNDS // 20, "the lines of an error stand together"


def test_threads_on_a_terminal() -> None:
    stream = io.StringIO()
    reporter = Reporter(Console(file=stream, force_terminal=True, width=80, height=24, color_system=None))
    hammer(reporter, pause=0.01)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", stream.getvalue())
    in_order(re.sub(r"(target-\d): says", r"\1 says", plain))
    assert stream.getvalue().count("\x1b[?25l") == 1, "it was drawn"
    assert stream.getvalue().rindex("\x1b[?25h") > stream.getvalue().rindex("\x1b[?25l")


def test_threads_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    hammer(Reporter(json_lines=True))
    captured = capsys.readouterr()
    assert captured.err == ""
    found = [json.loads(line) for line in captured.out.splitlines()]
    names = Counter(event["event"] for event in found)
    assert names.pop("progress") >= THREADS
    assert names == {
        "run-started": 1, "target-started": THREADS, "phase-started": THREADS, "phase-finished": THREADS,
        "message": THREADS * ROUNDS, "error": THREADS * ROUNDS // 20, "target-finished": THREADS, "run-finished": 1,
    }  # fmt: skip
    in_order("".join(f"{event['target']} {event['text']}\n" for event in found if event["event"] == "message"))
    assert all(event["time"] <= later["time"] for event, later in itertools.pairwise(found))


@pytest.mark.parametrize("name", ["GITHUB_ACTIONS", "GITLAB_CI"])
def test_threads_in_ci(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    hammer(Reporter(environment={name: "true"}))
    captured = capsys.readouterr()
    assert captured.out == ""
    in_order(re.sub(r"^\d\d:\d\d:\d\d (target-\d): ", r"\1 ", _with_groups(captured.err), flags=re.MULTILINE))


def _with_groups(text: str) -> str:
    """CI's lines, each with its group in front, whether it stands in one or not."""
    lines, group = [], ""
    for line in text.split("\n"):
        if begins := re.search(r"::group::(.*)|section_start:.*\r\x1b\[0K(.*)", line):
            assert group == "", "groups do not stand in each other"
            group = begins[1] or begins[2]
        elif re.search("::endgroup::|section_end:", line):
            group = ""
        else:
            lines.append(re.sub(r"^(\d\d:\d\d:\d\d) ", rf"\1 {group}: " if group else r"\1 ", line))
    return "\n".join(lines)


def test_a_target_begins_with_the_first_that_is_said_of_it() -> None:
    kept = Kept()
    reporter = Reporter(sink=kept)
    reporter.for_target("early").message("before any run")
    reporter.run_started("r1", ["a", "b"])
    with reporter.for_target("a").phase("prepare"):
        reporter.for_target("b").message("hello")
    reporter.target_finished("a", "built", 1.0)
    reporter.for_target("a").message("an afterthought begins nothing anew")
    reporter.target_finished("c", "skipped", 0.0, "stands")
    assert kept.told == [
        ("message", "early"), ("run-started", None), ("target-started", "a"), ("phase-started", "a"),
        ("target-started", "b"), ("message", "b"), ("phase-finished", "a"), ("target-finished", "a"),
        ("message", "a"), ("target-finished", "c"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TargetError("x", kind=FailureKind.COMPILE), "compile"),
        (RequestError("x"), "request"),
        (MachineError("x"), "machine"),
        (BuilderError("x"), None),
    ],
)
def test_errors_carry_their_kind(error: BuilderError, kind: str | None) -> None:
    kept = Kept()
    Reporter(sink=kept).error(error)
    assert [event["kind"] for event in kept.events] == [kind]


def test_a_phase_that_raises_has_failed() -> None:
    kept = Kept()

    def fail() -> None:
        with Reporter(sink=kept).for_target("a").phase("compile"):
            raise TargetError("broken", kind=FailureKind.COMPILE)

    with pytest.raises(TargetError):
        fail()
    (finished,) = [event for event in kept.events if event.name == "phase-finished"]
    assert finished["failed"] is True
    assert finished["phase"] == "compile"
    assert 0 <= finished["seconds"] < 5


def test_a_target_reporter_stands_for_a_reporter() -> None:
    stream = io.StringIO()
    reporter = Reporter(Console(file=stream), quiet=True)
    own = reporter.for_target("a")
    assert isinstance(own, Reporter)
    assert isinstance(own.for_target("b"), TargetReporter)
    assert own.console is reporter.console
    assert own.quiet
    assert not own.live


def test_quiet_leaves_warnings_errors_and_the_end() -> None:
    stream = io.StringIO()
    reporter = Reporter(Console(file=stream, force_terminal=True, color_system=None), quiet=True)
    assert not reporter.live
    table = Table("a column")
    table.add_row("a cell")
    reporter.run_started("r1", ["a", "b"])
    own = reporter.for_target("a")
    with own.phase("compile"), own.task("compiling", total=1) as task:
        own.message("the message")
        task.update(1, detail="the detail")
    own.warning("the warning")
    reporter.table(table)
    reporter.target_finished("a", "failed", 1.0, "a reason")
    own.error(RequestError("the error"))
    reporter.table(table, always=True)
    reporter.run_finished(2.0, 1)
    assert [line.rstrip() for line in stream.getvalue().splitlines() if "─" not in line and "━" not in line] == [
        "a: warning: the warning",
        "a: error: the error",
        "┃ a column ┃",
        "│ a cell   │",
        "run r1: 1 failed, 1 left in 0:02",
    ]


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({"GITHUB_ACTIONS": "true"}, r"::group::a"),
        ({"GITLAB_CI": "true"}, r"\x1b\[0Ksection_start:.*"),
        ({"GITHUB_ACTIONS": "false", "CI": "true"}, r"\d\d:\d\d:\d\d working"),
        ({}, r"\d\d:\d\d:\d\d working"),
    ],
)
def test_ci_systems_are_recognised(
    environment: dict[str, str], first: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("GITHUB_ACTIONS", "GITLAB_CI"):
        monkeypatch.delenv(name, raising=False)
    # Colour for a file is no terminal.
    monkeypatch.setenv("FORCE_COLOR", "1")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    reporter = Reporter()
    assert not reporter.live
    reporter.run_started("r1", ["a"])
    reporter.for_target("a").message("working")
    line = capsys.readouterr().err.split("\n")[0]
    assert re.fullmatch(first, line if "section" in line else re.sub(r"\x1b\[\d*m", "", line)), repr(line)


def test_a_given_console_is_not_taken_for_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    stream = io.StringIO()
    Reporter(Console(file=stream)).warning("careful")
    assert stream.getvalue().endswith(" warning: careful\n")


def test_dumb_terminals_get_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = io.StringIO()
    reporter = Reporter(Console(file=stream, force_terminal=True, color_system=None))
    with reporter.task("reading branches"):
        pass
    assert stream.getvalue() == "reading branches\n"


def test_text_is_never_markup_also_where_pieces_meet() -> None:
    stream = io.StringIO()
    reporter = Reporter(Console(file=stream))
    reporter.run_started("r1", ["[a", "b"])
    reporter.for_target("[a").message("x] [red]red[/] \\")
    assert stream.getvalue().endswith("[a: x] [red]red[/] \\\n")


def test_a_sink_that_fails_fails_no_build() -> None:
    kept = Kept()
    reporter = Reporter(sink=kept)
    reporter.table(Table())  # the disk is full
    reporter.message("lost")
    with reporter.task("work goes on", total=1) as task:
        task.update(1)
    assert kept.events == []


@pytest.mark.parametrize("json_lines", [True, False])
def test_a_reader_that_goes_away_fails_no_build(json_lines: bool, tmp_path: Path) -> None:
    script = (
        "import time; from builder.progress.reporter import Reporter\n"
        f"reporter = Reporter(json_lines={json_lines})\n"
        "reporter.run_started('r1', ['a', 'b'])\n"
        "for number in range(2000):\n"
        "    reporter.for_target('a').message('x' * 100)\n"
        f"open({str(tmp_path / 'done')!r}, 'w').close()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "GITHUB_ACTIONS": "", "GITLAB_CI": ""},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    gone, stays = (process.stdout, process.stderr) if json_lines else (process.stderr, process.stdout)
    gone.readline()
    gone.close()
    rest = stays.read()
    stays.close()
    assert process.wait(timeout=60) == 0
    assert rest == b""
    assert (tmp_path / "done").exists()


# Terminals

RUN = """
import signal, sys, threading, time
from builder.progress.reporter import Reporter
{before}
reporter = Reporter()
assert reporter.live
reporter.run_started("r1", ["a", "b", "c"], parallel=2)
def work(target):
    own = reporter.for_target(target)
    with own.phase("compile"), own.task("compile", total=100) as task:
        for percent in range(100):
            task.update(percent)
            time.sleep(0.2)
for target in ("a", "b"):
    threading.Thread(target=work, args=(target,), daemon=True).start()
time.sleep(0.5)
{middle}
try:
    time.sleep(60)
finally:
    {after}
"""


class Terminal:
    """A program on a terminal of its own, of 80 columns and 24 lines."""

    def __init__(self, script: str, *, stdout: Any = None, columns: int = 80) -> None:
        self.leader, follower = os.openpty()
        self.resize(columns)
        names = ("GITHUB_ACTIONS", "GITLAB_CI", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES")
        environment = {name: value for name, value in os.environ.items() if name not in names}
        self.process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=follower,
            stdout=follower if stdout is None else stdout,
            stderr=follower,
            env={**environment, "TERM": "xterm-256color", "PYTHONUTF8": "1"},
            start_new_session=True,
        )
        os.close(follower)
        self.output = ""

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.leader, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def until(self, found: Callable[[str], bool]) -> str:
        """Read until ``found`` says so, or the program ends; everything that was read so far."""
        deadline = time.monotonic() + 30
        while not found(self.output) and time.monotonic() < deadline:
            if select.select([self.leader], [], [], 0.2)[0]:
                try:
                    data = os.read(self.leader, 1 << 16)
                except OSError:  # the last program on it has ended
                    break
                if not data:
                    break
                self.output += data.decode(errors="replace")
        return self.output


@contextmanager
def terminal(script: str, **settings: Any) -> Iterator[Terminal]:
    opened = Terminal(script, **settings)
    try:
        yield opened
    finally:
        opened.process.kill()
        opened.process.wait()
        os.close(opened.leader)


def script(*, before: str = "", middle: str = "", after: str = "reporter.run_finished(1.0, 130)") -> str:
    return RUN.format(before=before, middle=middle, after=after)


@pytest.mark.parametrize(
    ("how", "before", "after"),
    [
        (signal.SIGINT, "", "reporter.run_finished(1.0, 130)"),
        (signal.SIGINT, "", "pass"),
        (signal.SIGTERM, "signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))", "pass"),
    ],
    ids=["ends its run", "does not end its run", "terminated"],
)
def test_interrupting_leaves_the_terminal_clean(how: signal.Signals, before: str, after: str) -> None:
    with terminal(script(before=before, after=after)) as opened:
        opened.until(lambda text: text.count("compile") >= 4)
        opened.process.send_signal(how)
        text = opened.until(lambda text: False)
        opened.process.wait(timeout=30)
    assert text.count("\x1b[?25l") >= 1, "the cursor was hidden"
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "and is shown again"
    tail = text[text.rindex("\x1b[?25h") :]
    assert "━" not in tail
    assert "compile" not in re.sub(r"File .*|Traceback.*", "", tail), "nothing is drawn afterwards"
    # What was drawn last (heading, two targets, the run) has been erased.
    assert text.count("\x1b[1A\x1b[2K") >= 4


def test_messages_scroll_above_what_is_drawn() -> None:
    middle = "\n".join(f"reporter.message('message {number}'); time.sleep(0.05)" for number in range(5))
    with terminal(script(middle=middle)) as opened:
        opened.until(lambda text: "message 4" in text and text.rindex("ETA") > text.rindex("message 4"))
        opened.process.send_signal(signal.SIGINT)
        text = opened.until(lambda text: False)
    for number in range(5):
        at = text.index(f"message {number}\r\n")
        assert "\x1b[2K" in text[:at], "the picture was taken away before"
        assert "target" in text[at : at + 300], "and drawn again below"


def test_a_narrower_terminal_gets_a_narrower_picture_and_no_leftovers() -> None:
    with terminal(script(), columns=140) as opened:
        before = opened.until(lambda text: text.count("compile") >= 4)
        opened.resize(60)
        now = len(before)
        text = opened.until(lambda text: text[now:].count("compile") >= 8)[now:]
        opened.process.send_signal(signal.SIGINT)
        opened.until(lambda text: False)
    # Lines of more than 60 cells took two lines each on the narrower terminal: the heading and the targets' own.
    ups = [len(re.findall(r"\x1b\[1A", part)) for part in re.split(r"target", text)]
    assert max(ups) > min(up for up in ups if up), (
        "more lines were erased once, as many as the terminal had made of them"
    )
    rows = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.split("target")[-1]).split("\n")
    assert all(len(row.rstrip("\r")) < 60 for row in rows)


def test_output_for_programs_stays_clean_while_something_is_drawn() -> None:
    reading, writing = os.pipe()
    middle = "print('for a program', flush=True); reporter.message('printed')"
    with terminal(script(middle=middle), stdout=writing) as opened:
        os.close(writing)
        opened.until(lambda text: "printed" in text)
        opened.process.send_signal(signal.SIGINT)
        text = opened.until(lambda text: False)
    with open(reading, encoding="utf-8") as stream:
        assert stream.read() == "for a program\n"
    assert "compile" in text[: text.index("printed")], "something was drawn by then"
    assert "for a program" not in text


def test_short_tasks_do_not_flicker() -> None:
    stream = io.StringIO()
    reporter = Reporter(Console(file=stream, force_terminal=True, width=80, color_system=None))
    assert reporter.live
    for _ in range(20):
        with reporter.task("reading", total=2) as task:
            task.update(1)
    assert stream.getvalue() == ""


def test_longer_tasks_are_drawn_and_taken_away() -> None:
    stream = io.StringIO()
    reporter = Reporter(Console(file=stream, force_terminal=True, width=80, height=24, color_system=None))
    with reporter.task("reading", total=2) as task:
        task.update(1, detail="the first")
        deadline = time.monotonic() + 20
        while "the first" not in stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.02)
    assert re.search(r"reading ━+.* 50% +0:00 the first", stream.getvalue())
    assert stream.getvalue().rindex("\x1b[?25h") > stream.getvalue().rindex("reading")
    before = len(stream.getvalue())
    time.sleep(0.3)
    assert len(stream.getvalue()) == before, "nothing is drawn afterwards"


# -- tables that were asked for -------------------------------------------------------------------------------


def printed(table: Table, style: str | None = None, **console: Any) -> str:
    stream = io.StringIO()
    print_table(table, Console(file=stream, width=60, highlight=False, **console), style=style)
    return stream.getvalue()


def small_table() -> Table:
    table = Table(title="title", title_justify="left", box=None, pad_edge=False, header_style="bold")
    for heading in ("name", "", "reason"):
        table.add_column(heading, overflow="fold")
    table.add_row("  indented", "", "two\n\nlines")
    table.add_row("no\u00a0break\u00a0", "", "")
    table.add_row("last", "[red]x[/red]", "a  b\u2028c")
    return table


def test_a_table_has_no_blanks_at_the_end_of_its_lines_and_keeps_all_others() -> None:
    text = printed(small_table())
    assert text.endswith("\n")
    assert text[:-1].split("\n") == [
        "title",
        "name           reason",
        "  indented     two",
        "",
        "               lines",
        "no\u00a0break\u00a0",
        "last        x  a  b\u2028c",
    ]


def test_a_table_on_a_terminal_has_none_either() -> None:
    text = printed(small_table(), style="dim", force_terminal=True, color_system="standard")
    assert "\x1b[2" in text
    assert not re.search(r" (\x1b\[[0-9;]*m)*\n", text)
    plain = printed(small_table())
    assert re.sub(r"\x1b\[[0-9;]*m", "", text) == plain

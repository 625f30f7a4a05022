"""Events as lines: with a time in front where no terminal is, and in groups where a CI system folds them."""

from __future__ import annotations

import re
import time
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from rich.console import Console
from rich.table import Table
from rich.text import Text

from builder.progress.state import STYLES, Event, Job, State, TargetState, clean, clock, one_line, short
from builder.progress.tables import print_table

#: Seconds between two progress lines of one target or task, where no terminal can redraw a bar.
PLAIN_INTERVAL = 15.0
#: Seconds between two lines about the whole run, where the lines of its targets wait for their end.
HEARTBEAT = 60.0


@dataclass(frozen=True)
class Line:
    """A line for people: a label in a style (as rich names it), and the text."""

    text: str
    label: str = ""
    style: str = ""

    @property
    def plain(self) -> str:
        """Label and text."""
        return " ".join(filter(None, [self.label, self.text]))

    @property
    def styled(self) -> Text:
        """The same, the label in its style. No part of it is read as markup."""
        return Text.assemble((self.label, self.style), " " if self.label and self.text else "", self.text)


def counts(state: State) -> str:
    """Targets by outcome, as ``5 built, 1 failed, 2 left``."""
    return ", ".join(f"{number} {outcome}" for outcome, number in state.counts.items() if number) or "no targets"


def files(target: TargetState, *, hits: str = "cache hits") -> list[str]:
    """What the compile of a target has done, as ``412/983 files`` and ``380 cache hits``, as far as it is known."""
    told = []
    if target.files is not None:
        told.append(f"{target.files}/{target.total_files} files" if target.total_files else f"{target.files} files")
    return told if target.hits is None else [*told, f"{target.hits} {hits}"]


class Lines:
    """Lines on a console: timestamped in a file or a pipe, each with its target where there are several."""

    def __init__(self, console: Console, *, stamped: bool) -> None:
        self.console = console
        self._stamped = stamped
        self._last: dict[object, float] = {}

    def handle(self, event: Event, state: State) -> None:
        """Print what there is to say of the event."""
        lines = self.lines(event, state)
        if lines:
            self.write(event, state, lines)

    def table(self, table: Table) -> None:
        """Print the table."""
        print_table(table, self.console)

    def close(self) -> None:
        """Every line has been printed."""

    def write(self, event: Event, state: State, lines: list[Line]) -> None:
        """Print the lines at once, so that nothing comes between them."""
        prefix = f"{one_line(event.target)}: " if event.target and state.several else ""
        texts = [line.styled for line in lines]
        if self._stamped:
            stamp = event.time.astimezone().strftime("%H:%M:%S")
            texts = [Text.assemble((stamp, "dim"), f" {prefix}", text) for text in texts]
        else:
            texts[0] = Text.assemble(prefix, texts[0])
        self.console.print(Text("\n").join(texts), soft_wrap=True, highlight=False)

    def lines(self, event: Event, state: State) -> list[Line]:
        """What there is to say of an event, if anything."""
        target = state.targets.get(event.target or "")
        told = event.target if state.several else None
        if event.name in {"message", "warning"}:
            label, style = ("warning:", "yellow") if event.name == "warning" else ("", "")
            first, *more = short(clean(event["text"]), told).splitlines() or [""]
            return [Line(first, label, style), *map(Line, more)]
        if event.name == "error":
            return self._error(event, told)
        if event.name == "progress":
            return self._progress(event, state, target)
        if event.name == "task-started":
            what = short(one_line(event["description"]), told)
            # Where the phase of the same name has been announced, its task is no news.
            return [] if target is not None and what == target.phase else [Line(what)]
        if event.name == "phase-started" and state.several:
            return [Line(one_line(event["phase"]))]
        if event.name == "target-finished" and state.several and target is not None:
            return [self._finished(target)]
        if event.name == "run-finished":
            return [Line(f"{counts(state)} in {clock(event['seconds'])}", f"run {one_line(state.run or '')}:")]
        return []

    def _error(self, event: Event, told: str | None) -> list[Line]:
        first, *more = short(clean(event["text"]), told).splitlines() or [""]
        lines = [Line(first, "error:", "bold red"), *map(Line, more)]
        lines += [Line(line, "  |", "dim") for line in clean(event["details"] or "").rstrip().splitlines()]
        return [*lines, Line(one_line(event["hint"]), "next step:", "cyan")] if event["hint"] else lines

    def _progress(self, event: Event, state: State, target: TargetState | None) -> list[Line]:
        job = (target.jobs if target else state.jobs).get(event["task"])
        own = target if target is not None and (state.several or job is None) else None
        if own is None and job is None:
            return []
        key: object = own.id if own else event["task"]
        began = (own.started if own else job.started if job else None) or 0.0
        if event.at - self._last.get(key, began) < PLAIN_INTERVAL:
            return []
        self._last[key] = event.at
        return [Line(_how_far(own, event.at) if own else _job(job) if job else "")]

    def _finished(self, target: TargetState) -> Line:
        style = STYLES.get(target.status or "", "")
        if target.status == "skipped":
            return Line(one_line(target.reason), "skipped:", style)
        took = clock(target.seconds or 0.0)
        if target.status in {"failed", "interrupted"}:
            return Line(f"after {took}", target.status, style)  # the error that says why has lines of its own
        return Line(", ".join([f"in {took}", *files(target)]), target.status or "", style)


def _how_far(target: TargetState, now: float) -> str:
    share = "" if target.percent is None else f" {target.percent:.0f}%"
    left = target.left(now)
    return ", ".join(
        filter(
            None,
            [
                f"{target.activity or 'at work'}{share}",
                *files(target),
                clock(now - (target.started or now)),
                "" if left is None else f"ETA {clock(left)}",
                target.detail,
            ],
        )
    )


def _job(job: Job) -> str:
    share = "" if job.percent is None else f"{job.percent:.0f}%"
    return " ".join(filter(None, [job.description, share, job.detail]))


class Groups(Lines):
    """Log groups of a CI system, one for each target. Groups cannot interleave: where several targets are at work,
    the lines of each wait for its end, and one line a minute says how far all are."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, stamped=True)
        self._open: str | None = None
        self._held: dict[str, list[str]] = {}
        self._beat = 0.0

    @abstractmethod
    def begin(self, target: str, *, folded: bool) -> str:
        """The line that begins a group."""

    @abstractmethod
    def end(self) -> str:
        """The line that ends the group."""

    @abstractmethod
    def told(self, line: Line, stamp: str, prefix: str, target: str | None) -> str:
        """A line as this CI system shows it best."""

    def table(self, table: Table) -> None:
        """Print the table."""
        with self.console.capture() as capture:
            print_table(table, self.console)
        self._put([self.told(Line(line), "", "", None) for line in capture.get().splitlines()])

    def handle(self, event: Event, state: State) -> None:
        """Print or keep what there is to say of the event; begin and end groups."""
        if event.name == "run-started":
            self._beat = event.at
        if event.name == "target-started" and event.target is not None:
            if state.parallel == 1 and len(state.working) == 1:
                self._finish()
                self._open = event.target
                self._put([self.begin(event.target, folded=False)])
            else:
                self._held.setdefault(event.target, [])  # what an earlier attempt said stays
        if event.name == "error":
            # In a folded group nobody would see it.
            self._end(event.target, folded=False)
        elif event.name == "run-finished":
            self.close()
        super().handle(event, state)
        if event.name == "target-finished":
            self._end(event.target, folded=event["status"] not in {"failed", "interrupted"})
        self._heartbeat(event, state)

    def write(self, event: Event, state: State, lines: list[Line]) -> None:
        """Print the lines, or keep them for the end of their target."""
        held = self._held.get(event.target or "")
        grouped = held is not None or (event.target is not None and event.target == self._open)
        prefix = f"{one_line(event.target)}: " if event.target and state.several and not grouped else ""
        stamp = event.time.astimezone().strftime("%H:%M:%S")
        texts = [self.told(line, stamp, prefix, event.target) for line in lines]
        if held is None:
            self._put(texts)
        elif event.name != "progress":
            held += texts

    def close(self) -> None:
        """Print what was kept of targets that have not ended."""
        for target in list(self._held):
            self._end(target, folded=False)
        self._finish()

    def _end(self, target: str | None, *, folded: bool) -> None:
        """Print what was kept of ``target``; whatever group is open ends."""
        self._finish()
        lines = self._held.pop(target, None) if target is not None else None
        if target is not None and lines:
            self._put([self.begin(target, folded=folded), *lines, self.end()])

    def _finish(self) -> None:
        if self._open is not None:
            self._put([self.end()])
            self._open = None

    def _heartbeat(self, event: Event, state: State) -> None:
        if self._held and event.at - self._beat >= HEARTBEAT:
            self._beat = event.at
            shares = {each.id: "" if each.percent is None else f" {each.percent:.0f}%" for each in state.working}
            doing = ", ".join(
                f"{one_line(each.id)} {each.activity}{shares[each.id]}".rstrip() for each in state.working
            )
            left = state.eta(event.at)
            text = f"{counts(state)}; at work: {doing}; {clock(event.at - state.started)}"
            text += "" if left is None else f", ETA {clock(left)}"
            stamp = event.time.astimezone().strftime("%H:%M:%S")
            self._put([self.told(Line(text), stamp, "", None)])

    def _put(self, lines: list[str]) -> None:
        self.console.file.write("".join(f"{line}\n" for line in lines))
        self.console.file.flush()


class GitHub(Groups):
    """Workflow commands of GitHub Actions: groups, and annotations for warnings and errors.

    The runner takes any line that begins with ``::``, or has ``##[`` in it, for a command; text never makes one.
    """

    def begin(self, target: str, *, folded: bool) -> str:
        """GitHub folds every group."""
        return f"::group::{self._data(one_line(target))}"

    def end(self) -> str:
        """The one group that is open."""
        return "::endgroup::"

    def told(self, line: Line, stamp: str, prefix: str, target: str | None) -> str:
        """Warnings and errors as annotations."""
        kind = line.label.removesuffix(":")
        if kind in {"warning", "error"}:
            title = self._data(one_line(target or "")).replace(":", "%3A").replace(",", "%2C")
            return f"::{kind}{f' title={title}' if title else ''}::{self._data(line.text)}"
        text = f"{stamp} {prefix}{line.plain}" if stamp else line.plain
        return re.sub(r"^\s*::", ": :", text).replace("##[", "# #[")

    def _data(self, text: str) -> str:
        return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A").replace("##[", "# #[")


class GitLab(Groups):
    """Sections of GitLab's job logs, and its colours."""

    #: ANSI colours of labels.
    COLOURS: ClassVar = {"warning:": "33", "error:": "1;31", "next step:": "36", "failed": "1;31", "built": "32"}

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._section = ""
        self._count = 0

    def begin(self, target: str, *, folded: bool) -> str:
        """A section has a name of its own, of letters, digits, ``_.-``."""
        self._count += 1
        self._section = f"target_{self._count}_{re.sub(r'[^A-Za-z0-9_.-]', '_', target)}"
        options = "[collapsed=true]" if folded else ""
        return f"\x1b[0Ksection_start:{int(time.time())}:{self._section}{options}\r\x1b[0K{one_line(target)}"

    def end(self) -> str:
        """The section that was begun last."""
        return f"\x1b[0Ksection_end:{int(time.time())}:{self._section}\r\x1b[0K"

    def told(self, line: Line, stamp: str, prefix: str, target: str | None) -> str:
        """Labels in colour."""
        colour = self.COLOURS.get(line.label)
        label = f"\x1b[{colour}m{line.label}\x1b[0m" if colour else line.label
        return " ".join(filter(None, [stamp, prefix.rstrip(), label, line.text]))

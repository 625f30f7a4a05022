"""One compile that ccache could not answer: with a precompiled header where that pays, else as it is.

Called with the compiler and its arguments, by ``compile`` beside this file. The plain compile is the measure of
everything: whatever goes wrong with a header, the plain compile follows, and what it says and writes is what counts.

BUILDER_HEADERS         folder of the headers of this build
BUILDER_HEADERS_KNOWN   folder that tells what earlier builds with the same compile cache made their headers of
BUILDER_HEADERS_LIMIT   MiB that headers may take at once
BUILDER_COMPILE_LOG     the launcher's log; this one's log, ``headers.log``, lies beside it, else beside BUILDER_HEADERS

Runs inside environments, on Python 3.7 and later, without packages.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from contextlib import suppress

import processes
from compile_command import CXX, Command, Names, UnsuitableError
from pch_log import Journal
from pch_plan import Group, Plan, find_commands, keep, kept, make_plan, place, spelt_includes, stamp_of
from pch_store import LIMIT, RefusedError, Stored, make_room

#: Seconds for which a compile waits for another one that makes the plan; it takes about two.
_PATIENCE = 30.0


class Compiling:
    """One compile of a project's file."""

    def __init__(self, command: Command, env: dict[str, str], journal: Journal) -> None:
        self.command = command
        self.journal = journal
        self._env = env
        self._folder = env["BUILDER_HEADERS"]
        self._known = env.get("BUILDER_HEADERS_KNOWN") or None

    def plan(self) -> Plan | None:
        """The plan of the build folder; the first compile makes it."""
        commands = find_commands(self.command.cwd)
        if commands is None:
            return None
        os.makedirs(self._folder, exist_ok=True)
        path = place(self._folder, commands)
        stamp = stamp_of(commands)
        plan = kept(path, stamp)
        if plan is not None:
            return plan
        handle = os.open(path + ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _lock(handle):
                return None
            plan = kept(path, stamp)
            if plan is None:
                # One that cannot be made is empty, so that not every compile tries it anew.
                plan = Plan([], {})
                with suppress(Exception):
                    plan = make_plan(commands, Names(self._env))
                keep(plan, path, stamp)
        finally:
            os.close(handle)
        return plan

    def compile(self) -> int:
        """Compile; returns the exit code."""
        group, reason = None, "no-plan"
        try:
            plan = self.plan()
            if plan is not None:
                group, reason = plan.group_of(self.command), "no-group"
                if group is not None:
                    stored, reason = self._header(plan, group)
                    if stored is not None:
                        return self._with_header(stored)
        except Exception as error:
            reason = _words(error)
        if processes.ended_by:
            return 128 + processes.ended_by
        return self._plain("plain", group, 0.0, reason)

    def _header(self, plan: Plan, group: Group) -> tuple[Stored | None, str]:
        """The header to compile with; or none, and why."""
        stored = Stored(group, self._folder, self._known)
        if self.journal.refused(group):
            return None, "refused"
        # The source may have changed since the plan was made.
        if spelt_includes(self.command.source)[: len(group.includes)] != group.includes:
            return None, "source-changed"
        if stored.ready():
            return stored, "-"
        reason = self._reason_to_wait(stored)
        if reason is not None:
            return None, reason
        with stored.making() as mine:
            if not mine:
                return None, "being-made"
            if not stored.ready():
                return self._make(plan, stored)
        return stored, "-"

    def _make(self, plan: Plan, stored: Stored) -> tuple[Stored | None, str]:
        useful = {key: float(self.journal.left(group) * group.weight) for key, group in plan.groups.items()}
        limit = int(self._env.get("BUILDER_HEADERS_LIMIT") or 0) << 20 or LIMIT
        if not make_room(self._folder, useful, stored.group.key, limit):
            return None, "no-room"
        source = self.command.source
        # Where nothing can be noted, nothing would keep the next compile from the same attempt.
        self.journal.add("making", stored.group.key, source, 0.0)
        try:
            seconds = stored.make(self.command)
        except RefusedError as error:
            if not processes.ended_by:
                self.journal.add("refused", stored.group.key, source, error.seconds, str(error))
            return None, "refused"
        self.journal.add("made", stored.group.key, source, seconds)
        return stored, "-"

    def _reason_to_wait(self, stored: Stored) -> str | None:
        """Why the header is not made now.

        Where an earlier build made it of the same files, its sources stand in the compile cache, and one that does not
        is a change in that source alone: the header pays only once as many are compiled as it costs. Else all of them
        are going to be compiled.
        """
        group, journal = stored.group, self.journal
        ratio = journal.ratio(group)
        if journal.left(group) <= ratio:
            return "few-left"
        if journal.compiled(group) + 1 > ratio:
            return None
        if journal.made(group):
            # In this build; it had to make way for others.
            return None
        if journal.hits(group) > journal.compiled(group) or journal.found_same(group) or stored.same_as_before():
            return "same"
        return None

    def _with_header(self, stored: Stored) -> int:
        """Compile with the header; what is not as it must be is compiled again, plainly."""
        reason, seconds, messages = stored.compile(self.command)
        if processes.ended_by:
            return 128 + processes.ended_by
        if reason is not None:
            return self._plain("fallback", stored.group, seconds, reason)
        sys.stderr.buffer.write(messages.encode("utf-8", "surrogateescape"))
        sys.stderr.buffer.flush()
        self._log("used", stored.group, seconds, "-")
        self._clean(stored)
        return 0

    def _plain(self, event: str, group: Group | None, before: float, reason: str) -> int:
        """Compile as it is, whatever happened before."""
        status, seconds = processes.run(self.command.argv, self.command.cwd)
        if processes.ended_by:
            return 128 + processes.ended_by
        self._log(event, group, before + seconds, reason)
        if group is not None:
            self._clean(Stored(group, self._folder, None))
        return status

    def _clean(self, stored: Stored) -> None:
        if not self.journal.left(stored.group):
            stored.remove()

    def _log(self, event: str, group: Group | None, seconds: float, reason: str) -> None:
        # A full disk is nothing that a compile should fail of.
        with suppress(OSError):
            self.journal.add(event, group.key if group else "-", self.command.source, seconds, reason)


def _lock(handle: int) -> bool:
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(0.05)
        else:
            return True
    return False


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", " ")[:200]


def _folder() -> str:
    """The working folder, by the name that the caller has for it: so it stands in the compile commands."""
    name = os.environ.get("PWD", "")
    with suppress(OSError):
        if os.path.isabs(name) and os.path.samefile(name, "."):
            return name
    return os.getcwd()


def _compiling(argv: list[str], env: dict[str, str]) -> Compiling:
    """What there is to decide. Raises UnsuitableError where there is nothing; of the project's files that is noted."""
    journal = Journal.of(env)
    try:
        if env.get("DEPENDENCIES_OUTPUT") or env.get("SUNPRO_DEPENDENCIES"):
            raise UnsuitableError("dependencies")
        return Compiling(Command(argv, _folder()), env, journal)
    except UnsuitableError as error:
        sources = [argument for argument in argv if argument.endswith(CXX) and not argument.startswith("-")]
        if "-c" in argv and sources:
            journal.add("plain", "-", sources[-1], 0.0, str(error))
        raise


def main(argv: list[str]) -> int:
    """Compile; returns the exit code. Does not return where there is nothing to decide."""
    try:
        compiling = _compiling(argv, dict(os.environ))
    except Exception:
        try:
            os.execvp(argv[0], argv)
        except OSError as failure:
            sys.stderr.write(f"{argv[0]}: {failure.strerror}\n")
            return 127
    processes.pass_signals_on()
    return compiling.compile()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

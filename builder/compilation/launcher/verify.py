"""Compile the sources of a configured tree with and without precompiled headers, and compare what comes out.

    python verify.py BUILD_FOLDER --folder SCRATCH [--sample N] [--results FILE] [--jobs N] [--group KEY]

Prints one JSON object a line: for each header ``{group, includes, members, header_cpu, header_bytes}``, for each source
``{file, group, same, fallback, plain_cpu, with_cpu}``. Objects and messages are compared byte by byte, dependency files
by what they list. ``--results`` appends the lines to a file, and passes over sources that stand there: an interrupted
run goes on.

Exit code 1 where a source differs, which is then named; 0 where all are the same; 2 where nothing could be compared.

Runs inside environments, on Python 3.7 and later, without packages; no compile cache has a part in it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

import depfiles
import processes
from commands import Command, Names, digest, expand
from planning import COMMANDS, Group, make_plan, read_commands
from stored import RefusedError, Stored


class Verification:
    """One run over a build folder."""

    def __init__(self, folder: str, results: str | None, jobs: int) -> None:
        self.folder = folder
        self.jobs = jobs
        self._results = results
        self._done: dict[str, bool] = {}
        try:
            with open(results or "/nonexistent", encoding="utf-8") as file:
                for line in file:
                    entry = json.loads(line)
                    if "file" in entry:
                        self._done[entry["file"]] = entry["same"]
        except OSError:
            pass

    def group(self, group: Group, commands: dict[str, Command], sample: int | None) -> tuple[int, list[str]]:
        """Compare the sources of a group; returns how many were, and those that differ."""
        chosen = sorted(group.members, key=digest)[:sample]
        todo = [source for source in chosen if source not in self._done]
        different = [source for source in chosen if self._done.get(source) is False]
        if todo:
            stored = Stored(group, self.folder, None)
            if not self._make(stored, commands[todo[0]]):
                return len(chosen) - len(todo), different
            # Each worker names those that differ, through a pipe.
            reading, writing = os.pipe()
            workers = [
                self._worker(stored, todo[number :: self.jobs], commands, writing) for number in range(self.jobs)
            ]
            os.close(writing)
            with open(reading, encoding="utf-8", errors="surrogateescape") as named:
                different += named.read().splitlines()
            codes = [os.waitpid(worker, 0)[1] for worker in workers]
            if any(codes):
                different.append(f"(a worker failed in group {group.key})")
            stored.remove()
        return len(chosen), different

    def _make(self, stored: Stored, command: Command) -> bool:
        group = stored.group
        facts = {"group": group.key, "includes": group.includes, "members": len(group.members)}
        try:
            seconds = stored.make(command)
        except RefusedError as error:
            self._tell({**facts, "refused": str(error)})
            return False
        size = os.path.getsize(stored.header + ".gch")
        self._tell({**facts, "header_cpu": round(seconds, 2), "header_bytes": size})
        return True

    def _worker(self, stored: Stored, sources: list[str], commands: dict[str, Command], writing: int) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            for source in sources:
                if not self.compare(stored, commands[source]):
                    os.write(writing, (source + "\n").encode("utf-8", "surrogateescape"))
            code = 0
        finally:
            os._exit(code)

    def compare(self, stored: Stored, command: Command) -> bool:
        """Compile one source both ways; true where the results are the same."""
        name = os.path.join(self.folder, "compared." + digest(command.source))
        plain = _to(command, name + ".plain")
        entry: dict[str, object] = {"file": command.source, "group": stored.group.key}
        status, plain_cpu, plain_said = _plain(plain, name)
        if status != 0:
            entry.update(same=False, error=f"the plain compile ends with {status}")
            self._tell(entry)
            return False
        trial = _to(command, name + ".with")
        reason, with_cpu, said = stored.compile(trial)
        differences = []
        if reason is None:
            for what, alike in (
                ("object", _bytes(plain.output) == _bytes(trial.output)),
                ("dependencies", _listed(plain) == _listed(trial)),
                ("messages", plain_said == said),
            ):
                differences += [] if alike else [what]
        # What counts after a fallback is the plain compile.
        same = not differences
        entry.update(same=same, fallback=reason, plain_cpu=round(plain_cpu, 2), with_cpu=round(with_cpu, 2))
        if not same:
            again = _to(command, name + ".again")
            _plain(again, name)
            # Some compiles differ from themselves; that is no fault of a header, but has to be seen.
            entry.update(differences=differences, plain_again_same=_bytes(plain.output) == _bytes(again.output))
        else:
            for end in ("plain.o", "plain.d", "with.o", "with.d"):
                if os.path.exists(f"{name}.{end}"):
                    os.unlink(f"{name}.{end}")
        self._tell(entry)
        return same

    def _tell(self, entry: dict[str, object]) -> None:
        line = json.dumps(entry) + "\n"
        sys.stdout.write(line)
        sys.stdout.flush()
        if self._results:
            with open(self._results, "a", encoding="utf-8") as file:
                file.write(line)


def _to(command: Command, name: str) -> Command:
    """The same compile, to ``name.o`` and ``name.d``; both know the object by its own name."""
    argv = []
    rest = iter(command.argv)
    for argument in rest:
        if argument in ("-o", "-MF", "-MT", "-MQ"):
            next(rest)
        elif argument != "-MD":
            argv.append(argument)
    argv += ["-MD", "-MT", command.output, "-MF", name + ".d", "-o", name + ".o"]
    return Command(argv, command.cwd)


def _plain(command: Command, name: str) -> tuple[int, float, str]:
    """Compile plainly: exit code, CPU seconds, messages."""
    path = name + ".errors"
    with open(path, "w+", encoding="utf-8", errors="surrogateescape") as file:
        status, seconds = processes.run(command.argv, command.cwd, file.fileno())
        file.seek(0)
        messages = file.read()
    os.unlink(path)
    return status, seconds, messages


def _bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _listed(command: Command) -> list[str]:
    return depfiles.paths(depfiles.names(command.depfile or "")[1])


def main() -> int:
    """See the head of this file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("build_folder")
    parser.add_argument("--folder", required=True)
    parser.add_argument("--sample", type=int, default=None, help="sources of each group; without it all")
    parser.add_argument("--results", default=None)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--group", action="append", default=None)
    options = parser.parse_args()
    os.makedirs(options.folder, exist_ok=True)
    path = os.path.join(options.build_folder, COMMANDS)
    names = Names(dict(os.environ))
    plan = make_plan(path, names)
    # A source may be compiled more than once; in a group it is under the kind that the plan knows.
    commands: dict[str, dict[str, Command]] = {}
    for command in read_commands(path, names):
        group = plan.group_of(command)
        if group is not None:
            argv = [expand(argument, command.source) for argument in command.argv]
            commands.setdefault(group.key, {})[command.source] = Command(argv, command.cwd)
    verification = Verification(os.path.abspath(options.folder), options.results, options.jobs)
    compared, different = 0, []
    for group in sorted(plan.groups.values(), key=lambda group: -len(group.members)):
        if options.group is None or group.key in options.group:
            count, found = verification.group(group, commands[group.key], options.sample)
            compared += count
            different += found
    for source in different:
        sys.stderr.write(f"differs: {source}\n")
    sys.stderr.write(f"{compared} sources of {len(plan.groups)} groups compared, {len(different)} differ\n")
    return 1 if different else 0 if compared else 2


if __name__ == "__main__":
    sys.exit(main())

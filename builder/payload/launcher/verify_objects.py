"""Compile the sources of a configured tree plainly, and compare with what a shortcut gives: a header, or the cache.

    python verify_objects.py BUILD_FOLDER --folder SCRATCH [--cached] [--sample N] [--results FILE] [--jobs N]
        [--group KEY]

The shortcut is a precompiled header, made here without any compile cache; or, with --cached, what the compile cache
answers, whatever way that came into it. Sources that the cache has no answer for are counted and passed over.

Prints one JSON object a line: first ``{sources}``, how many are going to be compared; for each group
``{group, includes, members, header_cpu, header_bytes}`` or ``{group, members, refused}``; for each source
``{file, group, same, fallback, plain_cpu, with_cpu}``; last ``{finished}``. Objects and messages are compared byte by
byte, dependency files by what they list. ``--results`` appends the lines to a file, and passes over sources that stand
there: an interrupted run goes on. Of a source that differs, both objects stay in SCRATCH.

Exit code 1 where a source differs, which is then named; 0 where all are the same; 2 where nothing could be compared.

Runs inside environments, on Python 3.7 and later, without packages.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress

import depfiles
import processes
from cache_lookup import Asked, Cache, read_all, said
from compile_command import Command, Names, digest
from pch_plan import COMMANDS, Group, Plan, make_plan, read_commands
from pch_store import RefusedError, Stored

#: The group of sources that no header serves.
ALONE = "-"


class Verification:
    """One run over a build folder."""

    def __init__(self, folder: str, results: str | None, jobs: int) -> None:
        self.folder = folder
        self.jobs = jobs
        self._results = results
        self._done: dict[str, bool | None] = {}
        try:
            with open(results or "/nonexistent", encoding="utf-8") as file:
                for line in file:
                    # A line that was cut off is of a source that has to be compared again.
                    with suppress(ValueError):
                        entry = json.loads(line)
                        if "file" in entry:
                            self._done[entry["file"]] = entry["same"]
        except OSError:
            pass

    def over(self, chosen: list[str], key: str, compare: Callable[[str], bool | None]) -> tuple[int, list[str]]:
        """Compare the sources that are not known yet, on several processors.

        ``compare`` gives None where there is nothing to compare. Returns how many were compared, those known before
        included, and those that differ.
        """
        todo = [source for source in chosen if source not in self._done]
        different = [source for source in chosen if self._done.get(source) is False]
        compared = sum(self._done.get(source) is not None for source in chosen)
        # Each worker tells of each source, through a pipe.
        reading, writing = os.pipe()
        workers = [self._worker(todo[number :: self.jobs], compare, writing) for number in range(self.jobs)]
        os.close(writing)
        with open(reading, encoding="utf-8", errors="surrogateescape") as named:
            told = [line.partition(" ") for line in named.read().splitlines()]
        compared += len(told)
        different += [source for same, _, source in told if same == "different"]
        codes = [os.waitpid(worker, 0)[1] for worker in workers]
        if any(codes):
            raise RuntimeError(f"a worker failed in group {key}")
        return compared, different

    @staticmethod
    def _worker(sources: list[str], compare: Callable[[str], bool | None], writing: int) -> int:
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            for source in sources:
                same = compare(source)
                if same is not None:
                    line = f"{'same' if same else 'different'} {source}\n"
                    os.write(writing, line.encode("utf-8", "surrogateescape"))
            code = 0
        except BaseException:
            sys.stderr.write(traceback.format_exc())
            sys.stderr.flush()
        finally:
            os._exit(code)

    def with_header(self, group: Group, commands: dict[str, Command], chosen: list[str]) -> tuple[int, list[str]]:
        """Compare the sources of a group; returns how many were, and those that differ."""
        todo = [source for source in chosen if source not in self._done]
        if not todo:
            return self.over(chosen, group.key, lambda _: None)
        stored = Stored(group, self.folder, None)
        facts = {"group": group.key, "includes": group.includes, "members": len(group.members)}
        try:
            seconds = stored.make(commands[todo[0]])
        except RefusedError as error:
            self.tell({**facts, "refused": str(error)})
            return self.over([source for source in chosen if source in self._done], group.key, lambda _: None)
        size = os.path.getsize(stored.header + ".gch")
        self.tell({**facts, "header_cpu": round(seconds, 2), "header_bytes": size})
        found = self.over(chosen, group.key, lambda source: self._compare_header(stored, commands[source]))
        stored.remove()
        return found

    def of_cache(self, key: str, asked: dict[str, Asked], chosen: list[str]) -> tuple[int, list[str]]:
        """Compare what the compile cache answers for some sources; returns how many were, and those that differ."""
        self.tell({"group": key, "members": len(asked)})
        cache = Cache(self.folder)
        return self.over(chosen, key, lambda source: self._compare_answer(cache, key, asked[source]))

    def _compare_header(self, stored: Stored, command: Command) -> bool:
        name = os.path.join(self.folder, "compared." + digest(command.source))
        plain = _to(command.argv, name + ".plain", command.output)
        trial = Command(_to(command.argv, name + ".with", command.output), command.cwd)
        done = self._plain(plain, command.cwd, name)
        entry: dict[str, object] = {"file": command.source, "group": stored.group.key}
        if done is None:
            return self._plain_failed(entry)
        reason, seconds, messages = stored.compile(trial)
        other = None if reason is not None else (f"{name}.with.o", f"{name}.with.d", messages)
        entry.update(fallback=reason, plain_cpu=round(done[0], 2), with_cpu=round(seconds, 2))
        return self._judge(entry, name, plain, command.cwd, done[1], other)

    def _compare_answer(self, cache: Cache, key: str, asked: Asked) -> bool | None:
        name = os.path.join(self.folder, "compared." + digest(asked.source))
        entry: dict[str, object] = {"file": asked.source, "group": key}
        found, messages = cache.answer(asked)
        if not found:
            self.tell({**entry, "same": None, "fallback": "not in the cache"})
            return None
        plain = _to(asked.plain, name + ".plain", asked.output)
        done = self._plain(plain, asked.cwd, name)
        if done is None:
            return self._plain_failed(entry)
        listing = os.path.join(asked.cwd, asked.depfile) if asked.depfile else None
        entry.update(fallback=None, plain_cpu=round(done[0], 2))
        output = os.path.join(asked.cwd, asked.output)
        same = self._judge(entry, name, plain, asked.cwd, done[1], (output, listing, messages))
        if same:
            os.unlink(output)
        return same

    def _plain(self, argv: list[str], cwd: str, name: str) -> tuple[float, str] | None:
        """Compile plainly: CPU seconds and messages; None where it fails."""
        status, seconds, messages = said(lambda errors: processes.run(argv, cwd, errors), name)
        return (seconds, messages) if status == 0 else None

    def _plain_failed(self, entry: dict[str, object]) -> bool:
        self.tell({**entry, "same": False, "error": "the plain compile fails"})
        return False

    def _judge(
        self,
        entry: dict[str, object],
        name: str,
        plain: list[str],
        cwd: str,
        messages: str,
        other: tuple[str, str | None, str] | None,
    ) -> bool:
        """Compare the plain compile with the other one: its object, dependency file and messages.

        After a fallback (None) what counts is the plain compile.
        """
        differences = []
        if other is not None:
            output, listing, others_messages = other
            for what, alike in (
                ("object", _bytes(name + ".plain.o") == _bytes(output)),
                ("dependencies", listing is None or _listed(name + ".plain.d") == _listed(listing)),
                ("messages", messages == others_messages),
            ):
                differences += [] if alike else [what]
        entry.update(same=not differences)
        if differences:
            if other is not None and os.path.dirname(other[0]) != self.folder:
                # The build tree, where the cache has put it, goes.
                shutil.copyfile(other[0], name + ".cached.o")
            # Some compiles differ from themselves; that is no fault of a shortcut, but has to be seen.
            argv = _to(plain, name + ".again", plain[plain.index("-MT") + 1])
            same_again = self._plain(argv, cwd, name) and _bytes(name + ".plain.o") == _bytes(name + ".again.o")
            entry.update(differences=differences, plain_again_same=bool(same_again))
        else:
            for path in (f"{name}.{end}" for end in ("plain.o", "plain.d", "with.o", "with.d")):
                if os.path.exists(path):
                    os.unlink(path)
        self.tell(entry)
        return not differences

    def tell(self, entry: dict[str, object]) -> None:
        line = json.dumps(entry) + "\n"
        sys.stdout.write(line)
        sys.stdout.flush()
        if self._results:
            with open(self._results, "a", encoding="utf-8") as file:
                file.write(line)


def _to(argv: list[str], name: str, target: str) -> list[str]:
    """The same compile, to ``name.o`` and ``name.d``; both know the object by its own name, ``target``."""
    found = []
    rest = iter(argv)
    for argument in rest:
        if argument in ("-o", "-MF", "-MT", "-MQ"):
            next(rest)
        elif argument != "-MD":
            found.append(argument)
    return [*found, "-MD", "-MT", target, "-MF", name + ".d", "-o", name + ".o"]


def _bytes(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _listed(path: str) -> list[str]:
    return depfiles.paths(depfiles.names(path)[1])


def _sampled(members: list[str], sample: int | None) -> list[str]:
    """Which sources are compared: the same ones in each run."""
    return sorted(members, key=digest)[:sample]


def _headers(
    verification: Verification, folder: str, names: Names, options: argparse.Namespace
) -> tuple[int, list[str]]:
    path = os.path.join(folder, COMMANDS)
    plan = make_plan(path, names)
    # A source may be compiled more than once; in a group it is under the kind that the plan knows.
    commands: dict[str, dict[str, Command]] = {}
    for command in read_commands(path, names):
        group = plan.group_of(command)
        if group is not None:
            commands.setdefault(group.key, {})[command.source] = command
    groups = [group for group in _by_size(plan) if options.group is None or group.key in options.group]
    chosen = {group.key: _sampled(group.members, options.sample) for group in groups}
    verification.tell({"sources": sum(map(len, chosen.values()))})
    compared = 0
    different: list[str] = []
    for group in groups:
        count, found = verification.with_header(group, commands[group.key], chosen[group.key])
        compared, different = compared + count, different + found
    return compared, different


def _answers(
    verification: Verification, folder: str, names: Names, options: argparse.Namespace
) -> tuple[int, list[str]]:
    plan = make_plan(os.path.join(folder, COMMANDS), names)
    places = {source: group.key for group in plan.groups.values() for source in group.members}
    asked: dict[str, dict[str, Asked]] = {}
    for one in read_all(folder, names):
        asked.setdefault(places.get(one.source, ALONE), {})[one.source] = one
    keys = sorted(asked, key=lambda key: -len(asked[key]))
    keys = [key for key in keys if options.group is None or key in options.group]
    chosen = {key: _sampled(list(asked[key]), options.sample) for key in keys}
    verification.tell({"sources": sum(map(len, chosen.values()))})
    compared = 0
    different: list[str] = []
    for key in keys:
        count, found = verification.of_cache(key, asked[key], chosen[key])
        compared, different = compared + count, different + found
    return compared, different


def _by_size(plan: Plan) -> list[Group]:
    return sorted(plan.groups.values(), key=lambda group: -len(group.members))


def main() -> int:
    """See the head of this file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("build_folder")
    parser.add_argument("--folder", required=True)
    parser.add_argument("--cached", action="store_true")
    parser.add_argument("--sample", type=int, default=None, help="sources of each group; without it all")
    parser.add_argument("--results", default=None)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--group", action="append", default=None)
    options = parser.parse_args()
    os.makedirs(options.folder, exist_ok=True)
    verification = Verification(os.path.abspath(options.folder), options.results, options.jobs)
    run = _answers if options.cached else _headers
    compared, different = run(verification, options.build_folder, Names(dict(os.environ)), options)
    verification.tell({"finished": True})
    for source in different:
        sys.stderr.write(f"differs: {source}\n")
    sys.stderr.write(f"{compared} sources compared, {len(different)} differ\n")
    return 1 if different else 0 if compared else 2


if __name__ == "__main__":
    sys.exit(main())

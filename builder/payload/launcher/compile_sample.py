"""Compile a few sources of a configured tree, as the build would: through the launcher and the compile cache.

    python compile_sample.py BUILD_FOLDER --files N --since EPOCH [--always SOURCE]... [--jobs N]

Which ones: all that are newer than EPOCH, which code generation has written, and those named by ``--always``; and N
others, one of each group that shares its first includes, the largest groups first, then a second of each, and so on.
Sources that are in no group count by their folders. The same tree gives the same choice.

Prints one JSON object a line: first ``{sources, of}``, how many are going to be compiled of how many; for each source
``{file, status, output}``, as it ends; last ``{finished}``. A source that fails keeps no other from being compiled.

Runs inside environments, on Python 3.7 and later, without packages.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from cache_lookup import Asked, read_all
from compile_command import Names, digest
from pch_plan import COMMANDS, Plan, keep, make_plan, place, stamp_of

#: Characters of what one compile says that are passed on: its beginning, where the first error is.
LONGEST = 1 << 15


def spread(sources: Iterable[str], groups: Iterable[Iterable[str]], count: int, root: str = "/") -> list[str]:
    """``count`` of ``sources``: one of each group, the largest first, then a second of each, and so on.

    Names are taken below ``root``, so that a tree gives the same choice wherever it stands.
    """
    left = set(sources)
    lists = []
    for group in groups:
        members = left.intersection(group)
        left -= members
        lists.append(members)
    folders: dict[str, set[str]] = {}
    for source in left:
        folders.setdefault(os.path.dirname(source), set()).add(source)
    lists += folders.values()

    def order(source: str) -> str:
        return digest(os.path.relpath(source, root))

    ordered = [sorted(members, key=order) for members in lists if members]
    ordered.sort(key=lambda members: (-len(members), order(members[0])))
    rounds = max((len(members) for members in ordered), default=0)
    return [members[number] for number in range(rounds) for members in ordered if number < len(members)][:count]


def written_since(sources: Iterable[str], epoch: int) -> list[str]:
    """Those of ``sources`` that are newer than ``epoch``, the time of every file that was not generated."""
    found = []
    for source in sources:
        with suppress(OSError):
            if os.stat(source).st_mtime > epoch:
                found.append(source)
    return sorted(found)


def plan_of(folder: str, names: Names) -> Plan:
    """The plan of precompiled headers; an empty one where it cannot be made, as in a build."""
    with suppress(Exception):
        return make_plan(os.path.join(folder, COMMANDS), names)
    return Plan([], {})


def keep_plan(plan: Plan, chosen: list[str], folder: str, headers: str) -> None:
    """Have compiles use headers only where those pay for the sources that are compiled here."""
    commands = os.path.join(folder, COMMANDS)
    os.makedirs(headers, exist_ok=True)
    keep(plan.among(set(chosen)), place(headers, commands), stamp_of(commands))


def compiled(asked: list[Asked], launcher: str) -> tuple[int, str]:
    """Compile one source, for each target of the build that has it; the exit code, and what was said."""
    said = ""
    for one in asked:
        with suppress(OSError):
            os.makedirs(os.path.dirname(os.path.join(one.cwd, one.output)), exist_ok=True)
        done = subprocess.run(
            [launcher, *one.argv],
            cwd=one.cwd,
            env={**os.environ, "PWD": one.cwd},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        said += done.stdout.decode(errors="replace")
        if done.returncode != 0:
            return done.returncode, said
    return 0, said


def main() -> int:
    """See the head of this file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("build_folder")
    parser.add_argument("--files", type=int, required=True)
    parser.add_argument("--since", type=int, required=True)
    parser.add_argument("--always", action="append", default=[])
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    folder = options.build_folder
    launcher = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ccache")
    names = Names(dict(os.environ))
    by_source: dict[str, list[Asked]] = {}
    for asked in read_all(folder, names):
        by_source.setdefault(asked.source, []).append(asked)
    first = [source for source in options.always if source in by_source]
    first = list(dict.fromkeys([*first, *written_since(by_source, options.since)]))
    plan = plan_of(folder, names)
    groups = [group.members for group in plan.groups.values()]
    rest = set(by_source) - set(first)
    chosen = [*first, *spread(rest, groups, options.files, os.path.dirname(os.path.abspath(folder)))]
    headers = os.environ.get("BUILDER_HEADERS")
    if headers:
        keep_plan(plan, chosen, folder, headers)
    lock = threading.Lock()

    def tell(entry: dict[str, object]) -> None:
        with lock:
            sys.stdout.write(json.dumps(entry) + "\n")
            sys.stdout.flush()

    def work(source: str) -> None:
        status, said = compiled(by_source[source], launcher)
        tell({"file": source, "status": status, "output": said[:LONGEST]})

    tell({"sources": len(chosen), "of": len(by_source)})
    with ThreadPoolExecutor(max(1, options.jobs)) as workers:
        list(workers.map(work, chosen))
    tell({"finished": True})
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Which sources share a precompiled header: those that begin with the same includes, where that pays.

The plan is made once for each build folder, from CMake's ``compile_commands.json``. Runs inside environments, on
Python 3.7 and later, without packages.
"""

from __future__ import annotations

import json
import os
import subprocess

from compile_command import Command, Names, UnsuitableError, digest, expanded, find_program, split
from includes import Headers, leading_includes, read

COMMANDS = "compile_commands.json"
#: Bytes of headers below which parsing them takes no time worth saving.
LEAST = 200_000
#: What a header of so many bytes saves for one file is those bytes without a part of the largest header of the build: a
#: compile with a header looks more closely at each further header, to see that it is not in there. What it costs is
#: twice its bytes. Measured on torch_npu 2.5.1 with gcc 12: 20 MB cost 13 to 20 s and saved 4 to 6 s, 12 MB cost 8 s
#: and saved 2 s, 7 MB cost 3 s and saved nothing.
OVERHEAD = 0.35
COST = 2.0


class Group:
    """Sources that begin with the same includes and are compiled by the same flags."""

    def __init__(
        self, key: str, includes: list[str], files: list[str], weight: int, ratio: float, members: list[str]
    ) -> None:
        self.key = key
        #: As they are spelt, those beside the source by their absolute path; and where they are.
        self.includes = includes
        self.files = files
        #: Bytes that they bring in, as far as reading them tells.
        self.weight = weight
        #: What the header costs, in what it saves for one file.
        self.ratio = ratio
        self.members = members


class Plan:
    """The groups of one build folder."""

    def __init__(self, groups: list[Group], kinds: dict[str, str]) -> None:
        """``kinds`` says of ``<kind of compile> <source>`` which group it is in."""
        self.groups = {group.key: group for group in groups}
        self._kinds = kinds

    def among(self, sources: set[str]) -> Plan:
        """The same plan for a build that compiles nothing but ``sources``."""
        groups = []
        for group in self.groups.values():
            members = [member for member in group.members if member in sources]
            groups.append(Group(group.key, group.includes, group.files, group.weight, group.ratio, members))
        return Plan(groups, self._kinds)

    def group_of(self, command: Command) -> Group | None:
        """The group of a compile, by its flags and source; None where it has none."""
        return self.groups.get(self._kinds.get(command.kind + " " + command.source, ""))

    def to_json(self) -> object:
        """For a file."""
        return {"groups": [vars(group) for group in self.groups.values()], "kinds": self._kinds}


def from_json(data: dict[str, object]) -> Plan:
    """The plan of a file. Raises what a damaged one raises."""
    groups: list[dict[str, object]] = data["groups"]  # type: ignore[assignment]
    kinds: dict[str, str] = data["kinds"]  # type: ignore[assignment]
    return Plan([Group(**group) for group in groups], kinds)  # type: ignore[arg-type]


def place(folder: str, commands: str) -> str:
    """Where the plan for the build of ``compile_command`` (a path) is kept, below the folder of precompiled headers."""
    return os.path.join(folder, f"plan-{digest(commands)}.json")


def stamp_of(commands: str) -> list[int]:
    """What tells one state of the compile commands from another."""
    status = os.stat(commands)
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def keep(plan: Plan, path: str, stamp: list[int]) -> None:
    """Write a plan, whole or not at all. Raises OSError."""
    beside = f"{path}.{os.getpid()}"
    with open(beside, "w", encoding="utf-8") as file:
        json.dump({"stamp": stamp, "plan": plan.to_json()}, file)
    os.replace(beside, path)


def kept(path: str, stamp: list[int]) -> Plan | None:
    """The plan that ``keep`` wrote for that state; None where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        return from_json(data["plan"]) if data["stamp"] == stamp else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def find_commands(folder: str) -> str | None:
    """The compile commands of the build that ``folder`` is in."""
    while True:
        path = os.path.join(folder, COMMANDS)
        if os.path.isfile(path):
            return path
        parent = os.path.dirname(folder)
        if parent == folder:
            return None
        folder = parent


def make_plan(commands: str, names: Names) -> Plan:
    """Read all sources of a build and group them."""
    kinds: dict[str, list[Command]] = {}
    for command in read_commands(commands, names):
        kinds.setdefault(command.kind, []).append(command)
    groups: list[Group] = []
    places: dict[str, str] = {}
    for kind, members in kinds.items():
        compiler = Compiler(members[0].compiler)
        if not compiler.is_gcc:
            continue
        first = members[0]
        headers = Headers(first.quoted, first.folders + compiler.folders, first.cwd)
        root = Node([], None, {})
        for member in members:
            root.add(member.source, placed_includes(member.source, headers))
        overhead = OVERHEAD * root.largest(headers)
        for node in root.chosen(headers, overhead):
            includes, files = [include for include, _ in node.path], [file for _, file in node.path]
            sources = sorted(node.members)
            # The compiler is part of it: what is remembered of a header holds for one compiler.
            key = digest("\0".join([kind, compiler.identity, *includes]))
            weight = node.weight(headers)
            groups.append(Group(key, includes, files, weight, COST * weight / (weight - overhead), sources))
            places.update((f"{kind} {source}", key) for source in sources)
    return Plan(groups, places)


def read_commands(path: str, names: Names) -> list[Command]:
    """All compiles of a build that a precompiled header could serve."""
    with open(path, encoding="utf-8") as file:
        entries = json.load(file)
    split_before: dict[str, list[str]] = {}
    found = []
    for entry in entries:
        source = entry["file"]
        if "arguments" in entry:
            argv = list(entry["arguments"])
        else:
            # All files of one kind differ in their own name only; splitting is what takes the time.
            line = entry["command"].replace(os.path.splitext(os.path.basename(source))[0], "\1")
            line = line.replace(os.path.dirname(source), "\2")
            if line not in split_before:
                split_before[line] = split(line)
            stem, folder = os.path.splitext(os.path.basename(source))[0], os.path.dirname(source)
            argv = [word.replace("\2", folder).replace("\1", stem) for word in split_before[line]]
        while argv and os.path.basename(argv[0]) == "ccache":
            argv = argv[1:]
        try:
            argv = expanded(argv, entry["directory"], source)
            found.append(Command(names.apply(argv, source), entry["directory"]))
        except UnsuitableError:
            continue
    return found


def spelt_includes(source: str) -> list[str]:
    """The leading includes of a source, spelt so that they mean the same in a header that lies elsewhere."""
    found = []
    folder = os.path.dirname(source)
    for include, _ in leading_includes(read(source)):
        beside = os.path.join(folder, include[1:-1])
        if include[0] == '"' and os.path.isfile(beside):
            if not os.path.isabs(beside):
                break
            include = f'"{beside}"'
        found.append(include)
    return found


def placed_includes(source: str, headers: Headers) -> list[tuple[str, str]]:
    """The leading includes of a source that a header can hold, and their places.

    One that cannot be found, or that may be included twice, ends them: a compile with the header meets it again.
    """
    found = []
    for include in spelt_includes(source):
        path = headers.find(include, None)
        if path is None or not headers.guarded(path):
            break
        found.append((include, path))
    return found


class Node:
    """Sources that share their first includes; its children share one more."""

    def __init__(self, path: list[tuple[str, str]], parent: Node | None, seen: dict[str, int]) -> None:
        self.path = path
        self.parent = parent
        self.members: list[str] = []
        self.children: dict[tuple[str, str], Node] = {}
        self._own: list[str] = []
        self._sizes: dict[str, int] | None = None
        self._weight = 0

    def add(self, source: str, includes: list[tuple[str, str]]) -> None:
        """Place a source."""
        node = self
        node.members.append(source)
        for include in includes:
            node = node.children.setdefault(include, Node([*node.path, include], node, {}))
            node.members.append(source)

    def weight(self, headers: Headers) -> int:
        """Bytes of all headers that the includes may bring in."""
        if not self._weight:
            self._weight = sum(self._reached(headers).values())
        return self._weight

    def _reached(self, headers: Headers) -> dict[str, int]:
        if self._sizes is None:
            before = self.parent._reached(headers) if self.parent is not None else {}
            self._sizes = headers.reach(self.path[-1][1], before) if self.path else {}
        return self._sizes

    def largest(self, headers: Headers) -> int:
        """The weight of the heaviest node, this or below, that several sources share."""
        if len(self.members) <= COST:
            return 0
        return max([self.weight(headers), *(child.largest(headers) for child in self.children.values())])

    def chosen(self, headers: Headers, overhead: float) -> list[Node]:
        """The nodes that become groups, each with the sources that no deeper one takes.

        ``overhead`` is what each file gives up of the bytes that a header saves it.
        """
        _, nodes = self._best(headers, None, overhead, {})
        for node in sorted(nodes, key=lambda node: -len(node.path)):
            taken = set(node.members)
            for above in nodes:
                if above is not node and above.path == node.path[: len(above.path)]:
                    above.members = [member for member in above.members if member not in taken]
        return [node for node in nodes if node.members]

    def _best(
        self,
        headers: Headers,
        above: Node | None,
        overhead: float,
        known: dict[tuple[int, int], tuple[float, list[Node]]],
    ) -> tuple[float, list[Node]]:
        """The best choice among this node and those below: bytes saved, and nodes. ``above`` is already chosen."""
        have = above.weight(headers) - overhead if above is not None else 0.0
        if len(self.members) <= COST:
            return have * len(self.members), []
        place = (id(self), id(above))
        if place not in known:
            choices = []
            for choose in (False, True) if self.path else (False,):
                weight = self.weight(headers)
                if choose and weight < LEAST:
                    continue
                each = weight - overhead if choose else have
                value, nodes = (-COST * weight, [self]) if choose else (0.0, [])
                direct = len(self.members)
                for child in self.children.values():
                    direct -= len(child.members)
                    below, more = child._best(headers, self if choose else above, overhead, known)
                    value, nodes = value + below, nodes + more
                choices.append((value + direct * each, nodes))
            known[place] = max(choices, key=lambda choice: choice[0])
        return known[place]


class Compiler:
    """What a compiler says of itself."""

    def __init__(self, path: str) -> None:
        told = subprocess.run(
            [path, "-v", "-E", "-x", "c++", "/dev/null"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        ).stderr.decode(errors="replace")
        self.is_gcc = "gcc version " in told and "clang" not in told
        listed = told.partition("search starts here:\n#include <...>")[2].partition("End of search list")[0]
        listed = listed or told.partition("#include <...> search starts here:")[2].partition("End of search list")[0]
        self.folders = [line.strip() for line in listed.splitlines() if line.startswith(" ")]
        status = os.stat(find_program(path))
        version = [line for line in told.splitlines() if line.startswith("gcc version ")]
        self.identity = " ".join([*version, str(status.st_size), str(status.st_mtime_ns)])

"""Damage to files, from a seed: the same seed does the same to the same file.

A mutation changes a file in place, or puts something else there, and returns what it did in words. ``damage`` chooses
one that suits the file's name.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import socket
import sqlite3
import sys
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

import yaml

from builder.core.untrusted import remove_tree

#: Bytes of a file that is nothing but a length.
SPARSE = 3 << 30
_DEEP = 100_000
#: Values that nobody expects at a node of JSON or YAML, by what they are called.
VALUES: dict[str, Callable[[], Any]] = {
    "null": lambda: None,
    "true": lambda: True,
    "zero": lambda: 0,
    "a negative number": lambda: -1,
    "a number beyond 64 bits": lambda: 1 << 70,
    "a number of 400 digits": lambda: 10**400,
    "infinity": lambda: float("inf"),
    "no number": lambda: float("nan"),
    "a fraction": lambda: 0.5,
    "empty text": lambda: "",
    "a NUL": lambda: "a\0b",
    "a lone surrogate": lambda: "\ud800",
    "control characters": lambda: "\x1b[2J\r\n\x07",
    "a path out": lambda: "../../../../etc/passwd",
    "an absolute path": lambda: "/etc/passwd",
    "an option": lambda: "--help",
    "digits of another script": lambda: "２.５.１",
    "markup": lambda: "[/red][bold]x[/]",
    "a date to come": lambda: "2931-01-01T00:00:00+00:00",
    "a date without a zone": lambda: "2026-01-01T00:00:00",
    "long text": lambda: "x" * 1_000_000,
    "an empty list": list,
    "a list of null": lambda: [None],
    "a list of lists": lambda: [[[[]]]],
    "an empty object": dict,
    "an object": lambda: {"a": {"b": [1]}},
}
_NOT_YAML = ("a lone surrogate",)

T = TypeVar("T")


class Deck(random.Random):
    """Chance that comes to all of a few options before it repeats one."""

    def __init__(self, seed: str) -> None:
        super().__init__(seed)
        self._left: dict[str, list[int]] = {}

    def copy(self) -> Deck:
        """One that will give the same from here on."""
        made = Deck("")
        made.setstate(self.getstate())
        made._left = {place: list(left) for place, left in self._left.items()}
        return made

    def draw(self, options: Sequence[T]) -> T:
        """One of ``options``, of which there is the same number at each call from the same place."""
        caller = sys._getframe(1)
        place = f"{caller.f_code.co_name}:{caller.f_lineno}:{len(options)}"
        if not self._left.get(place):
            self._left[place] = self.sample(range(len(options)), len(options))
        return options[self._left[place].pop()]


Mutation = Callable[[Deck, Path], str]


def damage(random: Deck, path: Path) -> str:
    """Do one of the things to ``path`` that suit what it is; what was done, in words."""
    kinds: list[tuple[Mutation, ...]] = [CONTENT, CONTENT, REPLACED]
    name = path.name.removesuffix(".gz")
    if name.endswith((".json", ".jsonl")):
        kinds += [(json_node, json_node, json_node, json_key, json_text, json_text)] * 2
    elif name.endswith(".yaml"):
        kinds += [(yaml_node, yaml_node, yaml_key, yaml_text, yaml_text, yaml_text)] * 2
    elif name.endswith(".sqlite"):
        kinds += [(database_value, database_value, database_value, database_schema, database_schema, database_page)] * 2
    elif name.endswith((".whl", ".zip")):
        kinds += [(archive_field, archive_field, archive_tail)] * 3
    return random.draw([mutation for kind in kinds for mutation in kind])(random, path)


# -- any file -------------------------------------------------------------------------------------------------


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data)


def truncated(random: Deck, path: Path) -> str:
    data = path.read_bytes()
    length = random.randrange(len(data) or 1)
    path.write_bytes(data[:length])
    return f"cut off after {length} bytes"


def flipped(random: Deck, path: Path) -> str:
    data = bytearray(_content(path)) or bytearray(1)
    places = [random.randrange(len(data)) for _ in range(random.choice((1, 1, 8, 64)))]
    for place in places:
        data[place] ^= 1 << random.randrange(8)
    _write(path, bytes(data))
    return f"bits flipped at {places[:8]}"


def inserted(random: Deck, path: Path) -> str:
    data = _content(path)
    name, junk = random.draw(
        (
            ("NULs", b"\0" * random.choice((1, 4096))),
            ("invalid UTF-8", b"\xff\xfe\xc3\x28"),
            ("an encoded surrogate", b"\xed\xa0\x80"),
            ("a byte order mark", b"\xef\xbb\xbf"),
            ("carriage returns", b"\r\r\n"),
            ("a tab", b"\t"),
            ("a C1 control character", "\x85\x9b".encode()),
            ("a line of 5 MB", b"y" * 5_000_000),
        )
    )
    place = random.choice((0, len(data), random.randrange(len(data) or 1)))
    _write(path, data[:place] + junk + data[place:])
    return f"{name} put in at {place}"


def lines_moved(random: Deck, path: Path) -> str:
    lines = _content(path).splitlines(keepends=True) or [b""]
    place, how = random.randrange(len(lines)), random.draw(("left out", "doubled", "exchanged"))
    if how == "left out":
        del lines[place]
    elif how == "doubled":
        lines.insert(place, lines[place])
    else:
        other = random.randrange(len(lines))
        lines[place], lines[other] = lines[other], lines[place]
    _write(path, b"".join(lines))
    return f"line {place + 1} {how}"


def emptied(_: Deck, path: Path) -> str:
    path.write_bytes(b"")
    return "0 bytes"


def _deep(path: Path) -> None:
    path.mkdir()
    at = os.open(path, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)


def replaced(random: Deck, path: Path) -> str:
    """Something that is no regular file, or none of a size that anybody reads."""
    kinds = (
        "nothing",
        "FIFO",
        "socket",
        "folder",
        "folder of a file",
        "link to nothing",
        "link to itself",
        "link to /dev/zero",
        "link to a folder",
        "link to a FIFO",
        "sparse 3 GB",
        "deep folder",
    )
    what = random.draw(kinds)
    remove_tree(path)
    if what == "FIFO":
        os.mkfifo(path)
    elif what == "socket":
        # A path of a socket has room for 107 bytes.
        descriptor = os.open(path.parent, os.O_PATH)
        with closing(socket.socket(socket.AF_UNIX)) as made:
            made.bind(f"/proc/self/fd/{descriptor}/{path.name}")
        os.close(descriptor)
    elif what == "deep folder":
        _deep(path)
    elif what.startswith("folder"):
        path.mkdir()
        if what != "folder":
            (path / path.name).write_text("x")
    elif what == "link to a FIFO":
        os.mkfifo(path.with_name(".fifo"))
        path.symlink_to(".fifo")
    elif what.startswith("link"):
        places = {"nothing": "nowhere", "itself": path.name, "/dev/zero": "/dev/zero", "a folder": "."}
        path.symlink_to(places[what.removeprefix("link to ")])
    elif what == "sparse 3 GB":
        with path.open("wb") as stream:
            stream.truncate(SPARSE)
    return f"{what} in its place"


# -- JSON and YAML --------------------------------------------------------------------------------------------

Node = tuple[Any, Any]


def _nodes(value: Any) -> list[Node]:
    """Where each node below ``value`` stands: its container, and its key or index there."""
    found: list[Node] = []
    pending = [value]
    while pending:
        container = pending.pop()
        keys = container if isinstance(container, dict) else range(len(container))
        for key in keys:
            found.append((container, key))
            if isinstance(container[key], (dict, list)):
                pending.append(container[key])
    return found


def _exchange(random: Deck, root: Any, names: list[str]) -> tuple[Any, str]:
    """``root`` with a node exchanged, once in ten times itself."""
    name = random.draw(names)
    value = VALUES[name]()
    nodes = _nodes(root) if isinstance(root, (dict, list)) else []
    if not nodes or random.random() < 0.1:
        return value, f"{name} instead of all"
    container, key = random.choice(nodes)
    container[key] = value
    return root, f"{name} at {str(key)[:60]!r}"


def _rename(random: Deck, root: Any) -> str:
    """Take a key out, give it another name, or add one."""
    holders = [root, *(container[key] for container, key in _nodes(root))] if isinstance(root, (dict, list)) else []
    holders = [holder for holder in holders if isinstance(holder, dict) and holder]
    if not holders:
        return "as it was"
    holder = random.choice(holders)
    key, how = random.choice(list(holder)), random.draw(("left out", "renamed", "added"))
    value = holder[key] if how == "added" else holder.pop(key)
    if how != "left out":
        holder[f"{key}x"] = value
    return f"key {str(key)[:60]!r} {how}"


def json_node(random: Deck, path: Path) -> str:
    root, done = _exchange(random, json.loads(_content(path)), list(VALUES))
    _write(path, json.dumps(root).encode())
    return done


def json_key(random: Deck, path: Path) -> str:
    root = json.loads(_content(path))
    done = _rename(random, root)
    _write(path, json.dumps(root).encode())
    return done


def json_text(random: Deck, path: Path) -> str:
    """Text that is hardly JSON, or hardly to be read."""
    whole = _content(path).decode()
    texts = {
        "lists inside each other": "[" * _DEEP,
        "objects inside each other": '{"a":' * _DEEP,
        "closed lists inside each other": "[" * _DEEP + "]" * _DEEP,
        "a number of 100,000 digits": "9" * 100_000,
        "a key twice": whole.replace("{", '{"schema": 0, "schema": "x",', 1),
        "a huge exponent": whole.replace("1", "1e999", 1),
        "a number of 5000 digits inside": whole.replace("1", "1" * 5000, 1),
        "deep lists inside": whole.replace(": ", f': {"[" * 5000}{"]" * 5000}, "more": ', 1),
        "an escaped surrogate": whole.replace('": "', '": "\\ud800', 1),
        "text of another encoding": whole.encode("utf-16").decode("latin-1"),
        "two documents": whole + whole,
    }
    name = random.draw(list(texts))
    _write(path, texts[name].encode("utf-8", "surrogatepass"))
    return name


def yaml_node(random: Deck, path: Path) -> str:
    names = [name for name in VALUES if name not in _NOT_YAML]
    root, done = _exchange(random, yaml.safe_load(_content(path)), names)
    _write(path, yaml.safe_dump(root, sort_keys=False).encode())
    return done


def yaml_key(random: Deck, path: Path) -> str:
    root = yaml.safe_load(_content(path))
    done = _rename(random, root)
    _write(path, yaml.safe_dump(root, sort_keys=False).encode())
    return done


def _bomb() -> str:
    lines = ["b0: &b0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 9)}]" for n in range(1, 12)]
    return "\n".join(lines) + "\n"


#: What is put in place of a value, or at the end of the file where it begins with a line break.
YAML_TEXTS = {
    "a bomb of aliases": "\n" + _bomb(),
    "an anchor inside itself": " &a [*a]",
    "an alias of nothing": " *nothing",
    "a merge key": " {<<: {a: 1}}",
    "a merge key of no mapping": " {<<: 1}",
    "a merge key at the top": "\n<<: {a: 1}\n",
    "a Python tag": " !!python/object/apply:os.system [id]",
    "a binary tag": " !!binary '=='",
    "a broken binary tag": " !!binary 'a'",
    "a time stamp that is none": " 2026-99-99",
    "a tagged time stamp": " !!timestamp x",
    "a tagged number": " !!int x",
    "a tagged truth": " !!bool x",
    "a set": " !!set {a, b}",
    "an own tag": " !own x",
    "a number of 100,000 digits": " " + "9" * 100_000,
    "a number in base 60": " " + "1:" * 5000 + "1",
    "infinity": " .inf",
    "no number": " .nan",
    "lists inside each other": " " + "[" * _DEEP,
    "closed lists inside each other": " " + "[" * 3000 + "]" * 3000,
    "mappings inside each other": " " + "{a: " * 3000 + "}" * 3000,
    "a key that is a list": "\n? [a, b]\n: c\n",
    "a key that is a mapping": "\n? {a: b}\n: c\n",
    "a key that is null": "\n~: c\n",
    "a key that is a number": "\n1: c\n1.5: d\ntrue: e\n",
    "a key twice": "\nx: 1\nx: 2\n",
    "a second document": "\n---\na: 1\n",
    "a broken second document": "\n---\n[\n",
    "a directive": "\n...\n%YAML 9.9\n---\na: 1\n",
    "a tab": "\n\tx: 1\n",
    "an unclosed quotation": ' "x',
    "an escaped NUL": ' "a\\0b"',
    "an escaped surrogate": ' "\\ud800"',
    "a block of text": " |+9\n  x\n",
    "a reserved character": " @x",
}


def yaml_text(random: Deck, path: Path) -> str:
    """Syntax that few expect, in place of a value of the file or at its end."""
    lines = _content(path).decode().splitlines()
    name = random.draw(list(YAML_TEXTS))
    text = YAML_TEXTS[name]
    places = [number for number, line in enumerate(lines) if ": " in line and not line.lstrip().startswith("#")]
    if text.startswith("\n") or not places:
        lines.append(text.strip("\n"))
        place = len(lines)
    else:
        place = random.choice(places)
        lines[place] = lines[place].partition(": ")[0] + ":" + text
    _write(path, ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass"))
    return f"{name} in line {place + 1}"


# -- databases and archives -----------------------------------------------------------------------------------


def database_value(random: Deck, path: Path) -> str:
    """Another value in a column, in one row or in all."""
    values = (
        None,
        -1,
        1 << 62,
        1e308,
        float("inf"),
        "",
        "x",
        "a\0b",
        "[",
        "2931-01-01T00:00:00+00:00",
        b"\xff\xfe",
        "x" * 1_000_000,
        "[" * _DEEP,
        '"text"',
        "９",
    )
    value = random.draw(values)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA ignore_check_constraints = on")
        database.execute("PRAGMA foreign_keys = off")
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        table = random.draw([name for name in tables if not name.startswith("sqlite_")])
        column = random.draw([row[1] for row in database.execute(f'PRAGMA table_info("{table}")')])
        with suppress(sqlite3.Error):
            database.execute(f'UPDATE OR IGNORE "{table}" SET "{column}" = ?', (value,))  # noqa: S608
    return f"{str(value)[:30]!r} in {table}.{column}"


def database_schema(random: Deck, path: Path) -> str:
    """Another schema: versions, and tables that are something else."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        table = random.draw([name for name in tables if not name.startswith("sqlite_")])
        statements = {
            "another version": "PRAGMA user_version = 99",
            "a negative version": "PRAGMA user_version = -1",
            "version 0": "PRAGMA user_version = 0",
            "an own application": "PRAGMA application_id = 12345",
            f"no table {table}": f'DROP TABLE "{table}"',
            f"a view instead of {table}": f'DROP TABLE "{table}"; CREATE VIEW "{table}" AS WITH RECURSIVE c(x) AS '  # noqa: S608
            "(SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x AS id, x AS run, x AS target FROM c",
            f"another table {table}": f'DROP TABLE "{table}"; CREATE TABLE "{table}" (x)',
            f"a trigger on {table}": f'CREATE TRIGGER t AFTER INSERT ON "{table}" BEGIN SELECT RAISE(ABORT, "no"); END',
            "a table more": "CREATE TABLE more (x)",
        }
        name = random.draw(list(statements))
        with suppress(sqlite3.Error):
            database.executescript("PRAGMA foreign_keys = off; " + statements[name])
    return name


def database_page(random: Deck, path: Path) -> str:
    """Pages of noise, or files beside it that a writer may have left."""
    data = bytearray(path.read_bytes())
    beside = random.draw(("page", "page", "page", "-wal", "-journal", "-shm"))
    if beside != "page":
        path.with_name(path.name + beside).write_bytes(random.randbytes(5000))
        return f"a {beside} of noise"
    page = random.randrange(max(1, len(data) // 4096))
    start = page * 4096 + random.draw((0, 0, 100, 2000))
    data[start : start + 512] = random.randbytes(512)
    path.write_bytes(data)
    return f"noise in page {page}"


def archive_field(random: Deck, path: Path) -> str:
    """A byte or a number of the archive's directory, or of a header before a member."""
    data = bytearray(path.read_bytes())
    marks = [b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"]
    places = [at for mark in marks for at in _all(data, mark)]
    if not places:
        return flipped(random, path)
    place = random.choice(places) + random.randrange(4, 30)
    value = random.draw((b"\0", b"\xff", b"\xff\xff", b"\xff\xff\xff\xff", b"\x01\0", b"\x63\0", random.randbytes(2)))
    data[place : place + len(value)] = value
    path.write_bytes(data)
    return f"{value.hex()} in the directory at {place}"


def archive_tail(random: Deck, path: Path) -> str:
    """What stands before or behind an archive."""
    data = path.read_bytes()
    name = random.draw(("noise before", "noise behind", "itself behind", "only its directory", "no directory"))
    place = max(0, data.find(b"PK\x01\x02"))
    path.write_bytes(
        {
            "noise before": b"#!/bin/sh\n" + data,
            "noise behind": data + b"\0" * 70_000,
            "itself behind": data + data,
            "only its directory": data[place:],
            "no directory": data[:place],
        }[name]
    )
    return name


def _all(data: bytearray, mark: bytes) -> list[int]:
    found, at = [], data.find(mark)
    while at >= 0:
        found.append(at)
        at = data.find(mark, at + 1)
    return found


CONTENT: tuple[Mutation, ...] = (truncated, flipped, inserted, lines_moved, emptied)
REPLACED: tuple[Mutation, ...] = (replaced, replaced, replaced, replaced)

#: Values of options and variables that nobody means, by what they are called.
WORDS: dict[str, str] = {
    "empty": "",
    "white space": " \t ",
    "a line break": "x\ny",
    "an escape sequence": "\x1b[2Jx",
    "a C1 control character": "a\x9bb",
    "a lone surrogate": "\udcff",
    "long": "x" * 100_000,
    "long in parts": "a," * 20_000,
    "commas": ",,,",
    "digits of another script": "２",
    "a superscript": "²",
    "a negative number": "-1",
    "zero": "0",
    "a huge number": "9" * 400,
    "a number of 5000 digits": "9" * 5000,
    "infinity": "inf",
    "no number": "nan",
    "an exponent": "1e999",
    "a size beyond all": "9" * 30 + "T",
    "a path out": "../../../../..",
    "a device": "/dev/zero",
    "a folder of the system": "/proc/self",
    "a file": "FILE",
    "a FIFO": "FIFO",
    "a link to itself": "LOOP",
    "an option": "--help",
    "two dashes": "--",
    "a glob": "[",
    "a wide glob": "*" * 50 + "b",
    "a format": "{0.__class__}%s%n",
    "markup": "[/red][bold]",
    "a URL of no host": "https://",
    "a URL of a bad port": "tcp://host:99999999",
    "a URL with brackets": "http://[::1",
    "an unknown scheme": "x-none://a",
    "an assignment": "=",
    "a version": "2.5.1",
    "an odd version": ">=3..1,!=",
    "a home of nobody": "~nobody-of-that-name/x",
    "a date beyond": "9999-12-31",
    "a first date": "0001-01-01",
    "right to left": "\u202eabc",
    "other spaces": "\u2028\u00a0",
}

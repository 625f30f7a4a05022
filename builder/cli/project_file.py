"""Defaults of a project: ``torch-npu-builder.toml``, or ``[tool.torch-npu-builder]`` in ``pyproject.toml``.

Only the folder that the program runs in is looked at: a file further up could be anybody's. Keys are options without
their dashes; those at the top hold for every command that has the option, those in a table for the command of its name:

    pytorch = ["v2.5.1-7.1.0"]
    jobs = 8

    [nightly]
    parallel = 2
"""

from __future__ import annotations

import re
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from builder.core.errors import RequestError

OWN, SHARED = "torch-npu-builder.toml", "pyproject.toml"
_TABLE = "tool.torch-npu-builder"
#: Bytes that such a file may have.
_LARGEST = 1 << 20


@dataclass(frozen=True)
class ProjectFile:
    """What a project file says.

    ``defaults`` is click's default map; ``origins`` has the ``file:line`` of each value, by command and parameter.
    """

    defaults: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[tuple[str, str], str] = field(default_factory=dict)


def read_project_file(folder: Path, cli: click.Group) -> ProjectFile:
    """Read the project file of ``folder`` for the commands of ``cli``; an empty one where there is none.

    ``torch-npu-builder.toml`` is read rather than ``pyproject.toml``. Raises RequestError with file and line for what
    is not TOML, is no option of any command, or is no value of its option.
    """
    for name in (OWN, SHARED):
        text = _text(folder / name)
        if text is None or (name == SHARED and _TABLE not in text):
            continue
        values: Any = _parsed(folder / name, text)
        for part in _TABLE.split(".") if name == SHARED else ():
            values = values.get(part, {}) if isinstance(values, dict) else values
        if not isinstance(values, dict):
            raise RequestError(f"{SHARED}: {_TABLE}: expected a table", hint="see docs/project-file.md")
        return _Reader(name, text, _TABLE if name == SHARED else "", cli).read(values)
    return ProjectFile()


def _text(path: Path) -> str | None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise RequestError(f"{path.name} is no file", hint="remove it, or write a project file in its place")
        with open(path, "rb") as stream:
            content = stream.read(_LARGEST + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RequestError(f"{path.name} cannot be read: {error.strerror}", hint="correct or remove it") from error
    if len(content) > _LARGEST:
        raise RequestError(f"{path.name} is larger than 1 MiB", hint="it holds options only; remove the rest")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RequestError(f"{path.name}:{line}: the file is not UTF-8 text", hint="save it as UTF-8") from error


def _parsed(path: Path, text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        said = re.sub(r" \(at line (\d+), column (\d+)\)$", "", str(error))
        place = re.search(r"\(at line (\d+), column (\d+)\)$", str(error))
        where = f"{path.name}:{place[1]}:{place[2]}" if place else path.name
        raise RequestError(f"{where}: not TOML: {said}", hint="see https://toml.io for its form") from error


class _Reader:
    """Gives each value of a file to the commands that have its option."""

    def __init__(self, file: str, text: str, table: str, cli: click.Group) -> None:
        self._file = file
        self._lines = text.splitlines()
        self._table = table
        self._cli = cli
        self._commands = {command.name or "": command for command in _commands(cli)}
        self._defaults: dict[str, Any] = {}
        self._origins: dict[tuple[str, str], str] = {}

    def read(self, values: Mapping[str, Any]) -> ProjectFile:
        tables = {key: value for key, value in values.items() if isinstance(value, dict)}
        for key, value in values.items():
            if key not in tables:
                having = [path for path, command in _by_path(self._cli) if _option(command, key)]
                if not having:
                    raise self._unknown("", key)
                for path in having:
                    self._set(path, key, value, self._place("", key))
        for name, table in tables.items():
            found = [path for path, _ in _by_path(self._cli) if path[-1] == name or " ".join(path) == name]
            if not found:
                known = [" ".join(path) for path, _ in _by_path(self._cli)]
                near = get_close_matches(name, known, n=1)
                raise RequestError(
                    f"{self._place('', name)}: the table {name!r} is named after no command",
                    hint=f"did you mean {near[0]!r}?" if near else f"expected one of: {', '.join(known)}",
                )
            for key, value in table.items():
                if isinstance(value, dict) or not _option(self._at(found[0]), key):
                    raise self._unknown(name, key)
                self._set(found[0], key, value, self._place(name, key))
        return ProjectFile(self._defaults, self._origins)

    def _at(self, path: tuple[str, ...]) -> click.Command:
        return dict(_by_path(self._cli))[path]

    def _set(self, path: tuple[str, ...], key: str, value: Any, place: str) -> None:
        option = _option(self._at(path), key)
        assert option is not None  # noqa: S101 - the callers have looked
        target = self._defaults
        for part in path:
            target = target.setdefault(part, {})
        target[option.name or key] = self._fitting(option, value, place)
        self._origins[" ".join(path), option.name or key] = place

    def _fitting(self, option: click.Option, value: Any, place: str) -> Any:
        """``value`` as click takes it. Raises RequestError for a kind of value that the option does not have."""
        if option.is_flag and option.is_bool_flag:
            if not isinstance(value, bool):
                raise RequestError(f"{place}: {value!r}: expected true or false", hint=f"{option.opts[0]} is a switch")
            return value
        parts = value if isinstance(value, list) else [value]
        if isinstance(value, list) and not option.multiple:
            raise RequestError(f"{place}: expected one value, not a list", hint=f"{option.opts[0]} does not repeat")
        for part in parts:
            if isinstance(part, (bool, list, dict)):
                raise RequestError(f"{place}: {part!r}: expected text or a number", hint='put it in quotes: "..."')
        # TOML has days of its own.
        texts = [part.isoformat() if hasattr(part, "isoformat") else str(part) for part in parts]
        return texts if option.multiple else texts[0]

    def _unknown(self, table: str, key: str) -> RequestError:
        commands = [self._at(path) for path, _ in _by_path(self._cli) if not table or path[-1] == table]
        known = sorted({name for command in commands for name in _options(command)})
        near = get_close_matches(key, known, n=1)
        of = f"the command {table}" if table else "any command"
        return RequestError(
            f"{self._place(table, key)}: {key!r} is no option of {of}",
            hint=f"did you mean {near[0]!r}?" if near else "`torch-npu-builder build --help` lists those of a build",
        )

    def _place(self, table: str, key: str) -> str:
        """``file:line`` of a key; the file alone where it is written in a form that is not searched for."""
        wanted = ".".join(filter(None, (self._table, table)))
        at = ""
        for number, line in enumerate(self._lines, start=1):
            header = re.match(r"\s*\[\s*([^\]]+?)\s*\]", line)
            if header:
                at = re.sub(r"[\s\"']", "", header[1])
                if at == ".".join(filter(None, (wanted, key))):
                    return f"{self._file}:{number}"
            elif at == wanted and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", line):
                return f"{self._file}:{number}"
        return self._file


def _by_path(group: click.Group, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _by_path(command, (*above, name))
        else:
            yield (*above, name), command


def _commands(group: click.Group) -> Iterator[click.Command]:
    for _, command in _by_path(group):
        yield command


def _options(command: click.Command) -> dict[str, click.Option]:
    """The options of a command by their long name without dashes."""
    # One that chooses between forms of output is typed where the output is wanted.
    options = [each for each in command.params if isinstance(each, click.Option) and each.is_flag == each.is_bool_flag]
    return {name.lstrip("-"): each for each in options for name in each.opts if name.startswith("--")}


def _option(command: click.Command, key: str) -> click.Option | None:
    options = _options(command)
    return options.get(key) or options.get(key.replace("_", "-"))

"""``explain --options``: each option of a command, the value that it would have now, and where that is from."""

from __future__ import annotations

import json
import sys
from difflib import get_close_matches
from typing import Any

import click
from click.core import ParameterSource
from click.globals import get_current_context

from builder.cli.help import origin_of
from builder.core.errors import RequestError
from builder.progress.reporter import print_table, standard_output

#: What click has since 8.3 in the place of None until a command's options are all read.
_UNSET = getattr(click.core, "UNSET", None)


def explain_options(command: str, target: str | None, *, as_json: bool) -> None:
    """Print the options of ``command`` (``nightly``, ``cache stats``) without anything on its command line.

    Raises RequestError for a command that there is not, or a ``target`` beside it.
    """
    if target is not None:
        raise RequestError(f"{target!r} and --options are two questions", hint="ask one of them at a time")
    rows = [
        {"option": option.opts[0], "value": _plain(value), "source": source, "from": origin}
        for option, value, source, origin in _values(command)
    ]
    if as_json:
        json.dump({"command": command, "options": rows}, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("option", "value", "from"):
        table.add_column(title, overflow="fold")
    for row in rows:
        style = "dim" if row["source"] == "default" else ""
        table.add_row(*(Text(str(cell), style) for cell in (row["option"], _shown(row["value"]), row["from"])))
    print_table(table, standard_output())


def _values(name: str) -> list[tuple[click.Option, Any, str, str]]:
    """Each option of the command ``name`` with its value, the kind of its source, and that source for people."""
    root = get_current_context().find_root()
    context, command = root, root.command
    for word in name.split() or [""]:
        known = command.commands if isinstance(command, click.Group) else {}
        if word not in known:
            near = get_close_matches(word, known, n=1)
            raise RequestError(
                f"there is no command {name!r}", hint=f"did you mean {near[0]!r}?" if near else "--help lists them"
            )
        command = known[word]
        context = click.Context(command, parent=context, info_name=word)
    found = []
    for option in command.params:
        if not isinstance(option, click.Option):
            continue
        value, _ = option.handle_parse_result(context, {}, [])
        if value is _UNSET:
            value = None
        source = context.get_parameter_source(option.name or "")
        kind = "default"
        origin = "default"
        if source is ParameterSource.ENVIRONMENT:
            kind, origin = "environment", str(option.envvar)
        elif source is ParameterSource.DEFAULT_MAP:
            kind, origin = "project file", origin_of(context, option) or "project file"
        found.append((option, value, kind, origin))
    return found


def _plain(value: Any) -> Any:
    """The value as JSON has it; several values of an option as one flat list."""
    if isinstance(value, (list, tuple)):
        flat = [_plain(part) for part in value]
        return [part for each in flat for part in (each if isinstance(each, list) else [each])]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _shown(value: Any) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

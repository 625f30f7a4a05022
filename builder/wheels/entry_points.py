"""Whether entry points lead anywhere: read from the source in the wheel, never by importing it.

PyTorch loads ``torch.backends`` at ``import torch``, so that one which leads nowhere breaks every program of its
installation that uses PyTorch.
"""

from __future__ import annotations

import ast
import configparser
from collections.abc import Iterator

from builder.wheels.inspect import Wheel, parsing, shown

#: Bytes of the largest module that is read.
_LARGEST = 4 << 20


def entry_point_faults(wheel: Wheel) -> Iterator[str]:
    """Each entry point of a module that is not there, or of a name that its module does not define."""
    name = f"{wheel.dist_info}/entry_points.txt"
    if name not in wheel.files:
        return
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, default_section="\0")
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    text = wheel.text(name)
    with parsing(wheel.path.name, name):
        parser.read_string(text)
    for group in parser.sections():
        for entry, target in parser.items(group):
            module, _, attribute = target.partition(":")
            source = _source(wheel, module.strip())
            label = shown(f"{entry} = {target}")
            if source is None:
                yield f"{label} in [{shown(group)}] leads to a module that is not there"
            elif attribute and not _defines(wheel, source, attribute.strip().split(".")[0]):
                yield f"{label} in [{shown(group)}]: {source} defines no {shown(attribute)}"


def _source(wheel: Wheel, module: str) -> str | None:
    path = module.replace(".", "/")
    return next((name for name in (f"{path}.py", f"{path}/__init__.py") if name in wheel.files), None)


def _defines(wheel: Wheel, source: str, name: str) -> bool:
    """Whether the module binds ``name`` at its top, in whatever branch; a star import may bind anything."""
    text = b"".join(wheel.chunks(source, _LARGEST)).decode("utf-8", "replace")
    with parsing(wheel.path.name, f"{source} is not Python"):
        return any(bound in (name, "*") for bound in _bound(ast.parse(text).body))


def _bound(body: list[ast.stmt]) -> Iterator[str]:
    pending = list(body)
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from ((alias.asname or alias.name.split(".")[0]) for alias in node.names)
        else:
            # Names that a statement binds, and the statements inside of if, try, with and for.
            for child in ast.walk(node):
                if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
                    yield child.id
            for part in ("body", "orelse", "finalbody"):
                pending.extend(statement for statement in getattr(node, part, []) if isinstance(statement, ast.stmt))
            pending.extend(statement for handler in getattr(node, "handlers", []) for statement in handler.body)

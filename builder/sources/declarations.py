"""Operator declarations in op-plugin's YAML: finding them with their lines, and comparing them.

The YAML is only composed into nodes, never rewritten: a file of thousands of lines keeps every byte
that is not inserted.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from math import inf
from typing import Any

_SIGNATURE = re.compile(
    r"(?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)?)\s*\((?P<arguments>.*)\)\s*->\s*(?P<returns>.+)", re.S
)

#: Nodes of a file with its aliases written out; op-plugin's own has some 20,000.
_MOST_NODES = 1_000_000


class BadDeclaration(Exception):  # noqa: N818 - internal; callers add the file
    """What is wrong with a YAML text, and in which line (from 1)."""

    def __init__(self, problem: str, line: int, column: int | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.line = line
        self.column = column


@dataclass(frozen=True)
class Declaration:
    """One ``- func:`` entry.

    ``name`` holds the overload (``npu_x.out``); ``signature`` is the whole ``func`` with its spaces made
    even; ``fields`` are the other keys with their values in one notation; ``line`` counts from 1.
    """

    name: str
    signature: str
    fields: tuple[tuple[str, str], ...]
    line: int

    @property
    def dispatched(self) -> bool:
        """True when the entry says which implementation it has; upstream silently drops it otherwise."""
        return any(key in {"acl_op", "op_api", "impl_ns"} for key, _ in self.fields)


@dataclass(frozen=True)
class Section:
    """A list of declarations in a file.

    ``line`` is that of its key, or of its first entry when the file is a bare list; ``column`` is where
    its ``-`` stand, from 0, and None for an empty section.
    """

    name: str
    declarations: tuple[Declaration, ...]
    line: int
    column: int | None
    block: bool


def compose(text: str) -> Any:
    """The YAML node of ``text``, None for an empty one. Raises BadDeclaration with line and column."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        node = YAML(typ="rt", pure=True).compose(io.StringIO(text))
        if _size(node, {}) > _MOST_NODES:
            raise BadDeclaration("its aliases make it endless", 1)
        return node
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = str(error.problem or error.context or error)
        raise BadDeclaration(problem, mark.line + 1 if mark else 1, mark.column + 1 if mark else None) from error
    except YAMLError as error:
        raise BadDeclaration(str(error).splitlines()[0], 1) from error
    except RecursionError as error:
        raise BadDeclaration("it is nested too deeply", 1) from error
    except (ValueError, OverflowError) as error:  # an escape sequence that names no character
        raise BadDeclaration(str(error).splitlines()[0], 1) from error


def _size(node: Any, known: dict[int, float]) -> float:
    """How many nodes ``node`` stands for once aliases are written out."""
    if not _is_sequence(node) and not _is_mapping(node):
        return 1
    if id(node) not in known:
        known[id(node)] = inf  # for a node inside itself
        parts = node.value if _is_sequence(node) else [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


def sections(node: Any) -> dict[str, Section]:
    """The sections of a file by name; a bare list is the section ``custom``.

    Keys whose value is no list of declarations (``all_version``) are left out. Only ``custom`` must hold whole
    signatures: elsewhere (``tocpu``, ``unsupported``) op-plugin also lists bare names, which are left out too.
    Raises BadDeclaration.
    """
    if _is_sequence(node):
        return {"custom": _section("custom", node, node.start_mark.line + 1)}
    if not _is_mapping(node):
        raise BadDeclaration("a list of declarations, or sections of them, is expected", 1)
    found: dict[str, Section] = {}
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in found:
            raise BadDeclaration(f"{name!r} appears a second time", line)
        if _is_sequence(value) and (not value.value or _is_mapping(value.value[0])):
            found[name] = _section(name, value, line)
        elif name == "custom":
            empty = str(getattr(value, "value", "x")) in {"", "~", "null"}
            if not empty:
                raise BadDeclaration("'custom' is not a list of declarations", line)
            found[name] = Section(name, (), line, None, block=True)
    return found


def _section(name: str, node: Any, line: int) -> Section:
    return Section(
        name,
        tuple(_declaration(entry) for entry in node.value if name == "custom" or _has_signature(entry)),
        line,
        node.start_mark.column if node.value and not node.flow_style else None,
        block=not node.flow_style,
    )


def _has_signature(node: Any) -> bool:
    return _is_mapping(node) and any(str(key.value) == "func" and "->" in plain(value) for key, value in node.value)


def _declaration(node: Any) -> Declaration:
    line = node.start_mark.line + 1
    if not _is_mapping(node):
        raise BadDeclaration("a declaration '- func: name(arguments) -> result' is expected", line)
    fields: dict[str, str] = {}
    for key, value in node.value:
        name = str(key.value)
        if name in fields:
            raise BadDeclaration(f"{name!r} appears a second time in one declaration", key.start_mark.line + 1)
        fields[name] = plain(value)
    func = fields.pop("func", None)
    if func is None:
        raise BadDeclaration("the declaration has no 'func'", line)
    return Declaration(*split(func, line), tuple(sorted(fields.items())), line)


def split(func: str, line: int) -> tuple[str, str]:
    """Name (with overload) and evenly spaced signature of a ``func``. Raises BadDeclaration."""
    found = _SIGNATURE.fullmatch(func.strip())
    if found is None:
        raise BadDeclaration(f"{func!r} is not of the form 'name(arguments) -> result'", line)

    def even(text: str) -> str:
        return re.sub(r"\s*([,()\[\]=*])\s*", r"\1", " ".join(text.split()))

    return found["name"], f"{found['name']}({even(found['arguments'])})->{even(found['returns'])}"


def plain(node: Any) -> str:
    """A node's value in one notation, so that ``[a, b]`` and a block list of both compare equal."""
    if _is_sequence(node):
        return "[" + ", ".join(plain(entry) for entry in node.value) + "]"
    if _is_mapping(node):
        return "{" + ", ".join(sorted(f"{plain(key)}: {plain(value)}" for key, value in node.value)) + "}"
    return str(getattr(node, "value", ""))


def _is_sequence(node: Any) -> bool:
    from ruamel.yaml.nodes import SequenceNode

    return isinstance(node, SequenceNode)


def _is_mapping(node: Any) -> bool:
    from ruamel.yaml.nodes import MappingNode

    return isinstance(node, MappingNode)

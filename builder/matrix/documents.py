"""YAML with places: a document whose every value knows its file, line and column.

PyYAML's node graph is read instead of its objects, so that nothing is constructed from tags, a key
cannot silently win over an earlier one, and each error can point at the character it is about.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from builder.errors import RequestError
from builder.matrix import patterns

#: No matrix file comes near these; a file that does is not one.
MAX_BYTES = 1 << 20
MAX_DEPTH = 30

#: What was expected, in the words of someone who writes YAML, for pydantic's types of errors.
_EXPECTED = {
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "mapping_type": "a mapping of keys to values",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
}
# What YAML calls printable, as the complement.
_UNPRINTABLE = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TAG = "tag:yaml.org,2002:"
_Loader: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Model = TypeVar("Model", bound=BaseModel)
Data = None | bool | int | float | str | list["Data"] | dict[str, "Data"]


@dataclass(frozen=True)
class Document:
    """A parsed YAML file."""

    path: Path
    root: yaml.Node
    data: Data

    def place(self, *keys: str | int) -> str:
        """``file:line:column`` (counted from 1) of the value under ``keys``, or of the nearest one above it."""
        return _place(self.path, _walk(self.root, keys)[0])

    def with_defaults(self, rows: str, *, joined: str) -> Document:
        """The document with the mapping under ``defaults`` filled into each mapping of the list ``rows``.

        A row's own key wins; the mapping under the key ``joined`` is filled key by key. Every value keeps its place.
        Raises RequestError where ``defaults`` is no mapping.
        """
        parts = {key.value: value for key, value in self.root.value} if isinstance(self.root, yaml.MappingNode) else {}
        defaults = parts.get("defaults")
        if defaults is None:
            return self
        if not isinstance(defaults, yaml.MappingNode):
            raise RequestError(
                f"{_place(self.path, defaults)}: defaults: expected a mapping of keys to values",
                hint="see docs/matrix.md for its format",
            )
        listed = parts.get(rows)
        if isinstance(listed, yaml.SequenceNode):
            listed = _like(listed, [_filled(row, defaults, joined) for row in listed.value])
        pairs = [
            (key, listed if key.value == rows else value) for key, value in self.root.value if key.value != "defaults"
        ]
        root = _like(self.root, pairs)
        return Document(path=self.path, root=root, data=_data(self.path, root))

    def check(self, model: type[Model]) -> Model:
        """The document as ``model``. Raises RequestError that names each place, value and expectation."""
        try:
            return model.model_validate(self.data)
        except ValidationError as error:
            problems = [self._problem(model, detail) for detail in error.errors(include_url=False)]
        raise RequestError(
            problems[0],
            details="\n".join(problems[1:]) or None,
            hint=f"correct {self.path.name}; an editor with a YAML language server completes and checks it",
        )

    def _problem(self, model: type[BaseModel], detail: ErrorDetails) -> str:
        unknown_key = detail["type"] == "extra_forbidden"
        node, name = _walk(self.root, (*detail["loc"], "[key]") if unknown_key else detail["loc"])
        where = _place(self.path, node)
        about = f"{name}: " if name else ""
        kind, context = detail["type"], detail.get("ctx", {})
        if unknown_key:
            key = str(detail["loc"][-1])
            near = difflib.get_close_matches(key, _field_names(model), n=1)
            return f"{where}: unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else "")
        if kind == "missing":
            return f"{where}: {about}the key {detail['loc'][-1]!r} is missing"
        if kind == "secret":
            return f"{where}: {about}expected {detail['msg']}"
        if kind == "rule":
            return f"{where}: {about}expected {context['reason']}"
        value = _shown(node)
        if kind == "string_pattern_mismatch":
            expected = patterns.EXPECTED.get(str(context.get("pattern")), f"text like {context.get('pattern')}")
        elif kind == "string_type" and isinstance(node, yaml.ScalarNode) and node.value:
            expected = f'text; put it in quotes: "{_short(node.value)}"'
        elif kind == "literal_error":
            expected = str(context.get("expected"))
        else:
            expected = _EXPECTED.get(kind, detail["msg"][0].lower() + detail["msg"][1:])
        return f"{where}: {about}{value}: expected {expected}"


def _filled(row: yaml.Node, defaults: yaml.MappingNode, joined: str) -> yaml.Node:
    if not isinstance(row, yaml.MappingNode):
        return row
    own = {key.value: value for key, value in row.value}
    pairs = [
        (key, _filled(value, _part_of(defaults, joined), "") if key.value == joined else value)
        for key, value in row.value
    ]
    return _like(row, [*pairs, *((key, value) for key, value in defaults.value if key.value not in own)])


def _part_of(defaults: yaml.MappingNode, key: str) -> yaml.MappingNode:
    """The mapping under ``key`` of ``defaults``; an empty one where there is none."""
    found = next((value for name, value in defaults.value if name.value == key), None)
    return found if isinstance(found, yaml.MappingNode) else _like(defaults, [])


NodeT = TypeVar("NodeT", bound=yaml.CollectionNode)


def _like(node: NodeT, value: list[Any]) -> NodeT:
    """A collection with other content that stands in the same place."""
    return type(node)(node.tag, value, node.start_mark, node.end_mark)


def read_document(path: Path) -> Document:
    """Parse one YAML file. Raises RequestError for whatever keeps it from being plain, finite YAML."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise RequestError(
            f"{path} cannot be read: {error.strerror or error}", hint="check the path and its permissions"
        ) from error
    if len(raw) > MAX_BYTES:
        raise RequestError(f"{path} is larger than 1 MiB", hint="a matrix file holds rows only; check the path")
    try:
        text = raw.decode("utf-8")
        _refuse_control_characters(path, text)
        _refuse_references(path, text)
        root = yaml.compose(text, Loader=_Loader)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise RequestError(f"{path}:{line}: the file is not UTF-8 text", hint="save it as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
        context = getattr(error, "context", None)
        raise RequestError(
            f"{where}: malformed YAML: {problem}" + (f" ({context})" if context else ""),
            hint="look at the indentation, quotes and brackets of this line and the one above it",
        ) from error
    if root is None:
        raise RequestError(f"{path}:1:1: the file is empty", hint="see docs/matrix.md for its format")
    return Document(path=path, root=root, data=_data(path, root))


def _refuse_control_characters(path: Path, text: str) -> None:
    found = _UNPRINTABLE.search(text)
    if found:
        line, column = text.count("\n", 0, found.start()) + 1, found.start() - text.rfind("\n", 0, found.start())
        raise RequestError(
            f"{path}:{line}:{column}: the control character {found[0]!r} is not allowed", hint="remove it"
        )


def _refuse_references(path: Path, text: str) -> None:
    """Anchors and aliases can make a small file endlessly large, and deep nesting exhaust the stack."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise RequestError(
                f"{_place(path, event)}: anchors and aliases (& and *) are not allowed here",
                hint="write the value out in each place",
            )
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise RequestError(
                f"{_place(path, event)}: nested more than {MAX_DEPTH} levels deep",
                hint="see docs/matrix.md for the format",
            )


def _data(path: Path, node: yaml.Node) -> Data:
    if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
        return [_data(path, item) for item in node.value]
    if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
        return _mapping(path, node)
    if isinstance(node, yaml.ScalarNode):
        return _scalar(path, node)
    raise _unknown_tag(path, node)


def _mapping(path: Path, node: yaml.MappingNode) -> dict[str, Data]:
    result: dict[str, Data] = {}
    places: dict[str, yaml.Node] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise RequestError(f"{_place(path, key)}: a key must be plain text", hint="see docs/matrix.md")
        if key.value in places:
            raise RequestError(
                f"{_place(path, key)}: the key {key.value!r} stands twice; the first is at "
                f"{_place(path, places[key.value])}",
                hint="keep one of them",
            )
        places[key.value] = key
        # Keys are always text: 3.9 and "3.9" mean the same Python. 3.10 keeps its zero this way, too.
        result[key.value] = _data(path, value)
    return result


def _scalar(path: Path, node: yaml.ScalarNode) -> Data:
    text = str(node.value)
    kind = node.tag.removeprefix(_TAG)
    if kind == "null":
        return None
    if kind == "bool":
        return yaml.SafeLoader.bool_values[text.lower()]
    if kind == "int" and len(text) < 19 and text.lstrip("+-").isdigit():
        return int(text)
    if kind in ("float", "int", "timestamp"):
        return float("nan")  # Only its type matters: no field is a float, so the model refuses it with its place.
    if kind == "str":
        return text
    raise _unknown_tag(path, node)


def _unknown_tag(path: Path, node: yaml.Node) -> RequestError:
    return RequestError(
        f"{_place(path, node)}: the tag {node.tag!r} is not allowed", hint="use plain text, lists and mappings"
    )


def _walk(root: yaml.Node, keys: Iterable[str | int]) -> tuple[yaml.Node, str]:
    """The node under ``keys`` as far as it exists, and its name for people (``releases[0].cann``)."""
    node, name, asked_for_key = root, "", False
    trail = list(keys)
    if trail and trail[-1] == "[key]":  # pydantic's way to speak of a mapping's key instead of its value
        trail, asked_for_key = trail[:-1], True
    for index, key in enumerate(trail):
        last = index == len(trail) - 1
        if isinstance(node, yaml.MappingNode):
            for key_node, value_node in node.value:
                if key_node.value == str(key):
                    node = key_node if last and asked_for_key else value_node
                    name += f".{key}" if name else str(key)
                    break
            else:
                break
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            name += f"[{key}]"
        else:
            break
    return node, name


def _shown(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return repr(_short(node.value))
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


def _field_names(model: type[BaseModel]) -> list[str]:
    """Names of all fields of ``model`` and of the models inside it."""
    schema = model.model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    return sorted({name for part in parts for name in part.get("properties", {})})


def _place(path: Path, place: yaml.Node | yaml.Event) -> str:
    mark = place.start_mark
    return f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)

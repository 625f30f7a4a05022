"""YAML with places: a document whose every value knows its file, line and column.

The parser's events are read in one pass instead of PyYAML's objects, so that nothing is constructed from tags, a key
cannot silently win over an earlier one, nothing is shared or endless, and each error can point at the character
that it is about.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from builder.core.errors import RequestError
from builder.core.redaction import without_credentials
from builder.matrix import patterns

#: No matrix file comes near these; a file that does is not one.
MAX_BYTES = 1 << 20
MAX_DEPTH = 30
MAX_TEXT = 1000
#: Of more problems in one file nobody reads the rest before correcting these.
MAX_PROBLEMS = 20

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
_PLAIN_KEY = re.compile(r"[\w.+-]{1,100}")
_TAG = "tag:yaml.org,2002:"
#: By the first character of a plain scalar: the tags that it may have beside text, each with its pattern.
_RESOLVERS: dict[str, list[tuple[str, re.Pattern[str]]]] = yaml.SafeLoader.yaml_implicit_resolvers
_Loader: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Model = TypeVar("Model", bound=BaseModel)
Data = None | bool | int | float | str | list["Data"] | dict[str, "Data"]


# Places count from 0. The parser's own marks would double the time that garbage collection takes.
class _Scalar(NamedTuple):
    line: int
    column: int
    text: str


class _List(NamedTuple):
    line: int
    column: int
    nodes: list[_Node]


class _Mapping(NamedTuple):
    line: int
    column: int
    keys: dict[str, _Scalar]
    nodes: dict[str, _Node]
    #: Names for people of the values that stand elsewhere: under ``defaults``.
    names: Mapping[str, str] = {}


_Node = _Scalar | _List | _Mapping


@dataclass(frozen=True)
class Document:
    """A parsed YAML file: its values, and in the same shape their places."""

    path: Path
    root: _Node
    data: Data

    def place(self, *keys: str | int) -> str:
        """``file:line:column`` (counted from 1) of the value under ``keys``, or of the nearest one above it."""
        return _place(self.path, _walk(self.root, keys)[0])

    def with_defaults(self, rows: str, *, joined: str, own: str) -> Document:
        """The document with the mapping under ``defaults`` filled into each mapping of the list ``rows``.

        A row's own key wins; the mapping under the key ``joined`` is filled key by key. Every value keeps its place.
        Raises RequestError where ``defaults``, or its part for ``joined``, is no mapping, or where it has the key
        ``own``, by which rows differ.
        """
        if not isinstance(self.root, _Mapping) or "defaults" not in self.root.nodes:
            return self
        defaults = self._mapping_at("defaults")
        if joined in defaults.nodes:
            self._mapping_at("defaults", joined)
        if own in defaults.nodes:
            raise RequestError(
                f"{_place(self.path, defaults.keys[own])}: defaults.{own}: expected in each of {rows} instead",
                hint="write it into the rows",
            )
        nodes, data = dict(self.root.nodes), dict(cast("dict[str, Any]", self.data))
        del nodes["defaults"]
        values = data.pop("defaults")
        listed = nodes.get(rows)
        if isinstance(listed, _List):
            filled = [
                _filled(node, value, defaults, values, "defaults", joined)
                for node, value in zip(listed.nodes, data[rows], strict=True)
            ]
            nodes[rows] = listed._replace(nodes=[node for node, _ in filled])
            data[rows] = [value for _, value in filled]
        return Document(self.path, self.root._replace(nodes=nodes), data)

    def _mapping_at(self, *keys: str) -> _Mapping:
        node, name = _walk(self.root, keys)
        if not isinstance(node, _Mapping):
            raise RequestError(
                f"{_place(self.path, node)}: {name}: {_shown(node)}: expected {_EXPECTED['mapping_type']}",
                hint="see docs/matrix.md for its format",
            )
        return node

    def check(self, model: type[Model]) -> Model:
        """The document as ``model``. Raises RequestError that names each place, value and expectation."""
        try:
            return model.model_validate(self.data)
        except ValidationError as error:
            details = error.errors(include_url=False)
        problems: dict[str, None] = {}  # each once: every row that takes a wrong value from the defaults reports it
        for number, detail in enumerate(details):
            problems[self._problem(model, detail)] = None
            if len(problems) == MAX_PROBLEMS and number + 1 < len(details):
                problems[f"and {len(details) - number - 1} more"] = None
                break
        first, *others = problems
        raise RequestError(
            first,
            details="\n".join(others) or None,
            hint=f"correct {self.path.name}; an editor with a YAML language server completes and checks it",
        )

    def _problem(self, model: type[BaseModel], detail: ErrorDetails) -> str:
        unknown_key = detail["type"] == "extra_forbidden"
        node, name = _walk(self.root, (*detail["loc"], "[key]") if unknown_key else detail["loc"])
        where = _place(self.path, node)
        about = f"{name}: " if name else ""
        kind, context = detail["type"], detail.get("ctx", {})
        if unknown_key:
            key = _short(str(detail["loc"][-1]))
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
        elif kind == "string_type" and isinstance(node, _Scalar) and node.text:
            expected = f'text; put it in quotes: "{_short(node.text)}"'
        elif kind == "literal_error":
            expected = str(context.get("expected"))
        else:
            expected = _EXPECTED.get(kind, detail["msg"][0].lower() + detail["msg"][1:])
        return f"{where}: {about}{value}: expected {expected}"


def _filled(
    row: _Node, own: Data, defaults: _Mapping, values: dict[str, Data], name: str, joined: str | None
) -> tuple[_Node, Data]:
    """``row`` and its values ``own``, filled with ``defaults`` and their ``values``; ``name`` is what these are."""
    if not isinstance(row, _Mapping) or not isinstance(own, dict):
        return row, own
    nodes, data = {**defaults.nodes, **row.nodes}, {**values, **own}
    names = {key: name + _name_of_key(key) for key in defaults.nodes if key not in row.nodes}
    part = defaults.nodes.get(joined) if joined else None
    if joined in row.nodes and isinstance(part, _Mapping):
        # Only mappings are under these keys, or the row's own one is wrong and stays so.
        inner = cast("dict[str, Data]", values[joined])
        nodes[joined], data[joined] = _filled(row.nodes[joined], own[joined], part, inner, f"{name}.{joined}", None)
    return row._replace(keys={**defaults.keys, **row.keys}, nodes=nodes, names=names), data


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
        return _Reader(path, text).document()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise RequestError(f"{path}:{line}: the file is not UTF-8 text", hint="save it as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else f"{path}:1"
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
        context = getattr(error, "context", None)
        raise RequestError(
            f"{where}: malformed YAML: {problem}" + (f" ({context})" if context else ""),
            hint="look at the indentation, quotes and brackets of this line and the one above it",
        ) from error


def _refuse_control_characters(path: Path, text: str) -> None:
    found = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if found:
        line, column = text.count("\n", 0, found.start()) + 1, found.start() - text.rfind("\n", 0, found.start())
        raise RequestError(
            f"{path}:{line}:{column}: the control character {found[0]!r} is not allowed", hint="remove it"
        )


class _Reader:
    """Turns the events of one file into values and their places. Every method raises RequestError or YAMLError."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._next: Callable[[], Any] = _Loader(text).get_event

    def document(self) -> Document:
        """The only document of the file."""
        self._next()  # the stream starts
        if type(self._next()) is yaml.StreamEndEvent:
            raise RequestError(f"{self._path}:1:1: the file is empty", hint="see docs/matrix.md for its format")
        root, data = self._value(self._next(), 1)
        self._next()  # the document ends
        behind = self._next()
        if type(behind) is not yaml.StreamEndEvent:
            raise self._error(
                behind,
                "malformed YAML: a second document starts here",
                "remove the line of dashes, or the document that should not be here",
            )
        return Document(self._path, root, data)

    def _value(self, event: Any, depth: int) -> tuple[_Node, Data]:
        # Anchors and aliases can make a small file endlessly large, and deep nesting exhaust the stack.
        if event.anchor is not None:
            raise self._error(
                event, "anchors and aliases (& and *) are not allowed here", "write the value out in each place"
            )
        mark = event.start_mark
        if type(event) is yaml.ScalarEvent:
            text = self._text(event)
            node = _Scalar(mark.line, mark.column, text)
            if event.tag is None and (not event.implicit[0] or text[:1] not in _RESOLVERS):
                return node, text  # in quotes, or nothing but text without them
            return node, self._scalar(event, text)
        if depth > MAX_DEPTH:
            raise self._error(event, f"nested more than {MAX_DEPTH} levels deep", "see docs/matrix.md for the format")
        if type(event) is yaml.MappingStartEvent:
            return self._mapping(event, depth + 1)
        return self._sequence(event, depth + 1)

    def _sequence(self, start: Any, depth: int) -> tuple[_List, list[Data]]:
        if start.tag not in (None, "!", _TAG + "seq"):
            raise self._unknown_tag(start, start.tag)
        nodes: list[_Node] = []
        data: list[Data] = []
        following = self._next
        while type(event := following()) is not yaml.SequenceEndEvent:
            node, value = self._value(event, depth)
            nodes.append(node)
            data.append(value)
        return _List(start.start_mark.line, start.start_mark.column, nodes), data

    def _mapping(self, start: Any, depth: int) -> tuple[_Mapping, dict[str, Data]]:
        if start.tag not in (None, "!", _TAG + "map"):
            raise self._unknown_tag(start, start.tag)
        keys: dict[str, _Scalar] = {}
        nodes: dict[str, _Node] = {}
        data: dict[str, Data] = {}
        following = self._next
        while type(event := following()) is not yaml.MappingEndEvent:
            mark = event.start_mark
            if type(event) is not yaml.ScalarEvent or event.anchor is not None:
                raise self._error(event, "a key must be plain text", "see docs/matrix.md for the format")
            # Keys are always text: 3.9 and "3.9" mean the same Python. 3.10 keeps its zero this way, too.
            key = self._text(event)
            if key in keys:
                first = _place(self._path, keys[key])
                raise self._error(
                    event, f"the key {_short(key)!r} stands twice; the first is at {first}", "keep one of them"
                )
            keys[key] = _Scalar(mark.line, mark.column, key)
            nodes[key], data[key] = self._value(following(), depth)
        return _Mapping(start.start_mark.line, start.start_mark.column, keys, nodes), data

    def _scalar(self, event: Any, text: str) -> Data:
        tag = event.tag
        plain = _plain_kind(text) if tag != "!" else "str"
        # A tag may say what the text is anyway, or that it is text.
        kind = plain if tag in (None, "!", _TAG + plain) else tag.removeprefix(_TAG)
        if kind == "str":
            return text
        if kind != plain:
            raise self._unknown_tag(event, tag)
        if kind == "null":
            return None
        if kind == "bool":
            return yaml.SafeLoader.bool_values[text.lower()]
        if kind == "int" and len(text) < 19 and text.lstrip("+-").isdigit():
            return int(text)
        if kind in ("float", "int", "timestamp"):
            return float("nan")  # Only its type matters: no field is a float, so the model refuses it with its place.
        raise self._unknown_tag(event, _TAG + kind)

    def _text(self, event: Any) -> str:
        text: str = event.value
        if len(text) > MAX_TEXT:
            raise self._error(
                event, f"{_short(text)!r}: longer than {MAX_TEXT} characters", "look for a quote that is missing"
            )
        return text

    def _unknown_tag(self, event: Any, tag: str) -> RequestError:
        return self._error(event, f"the tag {_short(tag)!r} is not allowed", "use plain text, lists and mappings")

    def _error(self, event: Any, problem: str, hint: str) -> RequestError:
        mark = event.start_mark
        return RequestError(f"{self._path}:{mark.line + 1}:{mark.column + 1}: {problem}", hint=hint)


def _plain_kind(text: str) -> str:
    """What a scalar without quotes is: ``str``, ``int``, ``bool``, ..."""
    for tag, regex in _RESOLVERS.get(text[:1], ()):
        if regex.match(text):
            return tag.removeprefix(_TAG)
    return "str"


def _walk(root: _Node, keys: Iterable[str | int]) -> tuple[_Node, str]:
    """The node under ``keys`` as far as it exists, and its name for people (``releases[0].cann``)."""
    node, name, asked_for_key = root, "", False
    trail = list(keys)
    if trail and trail[-1] == "[key]":  # pydantic's way to speak of a mapping's key instead of its value
        trail, asked_for_key = trail[:-1], True
    for index, key in enumerate(trail):
        if isinstance(node, _Mapping) and (text := str(key)) in node.nodes:
            name = node.names.get(text) or (name + _name_of_key(text)).removeprefix(".")
            at_key = asked_for_key and index == len(trail) - 1
            node = node.keys[text] if at_key else node.nodes[text]
        elif isinstance(node, _List) and isinstance(key, int) and key < len(node.nodes):
            name += f"[{key}]"
            node = node.nodes[key]
        else:
            break
    return node, name


def _name_of_key(key: str) -> str:
    return f".{key}" if _PLAIN_KEY.fullmatch(key) else f"[{_short(key)!r}]"


def _shown(node: _Node) -> str:
    if isinstance(node, _Scalar):
        return repr(_short(node.text))
    return "a list" if isinstance(node, _List) else "a mapping"


def _short(text: str) -> str:
    """``text`` as errors quote it: not too long, and without the password of a URL, because errors end in logs."""
    text = without_credentials(text)
    return text if len(text) <= 80 else text[:77] + "..."


@cache
def _field_names(model: type[BaseModel]) -> list[str]:
    """Names of all fields of ``model`` and of the models inside it."""
    schema = model.model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    return sorted({name for part in parts for name in part.get("properties", {})})


def _place(path: Path, node: _Node) -> str:
    return f"{path}:{node.line + 1}:{node.column + 1}"

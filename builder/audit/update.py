"""Writing corrections into the matrix files, so that a person reviews a small diff and nothing else has moved.

ruamel.yaml keeps comments, order and quotes. What it does not keep by itself is where a comment or blank line
behind a replaced value goes: it belongs to what follows, so it is taken off before a change and put back after it.
"""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from builder.audit.drift import Correction, Drift, Keys, Value
from builder.core.errors import MachineError, RequestError
from builder.core.workspace import atomic_write
from builder.matrix.documents import read_document
from builder.matrix.loader import load_matrix
from builder.matrix.model import ReleaseRow

if TYPE_CHECKING:
    from ruamel.yaml import YAML

#: Columns of a matrix file's lines; a list that would pass them is written one item a line.
WIDTH = 120
#: Fields of a row in the order of the model, which is where a row gets a key that it does not have yet.
_ORDER = {name: position for position, name in enumerate(ReleaseRow.model_fields)}
_PLAIN = re.compile(r"(?!(?i:true|false|null|yes|no|on|off|y|n)$)[A-Za-z_][\w./:+-]*")


@dataclass(frozen=True)
class Change:
    """One drift whose correction was written, and the ``file:line:column`` of the new value."""

    place: str
    drift: Drift


Corrected = tuple[Drift, Correction]


def update(directory: Path, drift: Sequence[Drift], warn: Callable[[str], None]) -> list[Change]:
    """Write the corrections of ``drift`` into the matrix files in ``directory``; return what changed.

    A correction that would make the matrix invalid is left out, and ``warn`` told. Raises MachineError when a file
    cannot be written; each file is then as it was or as it should be.
    """
    corrected = [(item, item.correction) for item in drift if item.correction is not None]
    corrected = _possible(directory, corrected, warn)
    texts = _texts_with(corrected)
    for path, text in texts.items():
        try:
            atomic_write(path, text)
        except OSError as error:
            raise MachineError(
                f"{path} cannot be written: {error.strerror or error}",
                hint="name a copy of the matrix that you may change with --matrix",
            ) from error
    places = {path: read_document(path) for path in texts}
    return [
        Change(
            places[correction.path].place(*correction.keys),
            item,
        )
        for item, correction in corrected
        if correction.path in texts
    ]


def _possible(directory: Path, corrected: Sequence[Corrected], warn: Callable[[str], None]) -> list[Corrected]:
    """Those corrections with which the matrix is valid: all, or all but those that alone make it invalid."""
    if _objection(directory, corrected) is None:
        return [*corrected]
    # Corrections of one line may need each other: a line's are tried together before they are tried one by one.
    lines: dict[str, list[Corrected]] = {}
    for one in corrected:
        lines.setdefault(one[0].line, []).append(one)
    kept: list[Corrected] = []
    open_ = [*lines.values()]
    while open_:
        group = open_.pop(0)
        objection = _objection(directory, [*kept, *group])
        if objection is None:
            kept += group
        elif len(group) > 1:
            fewer = ([other for other in group if other is not one] for one in group)
            rest = next((some for some in fewer if _objection(directory, [*kept, *some]) is None), [])
            kept += rest
            open_ = [*([one] for one in group if one not in rest), *open_]
        else:
            item = group[0][0]
            warn(f"{item.line}: {item.fact} is left as it is, the corrected matrix would not be valid: {objection}")
    return [one for one in corrected if one in kept]


def _texts_with(corrected: Sequence[Corrected]) -> dict[Path, str]:
    """The matrix files that the corrections change, as they would be."""
    texts = {}
    for path in dict.fromkeys(correction.path for _, correction in corrected):
        old = path.read_bytes().decode()
        new = apply(old, [correction for _, correction in corrected if correction.path == path])
        if new != old:
            texts[path] = new
    return texts


def apply(text: str, corrections: Sequence[Correction]) -> str:
    """``text`` of a matrix file with the corrections in it, and every other byte as it was."""
    yaml = _yaml()
    root = yaml.load(text)
    for correction in corrections:
        node, key = _parent(root, correction.keys), correction.keys[-1]
        examples = [text for example in _examples(root, correction.keys) for text in _texts(example)]
        _set(node, key, correction.value, examples)
    stream = io.StringIO()
    yaml.dump(root, stream)
    return stream.getvalue()


def _yaml() -> YAML:
    """A ruamel.yaml that writes an unchanged matrix file byte for byte as it was."""
    from ruamel.yaml import YAML
    from ruamel.yaml.representer import RoundTripRepresenter

    class Representer(RoundTripRepresenter):
        """Writes null as the word."""

    Representer.add_representer(type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null"))
    yaml = YAML()
    yaml.Representer = Representer
    yaml.preserve_quotes = True
    yaml.indent(mapping=2, sequence=4, offset=2)
    # Long sentences stay on their line; lists are broken here, not by ruamel.yaml.
    yaml.width = 1 << 20
    return yaml


def _objection(directory: Path, corrected: Sequence[Corrected]) -> str | None:
    """Why the corrected matrix would not be valid, with the place that it would have in ``directory``."""
    texts = _texts_with(corrected)
    if not texts:
        return None
    with TemporaryDirectory(prefix="matrix-") as temporary:
        copy = Path(temporary)
        for file in directory.iterdir():
            if file.suffix in (".yaml", ".yml"):
                shutil.copyfile(file, copy / file.name)
        for path, text in texts.items():
            (copy / path.name).write_bytes(text.encode())
        try:
            load_matrix(copy)
        except RequestError as error:
            return error.message.replace(str(copy), str(directory))
    return None


def _parent(root: Any, keys: Keys) -> Any:
    node = root
    for key in keys[:-1]:
        if key not in node and isinstance(node, dict):
            _set(node, key, {}, [])
        node = node[key]
    return node


def _examples(root: Any, keys: Keys) -> Iterator[Any]:
    """Values of the same key elsewhere in the file: they show how such a value is written."""
    if "releases" in root:
        for row in (*root["releases"], root.get("defaults", {})):
            if keys[2] in row:
                yield row[keys[2]]
    else:
        yield root


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping):
        for value in node.values():
            yield from _texts(value)
    elif isinstance(node, Sequence):
        for value in node:
            yield from _texts(value)


def _set(node: Any, key: str | int, value: Value, examples: Sequence[str]) -> None:
    """Put ``value`` under ``key`` of a mapping; a key that is new comes where the model's order has it."""
    there = key in node
    old = node[key] if there else None
    tail = _taken(node, key) if there else None
    if isinstance(value, dict) and isinstance(old, dict) and old and value:
        for name in [name for name in old if name not in value]:
            del old[name]
        for name, text in value.items():
            if name not in old or old[name] != text:
                old[name] = _scalar(text, examples)
    elif isinstance(value, list) and isinstance(old, list) and _kept(old, value):
        for position in reversed([index for index, text in enumerate(old) if text not in value]):
            del old[position]
        old.extend(_scalar(text, examples) for text in value[len(old) :])
    elif there:
        node[key] = _made(key, value, examples, node)
    else:
        following = [name for name in node if _ORDER.get(str(name), -1) > _ORDER.get(str(key), len(_ORDER))]
        position = list(node).index(following[0]) if following else max(len(node) - (str(key) in _ORDER), 0)
        tail = _taken_end(node) if position == len(node) and node else None
        node.insert(position, key, _made(key, value, examples, node))
    if tail is not None:
        _put(node, key, tail)


def _kept(old: Any, value: list[str]) -> bool:
    """True where items go from and come to the end of a list of one item a line, and at least one stays."""
    kept = [text for text in old if text in value]
    return bool(kept) and not _flow(old) and value[: len(kept)] == kept


def _made(key: str | int, value: Value, examples: Sequence[str], node: Any) -> Any:
    """A new value in the files' style: mappings as blocks, lists in brackets while they fit into a line."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    if isinstance(value, dict):
        mapping = CommentedMap({name: _scalar(text, examples) for name, text in value.items()})
        if not mapping:
            mapping.fa.set_flow_style()
        return mapping
    if isinstance(value, list):
        items = CommentedSeq([_scalar(text, examples) for text in value])
        # Each item with its quotes and comma, behind the key at the depth of a row.
        if not items or 8 + len(str(key)) + sum(len(text) + 4 for text in value) <= WIDTH:
            items.fa.set_flow_style()
        return items
    return _scalar(value, examples) if isinstance(value, str) else value


def _scalar(text: str, examples: Sequence[str]) -> str:
    """``text`` quoted as ``examples`` are."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString, ScalarString

    same = next((example for example in examples if example == text), None)
    if same is not None:
        return type(same)(text)
    plain = any(not isinstance(example, ScalarString) for example in examples)
    return text if plain and _PLAIN.fullmatch(text) else DoubleQuotedScalarString(text)


def _flow(node: Any) -> bool:
    return bool(node.fa.flow_style())


# A mapping keeps what follows the value of a key in slot 2, a list what follows an item in slot 0.
def _end(node: Any, key: str | int) -> tuple[Any, str | int]:
    """The mapping or list, and the key in it, that hold what follows the value of ``key``."""
    value = node[key]
    if isinstance(value, (dict, list)) and value and not _flow(value):
        return _end(value, next(reversed(value)) if isinstance(value, dict) else len(value) - 1)
    return node, key


def _taken(node: Any, key: str | int) -> Any:
    """Take off and return the comment and blank lines behind the value of ``key``; None where there are none."""
    holder, last = _end(node, key)
    slots = holder.ca.items.get(last)
    slot = 2 if isinstance(holder, dict) else 0
    if slots is None or slots[slot] is None:
        return None
    token, slots[slot] = slots[slot], None
    return token


def _taken_end(node: Any) -> Any:
    return _taken(node, next(reversed(node)))


def _put(node: Any, key: str | int, token: Any) -> None:
    """Put ``token`` behind the value of ``key``."""
    holder, last = _end(node, key)
    slot = 2 if isinstance(holder, dict) else 0
    slots = holder.ca.items.setdefault(last, [None, None, None, None])
    slots[slot] = token

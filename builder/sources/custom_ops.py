"""A user's own operators, laid into op-plugin: declarations into its YAML, sources into ``ops/opapi``."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from builder.core.errors import FailureKind, RequestError, TargetError
from builder.core.untrusted import read_regular
from builder.core.workspace import atomic_write, expanded, real
from builder.progress.reporter import Reporter
from builder.sources import declarations as yaml_text
from builder.sources.declarations import BadDeclaration, Declaration, Section
from builder.sources.prepared_record import OperatorsIdentity

FUNCTIONS = "op_plugin_functions.yaml"
CONFIG = f"op_plugin/config/{FUNCTIONS}"
SOURCES = "op_plugin/ops/opapi"
#: What op-plugin's code generation needs to know where an operator is implemented: in op_api, for all versions.
DEFAULT_FIELD = ("op_api", "all_version")
#: Bytes that are read of the declarations and of a source.
_LARGEST_TEXT, _LARGEST_SOURCE = 4 << 20, 64 << 20


@dataclass(frozen=True)
class CustomOps:
    """The operators of one folder, read once: ``declarations``, and ``sources`` as (file name, bytes)."""

    folder: Path
    declarations: tuple[Declaration, ...]
    sources: tuple[tuple[str, bytes], ...] = field(repr=False)
    text: str = field(repr=False)

    @classmethod
    def read(cls, folder: Path) -> CustomOps:
        """Read ``op_plugin_functions.yaml`` and ``*.cpp`` (and ``*.h``) of ``folder``.

        The YAML is a bare list of declarations or a mapping with the one key ``custom``. Raises
        RequestError naming file and line: no such folder or file, no source, malformed YAML, one name
        with two signatures, a symlink that leads out of the folder.
        """
        folder = expanded(folder).absolute()
        if not folder.is_dir():
            raise RequestError(f"there is no folder of custom operators {folder}")
        _refuse_links(folder)
        path = folder / FUNCTIONS
        if not path.is_file():
            raise RequestError(
                f"{folder} has no {FUNCTIONS}",
                hint="--custom-ops takes a folder with that file and the operators' *.cpp",
            )
        try:
            text = read_regular(path, _LARGEST_TEXT).decode()
        except UnicodeDecodeError as error:
            raise RequestError(f"{path} is not UTF-8 text: {error}", hint="save it as UTF-8") from error
        except OSError as error:
            raise _unreadable(path, error) from error
        declared = _unique(path, _custom(path, text))
        found = sorted(entry for entry in folder.iterdir() if entry.suffix in {".cpp", ".h"} and entry.is_file())
        if not any(entry.suffix == ".cpp" for entry in found):
            raise RequestError(f"{folder} has no *.cpp that implements {', '.join(d.name for d in declared)}")
        return cls(folder, declared, tuple((entry.name, _source(entry)) for entry in found), text)

    @property
    def operators(self) -> tuple[str, ...]:
        """The operators' names as the generated schema has them, with overload: ``npu_x``, ``npu_x.out``."""
        return tuple(declaration.name for declaration in self.declarations)

    @property
    def digest(self) -> str:
        """SHA-256 over the declarations file and every source."""
        digest = hashlib.sha256(self.text.encode())
        for name, data in self.sources:
            digest.update(f"\0{name}\0{len(data)}\0".encode())
            digest.update(data)
        return digest.hexdigest()

    def describe(self) -> OperatorsIdentity:
        """What identifies the operators, for the record and the fingerprint."""
        return OperatorsIdentity(operators=self.operators, digest=self.digest)


def insert(custom_ops: CustomOps, op_plugin_tree: Path, reporter: Reporter) -> tuple[str, ...]:
    """Declare and place ``custom_ops`` in ``op_plugin_tree``; return the names that were not there yet.

    Everything is checked before anything is written; raises as ``check`` does.
    """
    path = op_plugin_tree / CONFIG
    place = op_plugin_tree / SOURCES
    text, section, wanted = check(custom_ops, op_plugin_tree)
    for declaration in wanted:
        if not declaration.dispatched:
            reporter.warning(
                f"{custom_ops.folder / FUNCTIONS}, line {declaration.line}: {declaration.name} names neither acl_op "
                "nor op_api, which op-plugin would drop silently; it gets 'op_api: all_version'"
            )
    if wanted:
        atomic_write(path, _spliced(text, section, _entries(custom_ops, wanted, section.column), wanted))
        path.chmod(0o644)
    for name, data in custom_ops.sources:
        if not (place / name).exists():
            atomic_write(place / name, data)
            (place / name).chmod(0o644)
    return tuple(declaration.name for declaration in wanted)


def check(custom_ops: CustomOps, op_plugin_tree: Path) -> tuple[str, Section, list[Declaration]]:
    """Whether ``op_plugin_tree`` takes ``custom_ops``: the text of its declarations, the section that new ones go to,
    and those that are new.

    Raises RequestError for a release line too old for custom operators, for a name that op-plugin declares otherwise,
    and for a source whose name is taken by another file; TargetError of kind CUSTOM_OPERATOR when op-plugin's own YAML
    cannot be read.
    """
    path = op_plugin_tree / CONFIG
    place = op_plugin_tree / SOURCES
    if not path.is_file() or not place.is_dir():
        missing = CONFIG if not path.is_file() else SOURCES
        raise RequestError(
            f"this release line is too old for --custom-ops: its op-plugin has no {missing}",
            hint="op-plugin takes custom operators from 6.0.rc3 on",
        )
    with open(path, encoding="utf-8", newline="") as stream:
        text = stream.read()
    try:
        present = yaml_text.sections(yaml_text.compose(text))
    except BadDeclaration as error:
        raise TargetError(
            f"op-plugin's {CONFIG}, line {error.line}: {error.problem}", kind=FailureKind.CUSTOM_OPERATOR
        ) from error
    section = present.get("custom")
    if section is None or not section.block:
        raise TargetError(
            f"op-plugin's {CONFIG} has no list 'custom:' that operators could be added to",
            kind=FailureKind.CUSTOM_OPERATOR,
        )
    wanted = [declaration for declaration in custom_ops.declarations if not _declared(custom_ops, declaration, present)]
    for name, data in custom_ops.sources:
        taken = place / name
        if taken.is_symlink() or (taken.exists() and taken.read_bytes() != data):
            raise RequestError(
                f"{custom_ops.folder / name}: op-plugin has another {SOURCES}/{name}",
                hint="give the source a name of its own",
            )
    return text, section, wanted


def _source(path: Path) -> bytes:
    try:
        return read_regular(path, _LARGEST_SOURCE)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> RequestError:
    return RequestError(f"{path} cannot be read: {error.strerror}", hint="put sources of operators into the folder")


def _refuse_links(folder: Path) -> None:
    top = real(folder)
    for entry in sorted(folder.rglob("*")):
        if entry.is_symlink() and not real(entry).is_relative_to(top):
            raise RequestError(
                f"the symlink {entry} leads out of the folder of custom operators",
                hint="put a copy of the file into the folder",
            )


def _custom(path: Path, text: str) -> tuple[Declaration, ...]:
    """The declarations of a user's file."""
    try:
        node = yaml_text.compose(text)
        if node is None:
            raise BadDeclaration("there is no declaration", 1)
        found = yaml_text.sections(node)
    except BadDeclaration as error:
        column = f", column {error.column}" if error.column is not None else ""
        raise RequestError(
            f"{path}, line {error.line}{column}: {error.problem}",
            hint="write '- func: npu_name(Tensor x) -> Tensor' and below it 'op_api: all_version'",
        ) from error
    strange = sorted(set(found) - {"custom"})
    if strange:
        raise RequestError(
            f"{path}, line {found[strange[0]].line}: operators are added under 'custom', not under {strange[0]!r}"
        )
    if not found or not found["custom"].declarations:
        raise RequestError(f"{path} declares no operator")
    return found["custom"].declarations


def _unique(path: Path, declared: Sequence[Declaration]) -> tuple[Declaration, ...]:
    unique: dict[str, Declaration] = {}
    for declaration in declared:
        first = unique.setdefault(declaration.name, declaration)
        if (first.signature, first.fields) != (declaration.signature, declaration.fields):
            raise RequestError(
                f"{path} declares {declaration.name} twice: line {first.line} {first.signature}, "
                f"line {declaration.line} {declaration.signature}"
            )
    return tuple(unique.values())


def _declared(custom_ops: CustomOps, wanted: Declaration, present: dict[str, Section]) -> bool:
    """True when op-plugin declares ``wanted`` already, in the very same way."""
    where = f"{custom_ops.folder / FUNCTIONS}, line {wanted.line}"
    fields = wanted.fields if wanted.dispatched else tuple(sorted((*wanted.fields, DEFAULT_FIELD)))
    for section in present.values():
        for declaration in section.declarations:
            if declaration.name != wanted.name:
                continue
            there = f"op-plugin's {CONFIG}, line {declaration.line} (under {section.name})"
            if declaration.signature != wanted.signature:
                raise RequestError(
                    f"{wanted.name} is declared with two signatures: {wanted.signature} in {where}, "
                    f"and {declaration.signature} in {there}",
                    hint="give the custom operator another name or overload name",
                )
            if section.name != "custom" or declaration.fields != fields:
                raise RequestError(
                    f"{where}: {wanted.name} is declared otherwise in {there}",
                    hint="give the custom operator another name or overload name",
                )
            return True
    return False


def _entries(custom_ops: CustomOps, wanted: Sequence[Declaration], column: int | None) -> str:
    """The declarations as block YAML whose ``-`` stand in ``column``, with the user's comments."""
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedSeq

    indent = 2 if column is None else column
    yaml = YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    yaml.width = 1 << 20
    yaml.indent(mapping=2, sequence=indent + 2, offset=indent)
    loaded = yaml.load(custom_ops.text)
    entries = loaded if isinstance(loaded, list) else loaded["custom"]
    names = {declaration.name: declaration for declaration in wanted}
    chosen = CommentedSeq()
    for entry in entries:
        declaration = names.pop(yaml_text.split(str(entry["func"]), 0)[0], None)
        if declaration is not None:
            if not declaration.dispatched:
                entry.insert(1, *DEFAULT_FIELD)
            entry.fa.set_block_style()
            chosen.append(entry)
    stream = io.StringIO()
    yaml.dump({"custom": chosen}, stream)
    return stream.getvalue().partition("\n")[2].rstrip("\n") + "\n"


def _spliced(text: str, section: Section, entries: str, wanted: Sequence[Declaration]) -> str:
    """``text`` with ``entries`` right below the key ``custom:``; checked by reading the result again."""
    lines = text.splitlines(keepends=True)
    end = "\r\n" if lines[0].endswith("\r\n") else "\n"
    key = lines[section.line - 1]
    if section.column is None and key.split("#")[0].strip() != "custom:":
        # 'custom: null' and the like; a list must not follow a value.
        lines[section.line - 1] = f"custom:{end}"
    elif not key.endswith("\n"):
        lines[section.line - 1] = key + end
    lines.insert(section.line, entries.replace("\n", end) + (end if section.declarations else ""))
    result = "".join(lines)
    try:
        custom = yaml_text.sections(yaml_text.compose(result))["custom"].declarations
    except (BadDeclaration, KeyError) as error:
        raise TargetError(
            f"the custom operators could not be added to op-plugin's {CONFIG}: {error}",
            kind=FailureKind.CUSTOM_OPERATOR,
        ) from error
    if [d.signature for d in custom] != [d.signature for d in (*wanted, *section.declarations)]:
        raise TargetError(
            f"the custom operators did not arrive whole in op-plugin's {CONFIG}", kind=FailureKind.CUSTOM_OPERATOR
        )
    return result

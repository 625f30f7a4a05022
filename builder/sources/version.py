"""What a wheel is called beyond its branch's own version: a suffix, added to the copy of a tree that is built.

Where the version stands differs by era (a literal, version.txt, the installed torch), but every setup.py that the
builder runs keeps it in ``VERSION`` at the top and uses it for everything: version.py, METADATA, the file name and the
macro in the library. So one statement behind the last one that sets it serves all eras.
"""

from __future__ import annotations

import ast
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from builder.core.errors import FailureKind, TargetError
from builder.core.untrusted import open_inside
from builder.core.workspace import atomic_write

#: Stands in a suffix for the commits of the tree.
COMMITS = "{commits}"
_SCRIPT = "setup.py"
_VARIABLE = "VERSION"
#: What setup.py has added behind a plus sign (``+cxx11-abi``) stays, as a further part of the local version.
_STATEMENT = 'VERSION = VERSION.partition("+")[0] + {suffix!r} + "".join("." + part for part in VERSION.split("+")[1:])'


def suffix_of(template: str | None, commits: Mapping[str, str]) -> str:
    """``template`` with ``{commits}`` as ``git<torch_npu>.op<op-plugin>``, seven digits each; nothing for None.

    ``commits`` are those of a tree's record; op-plugin is left out where it is not laid from a commit.
    """
    if template is None:
        return ""
    parts = [f"git{commits['torch_npu'][:7]}"]
    if "op-plugin" in commits:
        parts.append(f"op{commits['op-plugin'][:7]}")
    return template.replace(COMMITS, ".".join(parts))


def with_suffix(setup: str, suffix: str) -> str:
    """The text of a setup.py that adds ``suffix`` to its version. Raises TargetError where it sets no ``VERSION``."""
    try:
        body = ast.parse(setup).body
    except SyntaxError as error:
        raise _unknown(f"line {error.lineno}: {error.msg}") from error
    ends = [statement.end_lineno for statement in body if _sets_version(statement)]
    if not ends or ends[-1] is None:
        raise _unknown(f"nothing at its top sets {_VARIABLE}")
    # As Python counts lines: a form feed or a line separator inside a text ends none.
    lines = setup.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    lines.insert(ends[-1], _STATEMENT.format(suffix=suffix))
    return "\n".join(lines)


def add_suffix(tree: Path, suffix: str) -> None:
    """Let the wheel of the copied ``tree`` bear ``suffix``. Raises TargetError where its setup.py is none.

    The times of the file stay: those of all files are that of torch_npu's commit.
    """
    path = tree / _SCRIPT
    try:
        with open_inside(tree, _SCRIPT) as stream:
            status = os.fstat(stream.fileno())
            text = stream.read().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _unknown(str(error)) from error
    # It replaces the name: where a branch has made a link of it, what that leads to stays as it is.
    atomic_write(path, with_suffix(text, suffix))
    os.chmod(path, stat.S_IMODE(status.st_mode))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _sets_version(statement: ast.stmt) -> bool:
    """True where a statement at the top, or inside its blocks, assigns to the variable."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return False
    found = [node for node in ast.walk(statement) if isinstance(node, ast.Name) and node.id == _VARIABLE]
    return any(isinstance(node.ctx, ast.Store) for node in found)


def _unknown(reason: str) -> TargetError:
    return TargetError(
        f"setup.py of torch_npu does not say where its version is: {reason}",
        kind=FailureKind.SOURCE,
        hint="only wheels with the branch's own version can be built of this branch",
    )

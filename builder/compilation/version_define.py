"""The package version on the command line: which sources can see it.

Upstream's CMakeLists.txt gives every file ``-DPYTORCH_NPU_VERSION="..."``, and a nightly's version is another one each
night, so that no object of the night before fits. On every branch one source alone reads it (ProcessGroupHCCL.cpp).
The launcher leaves it out for the others, which compile to the same bytes without it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: ``add_definitions(-DNAME="${..VERSION..}")`` and ``add_compile_definitions(NAME="${..VERSION..}")``.
_DEFINE = re.compile(
    rb'^[ \t]*add_(?:compile_)?definitions[ \t]*\([ \t]*(?:-D)?(?P<name>\w+)=\\?"?\$\{\w*VERSION\w*\}\\?"?[ \t]*\)',
    re.MULTILINE,
)
#: What the name must say: a header outside of the tree, which nothing here reads, could ask for a plain VERSION.
_OWN = b"NPU"
_SOURCES = frozenset({".c", ".cc", ".cpp", ".cxx", ".C"})
#: Bytes of a file that is looked through. Upstream's largest source has 1 MB.
_LARGEST = 64 << 20
#: Files that no compile and no generator reads.
_PROSE = frozenset({".md", ".rst"})
_LISTS = ("CMakeLists.txt", ".cmake")
#: Folders at the top of a tree that hold no source; the last two are a build's own.
_SKIPPED = frozenset({".git", "build", "dist"})


@dataclass(frozen=True)
class VersionDefine:
    """A macro that holds the package version, and the sources (relative to the tree) that must get it."""

    name: str
    sources: tuple[str, ...]

    def text(self, tree: str) -> str:
        """What the launcher reads: the name, then absolute paths below ``tree`` as compiles see it, one a line."""
        return "".join(f"{line}\n" for line in (self.name, *(f"{tree}/{source}" for source in self.sources)))


class _UncertainError(Exception):
    """A file is too large to be looked through."""


def find_version_define(tree: Path) -> VersionDefine | None:
    """The macro of ``tree`` that may be left out for most sources; None where that is not certain.

    It is certain where CMakeLists.txt defines it once, and nothing but sources mentions it: no header, no generator,
    no other CMake file; and where nothing but CMake files, which list sources, mentions those: they could be part of
    another one.
    """
    try:
        return _find(tree)
    except (_UncertainError, RecursionError):
        return None


def _find(tree: Path) -> VersionDefine | None:
    lists = next((text for path, text in _texts(tree) if path == "CMakeLists.txt"), b"")
    found = list(_DEFINE.finditer(lists))
    if len(found) != 1 or _OWN not in found[0]["name"] or lists.count(found[0]["name"]) != 1:
        return None
    name = found[0]["name"]
    mentions = {path for path, text in _texts(tree) if name in text} - {"CMakeLists.txt"}
    if any(Path(path).suffix not in _SOURCES for path in mentions):
        return None
    # Compiled under their own names only: not included, and no generator's template.
    names = [Path(path).name.encode() for path in mentions]
    others = (text for path, text in _texts(tree) if not path.endswith(_LISTS)) if names else ()
    if any(own in text for text in others for own in names):
        return None
    if any("\n" in path for path in mentions):
        return None
    return VersionDefine(name.decode(), tuple(sorted(mentions)))


def _texts(tree: Path) -> Iterator[tuple[str, bytes]]:
    """Every regular file below ``tree`` but prose, by its relative path. Links are read where they lead to one."""
    for folder, folders, names in os.walk(tree):
        if folder == str(tree):
            folders[:] = [name for name in folders if name not in _SKIPPED]
        for name in names:
            path = Path(folder, name)
            if path.suffix in _PROSE:
                continue
            try:
                # Not waiting for a pipe.
                with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
                    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                        continue
                    text = stream.read(_LARGEST + 1)
            except OSError:
                continue
            if len(text) > _LARGEST:
                raise _UncertainError
            yield path.relative_to(tree).as_posix(), text

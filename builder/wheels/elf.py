"""Reading shared libraries: what they need, what they offer, and how they were linked.

Headers and sections are pyelftools' business. The table of dynamic symbols is read in one piece: libtorch_cpu.so has
some 100,000 entries, for which pyelftools, an object each, takes the better part of a minute.
Format: https://refspecs.linuxfoundation.org/elf/gabi4+/ch5.dynamic.html and, for versions of symbols,
https://refspecs.linuxfoundation.org/LSB_5.0.0/LSB-Core-generic/LSB-Core-generic/symversion.html
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from elftools.elf.dynamic import DynamicTag
    from elftools.elf.elffile import ELFFile

#: What begins every ELF file.
MAGIC = b"\x7fELF"
#: Entries of a library's dynamic section.
DYNAMIC_COUNT = 10_000
#: Sections of a library; a large one has 40.
SECTION_COUNT = 10_000
#: Bytes of one section that is read whole: libtorch_cpu.so's names of symbols have 20 MB.
SECTION_LIMIT = 128 << 20
#: Libraries and versions in the table of needed versions.
_VERSION_COUNT = 10_000
#: An entry of a 64-bit table of symbols: name, kind, visibility, section, value, size.
_SYMBOL = struct.Struct("<IBBHQQ")
_DEFINED_BY_NOBODY = 0
_GLOBAL, _WEAK, _UNIQUE = 1, 2, 10
_VISIBLE = (0, 3)  # STV_DEFAULT, STV_PROTECTED
#: Version indices of symbols without a version of their own; the highest bit hides a definition from the linker.
_NO_VERSION = (0, 1)
_INDEX = 0x7FFF
_DF_BIND_NOW, _DF_1_NOW = 0x8, 0x1
_EXECUTABLE = 0x1


@dataclass(frozen=True)
class Undefined:
    """A symbol that a library takes from others.

    ``version`` (``GLIBC_2.17``) and ``library`` (``libc.so.6``) are from the table of needed versions, None where the
    linker saw no version. A ``weak`` one may stay away.
    """

    name: str
    weak: bool
    version: str | None = None
    library: str | None = None


@dataclass(frozen=True)
class SharedObject:
    """What a shared library says of itself.

    ``machine`` is ``EM_X86_64`` or the like, ``rpath`` the parts of RPATH and RUNPATH, ``compilers`` the entries of
    ``.comment``, ``debuglink`` the file that ``.gnu_debuglink`` names.
    """

    machine: str
    soname: str | None
    needed: tuple[str, ...]
    rpath: tuple[str, ...]
    bind_now: bool
    executable_stack: bool
    exported: frozenset[str]
    undefined: tuple[Undefined, ...]
    compilers: tuple[str, ...]
    debuglink: str | None


def read_shared_object(content: IO[bytes]) -> SharedObject:
    """Read one library.

    Raises whatever pyelftools makes of damage, and ValueError for one whose tables are without measure.
    """
    from elftools.elf.elffile import ELFFile

    elf = ELFFile(content)
    if elf.num_sections() > SECTION_COUNT:
        raise ValueError(f"it has {elf.num_sections()} sections")
    tags = _dynamic(elf)
    names = {"DT_NEEDED": "needed", "DT_SONAME": "soname", "DT_RPATH": "rpath", "DT_RUNPATH": "runpath"}
    texts: dict[str, list[str]] = {name: [] for name in names.values()}
    flags = {"DT_FLAGS": 0, "DT_FLAGS_1": 0}
    bind_now = False
    for tag in tags:
        kind = str(tag.entry.d_tag)
        if kind in names:
            texts[names[kind]].append(str(getattr(tag, names[kind])))
        elif kind in flags:
            flags[kind] = int(tag.entry.d_val)
        bind_now = bind_now or kind == "DT_BIND_NOW"
    exported, undefined = _symbols(elf)
    return SharedObject(
        machine=str(elf["e_machine"]),
        soname=next(iter(texts["soname"]), None),
        needed=tuple(texts["needed"]),
        rpath=tuple(part for text in texts["rpath"] + texts["runpath"] for part in text.split(":") if part),
        bind_now=bind_now or bool(flags["DT_FLAGS"] & _DF_BIND_NOW or flags["DT_FLAGS_1"] & _DF_1_NOW),
        executable_stack=any(
            segment["p_type"] == "PT_GNU_STACK" and segment["p_flags"] & _EXECUTABLE
            for segment in islice(elf.iter_segments(), SECTION_COUNT)
        ),
        exported=frozenset(exported),
        undefined=tuple(undefined),
        compilers=tuple(dict.fromkeys(filter(None, _section(elf, ".comment").decode("utf-8", "replace").split("\0")))),
        debuglink=_section(elf, ".gnu_debuglink").split(b"\0", 1)[0].decode("utf-8", "replace") or None,
    )


def read_library(content: IO[bytes], label: str) -> SharedObject | None:
    """Read what may be a library; None for a file that is no ELF file.

    Raises OSError, and ValueError that names ``label`` for one that is damaged.
    """
    if content.read(len(MAGIC)) != MAGIC:
        return None
    content.seek(0)
    try:
        return read_shared_object(content)
    except OSError:
        raise
    except Exception as error:  # pyelftools meets broken files with whatever the first wrong number leads to
        raise ValueError(f"{label} is no readable shared library: {error}") from error


def _dynamic(elf: ELFFile) -> list[DynamicTag]:
    from elftools.elf.dynamic import DynamicSection

    section = elf.get_section_by_name(".dynamic")
    tags = list(islice(section.iter_tags(), DYNAMIC_COUNT + 1)) if isinstance(section, DynamicSection) else []
    if len(tags) > DYNAMIC_COUNT:
        raise ValueError("its dynamic section has no end")
    return tags


def _section(elf: ELFFile, name: str) -> bytes:
    section = elf.get_section_by_name(name)
    if section is None or section["sh_type"] == "SHT_NOBITS":
        return b""
    if section["sh_size"] > SECTION_LIMIT:
        raise ValueError(f"its section {name} has {section['sh_size']} bytes")
    return bytes(section.data())


def _symbols(elf: ELFFile) -> tuple[list[str], list[Undefined]]:
    """Names of what the library offers, and what it takes."""
    table, names, versions = _section(elf, ".dynsym"), _section(elf, ".dynstr"), _section(elf, ".gnu.version")
    if elf.elfclass != 64 or not elf.little_endian or len(table) % _SYMBOL.size:
        raise ValueError("its table of symbols is not a 64-bit little-endian one")
    indices = struct.unpack(f"<{len(versions) // 2}H", versions[: len(versions) // 2 * 2])
    needed = dict(_needed_versions(elf)) if any(index & _INDEX not in _NO_VERSION for index in indices) else {}
    exported, undefined = [], []
    for number, (place, info, other, section, _, _) in enumerate(_SYMBOL.iter_unpack(table)):
        binding = info >> 4
        if binding not in (_GLOBAL, _WEAK, _UNIQUE):
            continue
        end = names.find(b"\0", place)
        if not 0 <= place < len(names) or end < 0:
            raise ValueError("a symbol's name stands outside the names")
        name = names[place:end].decode("utf-8", "replace")
        if section != _DEFINED_BY_NOBODY:
            if other & 3 in _VISIBLE:
                exported.append(name)
            continue
        library, version = needed.get(indices[number] & _INDEX if number < len(indices) else 0, (None, None))
        undefined.append(Undefined(name, binding == _WEAK, version, library))
    return exported, undefined


def _needed_versions(elf: ELFFile) -> Iterator[tuple[int, tuple[str, str]]]:
    """By index: the library that has the version, and the version."""
    from elftools.elf.gnuversions import GNUVerNeedSection

    section = elf.get_section_by_name(".gnu.version_r")
    if not isinstance(section, GNUVerNeedSection):
        return
    count = 0
    for library, versions in section.iter_versions():
        for version in versions:
            count += 1
            if count > _VERSION_COUNT:
                raise ValueError("its table of needed versions has no end")
            yield int(version["vna_other"]) & _INDEX, (str(library.name), str(version.name))

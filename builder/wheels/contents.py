"""What a wheel of torch_npu may hold: an allow-list of members, of files beside them that installers read, of sizes.

Every rule has its source in the 134 wheels that upstream released, one of each version and architecture from
2.1.0rc1 to 2.14.0, and in ``setup.py`` of upstream's branches. What none of them has is refused.
"""

from __future__ import annotations

import configparser
import re
import stat
import struct
import zipfile
from collections.abc import Iterator
from pathlib import PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from builder.wheels.inspect import MEMBER_LIMIT, Wheel, parsing, shown

#: Packages. torchnpugen is there from 2.9.0 on.
PACKAGES = ("torch_npu", "torchnpugen")
#: Where auditwheel puts libraries that it brings along.
LIBRARIES = "torch_npu.libs"
#: Left by setup.py in what becomes the wheel, on lines up to plugin release 6.0.0.
EGG_INFO = "torch_npu.egg-info"
#: Files of the two folders of metadata. Not among them: INSTALLER, REQUESTED and direct_url.json, which tell how
#: something was installed. sboms/ is auditwheel's: https://peps.python.org/pep-0770/
_DIST_INFO = re.compile(
    r"METADATA|WHEEL|RECORD|(top_level|entry_points)\.txt|(LICENSE|NOTICE|AUTHORS)[\w.-]*|(licenses|sboms)/[\w./-]+"
)
_EGG_INFO = re.compile(r"(PKG-INFO|(SOURCES|dependency_links|top_level|requires|entry_points)\.txt|(not-)?zip-safe)")
_LIBRARY = re.compile(r"[\w.+-]+\.so[\w.-]*")
#: One part of a member's name: what can be a file on every system. Neither a drive's colon nor a backslash is.
_PART = re.compile(r"[A-Za-z0-9_.+@=,~ -]{1,200}")
#: Characters and folders of a member's name; released are 118 and 11.
_NAME_LIMIT, _DEPTH_LIMIT = 240, 32
#: Bytes of all members, unpacked; released are 156 MB.
TOTAL_LIMIT = 2 << 30
#: How many times larger than its archive a wheel of more than so many bytes may unpack; released are 3.9.
RATIO_LIMIT, RATIO_FROM = 50, 16 << 20
#: Flags of the zip format that say nothing about how to read: the effort of the compressor, names in UTF-8.
_HARMLESS_FLAGS = 0x0002 | 0x0004 | 0x0800
#: What precedes each member's bytes (4.3.7 of the format).
_LOCAL = struct.Struct("<4s5H3L2H")

#: Names of entry points by group, and where all of them lead. pip makes programs of console scripts; PyTorch loads
#: torch.backends at ``import torch``.
ENTRY_POINTS = {
    "console_scripts": re.compile(r"torch_npu_run"),
    "torch.backends": re.compile(r"torch_npu"),
    "torch_dynamo_backends": re.compile(r"npu\w*"),
}
_OBJECT = re.compile(r"(torch_npu|torchnpugen)(\.\w+)*:\w+(\.\w+)*", re.ASCII)


def archive_faults(wheel: Wheel) -> Iterator[str]:
    """What of the archive itself is not a torch_npu wheel's: members, their kinds, places and sizes.

    Only the archive's directory and the heads of members are read. While this finds anything, nothing else of the
    wheel should be read.
    """
    yield from _name_faults(wheel)
    for info in wheel.members:
        yield from _kind_faults(info)
    yield from _size_faults(wheel)
    with parsing(wheel.path.name, "it is not a whole wheel"):
        faults = list(_layout_faults(wheel))
    yield from faults


def metadata_faults(wheel: Wheel) -> Iterator[str]:
    """What installers and importlib would read in the folders of metadata, and must not."""
    yield from _core_faults(wheel, f"{wheel.dist_info}/METADATA")
    headers = wheel.wheel_headers
    if headers.get_all("Wheel-Version", []) != ["1.0"]:
        yield f"WHEEL says Wheel-Version {_all(headers.get_all('Wheel-Version'))}, expected 1.0"
    if headers.get_all("Root-Is-Purelib", []) != ["false"]:
        yield f"WHEEL says Root-Is-Purelib {_all(headers.get_all('Root-Is-Purelib'))}, expected false"
    if f"{EGG_INFO}/PKG-INFO" in wheel.files:
        yield from _core_faults(wheel, f"{EGG_INFO}/PKG-INFO")
    for folder in (wheel.dist_info, EGG_INFO):
        if f"{folder}/entry_points.txt" in wheel.files:
            yield from _entry_point_faults(wheel, f"{folder}/entry_points.txt")
        if f"{folder}/top_level.txt" in wheel.files:
            for name in wheel.text(f"{folder}/top_level.txt").split():
                if name not in PACKAGES:
                    yield f"{folder}/top_level.txt names {shown(name)}"


def _name_faults(wheel: Wheel) -> Iterator[str]:
    dist_info = "-".join(wheel.path.name.split("-")[:2]) + ".dist-info"
    seen: set[str] = set()
    folders: set[str] = set()
    files: set[str] = set()
    for info in wheel.members:
        # zipfile cuts a name at its first NUL.
        name = info.orig_filename.removesuffix("/")
        parts = name.split("/")
        if name.startswith("/") or any(part in ("", ".", "..") for part in parts):
            yield f"{shown(info.orig_filename)} names a place outside the wheel"
            continue
        if len(name) > _NAME_LIMIT or len(parts) > _DEPTH_LIMIT or not all(map(_PART.fullmatch, parts)):
            yield f"{shown(info.orig_filename)} is no name for a file of a wheel"
            continue
        # Also where the file system knows no case.
        if name.lower() in seen:
            yield f"{name} stands twice in the archive"
        seen.add(name.lower())
        folders.update("/".join(parts[:count]).lower() for count in range(1, len(parts) + info.is_dir()))
        if not info.is_dir():
            files.add(name.lower())
        if not _has_place(parts, dist_info, folder=info.is_dir()):
            yield f"{name} has no place in a wheel of torch_npu"
    for name in sorted(files & folders):
        yield f"{name} is a file and a folder"
    if f"{dist_info}/metadata".lower() not in files:
        yield f"it lacks {dist_info}/METADATA"


def _has_place(parts: list[str], dist_info: str, *, folder: bool) -> bool:
    top, *below = parts
    if folder:
        return top in (*PACKAGES, LIBRARIES, EGG_INFO, dist_info)
    inside = "/".join(below)
    if top in PACKAGES:
        return bool(below)
    rule = {LIBRARIES: _LIBRARY, EGG_INFO: _EGG_INFO, dist_info: _DIST_INFO}.get(top)
    return rule is not None and rule.fullmatch(inside) is not None


def _kind_faults(info: zipfile.ZipInfo) -> Iterator[str]:
    """Regular files and folders without special rights. Wheels that were packed on Windows have no modes at all."""
    mode = info.external_attr >> 16
    # ZipInfo.is_dir fails for an empty name before Python 3.13.
    folder = info.filename.endswith("/")
    wanted = stat.S_IFDIR if folder else stat.S_IFREG
    if stat.S_IFMT(mode) not in (0, wanted):
        yield f"{shown(info.filename)} is {_kind(mode)}, expected {'a folder' if folder else 'a regular file'}"
    if mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX):
        yield f"{shown(info.filename)} has special rights (mode {stat.S_IMODE(mode):o})"
    if mode & stat.S_IWOTH:
        yield f"{shown(info.filename)} can be written by everybody (mode {stat.S_IMODE(mode):o})"
    if folder and info.file_size:
        yield f"the folder {shown(info.filename)} has a content"
    if info.flag_bits & ~_HARMLESS_FLAGS or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        yield f"{shown(info.filename)} is packed in another way than deflated (flags {info.flag_bits:#x})"


def _kind(mode: int) -> str:
    kinds = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFREG: "a regular file", stat.S_IFIFO: "a pipe"}
    return kinds.get(stat.S_IFMT(mode), "a device or a socket")


def _size_faults(wheel: Wheel) -> Iterator[str]:
    for info in wheel.members:
        if info.file_size > MEMBER_LIMIT:
            yield f"{shown(info.filename)} has {info.file_size} bytes, expected at most {MEMBER_LIMIT}"
    total = sum(info.file_size for info in wheel.members)
    packed = wheel.ending.place + wheel.ending.size
    if total > TOTAL_LIMIT or total > max(RATIO_FROM, RATIO_LIMIT * packed):
        yield f"it unpacks from {packed} to {total} bytes"


def _layout_faults(wheel: Wheel) -> Iterator[str]:
    """Members follow each other without gaps, and say of themselves what the directory says.

    Installers that read the archive from its beginning, as uv does, find the same files then as those that read its
    directory, as pip does.
    """
    if len(wheel.members) != wheel.ending.members:
        yield f"its directory has {len(wheel.members)} members, its end says {wheel.ending.members}"
    place = 0
    for info in sorted(wheel.members, key=lambda info: info.header_offset):
        if info.header_offset != place:
            yield f"{shown(info.filename)} does not begin where the member before it ends"
            return
        wheel.stream.seek(place)
        head = wheel.stream.read(_LOCAL.size)
        signature, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL.unpack(head)
        name = wheel.stream.read(name_length).decode("utf-8" if flags & 0x0800 else "cp437")
        said = (b"PK\x03\x04", info.flag_bits, info.compress_type, info.CRC, info.compress_size, info.file_size)
        if (signature, flags, method, crc, packed, size) != said or name != info.orig_filename:
            yield f"{shown(info.filename)} is not what the archive's directory says"
            return
        place += _LOCAL.size + name_length + extra_length + info.compress_size
    if place != wheel.ending.place:
        yield "bytes stand between its members and their directory"


def _core_faults(wheel: Wheel, name: str) -> Iterator[str]:
    """METADATA or PKG-INFO: whose it is, and that nothing is required by URL."""
    headers = wheel.headers(name)
    label = PurePosixPath(name).name
    names, versions = headers.get_all("Name", []), headers.get_all("Version", [])
    if len(names) != 1 or canonicalize_name(str(names[0])) != "torch-npu":
        yield f"{label} says Name {_all(names)}, expected torch_npu"
    if len(versions) != 1 or len(str(versions[0])) > _NAME_LIMIT:
        yield f"{label} says Version {_all(versions)}"
    else:
        with parsing(wheel.path.name, label):
            stated = Version(str(versions[0]))
        if stated != wheel.version:
            yield f"the file name says version {wheel.version}, {label} says {stated}"
    for text in headers.get_all("Requires-Dist", []):
        with parsing(wheel.path.name, f"{label} requires {shown(str(text))}"):
            requirement = Requirement(str(text))
        if requirement.url is not None:
            yield f"{label} requires {requirement.name} from a URL"


def _entry_point_faults(wheel: Wheel, name: str) -> Iterator[str]:
    # As importlib.metadata and pip read it: https://packaging.python.org/en/latest/specifications/entry-points/
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, default_section="\0")
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    text = wheel.text(name)
    with parsing(wheel.path.name, name):
        parser.read_string(text)
    for group in parser.sections():
        for entry, target in parser.items(group):
            rule = ENTRY_POINTS.get(group)
            if rule is None or rule.fullmatch(entry) is None or _OBJECT.fullmatch(target) is None:
                yield f"{name} has {shown(f'{entry} = {target}')} in [{shown(group)}], which upstream has not"


def _all(values: list[str] | None) -> str:
    return ", ".join(shown(str(value)) for value in (values or [])[:3]) or "nothing"

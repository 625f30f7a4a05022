"""Reading a wheel without installing it: names, tags, metadata, records, shared libraries.

A wheel is what a build made of itself. It is read as a stream, in bounded pieces, and whatever a parser makes of
damage is a finding about the wheel: a TargetError of the kind VERIFY.
"""

from __future__ import annotations

import ast
import base64
import csv
import errno
import hashlib
import io
import os
import struct
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from packaging.tags import Tag, parse_tag
from packaging.utils import InvalidWheelFilename, NormalizedName, parse_wheel_filename
from packaging.version import Version

from builder.core.errors import OF_THE_MACHINE, FailureKind, TargetError
from builder.core.untrusted import open_inside
from builder.wheels.elf import MAGIC, SharedObject, read_shared_object

# Released wheels, 134 of them from 2.1.0rc1 to 2.14.0: at most 2,882 members, 156 MB unpacked, a member of 126 MB.
#: Members of a wheel, folders counted.
MEMBER_COUNT = 20_000
#: Bytes of the archive's own directory.
DIRECTORY_LIMIT = 4 << 20
#: Bytes of a text that is read whole: METADATA, RECORD, ``version.py``.
TEXT_LIMIT = 4 << 20
#: Bytes of one member, unpacked.
MEMBER_LIMIT = 1 << 30
#: Bytes of a library that are held in memory; more of them go through a nameless file.
_IN_MEMORY = 16 << 20
_CHUNK = 1 << 20
#: Characters of a foreign text in a message.
_SHOWN = 160

#: Where the archive ends: signature, three numbers of disks and members, size and place of the directory, comment.
#: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.16
_END = struct.Struct("<4s4H2LH")
_END_SIGNATURE = b"PK\x05\x06"
_ZIP64_LOCATOR = b"PK\x06\x07"
_ZIP64_LOCATOR_SIZE = 20
#: What is the machine's and no word about the wheel.
_OF_THE_MACHINE = OF_THE_MACHINE | {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE}


@dataclass(frozen=True)
class Ending:
    """What the end of an archive says: members, and place and bytes of their directory."""

    members: int
    place: int
    size: int


class Wheel:
    """An open wheel. Use as a context manager. Raises TargetError (VERIFY) for a file that is no wheel.

    ``stream`` is the wheel's content where it is open already; it is closed with the wheel.
    """

    def __init__(self, path: Path, stream: BinaryIO | None = None) -> None:
        self.path = path
        with parsing(path.name, "it is not a whole wheel"):
            self.stream: BinaryIO = open_inside(path.parent, path.name) if stream is None else stream
        try:
            with parsing(path.name, "it is not a whole wheel"):
                name, version, _, tags = parse_wheel_filename(path.name)
                self.ending = _ending(self.stream)
                self._zip = zipfile.ZipFile(self.stream)
        except BaseException:
            self.stream.close()
            raise
        self.name: NormalizedName = name
        self.version: Version = version
        self.tags: frozenset[Tag] = tags

    def __enter__(self) -> Wheel:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()
        self.stream.close()

    @cached_property
    def members(self) -> tuple[zipfile.ZipInfo, ...]:
        """Every member as the archive's directory has it, folders too."""
        return tuple(self._zip.infolist())

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Names of all files, in the order of the archive."""
        return tuple(name for name in self._zip.namelist() if not name.endswith("/"))

    @cached_property
    def dist_info(self) -> str:
        """The one ``.dist-info`` folder."""
        folders = {name.split("/", 1)[0] for name in self.files if name.split("/", 1)[0].endswith(".dist-info")}
        if len(folders) != 1:
            raise self.broken(f"it has {len(folders)} .dist-info folders, expected one")
        return folders.pop()

    @cached_property
    def metadata(self) -> Message:
        """``METADATA``."""
        return self.headers(f"{self.dist_info}/METADATA")

    @cached_property
    def wheel_headers(self) -> Message:
        """The ``WHEEL`` file."""
        return self.headers(f"{self.dist_info}/WHEEL")

    @cached_property
    def wheel_tags(self) -> frozenset[Tag]:
        """The tags that the ``WHEEL`` file names."""
        lines = [str(line) for line in self.wheel_headers.get_all("Tag", [])]
        # A line stands for all combinations of its parts.
        if any(len(line) > _SHOWN for line in lines) or len(lines) > _SHOWN:
            raise self.broken("WHEEL has tags without measure")
        with parsing(self.path.name, "a tag in WHEEL"):
            return frozenset(tag for line in lines for tag in parse_tag(line))

    def headers(self, name: str) -> Message:
        """A member that is written like the head of a mail."""
        text = self.text(name)
        with parsing(self.path.name, name):
            return HeaderParser().parsestr(text)

    def chunks(self, name: str, limit: int = MEMBER_LIMIT) -> Iterator[bytes]:
        """The bytes of one file, a piece at a time; its CRC is checked on the way.

        Raises TargetError (VERIFY) for what cannot be read, and for more than ``limit`` bytes.
        """
        with parsing(self.path.name, shown(name)):
            info = self._zip.getinfo(name)
            if info.file_size > limit:
                raise self.broken(f"{shown(name)} has {info.file_size} bytes, expected at most {limit}")
            # Others are unpacked without a bound on what comes out at once.
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise self.broken(f"{shown(name)} is packed in another way than deflated")
            source = self._zip.open(info)
        with source:
            while chunk := self._piece(source, name):
                yield chunk

    def _piece(self, source: IO[bytes], name: str) -> bytes:
        with parsing(self.path.name, shown(name)):
            return source.read(_CHUNK)

    def read(self, name: str, limit: int = TEXT_LIMIT) -> bytes:
        """One file whole; errors are those of ``chunks``."""
        return b"".join(self.chunks(name, limit))

    def text(self, name: str) -> str:
        """One file as UTF-8 text. Raises TargetError (VERIFY) also where it is none."""
        data = self.read(name)
        with parsing(self.path.name, shown(name)):
            return data.decode("utf-8")

    def assignments(self, name: str) -> dict[str, str]:
        """String assignments at the top of a Python file (``version.py``); nothing is executed."""
        text = self.text(name)
        found = {}
        with parsing(self.path.name, f"{shown(name)} is not Python"):
            for node in ast.parse(text).body:
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    value = node.value
                    if isinstance(value, ast.Constant) and isinstance(value.value, str):
                        found[node.targets[0].id] = value.value
        return found

    def record_faults(self) -> Iterator[str]:
        """What is wrong with ``RECORD``: a file with another hash or size, missing, unlisted, or listed twice."""
        record_name = f"{self.dist_info}/RECORD"
        files, listed = set(self.files), set()
        text = self.text(record_name)
        with parsing(self.path.name, "RECORD"):
            rows = list(csv.reader(io.StringIO(text), strict=True))
        for row in rows:
            if len(row) != 3:
                yield f"RECORD has a line that is not path,hash,size: {shown(','.join(row))}"
                continue
            name, digest, size = row
            if name in listed:
                yield f"{shown(name)} is listed twice in RECORD"
                continue
            listed.add(name)
            if name == record_name:
                continue
            if name not in files:
                yield f"{shown(name)} is in RECORD but not in the wheel"
                continue
            yield from self._content_faults(name, digest, size)
        for name in sorted(files - listed):
            yield f"{shown(name)} is in the wheel but not in RECORD"

    def _content_faults(self, name: str, digest: str, size: str) -> Iterator[str]:
        algorithm, _, value = digest.partition("=")
        if algorithm not in {"sha256", "sha384", "sha512"}:
            yield f"{shown(name)} has no secure hash in RECORD"
            return
        found, count = hashlib.new(algorithm), 0
        for chunk in self.chunks(name):
            found.update(chunk)
            count += len(chunk)
        if base64.urlsafe_b64encode(found.digest()).rstrip(b"=").decode() != value:
            yield f"{shown(name)} has another hash than RECORD says"
        if size and size != str(count):
            yield f"{shown(name)} has {count} bytes, RECORD says {shown(size)}"

    def libraries(self) -> Iterator[tuple[str, SharedObject]]:
        """Every ELF file: its name, and what it says of itself. Raises TargetError (VERIFY) for a damaged one."""
        for name in self.files:
            if ".so" not in PurePosixPath(name).name:
                continue
            with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as content:
                for chunk in self.chunks(name):
                    content.write(chunk)
                content.seek(0)
                if content.read(len(MAGIC)) != MAGIC:
                    continue
                content.seek(0)
                # pyelftools meets broken files with whatever the first wrong number leads to.
                with parsing(self.path.name, f"{shown(name)} is no readable shared library"):
                    library = read_shared_object(content)
            yield name, library

    def broken(self, what: str) -> TargetError:
        """The error that says what is wrong with this wheel."""
        return TargetError(f"{self.path.name}: {what}", kind=FailureKind.VERIFY)


def _ending(stream: BinaryIO) -> Ending:
    """What the end of the archive says. Raises ValueError where it is not that of a plain zip file of bounded size.

    Directories are read whole and at once, so that they are measured before.
    """
    length = stream.seek(0, os.SEEK_END)
    place = length - _END.size
    if place < 0:
        raise ValueError(f"{length} bytes are no zip file")
    stream.seek(max(0, place - _ZIP64_LOCATOR_SIZE))
    tail = stream.read()
    signature, *disks, members, size, directory, comment = _END.unpack(tail[-_END.size :])
    if signature != _END_SIGNATURE or comment:
        raise ValueError("it does not end as a zip file does")
    if tail.startswith(_ZIP64_LOCATOR) or disks != [0, 0, members]:
        raise ValueError("it is a zip file of more than 4 GiB, or of several parts")
    if members > MEMBER_COUNT or size > DIRECTORY_LIMIT:
        raise ValueError(f"it has {members} members in a directory of {size} bytes")
    if directory + size != place:
        raise ValueError("its directory is not where the file says")
    return Ending(members, directory, size)


@contextmanager
def parsing(wheel: str, what: str) -> Iterator[None]:
    """Whatever a parser raises inside becomes TargetError (VERIFY) about ``what`` in ``wheel``.

    Every exception is meant: zip, mail, csv, Python and ELF parsers, decoders and decompressors raise more than they
    document (RecursionError, MemoryError, struct.error, NotImplementedError). The machine's own errors pass.
    """
    try:
        yield
    except TargetError:
        raise
    except InvalidWheelFilename as error:
        raise TargetError(shown(str(error), quote=False), kind=FailureKind.VERIFY) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
            raise
        why = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
        raise TargetError(f"{wheel}: {what}: {shown(why, quote=False)}", kind=FailureKind.VERIFY) from error


def shown(text: str, *, quote: bool = True) -> str:
    """A foreign text for a message: cut, and quoted where it holds what no terminal should get.

    Without ``quote`` what cannot be printed is left as its escape, without marks around it.
    """
    cut = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    if cut.isprintable() and cut.isascii() and cut:
        return cut
    return ascii(cut) if quote else ascii(" ".join(cut.split()))[1:-1]

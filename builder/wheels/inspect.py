"""Reading a wheel without installing it: names, tags, metadata, records, shared libraries."""

from __future__ import annotations

import ast
import base64
import csv
import hashlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from functools import cached_property
from pathlib import Path, PurePosixPath

from packaging.tags import Tag, parse_tag
from packaging.utils import InvalidWheelFilename, NormalizedName, parse_wheel_filename
from packaging.version import Version

from builder.errors import FailureKind, TargetError


@dataclass(frozen=True)
class Library:
    """A shared library inside a wheel: where it is, its ELF machine (``EM_X86_64``), what it needs."""

    path: str
    machine: str
    needed: tuple[str, ...]


class Wheel:
    """An open wheel. Use as a context manager. Raises TargetError (VERIFY) for a file that is no wheel."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            name, version, _, tags = parse_wheel_filename(path.name)
            self._zip = zipfile.ZipFile(path)
        except (InvalidWheelFilename, zipfile.BadZipFile, OSError) as error:
            raise TargetError(f"{path.name} is not a whole wheel: {error}", kind=FailureKind.VERIFY) from error
        self.name: NormalizedName = name
        self.version: Version = version
        self.tags: frozenset[Tag] = tags

    def __enter__(self) -> Wheel:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    @cached_property
    def files(self) -> tuple[str, ...]:
        """Names of all files, in the order of the archive."""
        return tuple(name for name in self._zip.namelist() if not name.endswith("/"))

    @cached_property
    def dist_info(self) -> str:
        """The one ``.dist-info`` folder."""
        folders = {name.split("/", 1)[0] for name in self.files if name.split("/", 1)[0].endswith(".dist-info")}
        if len(folders) != 1:
            raise self._broken(f"it has {len(folders)} .dist-info folders, expected one")
        return folders.pop()

    @cached_property
    def metadata(self) -> Message:
        """``METADATA``."""
        return HeaderParser().parsestr(self.text(f"{self.dist_info}/METADATA"))

    @cached_property
    def wheel_tags(self) -> frozenset[Tag]:
        """The tags that the ``WHEEL`` file names."""
        header = HeaderParser().parsestr(self.text(f"{self.dist_info}/WHEEL"))
        return frozenset(tag for line in header.get_all("Tag", []) for tag in parse_tag(line))

    def read(self, name: str) -> bytes:
        """The bytes of one file; its CRC is checked on the way."""
        try:
            return self._zip.read(name)
        except (KeyError, zipfile.BadZipFile) as error:
            raise self._broken(f"{name}: {error}") from error

    def text(self, name: str) -> str:
        """One file as UTF-8 text."""
        return self.read(name).decode("utf-8", errors="replace")

    def assignments(self, name: str) -> dict[str, str]:
        """String assignments at the top of a Python file (``version.py``); nothing is executed."""
        found = {}
        for node in ast.parse(self.text(name)).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                value = node.value
                if isinstance(value, ast.Constant) and isinstance(value.value, str):
                    found[node.targets[0].id] = value.value
        return found

    def record_faults(self) -> Iterator[str]:
        """What is wrong with ``RECORD``: a file with another hash or size, missing, unlisted, or listed twice."""
        record_name = f"{self.dist_info}/RECORD"
        listed: set[str] = set()
        for row in csv.reader(io.StringIO(self.text(record_name))):
            if len(row) != 3:
                yield f"RECORD has a line that is not path,hash,size: {row}"
                continue
            name, digest, size = row
            if name in listed:
                yield f"{name} is listed twice in RECORD"
            listed.add(name)
            if name == record_name:
                continue
            if name not in self.files:
                yield f"{name} is in RECORD but not in the wheel"
                continue
            content = self.read(name)
            algorithm, _, value = digest.partition("=")
            if algorithm not in {"sha256", "sha384", "sha512"}:
                yield f"{name} has no secure hash in RECORD"
                continue
            actual = base64.urlsafe_b64encode(hashlib.new(algorithm, content).digest()).rstrip(b"=").decode()
            if actual != value:
                yield f"{name} has another hash than RECORD says"
            if size and int(size) != len(content):
                yield f"{name} has {len(content)} bytes, RECORD says {size}"
        for name in sorted(set(self.files) - listed):
            yield f"{name} is in the wheel but not in RECORD"
        if len(set(self.files)) != len(self.files):
            yield "a file stands twice in the archive"
        for name in self.files:
            if name.startswith("/") or ".." in PurePosixPath(name).parts:
                yield f"{name} names a place outside the wheel"

    def libraries(self) -> Iterator[Library]:
        """Every ELF file."""
        from elftools.elf.dynamic import DynamicSection
        from elftools.elf.elffile import ELFFile

        for name in self.files:
            if ".so" not in PurePosixPath(name).name:
                continue
            content = self.read(name)
            if content[:4] != b"\x7fELF":
                continue
            elf = ELFFile(io.BytesIO(content))
            dynamic = elf.get_section_by_name(".dynamic")
            tags = dynamic.iter_tags("DT_NEEDED") if isinstance(dynamic, DynamicSection) else ()
            needed = tuple(str(getattr(tag, "needed")) for tag in tags)  # noqa: B009  (set by pyelftools at run time)
            yield Library(path=name, machine=elf["e_machine"], needed=needed)

    def _broken(self, what: str) -> TargetError:
        return TargetError(f"{self.path.name}: {what}", kind=FailureKind.VERIFY)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()

"""Upstream's released wheels on a package index, read without downloading them whole.

A released wheel is a witness of how upstream really builds: its file name states Python, architecture and
manylinux policy, its METADATA the torch that it needs, and ``libtorch_npu.so`` the compiler and the C++ ABI.
Range requests fetch the archive's directory and the three members that are read. What was read is kept as
``<cache>/<sha256>.json``, so that a second run asks for index pages only.

The SHA-256 of a wheel that is read in ranges cannot be checked; the CRC of every member that is read is. Where
a server gives no ranges, the wheel is fetched whole, checked against the index, and not kept.
"""

from __future__ import annotations

import re
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryFile
from typing import IO, TYPE_CHECKING, Literal, NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from builder.core.digests import sha256_of
from builder.core.errors import TargetError
from builder.core.untrusted import read_regular
from builder.core.workspace import atomic_json, publish
from builder.wheels.indexclient import CHUNK, IndexClient, NoRanges, broken, go_on, without_login
from builder.wheels.inspect import TEXT_LIMIT, Wheel

if TYPE_CHECKING:
    from pypi_simple import DistributionPackage

#: The member that tells compiler and ABI.
LIBRARY = "torch_npu/lib/libtorch_npu.so"
#: The member that tells the commit.
VERSION_FILE = "torch_npu/version.py"

# Unpacked bytes beyond which a member is not what it is said to be (the largest library has 97 MB).
_LIBRARY_LIMIT = 1 << 30
_PLATFORM = re.compile(r"(manylinux_\d+_\d+|manylinux1|manylinux2010|manylinux2014|linux)_(x86_64|aarch64)")
# PEP 600 makes the older names aliases of these.
_PEP_600 = {"manylinux1": "manylinux_2_5", "manylinux2010": "manylinux_2_12", "manylinux2014": "manylinux_2_17"}
_SHA256 = re.compile(r"[0-9a-f]{64}")
#: Bytes of what is kept of a wheel.
_LARGEST_KEPT = 16 << 20
_GCC = re.compile(r"GCC: \([^)]*\) (\d+(?:\.\d+)+)")
# Functions of torch itself. Others prove nothing: Red Hat's toolsets link parts of the newer libstdc++
# statically, so that a library of the old ABI refers to members of std::__cxx11, too.
_OF_TORCH = re.compile(r"_ZN[rVK]*[RO]?(?:3c10|2at|5torch)\d")


class WheelName(NamedTuple):
    """What a wheel's file name says; see :func:`parse_name`."""

    version: str
    python: str
    arch: str
    manylinux: str


@dataclass(frozen=True)
class ReleasedFile:
    """One wheel on the index, known by its file name alone.

    ``version`` is as written in the name, ``python`` is ``3.11``, ``manylinux`` the policy (see
    :func:`parse_name`). ``url`` has no login, ``sha256`` is lower-case hexadecimal, ``uploaded`` is RFC 3339;
    the last two are None where the index does not say (HTML pages never tell the time).
    """

    version: str
    python: str
    arch: str
    manylinux: str
    filename: str
    url: str
    sha256: str | None
    uploaded: str | None


@dataclass(frozen=True)
class ReleasedWheel:
    """What stands inside one wheel.

    ``comments`` are the entries of ``.comment`` in ``libtorch_npu.so`` and ``gcc`` the version in them, None
    where they name no gcc; ``requires`` are METADATA's requirements in one notation (``torch==2.5.1+cpu``);
    ``version`` is METADATA's, ``git_version`` that of ``torch_npu/version.py`` (upstream writes ``Unknown``
    where it found none). ``cxx11_abi`` is 1 if a function of torch that the library needs takes
    ``std::__cxx11`` types, 0 if none does, None if it needs no function of torch.
    """

    file: ReleasedFile
    gcc: str | None
    comments: tuple[str, ...]
    requires: tuple[str, ...]
    version: str
    git_version: str | None
    cxx11_abi: int | None


class TorchWheel(NamedTuple):
    """One wheel of PyTorch on the index; several may differ in their build number only."""

    version: str
    python: str
    arch: str
    filename: str
    sha256: str | None


@dataclass(frozen=True)
class _Facts:
    gcc: str | None
    comments: tuple[str, ...]
    requires: tuple[str, ...]
    version: str
    git_version: str | None
    cxx11_abi: Literal[0, 1] | None


@dataclass(frozen=True)
class _Kept:
    """A file of the cache. Another ``schema`` is read again: it rises with every change of what is read."""

    schema: Literal[1]
    filename: str
    sha256: str
    facts: _Facts


class ReleasedIndex:
    """Reads wheels of one index; several threads may use it.

    ``cache`` is the folder for facts and temporary files. ``index_url`` (PyPI where it is None), ``ca_bundle``
    and ``proxies`` (by variable name: ``HTTPS_PROXY``, ``NO_PROXY``) are pip's settings, ``timeout`` is the
    longest silence in seconds, ``retries`` the number of further tries after a failure that may pass; ``warn``
    is told of each, from the thread that reads. Raises RequestError for an index that HTTP cannot reach.
    """

    def __init__(
        self,
        cache: Path,
        *,
        index_url: str | None = None,
        ca_bundle: Path | None = None,
        proxies: Mapping[str, str] | None = None,
        timeout: float = 60.0,
        retries: int = 3,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self._cache = cache
        self._client = IndexClient(
            index_url, ca_bundle=ca_bundle, proxies=proxies, timeout=timeout, retries=retries, warn=warn
        )

    @property
    def fetched(self) -> int:
        """Bytes of all answers so far: index pages (unpacked), ranges, and whole files."""
        return self._client.fetched

    def files(self, project: str = "torch-npu") -> list[ReleasedFile]:
        """The Linux wheels of ``project``, yanked ones too, sorted by version, architecture and Python.

        Raises TargetError: NETWORK when the index does not answer, VERIFY when the answer is no index page.
        """
        found = [
            ReleasedFile(
                *name,
                filename=package.filename,
                url=without_login(package.url),
                sha256=_digest(package),
                uploaded=package.upload_time.isoformat() if package.upload_time is not None else None,
            )
            for package, name in self._wheels(project)
        ]
        return sorted(found, key=lambda file: _order(file.version, file.arch, file.python, file.filename))

    def torch_wheels(self, project: str = "torch") -> list[TorchWheel]:
        """PyTorch's own Linux wheels; order and errors are those of :meth:`files`."""
        found = [
            TorchWheel(name.version, name.python, name.arch, package.filename, _digest(package))
            for package, name in self._wheels(project)
        ]
        return sorted(found, key=lambda wheel: _order(wheel.version, wheel.arch, wheel.python, wheel.filename))

    def read(self, file: ReleasedFile, *, stop: threading.Event | None = None) -> ReleasedWheel:
        """What stands inside ``file``: from the cache, else by range requests, else from the whole wheel.

        Raises TargetError: NETWORK when it cannot be fetched, VERIFY when it is broken; MachineError when the
        cache cannot be written. ``stop``, once set, ends the reading by an exception.
        """
        facts = self._load(file)
        if facts is None:
            facts = self._client.attempt(file.filename, file.url, partial(self._fetch, file, stop), stop)
        return ReleasedWheel(file, **vars(facts))

    def read_all(
        self,
        files: Iterable[ReleasedFile],
        *,
        threads: int = 4,
        progress: Callable[[int, int, ReleasedFile], None] | None = None,
        failed: Callable[[ReleasedFile, TargetError], None] | None = None,
    ) -> Iterator[ReleasedWheel]:
        """Read ``files``, ``threads`` at once; results come in the order of ``files``.

        ``progress`` gets the number done, the number in all, and the file. A file that cannot be read goes to
        ``failed`` and has no result; without ``failed`` its TargetError is raised. Closing the iterator stops
        what still runs; facts read until then stay in the cache.
        """
        wanted = list(files)
        stop = threading.Event()
        pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="released")
        try:
            futures = [pool.submit(self.read, file, stop=stop) for file in wanted]
            for done, (file, future) in enumerate(zip(wanted, futures, strict=True), 1):
                wheel = None
                try:
                    wheel = future.result()
                except TargetError as error:
                    if failed is None:
                        raise
                    failed(file, error)
                if progress is not None:
                    progress(done, len(wanted), file)
                if wheel is not None:
                    yield wheel
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def download(self, url: str, filename: str, sha256: str | None, folder: Path) -> Path:
        """Fetch a whole wheel into ``folder``, under its own name; one that is there already and is that file is kept.

        Raises TargetError: NETWORK when it cannot be fetched, VERIFY when it is another than the index says;
        MachineError when the folder cannot be written.
        """

        def once() -> Path:
            folder.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=folder, prefix=".", suffix=".download") as whole:
                actual = self._client.download(url, whole)
                if sha256 not in {None, actual}:
                    raise broken(filename, f"its SHA-256 is {actual}, the index says {sha256}")
                whole.flush()
                publish(Path(whole.name), place)
            return place

        place = folder / filename
        if sha256 is not None and place.is_file() and sha256_of(place) == sha256:
            return place
        return self._client.attempt(filename, url, once)

    def _wheels(self, project: str) -> Iterator[tuple[DistributionPackage, WheelName]]:
        for package in self._client.packages(canonicalize_name(project)):
            name = parse_name(package.filename, project)
            if name is not None:
                yield package, name

    def _fetch(self, file: ReleasedFile, stop: threading.Event | None) -> _Facts:
        self._cache.mkdir(parents=True, exist_ok=True)
        try:
            with self._client.archive(file.url) as archive:
                facts = self._inspect(file, archive, stop)
        except NoRanges:
            # Nameless files: gone when they are closed, also after a kill.
            with TemporaryFile(dir=self._cache) as whole:
                actual = self._client.download(file.url, whole, stop)
                if file.sha256 not in {None, actual}:
                    raise broken(file.filename, f"its SHA-256 is {actual}, the index says {file.sha256}") from None
                with zipfile.ZipFile(whole) as archive:
                    facts = self._inspect(file, archive, stop)
        if file.sha256 is not None:
            kept = _Kept(1, file.filename, file.sha256, facts)
            atomic_json(self._cache / f"{file.sha256}.json", asdict(kept))
        return facts

    def _inspect(self, file: ReleasedFile, archive: zipfile.ZipFile, stop: threading.Event | None) -> _Facts:
        wheel = _OpenWheel(file.filename, archive)
        wheel.check(f"{wheel.dist_info}/METADATA", TEXT_LIMIT)
        version = wheel.metadata.get("Version")
        if version is None:
            raise broken(file.filename, "its METADATA names no version")
        requires = tuple(_requirement(file, text) for text in wheel.metadata.get_all("Requires-Dist", []))
        git_version = None
        if VERSION_FILE in wheel.files:
            wheel.check(VERSION_FILE, TEXT_LIMIT)
            git_version = wheel.assignments(VERSION_FILE).get("git_version")
        wheel.check(LIBRARY, _LIBRARY_LIMIT)
        # On disk: the library is too large for memory times threads, and its sections stand at both ends.
        with archive.open(LIBRARY) as packed, TemporaryFile(dir=self._cache) as library:
            while chunk := packed.read(CHUNK):
                go_on(stop)
                library.write(chunk)
            comments, abi = _library(file, library)
        return _Facts(compiler(comments), comments, requires, version, git_version, abi)

    def _load(self, file: ReleasedFile) -> _Facts | None:
        """What an earlier run kept; None for nothing, and for a file that is not about this wheel or damaged."""
        from pydantic import TypeAdapter

        if file.sha256 is None:
            return None
        try:
            kept = TypeAdapter(_Kept).validate_json(read_regular(self._cache / f"{file.sha256}.json", _LARGEST_KEPT))
        except (OSError, ValueError):
            return None
        return kept.facts if (kept.filename, kept.sha256) == (file.filename, file.sha256) else None


class _OpenWheel(Wheel):
    """A wheel whose archive is open already: on the network, or a file without a name."""

    def __init__(self, filename: str, archive: zipfile.ZipFile) -> None:
        self.path = Path(filename)
        self.name, self.version, _, self.tags = parse_wheel_filename(filename)
        self._zip = archive

    def read(self, name: str, limit: int = TEXT_LIMIT) -> bytes:
        """A member that was checked before; what the network says of it is for the client to judge."""
        return self._zip.read(name)

    def check(self, name: str, limit: int) -> None:
        """Raises TargetError (VERIFY) when the member is not there, or says that it has more than ``limit`` bytes."""
        if name not in self.files:
            raise broken(self.path.name, f"it lacks {name}")
        size = self._zip.getinfo(name).file_size
        if size > limit:
            raise broken(self.path.name, f"{name} has {size} bytes, expected at most {limit}")


def parse_name(filename: str, project: str) -> WheelName | None:
    """Read a file name; None for all but CPython 3 wheels of ``project`` for Linux on x86_64 or aarch64.

    Free-threaded wheels and those for any ABI are left out. The policy has PEP 600's name (``manylinux_2_17``,
    also where only ``manylinux2014`` is written); it is the lowest of several, and ``linux`` for a wheel that
    was never repaired.
    """
    try:
        name, _, _, tags = parse_wheel_filename(filename)
    except InvalidWheelFilename:
        return None
    interpreters = {tag.interpreter for tag in tags}
    python = re.fullmatch(r"cp3(\d+)", interpreters.pop()) if len(interpreters) == 1 else None
    if name != canonicalize_name(project) or python is None:
        return None
    if not {tag.abi for tag in tags} <= {python[0], f"{python[0]}m"}:
        return None
    platforms = [_PLATFORM.fullmatch(tag.platform) for tag in tags]
    pairs = {(found[1], found[2]) for found in platforms if found is not None}
    if None in platforms or len({arch for _, arch in pairs}) != 1:
        return None
    policies = {_PEP_600.get(policy, policy) for policy, _ in pairs} - {"linux"}
    lowest = min(policies, key=lambda policy: [int(number) for number in policy.split("_")[1:]], default="linux")
    return WheelName(filename.split("-")[1], f"3.{python[1]}", next(iter(pairs))[1], lowest)


def compiler(comments: Iterable[str]) -> str | None:
    """The gcc version that ``.comment`` names: the newest, because start-up files may come from the system's gcc."""
    found = [match[1] for entry in comments if (match := _GCC.match(entry))]
    return max(found, key=Version, default=None)


def _library(file: ReleasedFile, library: IO[bytes]) -> tuple[tuple[str, ...], Literal[0, 1] | None]:
    """The entries of ``.comment``, and the C++ ABI."""
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    try:
        elf = ELFFile(library)
        comment = elf.get_section_by_name(".comment")
        texts = comment.data().decode("utf-8", errors="replace").split("\0") if comment is not None else []
        table = elf.get_section_by_name(".dynsym")
        needed = [
            symbol.name
            for symbol in (table.iter_symbols() if isinstance(table, SymbolTableSection) else ())
            if symbol["st_shndx"] == "SHN_UNDEF" and _OF_TORCH.match(symbol.name)
        ]
    except Exception as error:  # pyelftools meets broken files with whatever the first wrong number leads to
        raise broken(file.filename, f"{LIBRARY} is no readable shared library: {error}") from error
    if not needed:
        return tuple(dict.fromkeys(filter(None, texts))), None
    abi: Literal[0, 1] = 1 if any("__cxx11" in name for name in needed) else 0
    return tuple(dict.fromkeys(filter(None, texts))), abi


def _requirement(file: ReleasedFile, text: str) -> str:
    """``torch (==2.5.1+cpu)``, as older setuptools wrote it, and its like as ``torch==2.5.1+cpu``."""
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        raise broken(file.filename, f"its METADATA requires {text!r}, which is no requirement") from error
    requirement.name = canonicalize_name(requirement.name)
    return str(requirement)


def _digest(package: DistributionPackage) -> str | None:
    """The SHA-256 that the index states; None for what is none, because it becomes the name of a file."""
    digest = package.digests.get("sha256", "").lower()
    return digest if _SHA256.fullmatch(digest) else None


def _order(version: str, arch: str, python: str, filename: str) -> tuple[Version, str, Version, str]:
    return Version(version), arch, Version(python), filename

"""How two wheels of torch_npu differ, and which of the differences something explains.

A wheel that was built here is compared with the one that upstream released: where another commit, compiler, policy or
set of components explains a difference it is told with that, and the rest is what a person has to look at.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from packaging.version import Version

from builder.core.errors import TargetError
from builder.wheels.elf import SharedObject
from builder.wheels.inspect import Wheel, shown
from builder.wheels.loading import demangled
from builder.wheels.upstream_wheels import VERSION_FILE, compiler

#: Parts of torch_npu that a build can leave out, by what their files and symbols are called.
COMPONENTS = {
    "torchair": re.compile(r"torch_npu/dynamo/torchair/|\btorchair\b|\btng::"),
    "RPC": re.compile(r"tensorpipe|torch_npu/.*/rpc/|\brpc::|TensorPipe"),
    "ATB": re.compile(r"libop_plugin_atb|\batb::"),
}
#: What comes from the compiler and its C++ library: templates that are instantiated or inlined, or not.
_OF_COMPILER = re.compile(
    r"(?:\w+ )*(?:typeinfo (?:name )?for |vtable for |VTT for |guard variable for )?(?:std|__gnu_cxx|fmt|nlohmann)::"
    r"|.*\bstd::|_init$|_fini$|operator (?:new|delete)|__cxa_|_?_?v?snprintf"
)
_TOLD = 5


@dataclass(frozen=True)
class Difference:
    """One thing in which two wheels differ; ``because`` is what explains it, None where nothing does."""

    kind: str
    where: str
    first: str
    second: str
    because: str | None

    def to_json(self) -> dict[str, str | None]:
        """The difference as ``compare --json`` writes it."""
        return {
            "kind": self.kind,
            "where": self.where,
            "first": self.first,
            "second": self.second,
            "because": self.because,
        }


@dataclass(frozen=True)
class Side:
    """What is compared of one wheel."""

    path: Path
    version: Version
    tags: str
    headers: Mapping[str, tuple[str, ...]]
    sizes: Mapping[str, int]
    digests: Mapping[str, str]
    libraries: Mapping[str, SharedObject]
    commit: str
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def gcc(self) -> str | None:
        """The compiler of its own library."""
        library = self.libraries.get("torch_npu/lib/libtorch_npu.so")
        return compiler(library.compilers) if library is not None else None


def read_side(path: Path, facts: Mapping[str, str] | None = None) -> Side:
    """Read what is compared of a wheel. ``facts`` are those of its record, where it has one.

    Raises TargetError (VERIFY) for a file that is no wheel of torch_npu.
    """
    with Wheel(path) as wheel:
        if wheel.name != "torch-npu":
            raise wheel.broken(f"it is a wheel of {wheel.name}, expected torch_npu")
        digests, sizes = {}, {}
        for name in wheel.files:
            digest, size = hashlib.sha256(), 0
            for chunk in wheel.chunks(name):
                digest.update(chunk)
                size += len(chunk)
            digests[_plain(name)], sizes[_plain(name)] = digest.hexdigest(), size
        try:
            commit = wheel.assignments(VERSION_FILE).get("git_version", "")
        except TargetError:
            commit = ""
        return Side(
            path=path,
            version=wheel.version,
            tags=", ".join(sorted(str(tag) for tag in wheel.tags)),
            headers={
                name: tuple(sorted(str(value) for value in wheel.metadata.get_all(name, [])))
                for name in ("Name", "Requires-Dist", "Requires-Python", "License", "Summary")
            },
            sizes=sizes,
            digests=digests,
            libraries={_plain(name): library for name, library in wheel.libraries()},
            commit=commit,
            facts=facts or {},
        )


def differences(first: Side, second: Side) -> list[Difference]:
    """All in which two wheels differ: names and metadata, files, and each library that both have."""
    return list(_Comparison(first, second).all())


@dataclass(frozen=True)
class _Comparison:
    first: Side
    second: Side

    def all(self) -> Iterator[Difference]:
        yield from self._names()
        yield from self._files()
        for path in sorted(self.first.libraries.keys() & self.second.libraries.keys()):
            yield from self._library(path, self.first.libraries[path], self.second.libraries[path])

    @property
    def _other_commit(self) -> str | None:
        first, second = self.first, self.second
        if first.commit and second.commit and first.commit != second.commit:
            return f"torch_npu {first.commit[:12]} and {second.commit[:12]}"
        for name in ("op-plugin", "overlay"):
            mine, theirs = first.facts.get(name), second.facts.get(name)
            if mine and theirs and mine != theirs:
                return f"{name} {mine[:12]} and {theirs[:12]}"
        return None

    @property
    def _other_compiler(self) -> str | None:
        mine, theirs = self.first.gcc, self.second.gcc
        return f"gcc {mine} and {theirs}" if mine and theirs and mine != theirs else None

    def _component(self, names: Collection[str]) -> str | None:
        """The component that one of the two lacks and that alone accounts for these files or symbols."""
        for component, pattern in COMPONENTS.items():
            if not names or not all(pattern.search(name) for name in names):
                continue
            for mark, side in (("A", self.first), ("B", self.second)):
                if not any(pattern.search(name) for name in side.digests):
                    return f"{mark} was built without {component}"
        return None

    def _names(self) -> Iterator[Difference]:
        first, second = self.first, self.second
        if first.version != second.version:
            yield Difference("version", "", str(first.version), str(second.version), self._other_commit)
        if first.commit != second.commit:
            yield Difference("commit", "", first.commit or "unknown", second.commit or "unknown", self._other_commit)
        if first.tags != second.tags:
            because = f"built on another system ({self._other_compiler})" if self._other_compiler else None
            yield Difference("tags", "", first.tags, second.tags, because)
        for name in first.headers:
            mine, theirs = first.headers[name], second.headers[name]
            if mine != theirs:
                yield Difference("metadata", name, ", ".join(mine), ", ".join(theirs), self._other_commit)

    def _files(self) -> Iterator[Difference]:
        mine, theirs = self.first.digests.keys(), self.second.digests.keys()
        for names, alone in ((mine - theirs, True), (theirs - mine, False)):
            groups: dict[str | None, list[str]] = {}
            for name in sorted(names):
                groups.setdefault(self._component([name]) or self._other_commit, []).append(name)
            for because, found in groups.items():
                text = _some(found)
                yield Difference("files", "", text if alone else "", "" if alone else text, because)
        changed = sorted(
            name
            for name in mine & theirs
            if self.first.digests[name] != self.second.digests[name]
            and name not in self.first.libraries
            and ".dist-info/" not in name
        )
        if changed:
            because = self._other_commit
            if set(changed) <= {VERSION_FILE} and self.first.version != self.second.version:
                because = "the version"
            yield Difference("contents", "", _some(changed), "", because)

    def _library(self, path: str, first: SharedObject, second: SharedObject) -> Iterator[Difference]:
        because = self._other_compiler
        for what, mine, theirs in (
            ("machine", first.machine, second.machine),
            ("RPATH", ":".join(first.rpath), ":".join(second.rpath)),
            ("BIND_NOW", str(first.bind_now), str(second.bind_now)),
            ("debug symbols", first.debuglink or "none", second.debuglink or "none"),
        ):
            if mine != theirs:
                only_auditwheel = what == "RPATH" and _without_libs(first.rpath) == _without_libs(second.rpath)
                why = "auditwheel's own folder, which not each version of it names" if only_auditwheel else None
                yield Difference(what, path, mine, theirs, why)
        if first.compilers != second.compilers:
            yield Difference("compiler", path, ", ".join(first.compilers), ", ".join(second.compilers), because)
        mine_needed, theirs_needed = set(first.needed), set(second.needed)
        if mine_needed != theirs_needed:
            lacking, more = sorted(theirs_needed - mine_needed), sorted(mine_needed - theirs_needed)
            yield Difference("NEEDED", path, ", ".join(more), ", ".join(lacking), self._component([*lacking, *more]))
        versions = _newest(first), _newest(second)
        if versions[0] != versions[1]:
            yield Difference("symbol versions", path, _listed(versions[0]), _listed(versions[1]), because)
        yield from self._symbols(path, first, second)
        if path in self.first.sizes and first.exported == second.exported:
            yield from self._size(path)

    def _symbols(self, path: str, first: SharedObject, second: SharedObject) -> Iterator[Difference]:
        for kind, mine, theirs in (
            ("exported symbols", first.exported, second.exported),
            ("needed symbols", _needed(first), _needed(second)),
        ):
            for names, alone in ((mine - theirs, True), (theirs - mine, False)):
                groups: dict[str | None, list[str]] = {}
                for name in sorted(names):
                    plain = demangled(name)
                    because = self._component([plain])
                    if because is None and _OF_COMPILER.match(plain):
                        because = self._other_compiler
                    groups.setdefault(because or self._other_commit, []).append(plain)
                for because, found in groups.items():
                    text = _some(found)
                    yield Difference(kind, path, text if alone else "", "" if alone else text, because)

    def _size(self, path: str) -> Iterator[Difference]:
        mine, theirs = self.first.sizes[path], self.second.sizes[path]
        if abs(mine - theirs) > theirs // 5:
            because = self._other_compiler or self._other_commit
            yield Difference("size", path, f"{mine} bytes", f"{theirs} bytes", because)


def _plain(name: str) -> str:
    """A member's name without what differs by version: ``torch_npu-2.7.1.dist-info/METADATA``."""
    return re.sub(r"^torch_npu-[^/]+\.dist-info/", ".dist-info/", name)


def _without_libs(rpath: tuple[str, ...]) -> list[str]:
    return [part.rstrip("/") for part in rpath if not part.rstrip("/").endswith("/torch_npu.libs")]


def _needed(library: SharedObject) -> frozenset[str]:
    return frozenset(symbol.name for symbol in library.undefined if not symbol.weak)


def _newest(library: SharedObject) -> dict[str, str]:
    """The newest version of each family of symbols that a library needs."""
    found: dict[str, str] = {}
    for symbol in library.undefined:
        family, _, number = (symbol.version or "").partition("_")
        if re.fullmatch(r"\d+(\.\d+)*", number) and Version(number) > Version(found.get(family, "0")):
            found[family] = number
    return found


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{family} {number}" for family, number in sorted(versions.items()))


def _some(names: list[str]) -> str:
    """How many, and the first of them; files of one folder by that folder."""
    if len(names) <= _TOLD:
        return ", ".join(shown(name, quote=False) for name in names)
    folders = Counter(str(PurePosixPath(name).parent) for name in names)
    if all("/" in name for name in names) and len(folders) <= _TOLD:
        return ", ".join(f"{count} in {folder}/" for folder, count in folders.most_common())
    first = ", ".join(shown(name, quote=False) for name in names[:_TOLD])
    return f"{len(names)}: {first}, ..."

"""Why a build's compiles were no cache hits: the input in which each differs from a compile that filled the cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from builder.compilation.compile_manifest import CompiledObject, CompileManifest

#: What can keep a compile from being a hit, the first that applies: ccache would not have come to the later ones.
Kind = Literal[
    "compiler", "include", "argument", "source", "header", "python", "date", "new", "first", "evicted", "unlisted",
    "uncached", "unknown", "plain", "failed",
]  # fmt: skip
#: Compiles whose object is in the cache afterwards, as far as the launcher can tell.
_STORED = frozenset({"hit-direct", "hit-preprocessed", "miss", "unknown"})
_NO_MISS = frozenset({"hit-direct", "hit-preprocessed"})
_WORDS: dict[Kind, str] = {
    "python": "includes Python.h, and this is another Python",
    "date": "uses __DATE__ or __TIME__, which are other ones by the day",
    "new": "never compiled before",
    "first": "no earlier build with this cache is known",
    "evicted": "the same inputs were compiled before: evicted, or the cache was cleared",
    "unlisted": "the compile left no list of what it read (CMake before 3.20), so nobody knows",
    "uncached": "compiled without asking the cache",
    "unknown": "this ccache does not say what it did",
    "plain": "this build used no compile cache",
    "failed": "the compile failed",
}


@dataclass(frozen=True)
class Difference:
    """What differs between a compile and an earlier one of the same object; paths are absolute."""

    compiler: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    added_arguments: tuple[str, ...] = ()
    removed_arguments: tuple[str, ...] = ()
    order: bool = False
    source: bool = False
    changed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """How much differs; 0 where nothing does."""
        lists = (self.compiler, self.include, self.added_arguments, self.removed_arguments)
        return sum(map(len, lists)) + self.order + self.source + len(self.headers)

    @property
    def headers(self) -> tuple[str, ...]:
        """Headers that are others, the changed ones first; what is read newly or no more often follows from those."""
        return self.changed + self.added + self.removed

    def lines(self) -> list[str]:
        """Everything, one thing a line."""
        return [
            *(f"compiler: {line}" for line in self.compiler),
            *(f"include name: {line}" for line in self.include),
            *(f"argument added: {word}" for word in self.added_arguments),
            *(f"argument gone: {word}" for word in self.removed_arguments),
            *(["arguments in another order"] if self.order else []),
            *(["the source changed"] if self.source else []),
            *(f"changed: {path}" for path in self.changed),
            *(f"read newly: {path}" for path in self.added),
            *(f"no more read: {path}" for path in self.removed),
        ]


@dataclass(frozen=True)
class Miss:
    """One compile that was no hit: why, and the build that it was compared with (target and run)."""

    source: str
    object: str
    kind: Kind
    against: tuple[str, str] | None = None
    difference: Difference = field(default_factory=Difference)


@dataclass(frozen=True)
class Group:
    """Misses with one reason, in words."""

    kind: Kind
    text: str
    misses: tuple[Miss, ...]


def misses_of(manifest: CompileManifest, earlier: Sequence[CompileManifest]) -> list[Miss]:
    """Every compile of a build that was no hit, explained by ``earlier`` builds with the same cache, newest first.

    Each is held against the earlier compile of the same object that differs least, which is the one that could
    have answered.
    """
    comparisons = [_Comparison(manifest, other) for other in earlier]
    return [_explained(each, manifest, comparisons) for each in manifest.objects if each.result not in _NO_MISS]


def groups_of(misses: Iterable[Miss], build: CompileManifest) -> list[Group]:
    """Misses of a build by reason, the most frequent first.

    Headers change many files at once and drag others along: each group is named after the header that explains the
    most of the misses that are left.
    """
    named: dict[tuple[Kind, str], list[Miss]] = {}
    by_header: list[Miss] = []
    for miss in misses:
        if miss.kind == "header":
            by_header.append(miss)
        else:
            named.setdefault((miss.kind, _text(miss)), []).append(miss)
    while by_header:
        counts = Counter(path for miss in by_header for path in _telling(miss, build))
        most = max(counts.values())
        header = min(path for path, count in counts.items() if count == most)
        taken = [miss for miss in by_header if header in _telling(miss, build)]
        verb = "changed" if any(header in miss.difference.changed for miss in taken) else "is read, or no more"
        named["header", f"{shortened(header, build.tree)} {verb}"] = taken
        by_header = [miss for miss in by_header if header not in _telling(miss, build)]
    groups = [Group(kind, text, tuple(members)) for (kind, text), members in named.items()]
    return sorted(groups, key=lambda group: (-len(group.misses), group.kind, group.text))


def shortened(path: str, tree: str) -> str:
    """A path without the tree that it is in."""
    return path.removeprefix(f"{tree}/")


def _telling(miss: Miss, build: CompileManifest) -> tuple[str, ...]:
    """The headers that explain a miss: those that changed before those that follow, Python's own only where alone."""
    paths = _dragging(miss.difference)
    return tuple(path for path in paths if not _is_pythons(path, build)) or paths


def _text(miss: Miss) -> str:
    difference = miss.difference
    if miss.kind == "compiler":
        return f"another compiler: {'; '.join(difference.compiler)}"
    if miss.kind == "include":
        return f"files for an include name came or went: {'; '.join(difference.include)}"
    if miss.kind == "argument":
        words = [f"+{word}" for word in difference.added_arguments]
        words += [f"-{word}" for word in difference.removed_arguments]
        return f"arguments: {' '.join(words)}" if words else "arguments in another order"
    if miss.kind == "source":
        return "the source changed"
    return _WORDS[miss.kind]


def _explained(each: CompiledObject, manifest: CompileManifest, comparisons: Sequence[_Comparison]) -> Miss:
    def miss(kind: Kind, against: tuple[str, str] | None = None, difference: Difference | None = None) -> Miss:
        return Miss(each.source, each.object, kind, against, difference or Difference())

    for word in ("uncached", "unknown", "plain", "failed"):
        if each.result == word:
            return miss(word)
    if not comparisons:
        return miss("first")
    found = [(comparison, other) for comparison in comparisons if (other := comparison.other_of(each)) is not None]
    if not found:
        return miss("new")
    if each.files is None or all(other.files is None for _, other in found):
        return miss("unlisted")
    differences = [
        ((comparison.other.target, comparison.other.run), comparison.difference(each, other))
        for comparison, other in found
        if other.files is not None
    ]
    against, nearest = min(differences, key=lambda pair: pair[1].size)
    return miss(_kind(each, manifest, nearest), against, nearest)


def _kind(each: CompiledObject, manifest: CompileManifest, difference: Difference) -> Kind:
    if difference.compiler:
        return "compiler"
    if difference.include:
        return "include"
    if difference.added_arguments or difference.removed_arguments or difference.order:
        return "argument"
    if difference.source:
        return "source"
    if difference.headers:
        return "python" if all(_is_pythons(path, manifest) for path in _dragging(difference)) else "header"
    if any(clock for first, count in each.runs for _, _, clock in manifest.files[first : first + count]):
        return "date"
    return "evicted"


def _dragging(difference: Difference) -> tuple[str, ...]:
    """The headers that explain the others: where some changed, what is read besides follows from them."""
    return difference.changed or difference.headers


def _is_pythons(path: str, build: CompileManifest) -> bool:
    return bool(build.python_include) and path.startswith(f"{build.python_include}/")


class _Comparison:
    """Two builds, with what their files have in common worked out once.

    Sets of files are bits of a number: a build has a thousand objects that read some five thousand files each.
    """

    def __init__(self, manifest: CompileManifest, other: CompileManifest) -> None:
        self.other = other
        self._manifest = manifest
        numbers = {path: number for number, (path, _, _) in enumerate(manifest.files)}
        # Files of the other build in our numbers; those that we have not get numbers of their own.
        self._paths = [path for path, _, _ in manifest.files]
        renumbered: list[int] = []
        self._differing = 0
        for path, digest, _ in other.files:
            number = numbers.setdefault(path, len(self._paths))
            if number == len(self._paths):
                self._paths.append(path)
            elif manifest.files[number][1] != digest:
                self._differing |= 1 << number
            renumbered.append(number)
        self._spans = _spans(renumbered)
        self._compiler = _line_difference(manifest, other, "tool ")
        self._include = _line_difference(manifest, other, "include ")
        self._arguments: dict[tuple[int, int], Difference] = {}

    def other_of(self, each: CompiledObject) -> CompiledObject | None:
        """The same object of the other build, if that put it into the cache."""
        found = self.other.by_source.get((each.source, each.object))
        return found if found is not None and found.result in _STORED else None

    def difference(self, each: CompiledObject, other: CompiledObject) -> Difference:
        """What differs between two compiles of one object, both of which say what they read."""
        ours = sum(((1 << count) - 1) << first for first, count in each.runs)
        theirs = self._theirs(other)
        changed = self._named(ours & theirs & self._differing)
        words = self._words(each.arguments, other.arguments)
        return Difference(
            compiler=self._compiler + words.compiler,
            include=self._include,
            added_arguments=words.added_arguments,
            removed_arguments=words.removed_arguments,
            order=words.order,
            source=each.source in changed,
            changed=tuple(path for path in changed if path != each.source),
            added=self._named(ours & ~theirs),
            removed=self._named(theirs & ~ours),
        )

    def _theirs(self, other: CompiledObject) -> int:
        """The files of an object of the other build, in our numbers."""
        found = 0
        for first, count in other.runs:
            end = first + count
            while first < end:
                to, stretch = self._spans[first]
                step = min(stretch, end - first)
                found |= ((1 << step) - 1) << to
                first += step
        return found

    def _named(self, bits: int) -> tuple[str, ...]:
        paths = []
        while bits:
            lowest = bits & -bits
            paths.append(self._paths[lowest.bit_length() - 1])
            bits ^= lowest
        return tuple(sorted(paths))

    def _words(self, ours: int, theirs: int) -> Difference:
        known = self._arguments.get((ours, theirs))
        if known is None:
            new, old = self._manifest.arguments[ours], self.other.arguments[theirs]
            driver = (f"{old[0]} before, {new[0]} now",) if new[:1] != old[:1] and new and old else ()
            added, removed = Counter(new[1:]) - Counter(old[1:]), Counter(old[1:]) - Counter(new[1:])
            known = self._arguments[ours, theirs] = Difference(
                compiler=driver,
                added_arguments=tuple(added.elements()),
                removed_arguments=tuple(removed.elements()),
                order=not added and not removed and new[1:] != old[1:],
            )
        return known


def _line_difference(manifest: CompileManifest, other: CompileManifest, start: str) -> tuple[str, ...]:
    ours = {line for line in manifest.inputs if line.startswith(start)}
    theirs = {line for line in other.inputs if line.startswith(start)}
    return tuple(sorted({line.split(" ")[1] for line in ours ^ theirs if " " in line}))


def _spans(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Each number, and how many from it on follow without a gap."""
    spans: list[tuple[int, int]] = []
    for number in reversed(numbers):
        follows = bool(spans) and spans[-1][0] == number + 1
        spans.append((number, spans[-1][1] + 1 if follows else 1))
    return spans[::-1]

"""The filters that a request consists of: for each option, what its values may be and which targets they keep."""

from __future__ import annotations

import difflib
import platform
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from builder.core.errors import MachineError, RequestError
from builder.matrix.base import ARCHITECTURES, Arch, python_key
from builder.matrix.lifecycle import STATUSES
from builder.matrix.loader import Matrix
from builder.matrix.model import ReleaseLine, Target
from builder.matrix.names import (
    GLOB,
    LONGEST,
    MACHINES,
    either,
    is_version,
    known_lines,
    nearest,
    nearest_ids,
    quoted,
)

_COMPARISON = re.compile(r"\s*(~=|===?|!=|<=?|>=?)")
_PYTHON = re.compile(r"3\.[0-9]{1,2}")
#: As programs, tags and people call Pythons: python3.9, cp39, 3.9.7.
_PYTHON_LIKE = re.compile(r"(?:py|cp|python|python-)?3[._]?([0-9]{1,2})(?:\.[0-9]+)?", re.IGNORECASE)
#: What people call statuses.
_STATUS_NAMES: dict[str, tuple[str, ...]] = {
    **{status: (status,) for status in STATUSES},
    "eol": ("end-of-life",),
    "maintenance": ("maintained",),
    "supported": ("development", "maintained"),
}
_CHANNEL_NAMES = {"release": ("release",), "nightly": ("nightly",), "all": ("release", "nightly")}
_SKIPPED = "'list' with the other options shows what there is to skip"
#: How many properties a message lists in full; of more, those like what was typed.
_FEW = 8
#: How many of more than these a message lists where none is like what was typed.
_LIKEST = 5

Keeps = Callable[[Target], bool]


@dataclass(frozen=True)
class Value:
    """One value of an option, as typed, and the targets that it means."""

    text: str
    keeps: Keeps
    #: A version, which stands for its release lines; not the name of one.
    is_version: bool = False


@dataclass(frozen=True)
class Filter:
    """One option with its values: keeps what any of them means; ``excludes`` turns that round.

    ``property_of`` is what a target has of the kind that the filter is about, and ``having`` puts it into words.
    """

    option: str
    values: tuple[Value, ...]
    property_of: Callable[[Target], str | None]
    having: str
    excludes: bool = False
    default: bool = False

    def keeps(self, target: Target) -> bool:
        """True for a target that stays."""
        return any(value.keeps(target) for value in self.values) is not self.excludes

    def only(self, value: Value) -> Filter:
        """The filter with one of its values."""
        return replace(self, values=(value,))

    def first_value(self, target: Target) -> int:
        """The position of the first value that means ``target``."""
        return next(index for index, value in enumerate(self.values) if value.keeps(target))

    def instead(self, targets: Sequence[Target]) -> str:
        """What to do where ``targets`` have something else: ``they are for Python 3.9 or 3.10``."""
        found = dict.fromkeys(filter(None, map(self.property_of, targets)))
        if self.default:
            return f"add {self.option} {either(list(found))}"
        if len(found) > _FEW:
            found = dict.fromkeys(nearest(self.values[0].text, found) or list(found)[:3])
        return self.having.format(either(list(found))) if found else ""

    def __str__(self) -> str:
        text = f"{self.option} {','.join(value.text for value in self.values)}"
        return f"{text} (the default)" if self.default else text


def native_arch() -> Arch:
    """The architecture of this machine. Raises MachineError where the matrix has none for it."""
    machine = platform.machine()
    if machine.lower() not in MACHINES:
        raise MachineError(
            f"this machine is {machine or 'of unknown architecture'}; release lines exist for "
            f"{' and '.join(ARCHITECTURES)}",
            hint="name the architecture with --arch",
        )
    return MACHINES[machine.lower()]


def pytorch_filter(matrix: Matrix, texts: Sequence[str]) -> Filter:
    """``--pytorch``: release lines and versions of PyTorch."""

    def value(text: str) -> Value:
        lines = known_lines(matrix, text)
        return Value(text, _on_lines(lines), is_version=matrix.release(text) is None and is_version(text))

    return Filter("--pytorch", _parsed(texts, value), lambda t: t.release.pytorch, "they are for PyTorch {}")


def release_filter(matrix: Matrix, texts: Sequence[str]) -> Filter:
    """``--release``: plugin releases."""
    known = dict.fromkeys(line.release for line in matrix.releases)
    versions = {name for line in matrix.releases for name in (line.branch, line.pytorch, line.minor)}

    def value(text: str) -> Value:
        other = f"did you mean --pytorch {text}?" if text in versions else None
        bare = re.sub(r"^v(?=[0-9])", "", text, flags=re.IGNORECASE)
        meant = _known("--release", "is of plugin release", bare, known, other)
        return Value(meant, lambda target: target.release.release == meant)

    return Filter("--release", _parsed(texts, value), lambda t: t.release.release, "they are of plugin release {}")


def cann_filter(matrix: Matrix, texts: Sequence[str]) -> Filter:
    """``--cann``: CANN versions, as ``8.2.RC1`` or ``CANN 8.2.RC1``; ``8.2`` is all of them that begin so."""
    known = dict.fromkeys(line.cann for line in matrix.releases if line.cann)

    def value(text: str) -> Value:
        bare = re.sub(r"^cann[ _-]*", "", text, flags=re.IGNORECASE)
        begun = {name for name in known if name.casefold().startswith(f"{bare.casefold()}.")}
        if begun and bare.casefold() not in {name.casefold() for name in known}:
            return Value(bare, lambda target: target.release.cann in begun)
        meant = _known("--cann", "is for CANN", bare, known)
        return Value(meant, lambda target: target.release.cann == meant)

    return Filter("--cann", _parsed(texts, value), lambda t: t.release.cann, "they are for CANN {}")


def status_filter(texts: Sequence[str]) -> Filter:
    """``--status``: phases of life; ``supported`` is development and maintained."""

    def value(text: str) -> Value:
        meant = _known("--status", "can have the status", re.sub(r"[ _]+", "-", text), _STATUS_NAMES)
        return Value(meant, lambda target: target.release.status in _STATUS_NAMES[meant])

    return Filter("--status", _parsed(texts, value), lambda t: t.release.status, "they are {}")


def channel_filter(texts: Sequence[str]) -> Filter:
    """``--channel``: numbered releases, development branches, or all."""

    def value(text: str) -> Value:
        meant = _known("--channel", "is of the channel", text, _CHANNEL_NAMES)
        return Value(meant, lambda target: target.release.channel in _CHANNEL_NAMES[meant])

    return Filter("--channel", _parsed(texts, value), lambda t: t.release.channel, "they are of the channel {}")


def usual_channel(matrix: Matrix, naming: Sequence[Filter]) -> Filter:
    """Without ``--channel``: numbered releases, not development branches."""
    usual = Value("release", lambda target: target.release.channel == "release")
    return _usual(matrix, channel_filter(["release"]), usual, naming)


def usual_arch(matrix: Matrix, naming: Sequence[Filter]) -> Filter:
    """Without ``--arch``: this machine's architecture. Raises MachineError where the matrix has none for it."""
    native = arch_filter(["native"])
    return _usual(matrix, native, native.values[0], naming)


def target_filter(matrix: Matrix, texts: Sequence[str]) -> Filter:
    """``--target``: ids of targets, and globs over them."""
    ids = [target.id for target in matrix.targets()]

    def value(text: str) -> Value:
        meant = _matching(text)
        if len(text) > LONGEST or not any(map(meant, ids)):
            line = matrix.release(text)
            near = [f"'{text}-*'"] if line else nearest_ids(text, ids)
            raise RequestError(
                f"--target: no target is called {quoted(text)}",
                hint=f"did you mean {either(near)}?" if near else "expected a glob such as 'v2.5.1-7.1.0-py3.1?-*'",
            )
        return Value(text, lambda target: meant(target.id))

    return Filter("--target", _parsed(texts, value), lambda t: t.release.branch, "they are of {}")


def skip_filter(matrix: Matrix, texts: Sequence[str]) -> Filter:
    """``--skip``: ids of targets, names of release lines, and globs over either; takes them away."""
    names = [*(line.branch for line in matrix.releases), *(target.id for target in matrix.targets())]

    def value(text: str) -> Value:
        meant = _matching(text)
        if len(text) > LONGEST or not any(map(meant, names)):
            near = nearest_ids(text, names)
            raise RequestError(
                f"--skip: no target and no release line is called {quoted(text)}",
                hint=f"did you mean {either(near)}?" if near else "'list' shows all",
            )
        return Value(text, lambda target: meant(target.id) or meant(target.release.branch))

    return Filter("--skip", _parsed(texts, value), lambda t: t.id, _SKIPPED, excludes=True)


def python_filter(matrix: Matrix, texts: Sequence[str]) -> Filter:
    """``--python``: versions such as ``3.9``, and version specifiers (PEP 440) such as ``>=3.10``.

    Commas separate values and the parts of a specifier: a comparison goes on with the comparison before it.
    """
    known = sorted({python for line in matrix.releases for python in line.pythons}, key=python_key)
    joined: list[str] = []
    for text in split(texts):
        if joined and _COMPARISON.match(text) and _COMPARISON.match(joined[-1]):
            joined[-1] += f",{text}"
        else:
            joined.append(text)
    values = []
    for text in joined:
        pythons = _pythons(text, known)
        if not pythons:
            raise RequestError(
                f"--python: no release line supports Python {quoted(text)}", hint=f"known: {', '.join(known)}"
            )
        values.append(Value(text, _for_pythons(pythons)))
    return Filter("--python", tuple(values), lambda t: t.python, "they are for Python {}")


def arch_filter(texts: Sequence[str]) -> Filter:
    """``--arch``: architectures, ``native`` or ``all``. Raises MachineError where ``native`` is none of them."""

    def value(text: str) -> Value:
        if text == "all":
            return Value(text, lambda _: True)
        name = native_arch() if text == "native" else MACHINES.get(text.lower(), text)
        if name not in ARCHITECTURES:
            raise RequestError(
                f"--arch: {quoted(text)}: expected x86_64, aarch64, native or all",
                hint="native is the architecture of this machine",
            )
        return Value(name, lambda target: target.arch == name)

    return Filter("--arch", _parsed(texts, value), lambda t: t.arch, "they are for {}")


def split(texts: Sequence[str]) -> list[str]:
    """Options repeat or take commas; the order stays, repetitions go. One that holds nothing stays, to be refused."""
    return list(dict.fromkeys(part.strip() for text in texts for part in text.split(",")))


def _parsed(texts: Sequence[str], value: Callable[[str], Value]) -> tuple[Value, ...]:
    return tuple(map(value, split(texts)))


def _matching(text: str) -> Callable[[str], bool]:
    """Whether a name is ``text`` or matches it as a glob. A job of a CI system names hundreds of targets in full."""
    return (lambda name: fnmatchcase(name, text)) if GLOB.search(text) else text.__eq__


def _usual(matrix: Matrix, usual_filter: Filter, usual: Value, naming: Sequence[Filter]) -> Filter:
    """What is usual, and whatever a value of ``naming`` means that means nothing usual: then that was meant."""
    targets = matrix.targets()
    values = [value for one in naming for value in one.values]
    others = [value for value in values if not any(usual.keeps(target) for target in targets if value.keeps(target))]
    value = Value(usual.text, lambda target: usual.keeps(target) or any(other.keeps(target) for other in others))
    return replace(usual_filter, values=(value,), default=True)


def _on_lines(lines: Sequence[ReleaseLine]) -> Keeps:
    branches = {line.branch for line in lines}
    return lambda target: target.release.branch in branches


def _for_pythons(pythons: set[str]) -> Keeps:
    return lambda target: target.python in pythons


def _known(option: str, verb: str, text: str, known: Iterable[str], instead: str | None = None) -> str:
    """The one of ``known`` that ``text`` is but for case. Raises RequestError with ``instead`` or the nearest."""
    by_fold = {name.casefold(): name for name in known}
    if text.casefold() in by_fold:
        return by_fold[text.casefold()]
    near = [by_fold[name] for name in nearest(text.casefold(), by_fold)]
    if near:
        hint = f"did you mean {either(near)}?"
    elif len(by_fold) > _FEW:
        likest = difflib.get_close_matches(text.casefold()[:LONGEST], list(by_fold), n=_LIKEST, cutoff=0)
        hint = f"the nearest are {either([by_fold[name] for name in likest], 'and')}; 'list' shows all"
    else:
        hint = f"known: {', '.join(by_fold.values())}"
    raise RequestError(f"{option}: no release line {verb} {quoted(text)}", hint=instead or hint)


def _pythons(text: str, known: Sequence[str]) -> set[str]:
    """Those of ``known`` that ``text`` means."""
    if _PYTHON.fullmatch(text):
        return {text} & set(known)
    if _COMPARISON.match(text):
        try:
            return set(SpecifierSet(text).filter(known))
        except InvalidSpecifier:
            pass
    like = _PYTHON_LIKE.fullmatch(text)
    if like:
        return {f"3.{int(like[1])}"} & set(known)
    raise RequestError(
        f"--python: {quoted(text)}: expected a version such as 3.9, or a range such as '>=3.10'",
        hint="give major.minor, such as --python 3.9",
    )

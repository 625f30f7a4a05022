"""What an audit finds: differences between the matrix and a witness, and how values are shown in them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

Value = None | bool | str | list[str] | dict[str, str]
Keys = tuple[str | int, ...]
#: A finding is quoted in decisions.yaml, whose sentences are no longer than this.
LONGEST = 500


@dataclass(frozen=True)
class Correction:
    """What to write into a matrix file so that a drift is gone: the ``value`` under ``keys`` of the file ``path``."""

    path: Path
    keys: Keys
    value: Value


@dataclass(frozen=True)
class Drift:
    """One fact of one release line that a witness tells otherwise.

    ``line`` is a release line, or what stands in its place (a branch that no line is for, a wheel's version);
    ``place`` is ``file:line:column`` of what is stated, ``source`` what was read, ``accepted`` the reason for which
    the matrix stays as it is, and ``correction`` is None where what was found is not certainly the right value.
    """

    line: str
    fact: str
    stated: str
    found: str
    place: str
    source: str
    accepted: str | None = None
    correction: Correction | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Note:
    """Something worth knowing that is no drift: how far a pinned commit lies behind its branch, and the like."""

    line: str
    fact: str
    text: str


@dataclass(frozen=True)
class Difference:
    """What a check of one release line returns where the line is wrong.

    ``keys`` lead to the value below the row. ``sure`` says that ``value`` is what must stand there instead.
    """

    stated: str
    found: str
    keys: Keys
    sure: bool = False
    value: Value = None


@dataclass
class Outcome:
    """All that one audit found. ``lines`` and ``compared`` count release lines and comparisons of facts."""

    lines: int = 0
    compared: int = 0
    drift: list[Drift] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    facts: set[str] = field(default_factory=set)

    @property
    def open(self) -> list[Drift]:
        """The drift that nobody has accepted: what makes an audit fail."""
        return [drift for drift in self.drift if drift.accepted is None]

    @property
    def accepted(self) -> list[Drift]:
        """The drift that decisions.yaml accepts."""
        return [drift for drift in self.drift if drift.accepted is not None]

    def add(self, fact: str, drift: list[Drift], *, compared: int = 1) -> None:
        """Record the comparisons of one fact."""
        self.facts.add(fact)
        self.compared += compared
        self.drift += drift


CheckT = TypeVar("CheckT", bound=Callable[..., object])


@dataclass(frozen=True)
class Fact(Generic[CheckT]):
    """An audited fact: its name, what it is (the check's own words), the files that tell it, and the check."""

    name: str
    about: str
    of: str
    check: CheckT


class Facts(dict[str, Fact[CheckT]]):
    """Audited facts of one kind of witness by name, filled by using it as a decorator of checks."""

    def __call__(self, name: str, *, of: str) -> Callable[[CheckT], CheckT]:
        """Register the decorated check under ``name``; ``of`` are the files that tell the fact."""

        def register(check: CheckT) -> CheckT:
            about = " ".join((check.__doc__ or "").split())
            if name in self or not about:
                raise ValueError(f"the check of {name} needs a name of its own and a docstring")
            self[name] = Fact(name, about, of, check)
            return check

        return register


def counted(number: int, noun: str) -> str:
    """``1 commit`` or ``1,901 commits``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def shown(value: object) -> str:
    """A value as drift shows it, on one line: ``none``, ``true``, ``3.9, 3.10``, ``x86_64: 0; aarch64: 1``."""
    if value is None or value == () or value == {}:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        text = "; ".join(f"{key}: {shown(item)}" for key, item in value.items())
    elif isinstance(value, (list, tuple)):
        text = ", ".join(str(item) for item in value)
    else:
        text = str(value)
    # Upstream's files may hold anything.
    text = re.sub(r"[\s\x00-\x1f\x7f]+", " ", text).strip()
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."

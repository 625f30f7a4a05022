"""From what a person typed to targets: one language for every command that works on several of them.

A request is a row of filters. They are applied in a fixed order, each to what the ones before it left, so that a
selection that comes out empty can say which of them emptied it, and what would have been there instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from builder.core.errors import RequestError
from builder.matrix.filters import (
    Filter,
    arch_filter,
    cann_filter,
    channel_filter,
    python_filter,
    pytorch_filter,
    release_filter,
    skip_filter,
    split,
    status_filter,
    target_filter,
    usual_arch,
    usual_channel,
)
from builder.matrix.loader import Matrix
from builder.matrix.model import ReleaseLine, Target
from builder.matrix.names import either, known_lines, nearest_ids, quoted, require_lines

#: Release lines that a message suggests.
_LINES_SHOWN = 3


@dataclass(frozen=True)
class Query:
    """A request as it was typed: options repeat or take commas, an empty one asks for nothing in particular."""

    pytorch: tuple[str, ...] = ()
    release: tuple[str, ...] = ()
    cann: tuple[str, ...] = ()
    python: tuple[str, ...] = ()
    arch: tuple[str, ...] = ()
    status: tuple[str, ...] = ()
    channel: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    #: A version means all of its lines to a build too, not the newest.
    all_lines: bool = False


@dataclass(frozen=True)
class Selection:
    """What a build works on, and what matched the request without being buildable."""

    targets: tuple[Target, ...]
    left_out: tuple[tuple[ReleaseLine, str], ...] = ()

    def warnings(self) -> Iterator[str]:
        """What the person who asked should know first: lines without upstream's care, and lines left out."""
        for line in dict.fromkeys(target.release for target in self.targets):
            if line.status in _WITHOUT_CARE:
                since = f" since {line.phase.since}" if line.phase.since else ""
                yield f"{line.branch} is {line.status}{since}: {_WITHOUT_CARE[line.status]}"
        reasons: dict[str, list[str]] = {}
        for line, reason in self.left_out:
            reasons.setdefault(reason, []).append(line.branch)
        for reason, branches in reasons.items():
            yield f"left out {', '.join(branches)}: {reason}"


_WITHOUT_CARE = {
    "end-of-life": "upstream takes no more changes",
    "unmaintained": "upstream makes no more releases of it",
}


def select(
    matrix: Matrix, query: Query, *, default_arch: Literal["native", "all"] = "all", newest: bool = False
) -> list[Target]:
    """The targets of a request: lines in the order of ``--pytorch``, else from old to new; then Pythons, x86_64 first.

    Lines that cannot be built are among them. ``newest`` is how a build reads a request: ``2.5`` means the newest
    line of what the other options leave of 2.5, not all of them, and each line named must have each Python and
    architecture named. Raises RequestError for a value that names nothing and for a request that nothing meets.
    """
    require_lines(matrix)
    pytorch = pytorch_filter(matrix, query.pytorch) if query.pytorch else None
    release = release_filter(matrix, query.release) if query.release else None
    target = target_filter(matrix, query.target) if query.target else None
    of_lines = [
        None if query.channel else usual_channel(matrix, [one for one in (pytorch, release, target) if one]),
        pytorch,
        release,
        cann_filter(matrix, query.cann) if query.cann else None,
        status_filter(query.status) if query.status else None,
        channel_filter(query.channel) if query.channel else None,
        target,
    ]
    of_cells = [
        python_filter(matrix, query.python) if query.python else None,
        arch_filter(query.arch) if query.arch else None,
        usual_arch(matrix, [target] if target else []) if default_arch == "native" and not query.arch else None,
        skip_filter(matrix, query.skip) if query.skip else None,
    ]
    narrowing = _Narrowing(matrix, only_buildable=newest)
    for rule in filter(None, of_lines):
        narrowing.apply(rule)
    if newest and pytorch and not query.all_lines:
        narrowing.targets = _newest_of_versions(narrowing.targets, pytorch)
    for rule in filter(None, of_cells):
        narrowing.apply(rule, each_of=pytorch if newest else None)
    chosen = narrowing.targets
    if pytorch:
        # A stable sort: what one value means stays from old to new.
        chosen.sort(key=pytorch.first_value)
    return chosen


def select_for_build(matrix: Matrix, query: Query) -> Selection:
    """The targets that a build of this request makes, by default for this machine's architecture.

    A line that cannot be built is refused where it was named, and left out where a glob or a filter found it among
    others. Raises RequestError, also for a request that names no line, plugin release, CANN or target.
    """
    if not (query.pytorch or query.release or query.cann or query.target):
        raise _names_nothing(matrix, query)
    targets = select(matrix, query, default_arch="native", newest=True)
    refused = {line: line.refusal for line in dict.fromkeys(target.release for target in targets) if line.refusal}
    buildable = tuple(target for target in targets if target.release not in refused)
    named = [line for line in refused if line in _named(matrix, query, targets)]
    if named or (refused and not buildable):
        line = (named or list(refused))[0]
        others = len(refused) - 1
        raise RequestError(
            f"{line.branch} cannot be built: {refused[line]}"
            + (f" (nor can {others} more of what was asked for)" if others and not buildable else ""),
            hint=_nearest_buildable(matrix, line),
        )
    return Selection(buildable, tuple(refused.items()))


def _named(matrix: Matrix, query: Query, targets: list[Target]) -> set[ReleaseLine]:
    """The lines of ``targets`` that were asked for themselves, and not only found by a glob or a filter."""
    found = {target.release for target in targets if target.id in split(query.target)}
    for value in pytorch_filter(matrix, query.pytorch).values if query.pytorch else ():
        if not (value.is_version and query.all_lines):
            found.update(target.release for target in targets if value.keeps(target))
    return found


def resolve_release(matrix: Matrix, text: str, option: str = "--pytorch") -> ReleaseLine:
    """The release line that ``text`` means: a branch with or without its ``v``, ``2.5.1``, ``2.5`` or ``master``.

    A version means its newest numbered line that can be built. ``2.7.1`` is such a version, ``v2.7.1`` the
    development branch. Raises RequestError, which speaks of ``option``, with the nearest names.
    """
    return max(known_lines(matrix, text, option), key=_preference)


def parse_target_id(matrix: Matrix, text: str) -> Target:
    """The target of an id such as ``v2.5.1-7.1.0-py3.9-x86_64``. Raises RequestError where there is none."""
    require_lines(matrix)
    targets = {target.id: target for target in matrix.targets()}
    if text in targets:
        return targets[text]
    near = nearest_ids(text, list(targets))
    raise RequestError(
        f"no target is called {quoted(text)}",
        hint=f"did you mean {either(near)}?" if near else "expected an id such as v2.5.1-7.1.0-py3.9-x86_64",
    )


def minors_and_pythons(matrix: Matrix) -> list[tuple[str, str]]:
    """Each PyTorch minor with each Python of its newest release that can be built, from old to new: nox's sessions."""
    newest: dict[str, ReleaseLine] = {}
    for line in matrix.releases:  # from old to new
        if line.channel == "release" and line.refusal is None:
            newest[line.minor] = line
    return [(minor, python) for minor, line in newest.items() for python in line.pythons]


def _newest_of_versions(targets: list[Target], pytorch: Filter) -> list[Target]:
    """Of each version among the values of ``pytorch`` only its newest line; the lines that have been named stay."""
    kept: set[str] = set()
    for value in pytorch.values:
        lines = {target.release.branch: target.release for target in targets if value.keeps(target)}
        if value.is_version and lines:
            kept.add(max(lines.values(), key=_preference).branch)
        else:
            kept.update(lines)
    return [target for target in targets if target.release.branch in kept]


def _preference(line: ReleaseLine) -> tuple[object, ...]:
    """Orders lines of one version by what a person means by the version."""
    return line.channel == "release", line.refusal is None, line.order


def _names_nothing(matrix: Matrix, query: Query) -> RequestError:
    hint = "name a release line such as --pytorch=v2.5.1-7.1.0; 'list' shows all"
    if query == Query(arch=query.arch, all_lines=query.all_lines):
        return RequestError("--pytorch is missing", hint=hint)
    count = len(select(matrix, query, default_arch="native"))
    return RequestError(
        f"--pytorch is missing: the other options alone select {count} targets",
        hint=f"{hint}; --release, --cann and --target choose several, and --target '*' means really all",
    )


def _nearest_buildable(matrix: Matrix, line: ReleaseLine) -> str:
    """The line to build instead: of the same PyTorch where there is one, a numbered release rather than a branch."""
    place = matrix.releases.index(line)
    candidates = {
        other: (
            other.pytorch != line.pytorch,
            other.minor != line.minor,
            other.release != line.release,
            other.channel != "release",
            abs(index - place),
        )
        for index, other in enumerate(matrix.releases)
        if other.refusal is None
    }
    if not candidates:
        return "this matrix has no line that can be built"
    return f"the nearest line that can be built is {min(candidates, key=lambda other: candidates[other]).branch}"


class _Narrowing:
    """Targets that fewer and fewer filters leave, and which filters those were."""

    def __init__(self, matrix: Matrix, *, only_buildable: bool) -> None:
        self.targets = matrix.targets()
        self._applied: list[Filter] = []
        self._suggested = [one for one in self.targets if one.release.refusal is None or not only_buildable]

    def apply(self, rule: Filter, each_of: Filter | None = None) -> None:
        """Keep what ``rule`` keeps. Raises RequestError where that is nothing.

        With ``each_of`` each of its values must have something of each value of ``rule``: a build that was asked for
        two lines for Python 3.8 must not drop in silence the one that has none.
        """
        if each_of is not None and not rule.excludes:
            self._each_has_each(each_of, rule)
        kept = [target for target in self.targets if rule.keeps(target)]
        if not kept:
            raise self._emptied(rule, self.targets, self._applied)
        self.targets = kept
        self._applied.append(rule)

    def _each_has_each(self, named: Filter, rule: Filter) -> None:
        for name in named.values:
            its_targets = [target for target in self.targets if name.keeps(target)]
            for value in rule.values if its_targets else ():
                if not any(value.keeps(target) for target in its_targets):
                    applied = [named.only(name), *(one for one in self._applied if one.default)]
                    raise self._emptied(rule.only(value), its_targets, applied)

    def _emptied(self, rule: Filter, before: list[Target], applied: list[Filter]) -> RequestError:
        typed = [str(one) for one in applied if not one.default]
        selected = f" that {either(typed, 'and')} {'selects' if len(typed) == 1 else 'select'}" if typed else ""
        hints = [rule.instead(before)]
        if not rule.excludes and not rule.default:
            hints.append(self._with(rule, applied))
        return RequestError(
            f"{rule} leaves none of the {len(before)} targets{selected}", hint="; ".join(filter(None, hints))
        )

    def _with(self, rule: Filter, applied: list[Filter]) -> str:
        """The newest lines that meet ``rule`` and as many of the others as can be."""
        score = {
            target.id: sum(other.keeps(target) for other in applied) for target in self._suggested if rule.keeps(target)
        }
        best = max(score.values(), default=0)
        newest_first = [target for target in reversed(self._suggested) if score.get(target.id) == best]
        lines = list(dict.fromkeys(target.release.branch for target in newest_first))
        more = ", ..." if len(lines) > _LINES_SHOWN else ""
        return f"with {rule}: {', '.join(lines[:_LINES_SHOWN])}{more}" if lines else ""

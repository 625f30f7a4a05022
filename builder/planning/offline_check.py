"""What a run without network lacks, found out for all of its targets before the first of them begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from builder.core.build_options import BuildOptions
from builder.core.errors import BuilderError, FailureKind, TargetError
from builder.core.workspace import Workspace, resource
from builder.environments.interface import EnvironmentRequest
from builder.environments.select import Machine, missing_for_environment
from builder.matrix.model import Target
from builder.progress.reporter import Reporter
from builder.target.inputs import environment_request
from builder.target.resolve_sources import Gatherer

#: Targets that a line of the message names.
_NAMED = 3
_HINT = "fetch it beforehand with 'pull'"


@dataclass(frozen=True)
class Missing:
    """What one target lacks, in words."""

    sources: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()

    @property
    def things(self) -> tuple[str, ...]:
        """All of it."""
        return (*self.sources, *self.environment)

    def error(self) -> TargetError:
        """The failure of the target."""
        kind = FailureKind.SOURCE if self.sources else FailureKind.IMAGE
        phase = "prepare" if self.sources else "image"
        what = f"--offline, and this machine lacks: {'; '.join(self.things)}"
        return TargetError(what, kind=kind, phase=phase, hint=_HINT)


def find_missing(
    targets: Sequence[Target], gatherer: Gatherer, workspace: Workspace, options: BuildOptions, reporter: Reporter
) -> dict[str, Missing]:
    """What targets lack, by id; those that lack nothing are left out. Nothing is fetched, made or compiled.

    Other faults of a target are reported by its build.
    """
    machine = Machine()
    asked: dict[EnvironmentRequest, tuple[str, ...]] = {}
    found = {}
    for target in targets:
        request = environment_request(target, options)
        if request not in asked:
            asked[request] = ()
            with suppress(BuilderError):
                asked[request] = tuple(
                    missing_for_environment(
                        options.environment,
                        request,
                        docker=resource("docker"),
                        host=workspace.environments,
                        reporter=reporter,
                        machine=machine,
                    )
                )
        missing = Missing(_sources(target, gatherer), asked[request])
        if missing.things:
            found[target.id] = missing
    return found


def _sources(target: Target, gatherer: Gatherer) -> tuple[str, ...]:
    try:
        gatherer.decide(target)
    except TargetError as error:
        if error.kind is FailureKind.SOURCE:
            return tuple((error.details or error.message).splitlines())
    except BuilderError:
        pass
    return ()


def refusal(lacking: Mapping[str, Missing], *, of: int, pull: str) -> BuilderError:
    """The error that names everything that is missing, and for which targets; ``of`` is how many were asked for."""
    things: dict[str, list[str]] = {}
    for name, missing in lacking.items():
        for thing in missing.things:
            things.setdefault(thing.removesuffix(", and --offline forbids fetching it"), []).append(name)
    lines = []
    for thing, names in things.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        lines.append(f"{thing} (for {', '.join(names[:_NAMED])}{more})")
    count = f"{len(lacking)} of {of} targets" if of > 1 else next(iter(lacking))
    return BuilderError(
        f"{count} cannot be built with --offline: {len(things)} thing{'' if len(things) == 1 else 's'} "
        f"{'is' if len(things) == 1 else 'are'} not on this machine; nothing was begun",
        details="\n".join(lines),
        hint=f"with a network: {pull}",
    )

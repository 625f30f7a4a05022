"""What the tree of a target is made of: commits in mirrors, found or fetched.

Without network one error names everything that is missing, not only the first thing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from builder.core.build_options import BuildOptions
from builder.core.errors import FailureKind, RequestError, TargetError
from builder.matrix.loader import Matrix
from builder.matrix.model import Target
from builder.sources.build_scripts import no_build_script
from builder.sources.checkout import OverlaySource, SubmoduleSource, TreeRequest
from builder.sources.custom_ops import CustomOps
from builder.sources.mirrors import Mirror, Mirrors, Repository, Submodule
from builder.sources.patches import Patch, offered
from builder.sources.prepared_record import Origin

TORCH_NPU = "torch_npu"
OP_PLUGIN = "op-plugin"

T = TypeVar("T")


@dataclass(frozen=True)
class Given:
    """What the user gave, read and checked before anything is fetched."""

    asked: dict[str, str]
    patches: dict[str, tuple[Patch, ...]]
    custom_ops: CustomOps | None
    local_op_plugin: OverlaySource | None

    def over(self, origin: Origin) -> Origin:
        """Return ``origin`` with the parts that the user decides; what is asked for is added to what was."""
        local = self.local_op_plugin
        decided = {
            "asked": {**origin.asked, **self.asked},
            "series": offered([*self.patches[TORCH_NPU], *self.patches[OP_PLUGIN]]),
            "custom_operators": self.custom_ops.describe() if self.custom_ops is not None else None,
            **({} if local is None else {"op_plugin": local.describe()}),
        }
        return origin.model_copy(update=decided)


def tree_request(
    target: Target, mirrors: Opener, options: BuildOptions, given: Given, pins: Mapping[str, str]
) -> TreeRequest:
    """What a new tree of ``target`` would be made of; all of it is in the mirrors afterwards.

    ``pins`` fixes commits by repository. Raises TargetError for what hosts and branches lack, RequestError for what
    the user gave.
    """
    release = target.release
    torch_npu = mirrors.open(TORCH_NPU)
    wanted = pins.get("torch_npu", options.torch_npu)
    lacks = _Lacks(offline=options.offline)
    commit = lacks.noted(
        lambda: (
            torch_npu.branch(release.branch, refresh=options.refresh)
            if wanted is None
            else torch_npu.commit(wanted, refresh=options.refresh)
        )
    )
    if commit is None:
        # Which commits it pins is not known; what its mirrors hold nothing of is missing in any case.
        if options.op_plugin != "pinned" and given.local_op_plugin is None:
            lacks.noted(lambda: _overlay(target, options, None, pins.get("op_plugin"), mirrors))
        for name in sorted(release.submodules_for(options.components)):
            lacks.noted(mirrors.open(name).check_filled)
        raise lacks.error()
    if not torch_npu.exists(commit, "ci/build.sh"):
        raise no_build_script(release.branch)
    pinned = next((m for m in torch_npu.submodules(commit) if mirrors.name_of(m) == OP_PLUGIN), None)
    overlay = given.local_op_plugin or lacks.noted(
        lambda: _overlay(target, options, pinned, pins.get("op_plugin"), mirrors)
    )
    submodules = _submodules(target, options, torch_npu, commit, mirrors, lacks)
    if lacks:
        raise lacks.error()
    return TreeRequest(
        target_id=target.id,
        branch=release.branch,
        torch_npu=torch_npu,
        commit=commit,
        submodules=submodules,
        overlay=overlay,
        overlay_path=pinned.path if pinned is not None else "third_party/op-plugin",
        torch_npu_patches=given.patches[TORCH_NPU],
        op_plugin_patches=given.patches[OP_PLUGIN],
        custom_ops=given.custom_ops,
        pinned_op_plugin=pinned.commit if pinned is not None else None,
        asked={**given.asked, "host": torch_npu.host or ""},
    )


def _overlay(
    target: Target, options: BuildOptions, pinned: Submodule | None, commit: str | None, mirrors: Opener
) -> OverlaySource | None:
    branch = target.release.op_plugin
    if commit is not None:
        mirror = mirrors.open(OP_PLUGIN)
        return OverlaySource(mirror=mirror, commit=mirror.commit(commit))
    if options.op_plugin == "branch":
        if branch is None:
            return None
        mirror = mirrors.open(OP_PLUGIN)
        return OverlaySource(mirror=mirror, commit=mirror.branch(branch, refresh=options.refresh))
    mirror = mirrors.open(OP_PLUGIN)
    if options.op_plugin == "pinned":
        if pinned is None:
            raise RequestError(
                f"{target.release.branch} pins no commit of op-plugin", hint="use --op-plugin branch, or name a branch"
            )
        return OverlaySource(mirror=mirror, commit=mirror.commit(pinned.commit))
    return OverlaySource(mirror=mirror, commit=mirror.commit(options.op_plugin, refresh=options.refresh))


def _submodules(
    target: Target, options: BuildOptions, torch_npu: Mirror, commit: str, mirrors: Opener, lacks: _Lacks
) -> tuple[SubmoduleSource, ...]:
    """Only the submodules that the build needs, nested ones too, each at the commit that its parent pins."""
    needed = frozenset(target.release.submodules_for(options.components))
    sources = mirrors.submodules(torch_npu, commit, needed, lacks)
    missing = needed - {source.mirror.name for source in _all(sources)}
    # Of what stands in a submodule that is not here nothing is known.
    if missing and not lacks:
        raise TargetError(
            f"the matrix says that {target.release.branch} needs the submodule {', '.join(sorted(missing))}, "
            "which no .gitmodules of it names",
            kind=FailureKind.SOURCE,
            hint=f"correct the submodules of {target.release.branch} in the matrix, "
            "or give the URL that .gitmodules names to that repository in sources.yaml",
        )
    return sources


def _all(sources: Iterable[SubmoduleSource]) -> Iterator[SubmoduleSource]:
    for source in sources:
        yield source
        yield from _all(source.children)


class _Lacks:
    """What turns out to be missing where nothing may be fetched; elsewhere the first error ends the search."""

    def __init__(self, *, offline: bool) -> None:
        self._offline = offline
        self._errors: list[TargetError] = []

    def __bool__(self) -> bool:
        return bool(self._errors)

    def noted(self, find: Callable[[], T]) -> T | None:
        """What ``find`` gives; None where that is missing, which is noted."""
        try:
            return find()
        except TargetError as error:
            if not self._offline or error.kind is not FailureKind.SOURCE:
                raise
            self._errors.append(error)
            return None

    def error(self) -> TargetError:
        """All that was noted, as one error: each on a line of its details."""
        if len(self._errors) == 1:
            return self._errors[0]
        lines = list(dict.fromkeys(error.message for error in self._errors))
        return TargetError(
            f"{lines[0]}; {len(lines) - 1} more of its sources are missing",
            kind=FailureKind.SOURCE,
            details="\n".join(lines),
            hint=self._errors[0].hint,
        )


class Opener:
    """Opens mirrors by the names of sources.yaml."""

    def __init__(self, mirrors: Mirrors, matrix: Matrix) -> None:
        self._mirrors = mirrors
        self._sources = matrix.sources
        self._names: dict[str, str | None] = {}

    def open(self, name: str) -> Mirror:
        """The mirror of the repository that sources.yaml calls so."""
        return self._mirrors.open(Repository(name, self._sources.urls(name)))

    def name_of(self, module: Submodule) -> str | None:
        """The name of a submodule's repository, if sources.yaml knows its URL."""
        # Most branches name the same few URLs, and each is compared with all that sources.yaml has.
        if module.url not in self._names:
            self._names[module.url] = self._sources.find(module.url)
        return self._names[module.url]

    def submodules(
        self, parent: Mirror, commit: str, needed: frozenset[str], lacks: _Lacks
    ) -> tuple[SubmoduleSource, ...]:
        """The submodules of a commit whose names are in ``needed``, with those that they need themselves."""
        sources = []
        for module in parent.submodules(commit):
            name = self.name_of(module)
            if name is None or name not in needed or module.update == "none":
                continue
            mirror = self.open(name)
            pinned = lacks.noted(partial(mirror.commit, module.commit))
            if pinned is not None:
                below = self.submodules(mirror, pinned, needed, lacks)
                sources.append(SubmoduleSource(module.path, mirror, pinned, below))
        return tuple(sources)

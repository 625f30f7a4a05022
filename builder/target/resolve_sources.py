"""From a matrix row and options to the sources of a target: which commits, from which mirrors.

A tree that stands already is taken as it is, without network, as upstream does. It is prepared anew when
the user asks for it, or asks for something else than it was prepared from; edits made by hand are never
overwritten on the way.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from builder.core.build_options import BuildOptions
from builder.core.errors import BuilderError, FailureKind, RequestError, TargetError
from builder.core.workspace import Workspace, resource
from builder.matrix.loader import Matrix
from builder.matrix.model import Target
from builder.progress.reporter import Reporter
from builder.sources import gitcli
from builder.sources.checkout import (
    OverlaySource,
    PreparedTree,
    TreeRequest,
    check_operators,
    check_overlay,
    describe,
    load_prepared,
    prepare,
)
from builder.sources.custom_ops import CustomOps
from builder.sources.mirrors import Mirrors
from builder.sources.patches import find_series
from builder.sources.prepared_record import Origin
from builder.sources.prepared_tree import changed
from builder.target.tree_request import OP_PLUGIN, TORCH_NPU, Given, Opener, tree_request

#: What the parts of a tree's origin are called in messages.
_PARTS = {
    "asked": "--op-plugin or --components",
    "custom_operators": "the custom operators",
    "hosts": "the hosts that sources come from",
    "op_plugin": "the op-plugin folder",
    "patches": "the patches",
    "series": "the patches",
}


@dataclass(frozen=True)
class _Folders:
    """The user's own folders, as they are when this is read: every file in them counts."""

    custom_ops: CustomOps | None
    op_plugin: OverlaySource | None

    @classmethod
    def read(cls, options: BuildOptions) -> _Folders:
        folder = options.op_plugin_folder
        return cls(
            CustomOps.read(options.custom_ops) if options.custom_ops is not None else None,
            OverlaySource.local(folder) if folder is not None else None,
        )


def check_request(targets: Sequence[Target], options: BuildOptions) -> None:
    """Raise RequestError for whatever the user gave that can be judged before anything is made or fetched."""
    if options.keep_changes and (options.rebuild or options.refresh):
        raise RequestError(
            "--keep-changes builds the tree as it stands, --rebuild and --refresh make it anew",
            hint="leave one of them out",
        )
    if options.cann_home is not None and not (options.cann_home / "set_env.sh").is_file():
        raise RequestError(
            f"--cann-home: {options.cann_home} holds no set_env.sh",
            hint="name the folder of the toolkit that holds it, usually /usr/local/Ascend/ascend-toolkit",
        )
    for target in targets:
        _buildable(target, options)
    if options.op_plugin_folder is None:
        gitcli.check_ref(options.op_plugin, "branch or commit of op-plugin")
    if options.torch_npu is not None:
        gitcli.check_ref(options.torch_npu, "tag or commit of torch_npu")
    lines = {target.release.branch: target for target in targets}
    for target in lines.values():
        _takes_custom_ops(target, options)
    folders = _Folders.read(options)
    for target in lines.values():
        _given(target, options, folders)


def _buildable(target: Target, options: BuildOptions) -> None:
    line = target.release
    if line.refusal is not None:
        raise RequestError(f"{line.branch} cannot be built: {line.refusal}", hint="'list' shows what can be built")
    if not target.torch_on_index and not options.find_links:
        raise RequestError(
            f"no index has a wheel of PyTorch {line.pytorch} for Python {target.python} on {target.arch}",
            hint="build one from PyTorch's sources and name its folder with --find-links",
        )


def _takes_custom_ops(target: Target, options: BuildOptions) -> None:
    if options.custom_ops is not None and not target.release.custom_operators:
        raise RequestError(
            f"{target.release.branch} is too old for --custom-ops",
            hint="op-plugin takes custom operators from its release 6.0.rc3 on",
        )


class Gatherer:
    """Finds the sources of targets of one run. What the Pythons and architectures of a release line share is found
    once, and repositories are asked as seldom as ``Mirrors`` allows.

    ``pins`` fixes commits: by branch, the commit of ``torch_npu`` and, where one is laid from a mirror, ``op_plugin``.
    """

    def __init__(
        self,
        matrix: Matrix,
        workspace: Workspace,
        options: BuildOptions,
        reporter: Reporter,
        pins: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self._matrix = matrix
        self._workspace = workspace
        self._options = options
        self._reporter = reporter
        self._pins = pins or {}
        self._mirrors = Mirrors(workspace.mirrors, reporter, offline=options.offline)
        self._repositories = Opener(self._mirrors, matrix)
        self._found: dict[str, TreeRequest | TargetError] = {}
        self._lock = threading.Lock()
        self._folders: _Folders | None = None
        self._noted = ""
        self._given: dict[str, Given] = {}
        self._origins: dict[str, Origin] = {}
        self._refused: dict[str, BuilderError | None] = {}

    def gather(self, target: Target) -> PreparedTree:
        """The prepared tree of ``target``: the one that stands, or a new one.

        Raises RequestError for what the user gave, TargetError for what hosts and branches hold, and for
        a tree that was changed by hand and would be lost.
        """
        decided = self.fetch(target)
        if isinstance(decided, PreparedTree):
            self._reporter.message(f"{target.id}: the tree {decided.path} stands (--refresh fetches again)")
            return decided
        standing = load_prepared(self._place(target))
        parts = [] if standing is None else standing.differs(self.origin(decided))
        if parts:
            changed_parts = " and ".join(dict.fromkeys(_PARTS.get(part, part) for part in parts))
            self._reporter.message(f"{target.id}: preparing the tree anew, because {changed_parts} changed")
        return prepare(decided, self._place(target), self._reporter)

    def fetch(self, target: Target) -> PreparedTree | TreeRequest:
        """The tree that stands, or what a new one is made of, which is in the mirrors then. No tree is touched.

        Raises as ``gather`` does.
        """
        # A plan has no time for hosts that do not answer; a build gives them another chance.
        self._mirrors.ask_again()
        with self._lock:
            if getattr(self._found.get(target.release.branch), "kind", None) is FailureKind.TIMEOUT:
                del self._found[target.release.branch]
        given = _given(target, self._options, self._read_folders())
        return self._decide(target, given, glance=False)

    def decide(self, target: Target) -> PreparedTree | TreeRequest:
        """The tree that stands and would be built, or what a new one would be made of. No tree is touched.

        The user's folders are taken as they were at the first decision; a build looks again. Raises as ``gather`` does.
        """
        branch = target.release.branch
        if branch not in self._given:
            self._folders = self._folders or self._read_folders()
            self._given[branch] = _given(target, self._options, self._folders)
        return self._decide(target, self._given[branch], glance=True)

    def _decide(self, target: Target, given: Given, *, glance: bool) -> PreparedTree | TreeRequest:
        """``glance`` is enough to look at a standing tree for a plan; before a tree is replaced every file is read."""
        place = self._place(target)
        if target.release.branch in self._pins:
            # So that a tree of a locked build does not pass for the branch's later on.
            given = replace(given, asked={**given.asked, "torch_npu": "locked"})
        standing = None if self._options.rebuild else load_prepared(place)
        if standing is not None and not self._options.refresh and not self._asks_for_another(standing, given, target):
            return standing
        if standing is not None and (changes := standing.changes(at_a_glance=glance)):
            raise changed(place, changes)
        request = self._request(target, given)
        return request if standing is None or standing.differs(self.origin(request)) else standing

    def _read_folders(self) -> _Folders:
        folders = _Folders.read(self._options)
        note = folders.op_plugin.note if folders.op_plugin is not None else ""
        with self._lock:
            # Of many targets one says it, and another only when the folder has changed since.
            news, self._noted = note != self._noted, note
        if note and news:
            self._reporter.message(note)
        return folders

    def origin(self, decided: PreparedTree | TreeRequest) -> Origin:
        """What the tree that was decided on is made of, or would be."""
        if isinstance(decided, PreparedTree):
            return decided.record.origin
        # One request serves all targets of a line.
        if decided.branch not in self._origins:
            self._origins[decided.branch] = describe(decided)
        return self._origins[decided.branch]

    def check(self, decided: PreparedTree | TreeRequest) -> None:
        """Raise BuilderError for what the making of a decided tree would refuse, as far as its commits tell."""
        if not isinstance(decided, TreeRequest):
            return
        if decided.branch not in self._refused:
            self._refused[decided.branch] = None
            try:
                check_overlay(decided)
                check_operators(decided)
            except BuilderError as error:
                self._refused[decided.branch] = error
        if (refused := self._refused[decided.branch]) is not None:
            raise refused

    def _place(self, target: Target) -> Path:
        return self._workspace.trees / target.id

    def _asks_for_another(self, standing: PreparedTree, given: Given, target: Target) -> bool:
        """True where the standing tree was made from other wishes, another host, or other commits than the pinned."""
        origin = standing.record.origin
        wanted = given.over(origin)
        if standing.differs(wanted):
            return True
        # A tree made from another host's repository must not pass for the one that is asked for now.
        if wanted.asked.get("host") not in (None, *self._matrix.sources.urls(TORCH_NPU)):
            return True
        pins = self._pins.get(target.release.branch)
        return pins is not None and pins != origin.commits

    def _request(self, target: Target, given: Given) -> TreeRequest:
        with self._lock:
            found = self._found.get(target.release.branch)
            if found is None:
                pins = self._pins.get(target.release.branch, {})
                try:
                    found = tree_request(target, self._repositories, self._options, given, pins)
                except TargetError as error:
                    if error.kind.passing:
                        raise
                    # The other Pythons of the line would hear the same, after asking every host once more.
                    found = error
                self._found[target.release.branch] = found
        if isinstance(found, TargetError):
            raise TargetError(found.message, kind=found.kind, hint=found.hint, details=found.details)
        return replace(found, target_id=target.id)


def _given(target: Target, options: BuildOptions, folders: _Folders) -> Given:
    patches = (resource("patches"), *options.patches)
    _takes_custom_ops(target, options)
    return Given(
        asked={
            "components": options.components,
            "op_plugin": "folder" if folders.op_plugin is not None else options.op_plugin,
            "torch_npu": options.torch_npu or "branch",
        },
        patches={
            name: find_series(patches, target.release.branch, name, options={"pch"} if options.pch else set())
            for name in (TORCH_NPU, OP_PLUGIN)
        },
        custom_ops=folders.custom_ops,
        local_op_plugin=folders.op_plugin,
    )

"""From commits to a prepared tree: checkout, patches, submodules, op-plugin, custom operators, record."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from builder.core.errors import FailureKind, RequestError, TargetError
from builder.core.untrusted import remove_tree
from builder.progress.reporter import Reporter
from builder.sources import custom_ops as custom
from builder.sources import gitcli as git
from builder.sources import overlay as overlays
from builder.sources import patch_forecast
from builder.sources import patches as series
from builder.sources.custom_ops import CustomOps
from builder.sources.export import check_links, disk_or_source
from builder.sources.mirrors import Mirror
from builder.sources.overlay import OverlaySource
from builder.sources.patches import Applied, Patch
from builder.sources.prepared_record import SCHEMA, LaidOverlay, Origin, PreparedFacts
from builder.sources.prepared_tree import PreparedTree, load_prepared, replacing, repository_at, save

__all__ = [
    "OverlaySource", "PreparedTree", "SubmoduleSource", "TreeRequest", "check_operators", "check_overlay", "describe",
    "load_prepared", "prepare",
]  # fmt: skip


@dataclass(frozen=True)
class SubmoduleSource:
    """A submodule to put at ``path`` (relative to its parent), at ``commit`` of ``mirror``."""

    path: str
    mirror: Mirror
    commit: str
    children: tuple[SubmoduleSource, ...] = ()


@dataclass(frozen=True)
class TreeRequest:
    """All that decides what a prepared tree holds.

    ``pinned_op_plugin`` is the op-plugin commit that torch_npu pins: recorded, also when another one is
    laid. ``asked`` is what the user asked for in words (``op_plugin: branch``), so that another wish is
    told from a newer commit. Without ``overlay`` op-plugin is what ``submodules`` put at ``overlay_path``,
    as in torch_npu's own build.
    """

    target_id: str
    branch: str
    torch_npu: Mirror
    commit: str
    submodules: tuple[SubmoduleSource, ...] = ()
    overlay: OverlaySource | None = None
    overlay_path: str = "third_party/op-plugin"
    torch_npu_patches: tuple[Patch, ...] = ()
    op_plugin_patches: tuple[Patch, ...] = ()
    custom_ops: CustomOps | None = None
    pinned_op_plugin: str | None = None
    asked: Mapping[str, str] = field(default_factory=dict)


def describe(request: TreeRequest) -> Origin:
    """What a tree prepared from ``request`` is made of: ``PreparedTree.differs`` compares with it.

    ``patches`` are those that the commits take, and all that changes a wheel; ``series`` are those that were offered
    to them, which is known before any commit is. Raises as ``patches.apply`` does.
    """
    offered = (*request.torch_npu_patches, *request.op_plugin_patches)
    return Origin(
        asked=dict(request.asked),
        branch=request.branch,
        torch_npu=request.commit,
        submodules={path: source.commit for path, source in _flat(request.submodules)},
        op_plugin=request.overlay.describe() if request.overlay is not None else None,
        patches=tuple(patch.describe() for patch in _foreseen(request).taken),
        series=series.offered(offered),
        custom_operators=request.custom_ops.describe() if request.custom_ops is not None else None,
    )


def _foreseen(request: TreeRequest) -> Applied:
    """Which patches the tree will take."""
    found = patch_forecast.at_commit(request.torch_npu_patches, request.torch_npu.path, request.commit)
    patches = request.op_plugin_patches
    if not patches:
        return found
    overlay, submodule = request.overlay, dict(_flat(request.submodules)).get(request.overlay_path)
    if overlay is not None and overlay.folder is not None:
        return found + patch_forecast.in_folder(patches, overlay.folder)
    if overlay is not None and overlay.mirror is not None:
        return found + patch_forecast.at_commit(patches, overlay.mirror.path, overlay.commit)
    if submodule is not None:
        return found + patch_forecast.at_commit(patches, submodule.mirror.path, submodule.commit)
    return found + _without_op_plugin(request)


def check_overlay(request: TreeRequest) -> None:
    """Raise what ``prepare`` would of op-plugin at a commit that cannot be laid, without making the tree.

    A folder is judged when it is read (``OverlaySource.local``).
    """
    overlay = request.overlay
    if overlay is not None and overlay.mirror is not None:
        patch_forecast.overlay_at_commit(request.op_plugin_patches, overlay.mirror.path, overlay.commit)


def check_operators(request: TreeRequest) -> None:
    """Raise what ``prepare`` would of custom operators that op-plugin does not take, without making the tree.

    Of op-plugin that is a submodule, and of none, ``prepare`` itself tells.
    """
    operators, overlay, patches = request.custom_ops, request.overlay, request.op_plugin_patches
    if operators is None or overlay is None:
        return
    if overlay.mirror is not None:
        patch_forecast.operators_at_commit(operators, patches, overlay.mirror.path, overlay.commit)
    elif overlay.folder is not None:
        patch_forecast.operators_in_folder(operators, patches, overlay.folder)


def _without_op_plugin(request: TreeRequest) -> Applied:
    """What becomes of patches for op-plugin in a line without it; RequestError where one of them must be taken."""
    if any(patch.wanted and not patch.where_it_applies for patch in request.op_plugin_patches):
        raise _no_op_plugin(request, "patches for op-plugin")
    return patch_forecast.nowhere(request.op_plugin_patches, f"{request.branch} is built without op-plugin")


def prepare(request: TreeRequest, destination: Path, reporter: Reporter) -> PreparedTree:
    """Make ``destination`` (``<workspace>/pytorch/<target>``) the prepared tree of ``request``.

    Built in a folder beside it and renamed when whole: after any failure what stood there is as before.
    The commits must be in their mirrors. It replaces whatever stands at ``destination``: whoever calls it has
    asked for changes by hand first.

    Raises TargetError of kind SOURCE, OVERLAY, PATCH, CUSTOM_OPERATOR or DISK, RequestError for patches or
    operators that cannot belong to this release line.
    """
    git.check_ref(request.branch, "branch name")
    with replacing(destination) as staging, reporter.task(f"preparing {request.target_id}", total=6) as task:
        task.update(0, detail="torch_npu")
        _checkout(request, staging)
        applied = series.apply(request.torch_npu_patches, staging)
        task.update(1, detail="submodules")
        for path, source in _flat(request.submodules):
            _submodule(source, staging, path)
        task.update(3, detail="op-plugin")
        op_plugin = _place(staging, request.overlay_path)
        laid: tuple[str, ...] = ()
        if request.overlay is not None:
            laid, more = _overlay(request, op_plugin, staging)
            applied += more
        elif _has_op_plugin(op_plugin):
            applied += series.apply(request.op_plugin_patches, op_plugin)
        else:
            applied += _without_op_plugin(request)
        task.update(4, detail="custom operators")
        if request.custom_ops is not None:
            if not _has_op_plugin(op_plugin):
                raise _no_op_plugin(request, "custom operators")
            custom.insert(request.custom_ops, op_plugin, reporter)
        check_links(staging, f"the prepared tree of {request.target_id}", kind=FailureKind.SOURCE)
        task.update(5, detail="recording")
        prepared = save(staging, _record(request, laid, applied))
    return PreparedTree(destination, prepared.record, prepared.manifest)


def _checkout(request: TreeRequest, staging: Path) -> None:
    mirror = request.torch_npu
    try:
        repository_at(
            staging, objects=mirror.path / "objects", branch=request.branch, commit=request.commit,
            shallow=mirror.path / "shallow",
        )  # fmt: skip
    except git.GitFailed as error:
        raise disk_or_source(error, f"{mirror.name} at {request.commit[:12]} cannot be checked out") from error


def _submodule(source: SubmoduleSource, staging: Path, path: str) -> None:
    place = _place(staging, path)
    if place.is_symlink() or place.is_file() or (place.is_dir() and any(place.iterdir())):
        raise TargetError(
            f"the place {path} of the submodule {source.mirror.name} is taken by files of its parent or a patch",
            kind=FailureKind.SOURCE,
        )
    source.mirror.export(source.commit, place)


def _overlay(request: TreeRequest, op_plugin: Path, staging: Path) -> tuple[tuple[str, ...], Applied]:
    """op-plugin by its own recipe, patched before it is laid: what was laid, and what became of the patches."""
    overlay = request.overlay
    assert overlay is not None  # noqa: S101 - the caller looked
    # Beside the staging folder and named after it: it is cleared with it.
    sources = staging.with_name(f"{staging.name}.op-plugin-{secrets.token_hex(2)}")
    try:
        if overlay.mirror is not None:
            overlay.mirror.export(overlay.commit, sources)
            where = overlays.at_commit(overlay.commit)
        else:
            assert overlay.folder is not None  # noqa: S101 - OverlaySource sees to it
            current = OverlaySource.local(overlay.folder)
            if overlay.digest and current.digest != overlay.digest:
                raise TargetError(
                    f"op-plugin in {overlay.folder} has been changed while the build began",
                    kind=FailureKind.OVERLAY,
                    hint="run the same command again",
                )
            overlays.copy_sources(overlay.folder, sources, current.recipe or ())
            where = str(overlay.folder / overlays.SCRIPT)
        applied = series.apply(request.op_plugin_patches, sources)
        recipe = overlay.recipe
        if recipe is None or overlay.folder is not None:
            recipe = overlays.recipe_in(sources, where)
        return overlays.lay(sources, op_plugin, recipe), applied
    finally:
        remove_tree(sources)


def _has_op_plugin(op_plugin: Path) -> bool:
    return op_plugin.is_dir() and any(op_plugin.iterdir())


def _no_op_plugin(request: TreeRequest, what: str) -> RequestError:
    return RequestError(
        f"{what} were given, but {request.branch} is built without op-plugin",
        hint="release lines have op-plugin from 5.0.rc3 on",
    )


def _place(staging: Path, path: str) -> Path:
    """``path`` in the tree, where neither it nor a symlink on the way leads out of it."""
    parts = path.split("/")
    place = staging / path
    if (
        path.startswith("/")
        or {"", ".", "..", ".git"} & set(parts)
        or not place.parent.resolve().is_relative_to(staging.resolve())
    ):
        raise TargetError(f"{path!r} is not a place inside the tree", kind=FailureKind.SOURCE)
    return place


def _flat(sources: Iterable[SubmoduleSource], prefix: str = "") -> list[tuple[str, SubmoduleSource]]:
    """Submodules with their full paths, parents before children."""
    found = []
    for source in sources:
        path = f"{prefix}{source.path}"
        found.append((path, source))
        found += _flat(source.children, f"{path}/")
    return found


def _record(request: TreeRequest, laid: tuple[str, ...], applied: Applied) -> PreparedFacts:
    overlay = request.overlay
    origin = describe(request)
    taken = tuple(patch.describe() for patch in applied.taken)
    if taken != origin.patches:
        # The fingerprint was made of the others.
        names = [", ".join(patch.name for patch in found) or "none" for found in (taken, origin.patches)]
        raise TargetError(
            f"the tree took other patches than its commits do: {names[0]} instead of {names[1]}",
            kind=FailureKind.PATCH,
            hint="run the same command again; if it fails once more, this is a defect of the builder",
        )
    return PreparedFacts(
        schema_version=SCHEMA,
        target=request.target_id,
        branch=request.branch,
        head=f"refs/heads/{request.branch}",
        commits={
            "torch_npu": request.commit,
            **({"op-plugin": overlay.commit} if overlay is not None and overlay.commit else {}),
            **({"op-plugin (pinned)": request.pinned_op_plugin} if request.pinned_op_plugin else {}),
            **{path: source.commit for path, source in _flat(request.submodules)},
        },
        commit_time=request.torch_npu.commit_time(request.commit),
        overlay=LaidOverlay.of(overlay.describe(), laid) if overlay is not None else None,
        patches=taken,
        patches_passed_over=tuple(item.describe() for item in applied.passed_over),
        custom_operators=request.custom_ops.operators if request.custom_ops is not None else (),
        origin=origin,
        prepared=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )

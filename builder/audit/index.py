"""Reading a package index for an audit: which wheels there are, and one wheel of each version and architecture."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from packaging.version import Version

from builder.audit.branches import Upstream, contained
from builder.audit.upstream_wheels import Index
from builder.core.workspace import Workspace
from builder.environments.network import NetworkSettings
from builder.matrix.base import python_key
from builder.matrix.model import ReleaseLine
from builder.progress.reporter import Reporter
from builder.sources.mirrors import Mirror
from builder.wheels.upstream_wheels import ReleasedFile, ReleasedIndex

#: Whole wheels from an index, below the workspace.
FETCHED = "fetched-wheels"


def open_index(workspace: Workspace, reporter: Reporter) -> ReleasedIndex:
    """Return the index that pip is set to; what is read of its wheels is kept in ``released`` of the workspace."""
    network = NetworkSettings.from_environment(os.environ)
    return ReleasedIndex(
        workspace.root / "released",
        index_url=network.pip_index_url,
        ca_bundle=network.ca_bundle,
        proxies=network.proxies,
        warn=reporter.warning,
    )


def read_index(
    lines: Sequence[ReleaseLine],
    upstream: Upstream,
    torch_npu: Mirror,
    workspace: Workspace,
    reporter: Reporter,
    *,
    complete: bool,
) -> Index:
    """Read the index that pip is set to, for all versions or (not ``complete``) for those that ``lines`` released.

    What was read of a wheel is kept in ``released`` of the workspace. Raises TargetError when the index does not
    answer or a wheel is broken.
    """
    index = open_index(workspace, reporter)
    files = index.files()
    if not complete:
        wanted = {Version(version) for line in lines for version in line.released}
        files = [file for file in files if Version(file.version) in wanted]
    chosen = chosen_files(files)
    with reporter.task("reading released wheels", total=len(chosen)) as task:
        wheels = list(
            index.read_all(chosen, progress=lambda done, total, file: task.update(done, total, file.filename))
        )
    commits = contained(torch_npu, {wheel.git_version for wheel in wheels if wheel.git_version is not None})
    return Index(
        files=files,
        wheels=wheels,
        torch=index.torch_wheels(),
        commits=commits,
        supported={branch: seen.facts.pythons for branch, seen in upstream.seen.items()},
    )


def chosen_files(files: Iterable[ReleasedFile]) -> list[ReleasedFile]:
    """One file for each version and architecture, that of the lowest Python: all Pythons are built alike."""
    chosen: dict[tuple[Version, str], ReleasedFile] = {}
    for file in sorted(files, key=lambda file: (Version(file.version), file.arch, python_key(file.python))):
        chosen.setdefault((Version(file.version), file.arch), file)
    return list(chosen.values())

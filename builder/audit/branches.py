"""Reading upstream's branches for an audit: all release lines in one pass over two mirrors, without work trees.

The mirrors are asked for what they have. Hosts are asked when a branch is missing or a refresh is wanted: then the
host's own list decides which branches there are, because a mirror keeps what a host has removed. A repository on this
machine is read where it stands: nothing of it has to be fetched to be compared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from builder.audit.facts import OP_PLUGIN, Pin, Seen
from builder.core.errors import FailureKind, TargetError
from builder.core.redaction import without_credentials
from builder.core.workspace import Workspace
from builder.matrix.loader import Matrix
from builder.matrix.model import ReleaseLine
from builder.progress.reporter import Reporter
from builder.sources import foreign
from builder.sources import gitcli as git
from builder.sources.branch_facts import BranchFacts, distance, read_branch, read_overlay
from builder.sources.fetch import HostError, branches
from builder.sources.mirrors import Mirror, Mirrors, Repository

TORCH_NPU = "torch_npu"
#: Files that every branch has that can be built. Without one of them, what it states would seem to be dropped.
NEEDED = ("setup.py", "CMakeLists.txt", "ci/build.sh")


@dataclass(frozen=True)
class Upstream:
    """What was read: ``heads`` are all branches of torch_npu with their commits; ``seen`` is by release line.

    ``withheld`` says of branches that the host lists and does not give why.
    """

    heads: Mapping[str, str]
    seen: Mapping[str, Seen] = field(default_factory=dict)
    withheld: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Heads:
    """The branches of a repository with their commits, and those of them that its host does not give."""

    commits: Mapping[str, str]
    withheld: Mapping[str, TargetError] = field(default_factory=dict)


def open_mirrors(workspace: Workspace, reporter: Reporter, matrix: Matrix, *, offline: bool) -> tuple[Mirror, Mirror]:
    """torch_npu and op-plugin: their mirrors, or the repositories on this machine that they would be fetched from."""
    mirrors = Mirrors(workspace.mirrors, reporter, offline=offline)
    torch_npu, op_plugin = (
        _open(mirrors, Repository(name, matrix.sources.urls(name))) for name in (TORCH_NPU, OP_PLUGIN)
    )
    return torch_npu, op_plugin


class _InPlace(Mirror):
    """A repository on this machine that is read where it stands, through one that borrows from it."""

    def __init__(self, found: foreign.Foreign, repository: Repository, mirrors: Mirrors) -> None:
        # Kept for as long as this is.
        self._lent = foreign.Lent(found)
        super().__init__(self._lent.path, repository, mirrors)


def _open(mirrors: Mirrors, repository: Repository) -> Mirror:
    folder = git.local_path(repository.urls[0])
    found = foreign.find(folder, bare=True) if folder is not None else None
    with suppress(foreign.Unreadable):
        if found is not None:
            return _InPlace(found, repository, mirrors)
    return mirrors.open(repository)


def read_upstream(
    matrix: Matrix,
    lines: Sequence[ReleaseLine],
    torch_npu: Mirror,
    op_plugin: Mirror,
    reporter: Reporter,
    *,
    offline: bool,
    refresh: bool,
) -> Upstream:
    """Read the branches of ``lines``. Raises TargetError when a repository cannot be had."""
    known = [line for line in lines if line.source == "branch"]
    found = branches_of(torch_npu, [line.branch for line in known], offline=offline, refresh=refresh)
    heads = found.commits
    here = [line for line in known if line.branch in heads and line.branch not in found.withheld]
    wanted = sorted({line.op_plugin for line in here if line.op_plugin is not None})
    op_found = branches_of(op_plugin, wanted, offline=offline, refresh=refresh) if wanted else Heads({})
    for error in op_found.withheld.values():
        raise error
    op_heads = op_found.commits
    facts: dict[str, BranchFacts] = {}
    withheld = {**found.withheld}
    with reporter.task("reading branches", total=len(here)) as task:
        for done, line in enumerate(here, 1):
            try:
                facts[line.branch] = read_branch(torch_npu, line.branch, heads[line.branch])
            except TargetError as error:
                withheld[line.branch] = error
            task.update(done, detail=line.branch)
    here = [line for line in here if line.branch in facts]
    overlays = {name: read_overlay(op_plugin, name, op_heads[name]) for name in wanted if name in op_heads}
    pins = _pins(op_plugin, here, facts, op_heads)
    urls = {url for branch in facts.values() for _, url in branch.submodules}
    names = {url: matrix.sources.find(url) for url in urls}
    direct = frozenset(name for name in names.values() if name is not None)
    return Upstream(
        heads,
        {
            line.branch: Seen(
                line=line,
                facts=facts[line.branch],
                overlay=overlays.get(line.op_plugin) if line.op_plugin is not None else None,
                pin=pins.get(line.branch),
                names=names,
                direct=direct,
                missing=_missing(torch_npu, facts[line.branch].commit),
            )
            for line in here
        },
        {branch: error.details or error.message for branch, error in withheld.items()},
    )


def branches_of(mirror: Mirror, wanted: Sequence[str], *, offline: bool, refresh: bool) -> Heads:
    """The branches of a repository with their commits, after a fetch where ``wanted`` or ``refresh`` asks for one.

    A branch that no host has is missing from the answer. Raises TargetError when the mirror is empty and must not
    be filled, and when no host answers.
    """
    kept = _kept(mirror)
    if isinstance(mirror, _InPlace):
        return Heads(kept)
    if offline:
        if not kept or _elsewhere(mirror):
            # Says what is missing and what to do about it.
            mirror.branch(next(iter((*wanted, *kept)), "master"))
        return Heads(kept)
    if kept and not refresh and not _elsewhere(mirror) and kept.keys() >= set(wanted):
        return Heads(kept)
    there = _listed(mirror)
    needed = [name for name in wanted if name in there]
    if not needed and (refresh or not kept):
        needed = list(there)[:1]
    withheld: dict[str, TargetError] = {}
    for name in needed:
        # The first fetch brings all branches, unless the host cannot give all of them: then each comes alone.
        if _elsewhere(mirror) or (kept.get(name) != there[name] if refresh else name not in kept):
            try:
                mirror.branch(name, refresh=True)
            except TargetError as error:
                if error.kind is not FailureKind.SOURCE:
                    raise
                withheld[name] = error
            kept = _kept(mirror)
    # What the host has no more is gone; what it has besides is known by name, although it was not fetched.
    return Heads({name: kept.get(name, commit) for name, commit in there.items()}, withheld)


def contained(mirror: Mirror, commits: Collection[str]) -> dict[str, frozenset[str] | None]:
    """For each commit the branches of the mirror that contain it; None where the mirror does not have it."""
    known = _has(mirror, [commit for commit in commits if git.is_commit(commit)])
    # The whole graph once: asking git for the branches of each commit takes a quarter of a second a commit.
    children: dict[str, list[str]] = {}
    for line in _ask(mirror, ["rev-list", "--parents", "--branches"]).splitlines() if known else ():
        commit, *parents = line.split()
        for parent in parents:
            children.setdefault(parent, []).append(commit)
    heads: dict[str, list[str]] = {}
    for branch, commit in _kept(mirror).items():
        heads.setdefault(commit, []).append(branch)
    return {commit: frozenset(_branches(commit, children, heads)) if commit in known else None for commit in commits}


def _branches(commit: str, children: Mapping[str, list[str]], heads: Mapping[str, list[str]]) -> Iterator[str]:
    """The branches whose head is ``commit`` or a descendant of it."""
    reached = {commit}
    waiting = [commit]
    while waiting:
        current = waiting.pop()
        yield from heads.get(current, ())
        fresh = [child for child in children.get(current, ()) if child not in reached]
        reached.update(fresh)
        waiting += fresh


def _missing(mirror: Mirror, commit: str) -> tuple[str, ...]:
    """Those of ``NEEDED`` that are no files of the commit."""
    there = _ask(mirror, ["ls-tree", "-r", "--name-only", commit, "--", *NEEDED]).splitlines()
    return tuple(path for path in NEEDED if path not in there)


def _pins(
    mirror: Mirror, lines: Sequence[ReleaseLine], facts: Mapping[str, BranchFacts], heads: Mapping[str, str]
) -> dict[str, Pin]:
    """Where the op-plugin commit that each line pins lies."""
    pinned = {line: facts[line.branch].op_plugin_commit for line in lines}
    known = _has(mirror, [commit for commit in pinned.values() if commit is not None])
    shallow = (mirror.path / "shallow").exists()
    pins = {}
    for line, commit in pinned.items():
        if commit is None:
            continue
        head = heads.get(line.op_plugin) if line.op_plugin is not None else None
        away = distance(mirror, commit, head) if commit in known and head is not None else None
        behind, ahead = away if away is not None else (None, None)
        pins[line.branch] = Pin(commit, commit in known, behind, ahead, shallow)
    return pins


def _has(mirror: Mirror, commits: Sequence[str]) -> set[str]:
    """Those of ``commits`` that the mirror has, by one call of git."""
    if not commits:
        return set()
    asked = "".join(f"{commit}\n" for commit in commits).encode()
    said = _ask(mirror, ["cat-file", "--batch-check=%(objectname) %(objecttype)"], asked)
    return {line.split()[0] for line in said.splitlines() if line.endswith(" commit")}


def _kept(mirror: Mirror) -> dict[str, str]:
    said = _ask(mirror, ["for-each-ref", "--format=%(objectname) %(refname:strip=2)", "refs/heads"])
    return {name: commit for commit, _, name in (line.partition(" ") for line in said.splitlines())}


def _ask(mirror: Mirror, argv: Sequence[str], data: bytes | None = None) -> str:
    """What git says of a mirror. Raises TargetError when it cannot read it."""
    try:
        return git.run(argv, git_dir=mirror.path, data=data).decode(errors="replace")
    except git.GitFailed as error:
        if isinstance(mirror, _InPlace):
            raise TargetError(
                f"the repository {mirror.repository.urls[0]} cannot be read: {error.reason}", kind=FailureKind.SOURCE
            ) from error
        raise TargetError(
            f"the mirror {mirror.path} cannot be read: {error.reason}",
            kind=FailureKind.SOURCE,
            hint="remove it with 'clean --mirrors'; the next run fetches it again",
        ) from error


def _elsewhere(mirror: Mirror) -> bool:
    """True where the branches came from a host that is none of the repository's hosts now."""
    return mirror.host is not None and mirror.host not in {without_credentials(url) for url in mirror.repository.urls}


def _listed(mirror: Mirror) -> dict[str, str]:
    """The branches that the first host that answers lists."""
    failures = []
    for url in mirror.repository.urls:
        try:
            return branches(url, git.host_patience())
        except HostError as error:
            failures.append(f"{without_credentials(url)}: {error}")
    raise TargetError(
        f"no host of {mirror.name} answers, so its branches cannot be compared",
        kind=FailureKind.NETWORK,
        hint="check the network, name a reachable URL with --sources, or compare what the mirrors have with --offline",
        details="\n".join(failures),
    )

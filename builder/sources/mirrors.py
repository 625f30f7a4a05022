"""Mirrors: bare local repositories that keep every object ever fetched from one upstream repository.

A mirror answers from what it has. It reaches hosts only when something is missing or a refresh is
asked for, tries them in their order, and says of each that failed why it did.

Mirrors are opened for one run. What they were told in it holds for all of it: branches, that a refresh has been
made, that a branch is on no host, that a host was not reached. Nothing of that outlives them.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from builder.core.errors import FailureKind, RequestError, TargetError
from builder.core.redaction import without_credentials
from builder.core.untrusted import remove_tree
from builder.core.workspace import fsync_folder
from builder.progress.reporter import Reporter
from builder.sources import gitcli as git
from builder.sources.export import TreeExport
from builder.sources.fetch import HostFailure, Unreached, fetch
from builder.sources.refs import KEPT, ORIGIN, Refs
from builder.sources.submodules import Submodule, read_submodules

__all__ = ["Mirror", "Mirrors", "Repository", "Submodule"]

#: Refspecs, and how many commits of each branch; 0 stands for all.
_Way = tuple[tuple[str, ...], int]
_EVERYTHING: _Way = (("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"), 0)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Repository:
    """An upstream repository: its name in the workspace, and its hosts in the order they are tried.

    ``urls`` are https, http, ssh, git or file URLs, or local paths. Raises RequestError for a name
    that is not one file name, and for a URL that git must not be given.
    """

    name: str
    urls: tuple[str, ...]

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or ".." in self.name or self.name.endswith((".", ".git", ".lock")):
            raise RequestError(f"{self.name!r} is not a repository name", hint="use letters, digits and . _ -")
        object.__setattr__(self, "urls", tuple(git.check_url(url) for url in self.urls))


class Mirrors:
    """All mirrors of a workspace, below ``directory``, for one run. Threads may share them.

    ``offline`` forbids every host, local paths too: what is not in the mirror is an error. ``retries`` is how often
    a host is asked again after a failure of the network; after that it is left alone until ``ask_again``.
    """

    def __init__(self, directory: Path, reporter: Reporter, *, offline: bool = False, retries: int = 3) -> None:
        self.directory = directory
        self.reporter = reporter
        self.offline = offline
        self.retries = retries
        #: Hosts that were not reached.
        self.unreached = Unreached()
        self._opened: dict[Repository, Mirror] = {}
        self._lock = threading.Lock()

    def ask_again(self) -> None:
        """Give hosts that were not reached another chance."""
        self.unreached.clear()

    def open(self, repository: Repository) -> Mirror:
        """The mirror of ``repository``, made (empty) when absent; the same one each time.

        Raises RequestError when the folder cannot be written, MachineError when git is missing.
        """
        with self._lock:
            if repository not in self._opened:
                self._opened[repository] = self._open(repository)
            return self._opened[repository]

    def _open(self, repository: Repository) -> Mirror:
        path = self.directory / f"{repository.name}.git"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with git.held(path.with_name(f"{path.name}.lock")):
                if not (path / "HEAD").exists():
                    self._create(path)
        except OSError as error:
            raise RequestError(f"the mirror {path} cannot be made: {error.strerror or error}") from error
        return Mirror(path, repository, self)

    def _create(self, path: Path) -> None:
        for stale in self.directory.glob(f".{path.name}.making-*"):
            remove_tree(stale)
        beside = path.with_name(f".{path.name}.making-{secrets.token_hex(4)}")
        try:
            git.run(["init", "--quiet", "--bare", "--template=", "--", str(beside)])
            beside.rename(path)
            fsync_folder(self.directory)
        except git.GitFailed as error:
            raise RequestError(f"the mirror {path} cannot be made: {error.reason}") from error
        finally:
            remove_tree(beside)


class Mirror(TreeExport):
    """One bare repository. ``path`` is its folder; questions about commits never reach a host."""

    def __init__(self, path: Path, repository: Repository, mirrors: Mirrors) -> None:
        super().__init__(path)
        self.repository = repository
        self._mirrors = mirrors
        self._refs = Refs(path)
        self._submodules: dict[str, tuple[Submodule, ...]] = {}
        #: A host has given all its branches in this run; and those that could not.
        self._whole = False
        self._partial: set[str] = set()
        #: The branches that a refresh has brought; None stands for all of a host's.
        self._refreshed: set[str | None] = set()

    @property
    def name(self) -> str:
        """The repository's name."""
        return self.repository.name

    # -- finding commits, on hosts where they are missing -------------------------------------------------

    def branch(self, name: str, *, refresh: bool = False) -> str:
        """The commit of branch ``name``: the mirror's own, unless it is absent or ``refresh`` is asked for.

        A refresh brings all branches, so the first one serves the whole run. Raises RequestError for a name that
        cannot be a branch, TargetError of kind SOURCE when no host has it (or the mirror lacks it and the run is
        offline), of kind NETWORK when no host answered.
        """
        git.check_ref(name, "branch name")

        def look() -> str | None:
            return self._kept(self._refs.branch(name))

        if self._mirrors.offline:
            found = look()
            if found is None:
                raise self._forbidden(f"branch {name}")
            self._refuse_elsewhere(f"branch {name}")
            return found
        found = self._looked_for(look, f"branch {name}", name, refresh=refresh)
        if found is None:
            raise TargetError(
                f"{self.name} has no branch {name!r} on {without_credentials(self.host or 'any host')}",
                kind=FailureKind.SOURCE,
                details=self._similar(name),
            )
        return found

    def commit(self, sha_or_ref: str, *, refresh: bool = False) -> str:
        """The full commit id of a commit, branch or tag, whose files are all in the mirror afterwards.

        A commit is fetched by its id; where a host refuses that, all its branches and tags are fetched.
        Raises as ``branch`` does; the message names each host and why it could not help.
        """
        git.check_ref(sha_or_ref)
        if not git.is_commit(sha_or_ref):
            return self._named(sha_or_ref, refresh=refresh)
        if self._present(sha_or_ref):
            return sha_or_ref
        if self._mirrors.offline:
            raise self._forbidden(f"commit {sha_or_ref}")
        with self._locked() as lock:
            if not self._present(sha_or_ref):
                self._fetch_commit(sha_or_ref, lock)
        return sha_or_ref

    def _named(self, name: str, *, refresh: bool) -> str:
        def look() -> str | None:
            for commit in (self._refs.branch(name), self._resolve(f"refs/tags/{name}")):
                if found := self._kept(commit):
                    return found
            return self._kept(self._resolve(name)) if re.fullmatch(r"[0-9a-f]{7,40}", name) else None

        if self._mirrors.offline:
            found = look()
            if found is None:
                raise self._forbidden(f"branch, tag or commit {name}")
            if not re.fullmatch(r"[0-9a-f]{7,40}", name):
                self._refuse_elsewhere(name)
            return found
        found = self._looked_for(look, name, name, refresh=refresh)
        if found is None:
            raise TargetError(
                f"{self.name} has no branch, tag or commit {name!r} on {without_credentials(self.host or 'any host')}",
                kind=FailureKind.SOURCE,
                details=self._similar(name),
            )
        return found

    def _looked_for(self, look: Callable[[], str | None], wanted: str, ref: str, *, refresh: bool) -> str | None:
        """What ``look`` finds, after a fetch of ``ref`` where the hosts may know more than the mirror."""
        found = look()
        if not self._outdated(found, ref, refresh=refresh):
            return found
        with self._locked() as lock:
            # Another thread or builder may have fetched while this one waited.
            self._refs.forget()
            if self._outdated(look(), ref, refresh=refresh):
                self._fetch_branches(wanted, ref, lock, refresh=refresh)
        return look()

    def _outdated(self, found: str | None, ref: str, *, refresh: bool) -> bool:
        if self._elsewhere():
            return True
        return not self._refreshed & {ref, None} if refresh else found is None and not self._whole

    def check_filled(self) -> None:
        """Raise TargetError of kind SOURCE where the mirror holds nothing at all."""
        if not git.run(["for-each-ref", "--count=1"], git_dir=self.path).strip():
            raise TargetError(
                f"nothing of {self.name} is in {self.path}, and --offline forbids fetching it",
                kind=FailureKind.SOURCE,
                hint="run once without --offline",
            )

    def _resolve(self, expression: str) -> str | None:
        try:
            said = git.run(
                ["rev-parse", "--quiet", "--verify", "--end-of-options", f"{expression}^{{commit}}"], git_dir=self.path
            )
        except git.GitFailed:
            return None
        return said.decode().strip()

    def _kept(self, commit: str | None) -> str | None:
        """``commit`` where it is whole; it then stays even when its branch is rewritten."""
        return commit if commit is not None and self._present(commit) else None

    def _present(self, commit: str) -> bool:
        """True when the commit and all its files and ancestors are here; it is then kept by a ref of its own."""
        if self._refs.keeps(commit):
            return True
        try:
            git.run(["cat-file", "-e", f"{commit}^{{commit}}"], git_dir=self.path)
            git.run(["rev-list", "--objects", "--quiet", commit, "--not", "--all"], git_dir=self.path)
        except git.GitFailed:
            return False
        if not any(self._keep(commit) for _ in range(5)):
            return False
        self._refs.note_kept(commit)
        return True

    def _keep(self, commit: str) -> bool:
        """Give the commit a ref. False where somebody else was at that ref, or has just cleared what looked stale."""
        try:
            git.run(["update-ref", f"{KEPT}{commit}", commit], git_dir=self.path)
        except git.GitFailed:
            return self._resolve(f"{KEPT}{commit}") == commit
        return True

    # -- hosts --------------------------------------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Hold the mirror's lock, and clear what a fetch that was killed has left."""
        with git.held(self.path.with_name(f"{self.path.name}.lock")) as lock:
            stale = [
                *self.path.glob("*.lock"),
                *(self.path / "refs").rglob("*.lock"),
                *(self.path / "objects" / "pack").glob("tmp_*"),
                *(self.path / "objects" / "pack").glob(".tmp-*"),
                *self.path.glob("objects/tmp_*"),
                *self.path.glob("objects/incoming-*"),
            ]
            for left in stale:
                remove_tree(left)
            yield lock

    def _fetch_branches(self, wanted: str, ref: str, lock: int, *, refresh: bool) -> None:
        """Fetch all branches and tags; from a host that cannot give all of them, ``ref`` alone.

        ``ref`` may also be a commit's short id, which no host finds: then only the first way can help.
        """
        alone = (f"+refs/heads/{ref}:refs/heads/{ref}",)
        failures: list[HostFailure] = []
        for url in self._hosts(wanted):
            given = self._ask(url, lock, _EVERYTHING, (alone, 0), (alone, 1))
            if not isinstance(given, HostFailure):
                git.run(["config", ORIGIN, without_credentials(url)], git_dir=self.path)
                self._refs.forget()
                self._whole = self._whole or given is _EVERYTHING
                if refresh:
                    self._refreshed.add(None if given is _EVERYTHING else ref)
                return
            failures.append(replace(given, reason=f"{without_credentials(url)}: {given.reason}"))
        raise self._unreachable(wanted, failures)

    def _fetch_commit(self, commit: str, lock: int) -> None:
        alone = (f"+{commit}:{KEPT}{commit}",)
        failures: list[HostFailure] = []
        for url in self._hosts(f"commit {commit}"):
            given = self._ask(url, lock, (alone, 0), _EVERYTHING, (alone, 1), enough=lambda: self._present(commit))
            if not isinstance(given, HostFailure):
                return
            failures.append(replace(given, reason=f"{without_credentials(url)}: {given.reason}"))
        raise self._unreachable(f"commit {commit}", failures)

    def _ask(self, url: str, lock: int, *ways: _Way, enough: Callable[[], bool] = lambda: True) -> _Way | HostFailure:
        """Try ``ways`` on one host until one gives what is wanted; returns that one, or why none did."""
        unreached = self._mirrors.unreached.get(url)
        if unreached is not None:
            return unreached
        first: HostFailure | None = None
        for way in ways:
            if way is _EVERYTHING and url in self._partial:
                continue
            refspecs, depth = way
            try:
                failure = fetch(
                    self.path, url, refspecs, depth=depth, label=self.name, lock=lock,
                    reporter=self._mirrors.reporter, retries=self._mirrors.retries,
                )  # fmt: skip
            finally:
                self._refs.forget()
            if failure is None and enough():
                return way
            if failure is not None and failure.network | failure.final:
                first = failure
                break
            if failure is not None and way is _EVERYTHING:
                self._partial.add(url)
            first = first or failure or HostFailure("has no such commit", network=False, final=False)
        assert first is not None  # noqa: S101 - there is at least one way
        if first.network:
            self._mirrors.unreached.note(url, first)
        self._mirrors.reporter.warning(f"{self.name}: {without_credentials(url)}: {first.reason}")
        return first

    def _hosts(self, wanted: str) -> tuple[str, ...]:
        if not self.repository.urls:
            raise TargetError(
                f"{wanted} of {self.name} is not in {self.path}, and no host is known for {self.name}",
                kind=FailureKind.SOURCE,
                hint="add its hosts to the sources file",
            )
        return self.repository.urls

    def _unreachable(self, wanted: str, failures: list[HostFailure]) -> TargetError:
        kind = FailureKind.NETWORK if all(failure.network for failure in failures) else FailureKind.SOURCE
        return TargetError(
            f"{wanted} of {self.name} could not be fetched from any of its {len(failures)} hosts"
            if len(failures) > 1
            else f"{wanted} of {self.name} could not be fetched",
            kind=kind,
            hint="; ".join(filter(None, [kind.advice, git.passed_over_advice()])),
            details="\n".join(failure.reason for failure in failures),
        )

    def _refuse_elsewhere(self, wanted: str) -> None:
        """A branch of one host must not pass for the branch of another, also where none may be asked."""
        if self._elsewhere():
            raise TargetError(
                f"{wanted} of {self.name} in {self.path} came from {without_credentials(self.host or '')}, "
                "which is not among its hosts now, and --offline forbids asking another",
                kind=FailureKind.SOURCE,
                hint="run once without --offline, or name that host again",
            )

    def _forbidden(self, wanted: str) -> TargetError:
        return TargetError(
            f"{wanted} of {self.name} is not in {self.path}, and --offline forbids fetching it",
            kind=FailureKind.SOURCE,
            hint="run once without --offline",
        )

    @property
    def host(self) -> str | None:
        """The URL or path that the branches in this mirror were fetched from; None before the first fetch."""
        return self._refs.origin

    def _elsewhere(self) -> bool:
        """True when branches come from a host that is no longer one of the repository's: another fork's branches."""
        origin = self.host
        return origin is not None and origin not in {without_credentials(url) for url in self.repository.urls}

    def _similar(self, name: str) -> str | None:
        from difflib import get_close_matches

        refs = git.run(["for-each-ref", "--format=%(refname:strip=2)", "refs/heads", "refs/tags"], git_dir=self.path)
        close = get_close_matches(name, refs.decode().split(), n=5, cutoff=0.5)
        return f"it has: {', '.join(close)}" if close else None

    # -- submodules ---------------------------------------------------------------------------------------

    def submodules(self, commit: str) -> tuple[Submodule, ...]:
        """The submodules that ``commit`` pins (see ``read_submodules``): they never change, so they are read once."""
        self._check(commit)
        found = self._submodules.get(commit)
        if found is None:
            found = read_submodules(self.path, self.name, self.repository.urls, commit)
            self._submodules[commit] = found
        return found

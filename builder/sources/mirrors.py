"""Mirrors: bare local repositories that keep every object ever fetched from one upstream repository.

A mirror answers from what it has. It reaches hosts only when something is missing or a refresh is
asked for, tries them in their order, and says of each that failed why it did.
"""

from __future__ import annotations

import posixpath
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from builder.console import Reporter
from builder.errors import FailureKind, RequestError, TargetError
from builder.sources import gitcli as git
from builder.sources.export import TreeExport
from builder.sources.fetch import HostFailure, fetch
from builder.workspace import fsync_folder, remove_tree

_EVERYTHING = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
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


@dataclass(frozen=True)
class Submodule:
    """One submodule of a commit: an entry of ``.gitmodules`` that has a pinned commit in the tree.

    ``url`` is what ``.gitmodules`` says, made absolute against the repository's first host when it
    is relative; ``branch`` and ``update`` (``none``, ``checkout``...) are None where they are not set.
    """

    path: str
    url: str
    commit: str
    branch: str | None = None
    update: str | None = None


class Mirrors:
    """All mirrors of a workspace, below ``directory``.

    ``offline`` forbids every host, local paths too: what is not in the mirror is an error. ``retries`` is how often
    a host is asked again after a failure of the network.
    """

    def __init__(self, directory: Path, reporter: Reporter, *, offline: bool = False, retries: int = 3) -> None:
        self.directory = directory
        self.reporter = reporter
        self.offline = offline
        self.retries = retries

    def open(self, repository: Repository) -> Mirror:
        """The mirror of ``repository``, made (empty) when absent.

        Raises RequestError when the folder cannot be written, MachineError when git is missing.
        """
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

    @property
    def name(self) -> str:
        """The repository's name."""
        return self.repository.name

    # -- finding commits, on hosts where they are missing -------------------------------------------------

    def branch(self, name: str, *, refresh: bool = False) -> str:
        """The commit of branch ``name``: the mirror's own, unless it is absent or ``refresh`` is asked for.

        Raises RequestError for a name that cannot be a branch, TargetError of kind SOURCE when no host
        has it (or the mirror lacks it and the run is offline), of kind NETWORK when no host answered.
        """
        git.check_ref(name, "branch name")
        found = self._kept(f"refs/heads/{name}")
        if self._mirrors.offline:
            if found is None:
                raise self._forbidden(f"branch {name}")
            self._refuse_elsewhere(f"branch {name}")
            return found
        if found is not None and not refresh and not self._elsewhere():
            return found
        with self._locked() as lock:
            self._fetch_branches(f"branch {name}", name, lock)
        found = self._kept(f"refs/heads/{name}")
        if found is None:
            raise TargetError(
                f"{self.name} has no branch {name!r} on {git.mask(self.host or 'any host')}",
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
            for ref in (f"refs/heads/{name}", f"refs/tags/{name}"):
                if found := self._kept(ref):
                    return found
            return self._kept(name) if re.fullmatch(r"[0-9a-f]{7,40}", name) else None

        found = look()
        if self._mirrors.offline:
            if found is None:
                raise self._forbidden(f"branch, tag or commit {name}")
            if not re.fullmatch(r"[0-9a-f]{7,40}", name):
                self._refuse_elsewhere(name)
            return found
        if found is None or refresh or self._elsewhere():
            with self._locked() as lock:
                self._fetch_branches(name, name, lock)
            found = look()
        if found is None:
            raise TargetError(
                f"{self.name} has no branch, tag or commit {name!r} on {git.mask(self.host or 'any host')}",
                kind=FailureKind.SOURCE,
                details=self._similar(name),
            )
        return found

    def _resolve(self, expression: str) -> str | None:
        try:
            said = git.run(
                ["rev-parse", "--quiet", "--verify", "--end-of-options", f"{expression}^{{commit}}"], git_dir=self.path
            )
        except git.GitFailed:
            return None
        return said.decode().strip()

    def _kept(self, expression: str) -> str | None:
        """The commit that ``expression`` names, which then stays even when its branch is rewritten."""
        found = self._resolve(expression)
        return found if found is not None and self._present(found) else None

    def _present(self, commit: str) -> bool:
        """True when the commit and all its files and ancestors are here; it is then kept by a ref of its own."""
        keep = f"refs/builder/{commit}"
        try:
            if git.run(["for-each-ref", "--count=1", "--format=%(objectname)", keep], git_dir=self.path).strip():
                return True
            git.run(["cat-file", "-e", f"{commit}^{{commit}}"], git_dir=self.path)
            git.run(["rev-list", "--objects", "--quiet", commit, "--not", "--all"], git_dir=self.path)
            git.run(["update-ref", keep, commit], git_dir=self.path)
        except git.GitFailed:
            return False
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

    def _fetch_branches(self, wanted: str, ref: str, lock: int) -> None:
        """Fetch all branches and tags; from a host that cannot give all of them, ``ref`` alone.

        ``ref`` may also be a commit's short id, which no host finds: then only the first way can help.
        """
        alone = (f"+refs/heads/{ref}:refs/heads/{ref}",)
        failures: list[HostFailure] = []
        for url in self._hosts(wanted):
            failure = self._ask(url, lock, (_EVERYTHING, 0), (alone, 0), (alone, 1))
            if failure is None:
                git.run(["config", "builder.origin", git.mask(url)], git_dir=self.path)
                return
            self._note(failures, url, failure)
        raise self._unreachable(wanted, failures)

    def _fetch_commit(self, commit: str, lock: int) -> None:
        alone = (f"+{commit}:refs/builder/{commit}",)
        failures: list[HostFailure] = []
        for url in self._hosts(f"commit {commit}"):
            failure = self._ask(
                url, lock, (alone, 0), (_EVERYTHING, 0), (alone, 1), enough=lambda: self._present(commit)
            )
            if failure is None:
                return
            self._note(failures, url, failure)
        raise self._unreachable(f"commit {commit}", failures)

    def _ask(
        self, url: str, lock: int, *ways: tuple[tuple[str, ...], int], enough: Callable[[], bool] = lambda: True
    ) -> HostFailure | None:
        """Try ``ways`` (refspecs, depth) on one host until one gives what is wanted; None says that one did."""
        first: HostFailure | None = None
        for refspecs, depth in ways:
            failure = fetch(
                self.path, url, refspecs, depth=depth, label=self.name, lock=lock,
                reporter=self._mirrors.reporter, retries=self._mirrors.retries,
            )  # fmt: skip
            if failure is None and enough():
                return None
            failure = failure or HostFailure("has no such commit", network=False, final=False)
            first = first or failure
            if failure.network or failure.final:
                return failure
        return first

    def _note(self, failures: list[HostFailure], url: str, failure: HostFailure) -> None:
        failures.append(replace(failure, reason=f"{git.mask(url)}: {failure.reason}"))
        self._mirrors.reporter.warning(f"{self.name}: {failures[-1].reason}")

    def _hosts(self, wanted: str) -> tuple[str, ...]:
        if not self.repository.urls:
            raise TargetError(
                f"{wanted} of {self.name} is not in {self.path}, and no host is known for {self.name}",
                kind=FailureKind.SOURCE,
                hint="add its hosts to the sources file",
            )
        return self.repository.urls

    def _unreachable(self, wanted: str, failures: list[HostFailure]) -> TargetError:
        return TargetError(
            f"{wanted} of {self.name} could not be fetched from any of its {len(failures)} hosts"
            if len(failures) > 1
            else f"{wanted} of {self.name} could not be fetched",
            kind=FailureKind.NETWORK if all(failure.network for failure in failures) else FailureKind.SOURCE,
            details="\n".join(failure.reason for failure in failures),
        )

    def _refuse_elsewhere(self, wanted: str) -> None:
        """A branch of one host must not pass for the branch of another, also where none may be asked."""
        if self._elsewhere():
            raise TargetError(
                f"{wanted} of {self.name} in {self.path} came from {git.mask(self.host or '')}, which is not among its "
                "hosts now, and --offline forbids asking another",
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
        try:
            return git.run(["config", "--get", "builder.origin"], git_dir=self.path).decode().strip()
        except git.GitFailed:
            return None

    def _elsewhere(self) -> bool:
        """True when branches come from a host that is no longer one of the repository's: another fork's branches."""
        origin = self.host
        return origin is not None and origin not in {git.mask(url) for url in self.repository.urls}

    def _similar(self, name: str) -> str | None:
        from difflib import get_close_matches

        refs = git.run(["for-each-ref", "--format=%(refname:strip=2)", "refs/heads", "refs/tags"], git_dir=self.path)
        close = get_close_matches(name, refs.decode().split(), n=5, cutoff=0.5)
        return f"it has: {', '.join(close)}" if close else None

    # -- submodules ---------------------------------------------------------------------------------------

    def submodules(self, commit: str) -> tuple[Submodule, ...]:
        """The submodules that ``commit`` pins, by path. ``.gitmodules`` is parsed by git itself.

        Entries without a pinned commit are left out. Raises TargetError of kind SOURCE for a
        ``.gitmodules`` that git cannot read, a path that leaves the tree and a pinned commit without URL.
        """
        self._check(commit)
        pinned = {entry.path: entry.object for entry in self.entries(commit) if entry.mode == "160000"}
        if not pinned:
            return ()
        settings: dict[str, dict[str, str]] = {}
        if self.exists(commit, ".gitmodules"):
            try:
                listed = git.run(["config", f"--blob={commit}:.gitmodules", "--null", "--list"], git_dir=self.path)
            except git.GitFailed as error:
                raise TargetError(
                    f".gitmodules of {self.name} at {commit[:12]} cannot be read: {error.reason}",
                    kind=FailureKind.SOURCE,
                ) from error
            for item in listed.decode(errors="replace").split("\0"):
                key, _, value = item.partition("\n")
                section, _, rest = key.partition(".")
                name, _, variable = rest.rpartition(".")
                if section == "submodule" and name:
                    settings.setdefault(name, {})[variable] = value
        found = []
        for entry in settings.values():
            path = entry.get("path", "").rstrip("/")
            if path not in pinned:
                continue
            if path.startswith(("/", "-")) or {"..", ".", "", ".git"} & set(path.lower().split("/")):
                raise TargetError(
                    f".gitmodules of {self.name} at {commit[:12]} names the path {path!r}", kind=FailureKind.SOURCE
                )
            if not entry.get("url"):
                raise TargetError(
                    f".gitmodules of {self.name} at {commit[:12]} gives no url for {path}", kind=FailureKind.SOURCE
                )
            url = self._absolute(entry["url"])
            found.append(Submodule(path, url, pinned[path], entry.get("branch"), entry.get("update")))
        return tuple(sorted(found, key=lambda submodule: submodule.path))

    def _absolute(self, url: str) -> str:
        if not url.startswith(("./", "../")) or not self.repository.urls:
            return url
        base = self.repository.urls[0]
        if "://" in base:
            parts = urlsplit(base)
            return urlunsplit(parts._replace(path=posixpath.normpath(posixpath.join(parts.path, url))))
        host, colon, path = base.partition(":") if not base.startswith("/") else ("", "", base)
        return f"{host}{colon}{posixpath.normpath(posixpath.join(path, url))}"

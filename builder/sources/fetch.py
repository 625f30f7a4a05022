"""One fetch from one host: progress on the console, and another try when the network failed."""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from builder.core.errors import FULL, FailureKind, TargetError
from builder.core.redaction import without_credentials
from builder.core.retry import retrying
from builder.progress.reporter import Reporter, Task
from builder.sources import foreign
from builder.sources import gitcli as git

#: Seconds before the second try; doubled for each further one, with some chance in it.
FIRST_WAIT = 1.0
LONGEST_WAIT = 30.0
#: Seconds that git may say nothing while it checks on this machine what it received.
LOCAL_PATIENCE = 1800.0
#: Seconds for which it is believed that the name of a host has no address: from the plan of a run into its builds.
UNRESOLVED_SECONDS = 60.0

# Said of a host that answered: asking again would get the same answer.
_FINAL = re.compile(
    r"not found|does not exist|no such file|does not appear to be a git repository|authentication failed"
    r"|permission denied|could not read (username|password)|terminal prompts disabled|access denied"
    r"|returned error: (401|403|404|410)|certificate|unsupported|transport '.*' not allowed|fsck|host key verification",
    re.IGNORECASE,
)
# Said of a commit that the host does not give by its id: its branches may hold it.
_REFUSED = re.compile(
    r"not our ref|unadvertised object|couldn't find remote ref|could not find remote ref"
    r"|does not allow request|unable to find [0-9a-f]{40}|cannot obtain needed object",
    re.IGNORECASE,
)
# A host whose own repository lacks objects: what does not need those can still be had from it.
_INCOMPLETE = re.compile(
    r"possible repository corruption|unable to read [0-9a-f]{40}|missing blob|bad tree object", re.I
)
_NETWORK = re.compile(
    r"could not resolve|couldn't resolve|failed to connect|could not connect|unable to connect|connection"
    r"|timed out|timeout|early eof|unexpected disconnect|hung up|rpc failed|returned error: (5\d\d|408|429)"
    r"|transfer closed|gnutls|ssl_|tls|too slow|name resolution|unreachable|broken pipe|http/2 stream|curl \d+"
    r"|empty reply|invalid index-pack output|bad pack header|could not read from remote|unable to access"
    r"|unable to look up",
    re.IGNORECASE,
)
# Said where the name of a host has no address: whatever is asked of that host, the answer is the same.
_UNRESOLVED = re.compile(
    r"could not resolve|couldn't resolve|name resolution|unable to look up|name or service not known", re.IGNORECASE
)
_DISK = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)


@dataclass(frozen=True)
class HostFailure:
    """Why a host did not help. ``network``: it was not reached; ``final``: no other request to it would succeed."""

    reason: str
    network: bool
    final: bool

    @property
    def unresolved(self) -> bool:
        """True where the host's name has no address here, for this repository as for every other."""
        return self.network and is_unresolved(self.reason)


class Unreached:
    """Hosts that were not reached, by what was asked of them; where a name has no address, by that name."""

    def __init__(self) -> None:
        self._failures: dict[str, HostFailure] = {}
        self._names: dict[str, tuple[HostFailure, float]] = {}

    def get(self, url: str) -> HostFailure | None:
        """Why the host of ``url`` was not reached; None where it was, or was not asked."""
        name = host_of(url)
        return self._names[name][0] if name in self._names else self._failures.get(url)

    def note(self, url: str, failure: HostFailure) -> None:
        """The host of ``url`` was not reached."""
        if failure.unresolved:
            self._names[host_of(url)] = failure, time.monotonic()
        else:
            self._failures[url] = failure

    def clear(self) -> None:
        """Give them another chance; not yet those whose name had no address a moment ago."""
        self._failures.clear()
        now = time.monotonic()
        self._names = {name: known for name, known in self._names.items() if now - known[1] < UNRESOLVED_SECONDS}


def host_of(url: str) -> str:
    """The name of a URL's host, empty for a place on this machine."""
    if "://" in url:
        return urlsplit(url).hostname or ""
    return "" if git.local_path(url) is not None else url.partition("@")[2].partition(":")[0]


class _Silent(Exception):  # noqa: N818 - internal
    """Nothing was heard for too long: what was waited for."""


class _NoRepository(Exception):  # noqa: N818 - internal
    """The folder that a URL means holds nothing that could be fetched: why."""


class _NotReached(Exception):  # noqa: N818 - internal
    def __init__(self, failure: HostFailure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


class _Waits:
    """What a fetch waits for while git says nothing, and for how long it may."""

    def __init__(self, on_line: Callable[[str], None], task: Task, patience: float) -> None:
        self._on_line = on_line
        self._task = task
        self._patience = patience
        self._what, self._limit = "an answer of the host", patience
        task.update(detail=f"waiting for {self._what}")

    def heard(self, line: str) -> None:
        """git has said something."""
        received = re.match(r"Receiving objects: +(\d+)%", line)
        if line.startswith("remote: "):
            self._what, self._limit = "the host to put the objects together", self._patience
        elif received is not None and received[1] != "100":
            self._what, self._limit = "more objects from the host", self._patience
        elif received is not None or line.startswith(("Resolving deltas", "Checking connectivity")):
            self._what, self._limit = "git to check what it received", LOCAL_PATIENCE
        self._on_line(line)

    def silent(self, seconds: float) -> None:
        """git has said nothing for so long. Raises _Silent when that is too long."""
        if seconds >= self._limit:
            raise _Silent(f"timed out: waited {self._limit:g} s for {self._what}")
        self._task.update(detail=f"waiting for {self._what} ({seconds:.0f} s)")


@contextmanager
def _asked(url: str) -> Iterator[tuple[str, ...]]:
    """How git is to be told to ask ``url``: the end of a command line, before what is asked for.

    On this machine the other end would be git in that repository, with its settings, whoever may have written them. So
    it is one that borrows from it. Raises _NoRepository.
    """
    folder = git.local_path(url)
    if folder is None:
        yield "--", url
        return
    if not folder.is_dir():
        raise _NoRepository("there is no such folder")
    repository = foreign.find(folder, bare=True)
    if repository is None:
        raise _NoRepository("it does not appear to be a git repository")
    with ExitStack() as stack:
        try:
            place = str(stack.enter_context(foreign.borrowed(repository)))
        except foreign.Unreadable as error:
            raise _NoRepository(str(error)) from error
        try:
            # It is ours by place, but some file systems give every file another owner.
            yield f"--upload-pack=git -c safe.directory={shlex.quote(place)} upload-pack", "--", place
        except git.GitFailed as error:
            raise git.GitFailed((), error.status, error.output.replace(place, str(folder))) from error


def branches(url: str, seconds: float) -> dict[str, str]:
    """The branches that a host lists, with their commits. Raises HostError when it does not within ``seconds``."""
    try:
        with _asked(url) as place:
            said = git.run(["ls-remote", "--heads", *place], timeout=seconds).decode(errors="replace")
    except git.GitFailed as error:
        raise HostError(error.reason) from error
    except _NoRepository as error:
        raise HostError(str(error)) from error
    except subprocess.TimeoutExpired as error:
        raise HostError(f"no answer within {seconds:g} s") from error
    pairs = (line.partition("\t") for line in said.splitlines())
    return {ref.removeprefix("refs/heads/"): commit for commit, _, ref in pairs}


class HostError(Exception):
    """A host does not list its branches; the text says why."""


def is_unresolved(reason: str) -> bool:
    """True for the reason of a failure that says that the name of a host has no address."""
    return _UNRESOLVED.search(reason) is not None


def judge(failed: git.GitFailed) -> HostFailure:
    """Sort a failed fetch by what git wrote."""
    said = failed.output
    if _INCOMPLETE.search(said):
        return HostFailure("the host's repository lacks objects of its own history", network=False, final=False)
    if _REFUSED.search(said):
        return HostFailure(failed.reason, network=False, final=False)
    if _FINAL.search(said):
        return HostFailure(failed.reason, network=False, final=True)
    network = _NETWORK.search(said) is not None
    return HostFailure(failed.reason, network=network, final=False)


def fetch(
    mirror: Path,
    url: str,
    refspecs: Sequence[str],
    *,
    label: str,
    reporter: Reporter,
    retries: int,
    lock: int,
    depth: int = 0,
) -> HostFailure | None:
    """Fetch ``refspecs`` from ``url`` into the bare repository ``mirror``; None says that it succeeded.

    git moves refs only after it has checked that every object is there, so that a fetch that ends
    early leaves the refs as they were. ``depth`` other than 0 leaves out older commits. ``lock`` is the
    mirror's lock (see ``gitcli.held``). Raises TargetError (DISK) when the disk is full.
    """
    patience = git.host_patience()

    def once() -> None:
        try:
            with (
                _asked(url) as place,
                reporter.task(f"fetching {label} from {without_credentials(url)}", total=100) as task,
            ):
                argv = [
                    "fetch", "--progress", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance",
                    "--update-shallow", "--no-recurse-submodules", *([f"--depth={depth}"] if depth else []),
                    *place, *refspecs,
                ]  # fmt: skip
                waits = _Waits(_progress(task), task, patience)
                git.stream(argv, git_dir=mirror, on_line=waits.heard, on_silence=waits.silent, lock=lock)
        except _Silent as silent:
            raise _NotReached(HostFailure(str(silent), network=True, final=False)) from silent
        except git.GitFailed as failed:
            if _DISK.search(failed.output):
                raise _full(label, mirror) from failed
            failure = judge(failed)
            # The resolver has tried several times itself.
            if failure.network and not failure.unresolved:
                raise _NotReached(failure) from failed
            raise

    def tell(said: BaseException | None, coming: int, _wait: float) -> None:
        reporter.warning(f"{label}: {said}; asking {without_credentials(url)} again (try {coming})")

    def may_pass(error: BaseException) -> bool:
        return isinstance(error, _NotReached)

    try:
        asked = retrying(1 + retries, may_pass=may_pass, tell=tell, first_wait=FIRST_WAIT, longest_wait=LONGEST_WAIT)
        asked(once)
    except _NotReached as error:
        return error.failure
    except _NoRepository as error:
        return HostFailure(str(error), network=False, final=True)
    except git.GitFailed as failed:
        return judge(failed)
    except OSError as error:
        if error.errno in FULL:
            raise _full(label, mirror) from error
        raise
    return None


def _full(label: str, mirror: Path) -> TargetError:
    return TargetError(f"the disk is full: {label} could not be fetched into {mirror}", kind=FailureKind.DISK)


def _progress(task: Task) -> Callable[[str], None]:
    """A reader of git's progress lines, by GitPython's parser. Receiving is most of the work: 0 to 80 %."""
    from git import RemoteProgress

    shares = {RemoteProgress.RECEIVING: (0.0, 80.0), RemoteProgress.RESOLVING: (80.0, 20.0)}

    class Reader(RemoteProgress):
        def update(self, op_code: int, cur_count: Any, max_count: Any = None, message: str = "") -> None:
            share = shares.get(op_code & self.OP_MASK)
            if share is not None and max_count:
                task.update(completed=share[0] + share[1] * float(cur_count) / float(max_count), detail=message)

    handler: Callable[[str], None] = Reader().new_message_handler()
    return handler

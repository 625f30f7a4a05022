"""One fetch from one host: progress on the console, and another try when the network failed."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.console import Reporter, Task
from builder.errors import MachineError
from builder.sources import gitcli as git
from builder.workspace import free_bytes

if TYPE_CHECKING:
    from tenacity import RetryCallState

#: Seconds before the second try; doubled for each further one, with some chance in it.
FIRST_WAIT = 1.0
LONGEST_WAIT = 30.0

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
_DISK = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)


@dataclass(frozen=True)
class HostFailure:
    """Why a host did not help. ``network``: it was not reached; ``final``: no other request to it would succeed."""

    reason: str
    network: bool
    final: bool


class _NotReached(Exception):  # noqa: N818 - internal
    def __init__(self, failure: HostFailure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


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
    mirror's lock (see ``gitcli.held``). Raises MachineError when the disk is full.
    """
    from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential, wait_random

    local = git.local_path(url)
    if local is not None and not local.is_dir():
        return HostFailure("there is no such folder", network=False, final=True)
    argv = [
        "fetch", "--progress", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance",
        "--update-shallow", "--no-recurse-submodules", *([f"--depth={depth}"] if depth else []),
        *([f"--upload-pack={git.LOCAL_UPLOAD_PACK}"] if local is not None else []),
        "--", url, *refspecs,
    ]  # fmt: skip

    def once() -> None:
        try:
            with reporter.task(f"fetching {label} from {git.mask(url)}", total=100) as task:
                git.stream(argv, git_dir=mirror, on_line=_progress(task), lock=lock)
        except git.GitFailed as failed:
            if _DISK.search(failed.output):
                raise MachineError(
                    f"the disk is full: {label} could not be fetched into {mirror}, "
                    f"where {free_bytes(mirror) >> 20} MiB are left",
                    hint="free some disk space; 'clean' removes what can be made again",
                ) from failed
            failure = judge(failed)
            if failure.network:
                raise _NotReached(failure) from failed
            raise

    def tell(state: RetryCallState) -> None:
        said = state.outcome.exception() if state.outcome is not None else None
        reporter.warning(f"{label}: {said}; asking {git.mask(url)} again (try {state.attempt_number + 1})")

    try:
        Retrying(
            stop=stop_after_attempt(1 + max(retries, 0)),
            wait=wait_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT) + wait_random(0, FIRST_WAIT),
            retry=retry_if_exception_type(_NotReached),
            before_sleep=tell,
            reraise=True,
        )(once)
    except _NotReached as error:
        return error.failure
    except git.GitFailed as failed:
        return judge(failed)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise MachineError(f"the disk is full: {label} could not be fetched into {mirror}") from error
        raise
    return None


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

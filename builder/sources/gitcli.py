"""How the builder runs git: the same everywhere, whatever the user's and the machine's settings are.

Every call gets a clean environment and configuration that is given here and nowhere else. Only what
reaches hosts is taken from outside: proxies, certificate bundles and the SSH command.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Event

from builder.core.cancellation import patience, registered
from builder.core.errors import MachineError, RequestError
from builder.core.redaction import without_credentials

#: Variables that reach hosts. Everything else of git's own (``GIT_DIR``, ``GIT_CONFIG_*``) stays outside.
_PASSED = (
    "PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "SSH_AUTH_SOCK", "GIT_SSH", "GIT_SSH_COMMAND",
    "GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "GIT_PROXY_SSL_CAINFO", "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE",
)  # fmt: skip
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")

#: Settings of every call. A prepared tree shares objects with its mirror, so nothing may ever be
#: pruned; a pack that is always kept whole means that no commit is present without its files.
_SETTINGS = (
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("gc.pruneExpire", "never"),
    ("fetch.unpackLimit", "1"),
    ("fetch.fsckObjects", "true"),
    # Defects of old but honest histories, which every host serves as they are.
    ("fetch.fsck.badTimezone", "ignore"),
    ("fetch.fsck.missingSpaceBeforeDate", "ignore"),
    ("fetch.fsck.zeroPaddedFilemode", "ignore"),
    ("fetch.fsck.missingTaggerEntry", "ignore"),
    ("fetch.fsck.badFilemode", "ignore"),
    ("protocol.ext.allow", "never"),
    ("protocol.fd.allow", "never"),
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.symlinks", "true"),
    ("core.autocrlf", "false"),
    ("core.fileMode", "true"),
    ("core.protectHFS", "true"),
    ("core.protectNTFS", "true"),
    ("core.quotePath", "false"),
    ("http.lowSpeedLimit", "1000"),
    ("submodule.recurse", "false"),
    ("advice.detachedHead", "false"),
    ("init.defaultBranch", "main"),
    ("user.name", "torch-npu-builder"),
    ("user.email", "torch-npu-builder@localhost"),
)

#: Seconds that a host may stay silent; BUILDER_GIT_PATIENCE names others.
PATIENCE = 60.0

_COMMIT = re.compile(r"[0-9a-f]{40}")
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@=-]*(?:/[A-Za-z0-9_][A-Za-z0-9._+@=-]*)*")
_SCHEMES = ("https://", "http://", "ssh://", "git://", "file://")
_SCP_LIKE = re.compile(r"(?:[A-Za-z0-9._-]+@)?[A-Za-z0-9][A-Za-z0-9.-]*:(?!:)[A-Za-z0-9._~/][^\s]*")
_MINIMUM = (2, 32)


class GitFailed(Exception):  # noqa: N818 - internal; callers turn it into an error for the user
    """A git command ended with another status than 0. ``output`` is what it wrote to standard error."""

    def __init__(self, argv: Sequence[str], status: int, output: str) -> None:
        super().__init__(f"git {' '.join(argv)}: exit status {status}: {output}")
        self.status = status
        self.output = without_credentials(output).strip()

    @property
    def reason(self) -> str:
        """The line that says most: the last ``fatal:`` or ``error:``, without that word."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        for prefix in ("fatal: ", "error: ", "ssh: ", "remote: "):
            said = [line[len(prefix) :] for line in lines if line.startswith(prefix)]
            if said:
                # git often ends with a general line after the precise one.
                return said[0]
        return lines[-1] if lines else f"git ended with status {self.status}"


def is_commit(text: str) -> bool:
    """True for a full commit id: 40 lower-case hexadecimal digits."""
    return _COMMIT.fullmatch(text) is not None


def check_ref(name: str, what: str = "branch or commit") -> str:
    """Return ``name`` when it can only be a branch, tag or commit. Raises RequestError otherwise."""
    if (
        not _REF.fullmatch(name)
        or ".." in name
        or "@{" in name
        or name.endswith((".", ".lock"))
        or "./" in name
        or ".lock/" in name
        or len(name) > 200
    ):
        raise RequestError(
            f"{name!r} is not a {what}",
            hint="a name is letters, digits and . _ - + = @ in parts divided by /, and does not begin with - or .",
        )
    return name


def local_path(url: str) -> Path | None:
    """The folder that ``url`` means on this machine, or None for a host elsewhere."""
    if url.startswith("file://"):
        return Path(url[len("file://") :])
    if url.startswith(_SCHEMES):
        return None
    if url.startswith(("/", "./", "../", "~")) or url == "." or Path(url).is_dir():
        return Path(os.path.abspath(os.path.expanduser(url)))
    return None


def check_url(url: str) -> str:
    """Return ``url`` when git may fetch from it; a relative path is made absolute. Raises RequestError otherwise."""
    path = local_path(url)
    if url and not url.startswith("-") and url.isprintable() and "::" not in url:
        if path is not None:
            return url if url.startswith("file://") else str(path)
        if url.startswith(_SCHEMES) and not re.match(r"[a-z]+://(-|$|/)", url):
            return url
        if _SCP_LIKE.fullmatch(url) and not re.match(r"[a-z]+://", url):
            return url
    raise RequestError(
        f"{without_credentials(url)!r} is not a URL or path of a git repository",
        hint="give https://, ssh://, git://, http:// or file:// URLs, user@host:path, or an existing folder",
    )


@cache
def executable() -> str:
    """The path of git. Raises MachineError when it is absent or older than 2.32."""
    found = shutil.which("git")
    if found is None:
        raise MachineError("git is not installed", hint="install git 2.32 or newer")
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"(\d+)\.(\d+)", said)
    if version is None or (int(version[1]), int(version[2])) < _MINIMUM:
        raise MachineError(f"{found} is {said.strip() or 'no git'}", hint="install git 2.32 or newer")
    return found


def host_patience() -> float:
    """Seconds that a host may stay silent before it counts as not reached. Raises RequestError for a bad setting."""
    said = os.environ.get("BUILDER_GIT_PATIENCE", "").strip()
    if not said:
        return PATIENCE
    if re.fullmatch(r"\d{1,5}(\.\d{1,3})?", said) is None or float(said) == 0:
        raise RequestError(
            f"BUILDER_GIT_PATIENCE: {said!r} is no number of seconds",
            hint=f"give how long a git host may stay silent, as 120; without it, {PATIENCE:g}",
        )
    return float(said)


def passed_over() -> list[str]:
    """Settings of this user and machine by which their own git would have reached a host: no git of ours reads them.

    They are ``url.<base>.insteadOf`` and ``credential.helper`` (https://git-scm.com/docs/git-config), by name.
    """
    asked = [executable(), "config", "--name-only", "--get-regexp", r"^(url\..*\.insteadof|credential\.(.*\.)?helper)$"]
    try:
        done = subprocess.run(asked, cwd="/", capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return []
    # A URL may hold a password.
    names = (
        "credential.helper" if name.startswith("credential.") else "insteadOf" for name in done.stdout.splitlines()
    )
    return list(dict.fromkeys(names))


def passed_over_advice() -> str:
    """What to do about them; empty where there are none."""
    found = passed_over()
    if not found:
        return ""
    return (
        f"{', '.join(found)} of your git configuration is not read: name the URL with --sources, and use an ssh key or "
        "a URL that needs no login"
    )


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of every git process."""
    env = {name: os.environ[name] for name in _PASSED if name in os.environ}
    for proxy in _PROXIES:
        for name in (proxy, proxy.upper()):
            if name in os.environ:
                env[name] = os.environ[name]
    env.setdefault("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ConnectTimeout=30")
    env.update(
        LC_ALL="C",
        LANGUAGE="C",
        GIT_TERMINAL_PROMPT="0",
        GIT_ASKPASS="",
        SSH_ASKPASS="",
        GIT_CONFIG_NOSYSTEM="1",
        GIT_CONFIG_GLOBAL=os.devnull,
        GIT_ATTR_NOSYSTEM="1",
        GIT_ALLOW_PROTOCOL="file:git:http:https:ssh",
        # What an object is called is what it is; and none is fetched because a question needs it.
        GIT_NO_REPLACE_OBJECTS="1",
        GIT_NO_LAZY_FETCH="1",
    )
    # git takes whole seconds.
    settings = (*_SETTINGS, ("http.lowSpeedTime", str(math.ceil(host_patience()))))
    env["GIT_CONFIG_COUNT"] = str(len(settings))
    for number, (key, value) in enumerate(settings):
        env[f"GIT_CONFIG_KEY_{number}"] = key
        env[f"GIT_CONFIG_VALUE_{number}"] = value
    if extra:
        env.update(extra)
    return env


def run(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    git_dir: Path | None = None,
    env: Mapping[str, str] | None = None,
    data: bytes | None = None,
    timeout: float | None = None,
) -> bytes:
    """Run ``git`` with ``argv`` and return its standard output.

    ``data`` goes to its standard input, ``timeout`` is in seconds. Raises GitFailed for a status other
    than 0 and subprocess.TimeoutExpired.
    """
    chosen = [f"--git-dir={git_dir}"] if git_dir is not None else []
    process = subprocess.Popen(
        [executable(), *chosen, *argv],
        cwd=cwd, env=environment(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # Its helpers, which talk to hosts, have to end with it.
        start_new_session=timeout is not None,
    )  # fmt: skip
    with process, _ended_with(process) if timeout is not None else contextlib.nullcontext():
        output, said = process.communicate(data or b"", timeout)
    if process.returncode:
        raise GitFailed(argv, process.returncode, said.decode(errors="replace"))
    return output


@contextmanager
def _ended_with(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Whatever ends the block early ends git and the helpers it started.

    Raises KeyboardInterrupt when another thread ended them (see ``builder.core.cancellation``).
    """
    ended = Event()

    def signalled(number: signal.Signals) -> None:
        # Once it was waited for, its number may be another's.
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)

    def stop() -> None:
        # Asked first, so that git removes what it was writing; told when it is asked to end again.
        signalled(signal.SIGKILL if ended.is_set() else signal.SIGTERM)
        ended.set()

    try:
        with registered(stop, "git"):
            yield
    finally:
        signalled(signal.SIGTERM)
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            signalled(signal.SIGKILL)
            process.wait()
        if ended.is_set():
            raise KeyboardInterrupt


@contextmanager
def held(path: Path) -> Iterator[int]:
    """Hold the lock file ``path`` and give its descriptor, which ``stream`` hands on to git.

    So the lock outlives a builder that is killed for as long as its git still writes.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with patience() as rest:
            while not _taken(descriptor):
                rest(0.05)
        yield descriptor
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def stream(
    argv: Sequence[str],
    *,
    git_dir: Path,
    on_line: Callable[[str], None],
    on_silence: Callable[[float], None] = lambda _: None,
    lock: int,
) -> None:
    """Run ``git`` with ``argv``; each line of standard error goes to ``on_line`` as it comes.

    git redraws its progress with carriage returns: these end a line too. While nothing comes, ``on_silence`` is called
    each second with the seconds that it has lasted. Whatever ends the call early (Ctrl-C too, and what a callback
    raises) ends git and the helpers it started. Raises GitFailed for a status other than 0, and
    KeyboardInterrupt when another thread ended it (see ``builder.core.cancellation``).
    """
    process = subprocess.Popen(
        [executable(), f"--git-dir={git_dir}", *argv],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        pass_fds=(lock,),
    )
    kept: list[str] = []
    pending = b""
    assert process.stderr is not None  # noqa: S101 - a pipe was asked for
    with process.stderr as pipe, _ended_with(process):
        for chunk in _chunks(pipe.fileno(), on_silence):
            *lines, pending = re.split(rb"[\r\n]", pending + chunk)
            for line in filter(None, (part.decode(errors="replace").rstrip() for part in lines)):
                if not _PROGRESS.match(line):
                    kept = [*kept[-60:], line]
                on_line(line)
        status = process.wait()
    if pending:
        kept.append(pending.decode(errors="replace"))
    if status:
        raise GitFailed(argv, status, "\n".join(kept))


def _chunks(descriptor: int, on_silence: Callable[[float], None]) -> Iterator[bytes]:
    waiter = select.poll()
    waiter.register(descriptor, select.POLLIN)
    heard = time.monotonic()
    while True:
        if not waiter.poll(1000):
            on_silence(time.monotonic() - heard)
            continue
        chunk = os.read(descriptor, 65536)
        if not chunk:
            return
        heard = time.monotonic()
        yield chunk


_PROGRESS = re.compile(r"(remote: )?(Enumerating|Counting|Compressing|Receiving|Resolving|Checking|Updating)[^:]*: +\d")

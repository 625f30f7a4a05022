"""A compile cache that machines share: a Redis or HTTP server, for builds that see no network.

ccache asks its remote storage through a Unix socket, in a folder that the environment shows. This process listens at
it, understands the few commands that ccache uses, and asks the server itself. So a build reaches entries of the compile
cache and nothing else: no host, no other command of the server, no password. A server that does not answer costs speed,
never a build.

A build gets what its own level of trust and higher ones have stored (``builder.core.trust``), also what lies in the
local caches of higher levels, and stores at its own level alone. This process says which level it is; the build cannot.
"""

from __future__ import annotations

import os
import re
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from builder.compilation.remote_cache_servers import Remote, RemoteError, open_remote
from builder.core.errors import RequestError
from builder.core.trust import Trust
from builder.core.untrusted import UntrustedFolder, remove_tree
from builder.progress.reporter import Reporter

#: The variable that names the server, on each machine.
VARIABLE = "BUILDER_REMOTE_CACHE"
#: Bytes of the largest entry; torch_npu's largest objects pack to a fifth of that.
LARGEST = 32 << 20
#: Connections at once (each compiler keeps one), and entries on their way at once: a build may not take all threads
#: and all memory of this process.
CONNECTIONS, ENTRIES = 1024, 16
#: Seconds in which a command must arrive once it has begun.
PATIENCE = 60.0
#: Seconds for which a server that failed is not asked again.
REST = 30.0
#: Milliseconds that ccache waits for this process.
_CONNECT, _OPERATION = 1000, 30000
#: ccache's own names for its entries.
_KEY = re.compile(rb"ccache:[0-9a-z]{20,80}")
_SOCKET = "socket"

T = TypeVar("T")


class ProtocolError(Exception):
    """Something else than ccache speaks."""


class Stream(Protocol):
    """What commands are read from."""

    def readline(self, size: int, /) -> bytes:
        """One line of at most so many bytes."""

    def read(self, size: int, /) -> bytes:
        """So many bytes, or all that are left."""


class Served:
    """A shared cache that this process stands in for.

    ``hits`` and ``misses`` count entries that were asked for, of which ccache has two for each file; ``stored`` those
    that were added, ``taken`` those that came from local caches of a higher level.
    """

    def __init__(self, remote: Remote | None, trust: Trust, reporter: Reporter, *, listens: bool = True) -> None:
        self.hits = self.misses = self.stored = self.taken = 0
        self._remote = remote
        self._trust = trust
        self._listens = listens
        self._above: list[LocalStore] = []
        self._reporter = reporter
        self._lock = threading.Lock()
        self._rests_until = 0.0
        self._warned = False

    def read_also(self, folders: Sequence[Path]) -> None:
        """Answer also from the local caches in ``folders``, the most trusted first; absent ones are passed over."""
        if self._listens:
            self._above = list(filter(None, map(LocalStore.open, folders)))

    def variables(self, folder: str) -> dict[str, str]:
        """Variables that point ccache at it; ``folder`` is that of the socket as the compile sees it."""
        if self._remote is None and not self._above:
            return {}
        attributes = [f"connect-timeout={_CONNECT}", f"operation-timeout={_OPERATION}"]
        attributes += [] if self._remote is not None else ["read-only=true"]
        return {"CCACHE_REMOTE_STORAGE": f"redis+unix:{folder}/{_SOCKET}|{'|'.join(attributes)}"}

    def answer(self, command: list[bytes]) -> bytes:
        """The reply to one command, in the server's protocol. Raises ProtocolError for what ccache never says."""
        name, arguments = command[0].upper(), command[1:]
        if name in (b"PING", b"SELECT"):
            return b"+OK\r\n"
        if not arguments or not _KEY.fullmatch(arguments[0]):
            raise ProtocolError
        key = arguments[0].decode().partition(":")[2]
        if name == b"GET" and len(arguments) == 1:
            value = self._get(key)
            return b"$-1\r\n" if value is None else b"$%d\r\n%b\r\n" % (len(value), value)
        if name == b"EXISTS" and len(arguments) == 1:
            # Of a server that cannot be asked, an entry that is there already: nothing is sent in vain.
            return b":1\r\n" if self._ask(lambda remote: remote.has(_at(self._trust, key)), True) else b":0\r\n"
        if name == b"SET" and len(arguments) == 2:
            self._put(key, arguments[1])
            return b"+OK\r\n"
        if name == b"DEL" and len(arguments) == 1:
            # A build may add to what others rely on; it has no business removing it.
            return b":0\r\n"
        raise ProtocolError

    def conclude(self) -> None:
        """Say what it was good for, where anything was asked of it."""
        for store in self._above:
            store.close()
        if self.taken:
            self._reporter.message(f"{self.taken} entries came from compile caches that are trusted more")
        asked = self.hits + self.misses
        if self._remote is not None and asked:
            self._reporter.message(
                f"the remote compile cache {self._remote.place} had {self.hits} of {asked} entries, "
                f"and was given {self.stored}"
            )

    def _get(self, key: str) -> bytes | None:
        for store in self._above:
            if (found := store.get(key, LARGEST)) is not None:
                with self._lock:
                    self.taken += 1
                return found
        names = [_at(level, key) for level in (*self._trust.higher, self._trust)]

        def first(remote: Remote) -> bytes | None:
            found = (remote.get(name, LARGEST) for name in names)
            return next((value for value in found if value is not None), None)

        value = self._ask(first, None)
        with self._lock:
            self.hits += value is not None
            self.misses += value is None
        return value

    def _put(self, key: str, value: bytes) -> None:
        def put(remote: Remote) -> bool:
            remote.put(_at(self._trust, key), value)
            return True

        if self._ask(put, False):
            with self._lock:
                self.stored += 1

    def _ask(self, question: Callable[[Remote], T], otherwise: T) -> T:
        if self._remote is None or time.monotonic() < self._rests_until:
            return otherwise
        try:
            return question(self._remote)
        except RemoteError as error:
            with self._lock:
                self._rests_until = time.monotonic() + REST
                first, self._warned = not self._warned, True
            if first:
                self._reporter.warning(
                    f"the remote compile cache {self._remote.place} fails: {error}; compiling without it for now"
                )
            return otherwise


def check(env: Mapping[str, str] | None = None) -> None:
    """Raise RequestError where VARIABLE names no shared cache, before anything is built. Nothing is asked yet."""
    env = os.environ if env is None else env
    if url := env.get(VARIABLE):
        try:
            open_remote(url, env).close()
        except RequestError as error:
            raise RequestError(f"{VARIABLE}: {error.message}", hint=error.hint) from None


def _at(trust: Trust, key: str) -> str:
    """The name of an entry on a server: flat, so that a plain web server need not make folders."""
    return f"{trust.value}-{key}"


@contextmanager
def served(
    url: str | None, trust: Trust, folder: Path | None, reporter: Reporter, env: Mapping[str, str] | None = None
) -> Iterator[Served]:
    """Stand in for the shared cache at ``url`` (None: for none) while the block runs, for a build of level ``trust``.

    The socket is in ``folder``, which is made and removed; None where the build is to see none. A password and a user
    come from ``env`` (by default this process's environment). Raises RequestError for what is no URL of a shared cache.
    """
    remote = open_remote(url, os.environ if env is None else env) if url else None
    if folder is None:
        yield Served(None, trust, reporter, listens=False)
        return
    standing = Served(remote, trust, reporter)
    remove_tree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Nobody else of this machine looks in; an environment gives the folder to the user that compiles.
    folder.mkdir(mode=0o700)
    try:
        with _Server(folder, standing) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
            thread.start()
            try:
                yield standing
            finally:
                server.shutdown()
                thread.join()
                standing.conclude()
    finally:
        remove_tree(folder)
        if remote is not None:
            remote.close()


class LocalStore:
    """A local compile cache that is read and not written: ccache keeps the very entries that it sends to a server.

    An entry's file is named by its key, in two to four folders of one character each
    (https://ccache.dev/manual/4.14.html, "Cache directory structure").
    """

    _LEVELS = (2, 3, 4)

    def __init__(self, folder: UntrustedFolder) -> None:
        self._folder = folder

    @classmethod
    def open(cls, folder: Path) -> LocalStore | None:
        """Open the compile cache in ``folder``; return None where the folder is absent."""
        try:
            return cls(UntrustedFolder(folder))
        except OSError:
            return None

    def get(self, key: str, most: int) -> bytes | None:
        """Return the entry ``key``, or None where it is absent or has more than ``most`` bytes."""
        for level in self._LEVELS:
            with suppress(OSError):
                return self._folder.read("/".join([*key[:level], key[level:]]), most)
        return None

    def close(self) -> None:
        """Let go of the folder."""
        self._folder.close()


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, folder: Path, standing: Served) -> None:
        self.standing = standing
        self.entries = threading.BoundedSemaphore(ENTRIES)
        self._places = threading.BoundedSemaphore(CONNECTIONS)
        with _short(folder) as place:
            super().__init__(f"{place}/{_SOCKET}", _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A compiler that was killed in the middle of a word is no news."""


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        with suppress(OSError):
            while True:
                # Between two commands lies a whole compile.
                self.connection.settimeout(None)
                first = self.rfile.readline(64)
                if not first:
                    return
                self.connection.settimeout(PATIENCE)
                with self.server.entries:
                    try:
                        answer = self.server.standing.answer(read_command(first, self.rfile))
                    except ProtocolError:
                        self.wfile.write(b"-ERR not a command of a compile cache\r\n")
                        return
                    self.wfile.write(answer)


def read_command(first: bytes, stream: Stream) -> list[bytes]:
    """The command whose first line was read: an array of strings, as Redis clients send it.

    Raises ProtocolError for anything else, and for more than one entry of a cache can be.
    """
    words = []
    for _ in range(_number(first, b"*", 3)):
        length = _number(stream.readline(64), b"$", LARGEST)
        data = stream.read(length + 2)
        if len(data) != length + 2 or not data.endswith(b"\r\n"):
            raise ProtocolError
        words.append(data[:-2])
    if not words:
        raise ProtocolError
    return words


def _number(line: bytes, mark: bytes, most: int) -> int:
    digits = line[1:-2]
    if line[:1] != mark or line[-2:] != b"\r\n" or not digits.isdigit() or int(digits) > most:
        raise ProtocolError
    return int(digits)


@contextmanager
def _short(folder: Path) -> Iterator[str]:
    """A short path of a folder: a socket's has at most 107 bytes, that of a workspace may have more."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)

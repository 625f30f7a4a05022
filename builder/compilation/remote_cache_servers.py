"""Servers that keep a shared compile cache: Redis and HTTP, each with the three questions that ccache asks."""

from __future__ import annotations

import re
import socket
import ssl
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, BinaryIO, Protocol
from urllib.parse import SplitResult, urlsplit

from builder.core.errors import RequestError

#: Seconds to connect, and to wait for an answer.
CONNECT, OPERATION = 2.0, 20.0
USER_VARIABLE, PASSWORD_VARIABLE = "BUILDER_REMOTE_CACHE_USER", "BUILDER_REMOTE_CACHE_PASSWORD"
_PORTS = {"redis": 6379, "rediss": 6379, "http": 80, "https": 443}


class RemoteError(Exception):
    """The server did not answer, or not as a cache does; the text says how, without secrets."""


class TooLargeError(Exception):
    """An answer is larger than an entry may be. The connection it came on is of no use any more."""


class Remote(Protocol):
    """A server. Several threads ask at once; all methods raise RemoteError."""

    #: The server in words, without secrets.
    place: str

    def get(self, key: str, most: int) -> bytes | None:
        """An entry of at most ``most`` bytes; None where there is none, or a larger one."""

    def has(self, key: str) -> bool:
        """Whether there is such an entry."""

    def put(self, key: str, value: bytes) -> None:
        """Keep an entry."""

    def close(self) -> None:
        """Let go of all connections."""


def open_remote(url: str, env: Mapping[str, str]) -> Remote:
    """The server at ``redis://host[:port][/database]``, ``rediss://``, ``http://host[:port]/path`` or ``https://``.

    Nothing is asked yet. Raises RequestError for anything else, and for a URL that holds a password.
    """
    example = "it is redis://host:6379, redis://host/1 or http://host/path, with rediss:// and https:// for TLS"
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        raise RequestError("the remote cache is not given by a URL", hint=example) from None
    if "@" in url:
        # Also where it stands in no place of its own, as in redis:secret@host.
        shown = f" {parts.scheme}://***@{parts.hostname}" if "@" in parts.netloc else ""
        raise RequestError(
            f"the URL of the remote cache{shown} holds a password",
            hint=f"the password comes from {PASSWORD_VARIABLE}, a user from {USER_VARIABLE}",
        )
    path = parts.path.strip("/")
    wrong = parts.scheme not in _PORTS or not parts.hostname or parts.query or parts.fragment or not url.isprintable()
    if wrong or (parts.scheme.startswith("redis") and path and not re.fullmatch(r"[0-9]{1,5}", path)):
        shown = parts._replace(query="", fragment="").geturl()  # a query may hold a secret
        raise RequestError(f"{shown!r} is not the URL of a remote cache", hint=example)
    user, password = env.get(USER_VARIABLE, ""), env.get(PASSWORD_VARIABLE, "")
    if parts.scheme.startswith("redis"):
        return RedisRemote(parts, port, int(path or 0), user, password)
    return HttpRemote(url.rstrip("/"), user, password)


class RedisRemote:
    """A Redis server, or one that speaks like it."""

    def __init__(self, parts: SplitResult, port: int, database: int, user: str, password: str) -> None:
        self._host, self._port = str(parts.hostname), port
        self._tls = ssl.create_default_context() if parts.scheme == "rediss" else None
        self.place = f"{parts.scheme}://{parts.netloc}{parts.path}"
        self._greetings: list[tuple[str, ...]] = []
        if password:
            self._greetings.append(("AUTH", user, password) if user else ("AUTH", password))
        if database:
            self._greetings.append(("SELECT", str(database)))
        self._idle: deque[_Connection] = deque()

    def get(self, key: str, most: int) -> bytes | None:
        """See Remote."""
        try:
            value = self._ask(b"GET", _name(key), most=most)
        except TooLargeError:
            return None
        if isinstance(value, int):
            raise RemoteError("it does not answer as Redis does")
        return value

    def has(self, key: str) -> bool:
        """See Remote."""
        return self._ask(b"EXISTS", _name(key)) == 1

    def put(self, key: str, value: bytes) -> None:
        """See Remote."""
        self._ask(b"SET", _name(key), value)

    def close(self) -> None:
        """See Remote."""
        while self._idle:
            self._idle.pop().close()

    def _ask(self, *words: bytes, most: int = 4096) -> int | bytes | None:
        while True:
            try:
                connection, fresh = self._idle.pop(), False
            except IndexError:
                connection, fresh = self._connect(), True
            try:
                answer = connection.ask(*words, most=most)
            except (OSError, ValueError) as error:
                connection.close()
                # One that lay idle may have been closed by the server meanwhile.
                if fresh or isinstance(error, TimeoutError):
                    raise RemoteError(_reason(error)) from None
                continue
            except (RemoteError, TooLargeError):
                connection.close()
                raise
            self._idle.append(connection)
            return answer

    def _connect(self) -> _Connection:
        try:
            raw = socket.create_connection((self._host, self._port), timeout=CONNECT)
            connection = _Connection(
                raw if self._tls is None else self._tls.wrap_socket(raw, server_hostname=self._host)
            )
            try:
                for greeting in self._greetings:
                    connection.ask(*(word.encode() for word in greeting))
            except BaseException:
                connection.close()
                raise
        except (OSError, ValueError) as error:
            raise RemoteError(_reason(error)) from None
        return connection


class _Connection:
    """One connection to Redis."""

    def __init__(self, raw: socket.socket) -> None:
        raw.settimeout(OPERATION)
        self._raw = raw
        self._stream: BinaryIO = raw.makefile("rb")

    def ask(self, *words: bytes, most: int = 4096) -> int | bytes | None:
        """The answer to one command, of at most ``most`` bytes.

        Raises RemoteError where the server refuses, TooLargeError, OSError, and ValueError for no answer of Redis.
        """
        parts = [b"*%d\r\n" % len(words)]
        for word in words:
            parts += [b"$%d\r\n" % len(word), word, b"\r\n"]
        self._raw.sendall(b"".join(parts))
        line = self._stream.readline(4096)
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError("the connection ended")
        mark, rest = line[:1], line[1:-2]
        if mark == b"+":
            return rest
        if mark == b":":
            return int(rest)
        if mark == b"$":
            length = int(rest)
            if length < 0:
                return None
            if length > most:
                raise TooLargeError
            data = self._stream.read(length + 2)
            if len(data) != length + 2:
                raise ConnectionResetError("the connection ended")
            return data[:-2]
        if mark != b"-":
            raise RemoteError("it does not answer as Redis does")
        # The first word is a code; what follows may quote what was sent.
        raise RemoteError(f"it refuses {words[0].decode()}: {rest.split(b' ')[0].decode(errors='replace')}")

    def close(self) -> None:
        """Close it."""
        with suppress(OSError):
            self._stream.close()
        self._raw.close()


class HttpRemote:
    """A server that takes GET, HEAD and PUT below a URL; one file for each entry, named by its key."""

    def __init__(self, url: str, user: str, password: str) -> None:
        import requests
        from requests.adapters import HTTPAdapter

        self.place = self._url = url
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=32))
        if user:
            self._session.auth = (user, password)
        elif password:
            self._session.headers["Authorization"] = f"Bearer {password}"

    def get(self, key: str, most: int) -> bytes | None:
        """See Remote."""
        with self._ask("GET", key, stream=True) as response:
            if response.status_code == 404:
                return None
            data = bytearray()
            for chunk in response.iter_content(1 << 20):
                data += chunk
                if len(data) > most:
                    return None
            return bytes(data)

    def has(self, key: str) -> bool:
        """See Remote."""
        with self._ask("HEAD", key) as response:
            return bool(response.status_code != 404)

    def put(self, key: str, value: bytes) -> None:
        """See Remote."""
        self._ask("PUT", key, data=value).close()

    def close(self) -> None:
        """See Remote."""
        self._session.close()

    def _ask(self, method: str, key: str, **more: Any) -> Any:
        import requests

        try:
            response = self._session.request(
                method,
                f"{self._url}/{key}",
                timeout=(CONNECT, OPERATION),
                allow_redirects=False,
                **more,
            )
        except requests.RequestException as error:
            raise RemoteError(type(error).__name__) from None
        if response.status_code not in (200, 201, 204, 404) or (method == "PUT" and response.status_code == 404):
            response.close()
            raise RemoteError(f"it answers {method} with {response.status_code}")
        return response


def _name(key: str) -> bytes:
    """An entry's name among all that a Redis server keeps."""
    return f"ccache:{key}".encode()


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)

"""Stand-ins of container engines on loopback sockets: one plays what a test says, one passes on to a real engine."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingMixIn, UnixStreamServer
from typing import Any

#: What a stand-in answers: a status with a JSON body, bytes that are sent as they are, or None: nothing, ever.
Answer = tuple[int, Any] | bytes | None
#: Called with method, path without version, and the server's own answer.
Play = Callable[[str, str], Answer]

REAL = Path("/var/run/docker.sock")


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path: Path, handler: type[StreamRequestHandler]) -> None:
        super().__init__(str(path), handler)
        self._taken: list[socket.socket] = []
        self.ended = threading.Event()

    def get_request(self) -> tuple[socket.socket, str]:
        taken, _ = super().get_request()
        self._taken.append(taken)
        return taken, "unix"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up as they like."""

    def end(self) -> None:
        """As an engine ends: nobody is listened to any more, and who is connected is cut off."""
        self.ended.set()
        self.shutdown()
        for taken in self._taken:
            with suppress(OSError):
                taken.shutdown(socket.SHUT_RDWR)
        self.server_close()


class Standin:
    """An engine that answers what ``play`` says, and counts what it was asked. It can be stopped and started."""

    def __init__(self, folder: Path, play: Play | None = None) -> None:
        self.socket = folder / "engine.sock"
        self.env = {"DOCKER_HOST": f"unix://{self.socket}"}
        self.asked: Counter[str] = Counter()
        #: Versions that requests were made with.
        self.versions: Counter[str] = Counter()
        self.play = play or plain
        self._server: _Server | None = None

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        self._server = _Server(self.socket, _handler_of(self))
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.end()
            self._server = None

    def wait_ended(self) -> None:
        server = self._server
        if server is not None:
            server.ended.wait(300)


def plain(method: str, path: str) -> Answer:
    """What an engine of a current version says of itself."""
    said: dict[str, Any] = {
        "/_ping": "OK",
        "/version": {"Version": "7.7", "ApiVersion": "1.43", "MinAPIVersion": "1.24"},
        "/info": {"ServerVersion": "7.7", "Architecture": "x86_64"},
    }
    return (200, said[path]) if path in said else (404, {"message": f"no such thing: {path}"})


def _handler_of(standin: Standin) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            version, path = re.fullmatch(r"(?:/v([0-9.]+))?(/[^?]*).*", self.path).groups()  # type: ignore[union-attr]
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            standin.asked[path] += 1
            if version:
                standin.versions[version] += 1
            answer = standin.play(self.command, path)
            if answer is None:
                standin.wait_ended()
                self.close_connection = True
            elif isinstance(answer, bytes):
                self.wfile.write(answer)
                self.close_connection = True
            else:
                status, said = answer
                body = said.encode() if isinstance(said, str) else json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        do_GET = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815

        def address_string(self) -> str:
            return "unix"

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


@contextmanager
def newer_engine(
    path: Path, *, real: Path = REAL, least: int = 44, highest: int = 52, silent: str | None = None
) -> Iterator[str]:
    """A passage to the engine at ``real`` that speaks API 1.``least`` to 1.``highest`` only, as Docker Engine 29 does.

    Yields its DOCKER_HOST. What it lets through reaches the real engine without a version, hijacked streams too. The
    answers to requests whose path matches ``silent`` never come back.
    """

    class Passage(StreamRequestHandler):
        def handle(self) -> None:
            start = self.rfile.readline().decode("latin-1")
            lines = []
            while (line := self.rfile.readline()) not in (b"\r\n", b"\n", b""):
                lines.append(line)
            if not start:
                return
            method, target, protocol = start.split()
            asked = re.match(r"/v1\.(\d+)(/.*)", target)
            if asked and not least <= int(asked[1]) <= highest:
                self._refuse(int(asked[1]))
                return
            target = asked[2] if asked else target
            hijack = any(line.lower().startswith(b"upgrade:") for line in lines)
            if not hijack:
                # So that every request is judged, also of a client that keeps its connections.
                lines = [line for line in lines if not line.lower().startswith(b"connection:")]
                lines.append(b"Connection: close\r\n")
            with socket.socket(socket.AF_UNIX) as engine:
                engine.connect(str(real))
                engine.sendall(f"{method} {target} {protocol}\r\n".encode("latin-1") + b"".join(lines) + b"\r\n")
                if method == "GET" and target.partition("?")[0] == "/version":
                    self._version(engine)
                    return
                threading.Thread(target=self._send, args=(engine,), daemon=True).start()
                kept_back = silent is not None and re.match(silent, target)
                while data := engine.recv(1 << 16):
                    if not kept_back:
                        self.connection.sendall(data)
                if kept_back:
                    server.ended.wait(300)
                with suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)

        def _send(self, engine: socket.socket) -> None:
            # What stands in the buffer first, then as it comes.
            with suppress(OSError, ValueError):
                while data := self.rfile.read1(1 << 16):
                    engine.sendall(data)
                engine.shutdown(socket.SHUT_WR)

        def _refuse(self, version: int) -> None:
            bound = (
                f"too old. Minimum supported API version is 1.{least}, please upgrade your client to a newer version"
            )
            if version > highest:
                bound = f"too new. Maximum supported API version is 1.{highest}"
            self._answer(400, {"message": f"client version 1.{version} is {bound}"})

        def _version(self, engine: socket.socket) -> None:
            reply = b""
            while data := engine.recv(1 << 16):
                reply += data
            said = json.loads(re.search(rb"\{.*\}", reply, flags=re.S)[0])  # type: ignore[index]
            self._answer(200, {**said, "ApiVersion": f"1.{highest}", "MinAPIVersion": f"1.{least}"})

        def _answer(self, status: int, said: Any) -> None:
            body = json.dumps(said).encode()
            head = f"HTTP/1.1 {status} Answer\r\nContent-Type: application/json\r\nApi-Version: 1.{highest}\r\n"
            head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            self.connection.sendall(head.encode() + body)

    server = _Server(path, Passage)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"unix://{path}"
    finally:
        server.end()
        path.unlink(missing_ok=True)

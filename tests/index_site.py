"""A package index on loopback and small wheels for it, for tests of what reads released wheels."""

from __future__ import annotations

import contextlib
import hashlib
import html
import http.server
import io
import json
import os
import ssl
import subprocess
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from builder.wheels.upstream_wheels import LIBRARY

NAME = "torch_npu-2.5.1.post1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"
COMMIT = "5f020c4e6bbe114ce7a38c985da561e399b9c1c4"
GCC = "GCC: (GNU) 9.3.1 20200408 (Red Hat 9.3.1-2)"
MOLD = "mold 2.32.1 (compatible with GNU ld)"
#: torch's function that every library of torch_npu needs, as the old and the new C++ ABI name it.
OLD = "_ZN3c106detail14torchCheckFailEPKcS2_jRKSs"
NEW = "_ZN3c106detail14torchCheckFailEPKcS2_jRKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"
#: What a toolset's libstdc++ leaves to be found, whatever the ABI.
STRAY = "_ZNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEE9_M_appendEPKcm"


def library(folder: Path, *needed: str, comments: tuple[str, ...] = (GCC, MOLD)) -> bytes:
    """A shared library that needs these functions and carries these entries in ``.comment``."""
    lines = [f'extern void f{i}(void) __asm__("{name}");' for i, name in enumerate(needed)]
    lines += ["void use(void) {", *(f"f{i}();" for i in range(len(needed))), "}"]
    lines += [f'__asm__(".ident \\"{text}\\"");' for text in comments]
    (folder / "x.c").write_text("\n".join(lines))
    options = ["-shared", "-fPIC", "-nostdlib", "-fno-ident", "-fno-stack-protector"]
    subprocess.run(["cc", *options, "-o", "x.so", "x.c"], cwd=folder, check=True)
    return (folder / "x.so").read_bytes()


def wheel(content: bytes | None, **members: str | bytes) -> bytes:
    """A wheel around a library; ``members`` replace METADATA, version or other files."""
    info = "torch_npu-2.5.1.post1.dist-info"
    files: dict[str, str | bytes] = {
        "torch_npu/__init__.py": "",
        "torch_npu/version.py": f"__version__ = '2.5.1.post1'\ngit_version = '{COMMIT}'\n",
        "torch_npu/lib/libnpu_profiler.so": os.urandom(1 << 20),
        **({LIBRARY: content} if content is not None else {}),
        "torch_npu/lib/libop_plugin_atb.so": os.urandom(1 << 20),
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: torch_npu\nVersion: 2.5.1.post1\n"
        "Requires-Dist: torch (==2.5.1+cpu)\nRequires-Dist: PyYAML ; extra == 'yaml'\n",
        f"{info}/RECORD": "".join(f"torch_npu/include/{i}.h,,\n" for i in range(2000)),
    }
    files |= {name.replace("METADATA", f"{info}/METADATA"): value for name, value in members.items()}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in files.items():
            archive.writestr(name, value)
    return packed.getvalue()


def torch_wheel(version: str) -> bytes:
    """A torch for every Python, with enough in it to be cut in the middle."""
    info = f"torch-{version}.dist-info"
    files: dict[str, bytes] = {
        "torch/__init__.py": f"__version__ = '{version}'\ndef compiled_with_cxx11_abi(): return False\n".encode(),
        "torch/lib/libtorch.so": os.urandom(6 << 20),
        "torchgen/__init__.py": b"",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"]).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as wheel:
        for name, data in files.items():
            wheel.writestr(name, data)
    return packed.getvalue()


class Site(http.server.ThreadingHTTPServer):
    """An index and its files, all of them under /simple/ or /files/, and what was asked of them."""

    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Clients that leave early are part of some tests."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), Handler)
        self.host = host
        #: Set when the site closes: files that stall end then.
        self.closing = threading.Event()
        self.files: dict[str, bytes] = {}
        self.entries: list[dict[str, Any]] = []
        self.page: tuple[str, bytes] | None = None
        self.json = False
        self.ranges = True
        self.faults: dict[str, list[int | str]] = {}
        self.delays: dict[str, float] = {}
        self.asked: list[tuple[str, str]] = []
        self.logins: set[str | None] = set()
        self.encodings: dict[str, str] = {}
        self.sent = 0
        self.scheme = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{self.server_port}/simple/"

    def add(self, name: str, content: bytes, *, sha256: str | None = "", url: str = "") -> str:
        """List a file, by default with its own SHA-256; None lists it without."""
        path = f"/files/{name}"
        self.files[path] = content
        digest = hashlib.sha256(content).hexdigest() if sha256 == "" else sha256
        entry = {"filename": name, "url": url or f"../..{path}", "hashes": {"sha256": digest} if digest else {}}
        self.entries.append({**entry, "upload-time": "2026-03-01T10:20:30.5Z"})
        return path

    def listing(self) -> tuple[str, bytes]:
        """The project page in the wanted form."""
        if self.page is not None:
            return self.page
        if self.json:
            page = {"meta": {"api-version": "1.9"}, "name": "torch-npu", "versions": [], "files": self.entries}
            return "application/vnd.pypi.simple.v1+json", json.dumps(page).encode()
        links = ""
        for entry in self.entries:
            digest = entry["hashes"].get("sha256")
            target = entry["url"] + (f"#sha256={digest}" if digest else "")
            links += f'<a href="{html.escape(target)}">{entry["filename"]}</a>\n'
        return "text/html", f"<!DOCTYPE html><html><body>{links}</body></html>".encode()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves a Site."""

    protocol_version = "HTTP/1.1"
    server: Site

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        site, path = self.server, unquote(urlsplit(self.path).path)
        wanted = self.headers.get("Range", "") if site.ranges else ""
        site.asked.append((path, self.headers.get("Range", "")))
        site.encodings[path] = self.headers.get("Accept-Encoding", "")
        site.logins.add(self.headers.get("Authorization"))
        time.sleep(site.delays.get(path, 0))
        faults = site.faults.get(path, [])
        fault = (faults.pop(0) if len(faults) > 1 else faults[0]) if faults else 200
        if isinstance(fault, str) and fault not in ("cut", "stall"):
            self.answer(302, b"", {"Location": fault})
        elif fault not in (200, "cut", "stall"):
            self.answer(int(fault), b"no")
        elif path.startswith("/simple/torch"):
            kind, page = site.listing()
            self.answer(200, page, {"Content-Type": kind})
        elif path not in site.files:
            self.answer(404, b"no")
        else:
            self.file(site.files[path], wanted, cut=fault in ("cut", "stall"), stall=fault == "stall")

    def file(self, content: bytes, wanted: str, *, cut: bool, stall: bool = False) -> None:
        """A whole file or a range of it; ``cut`` breaks off in its middle, ``stall`` waits there for ever."""
        if not wanted:
            self.answer(200, content, cut=cut)
            if stall:
                with contextlib.suppress(OSError):
                    self.wfile.flush()
                self.server.closing.wait()
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start = int(first) if first else max(0, len(content) - int(last))
        end = int(last) if first and last else len(content) - 1
        place = f"bytes {start}-{end}/{len(content)}"
        self.answer(206, content[start : end + 1], {"Content-Range": place}, cut=cut)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        body = body[: len(body) // 2] if cut else body
        self.close_connection = self.close_connection or cut
        with contextlib.suppress(OSError):
            self.wfile.write(body)
            self.server.sent += len(body)


@contextlib.contextmanager
def serving(certificate: Path | None = None, host: str = "127.0.0.1") -> Iterator[Site]:
    """A site that answers for the length of the block; over TLS with the key and certificate in a PEM file.

    ``host`` is an address of this machine; containers that are being made reach the engine's bridge.
    """
    with Site(host) as site:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            site.socket = context.wrap_socket(site.socket, server_side=True)
            site.scheme = "https"
        thread = threading.Thread(target=site.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield site
        finally:
            site.closing.set()
            site.shutdown()
            thread.join()

"""Base images that behave like those that the matrix names, and package servers for them, on this machine.

``tests/bases/enterprise.sh`` makes the images and says what they have and lack.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

from support import bridge_address, making_images, unavailable

from builder.environments.docker_engine import DockerEngine
from builder.environments.images import has_image

Release = Literal["7", "8"]
Variant = Literal["full", "bare", "nothing"]
#: How a repository's packages are signed: by the key that it names, by another one, or not at all.
Signature = Literal["good", "bad", "none"]

REPOSITORY = "torch-npu-builder/test-base"
#: The Pythons that all of these images have.
PYTHONS = ("3.9", "3.11")
#: The compiler that PATH of each release's images leads to, as it names itself.
GCC = {"7": "9.3.0", "8": "11.3.0"}
TOOLSET = {"7": "devtoolset-9", "8": "gcc-toolset-11"}
#: The package manager that can be found in them.
MANAGER = {"7": "yum", "8": "dnf"}
#: What the package servers offer.
PACKAGES = ("make", "git", "xz", "patch")
_SCRIPT = Path(__file__).with_name("bases") / "enterprise.sh"
_KEY = "RPM-GPG-KEY-test"


def enterprise_base(engine: DockerEngine, release: Release = "8", variant: Variant = "full") -> str:
    """The name of an image that is CentOS Linux 7 or AlmaLinux 8 for a builder, made where it is absent.

    ``full`` has the tools that real images bring, ``bare`` lacks make, git, xz, patch, patchelf, cmake and auditwheel,
    ``nothing`` lacks the package manager, too. The repositories of all of them are on hosts that do not resolve.
    """
    name = f"{REPOSITORY}:el{release}-{variant}"
    with making_images():
        if has_image(engine, name) and has_image(engine, f"{REPOSITORY}:packages"):
            return name
        if os.geteuid() != 0 or shutil.which("debootstrap") is None:
            unavailable(f"there is no image {name}, and only root with debootstrap can make it")
        subprocess.run(["sh", str(_SCRIPT), "--release", release, "--if-absent"], check=True)
    return name


@dataclass
class PackageServer:
    """A package server on the engine's bridge. ``requests`` are the paths that were asked for, in order."""

    url: str
    requests: list[str] = field(default_factory=list)
    #: The public key that it publishes, in ASCII.
    key: bytes = b""

    def configuration(self, name: str = "test") -> str:
        """The repository file (``/etc/yum.repos.d/*.repo``) that names this server, with its key."""
        return (
            f"[{name}]\nname={name}\nbaseurl={self.url}/\nenabled=1\ngpgcheck=1\ngpgkey={self.url}/{_KEY}\n"
            "timeout=30\nretries=1\n"
        )


@contextlib.contextmanager
def package_server(
    engine: DockerEngine,
    signature: Signature = "good",
    *,
    names: tuple[str, ...] = PACKAGES,
    stalls: bool = False,
    layout: str = "",
) -> Iterator[PackageServer]:
    """A server with rpms of the packages ``names``, which containers of the default network reach.

    With ``stalls`` it takes connections and requests and never answers. ``layout`` is the folder on it in which the
    repository stands.
    """
    with tempfile.TemporaryDirectory(prefix="packages.") as folder:
        place = Path(folder, layout)
        place.mkdir(parents=True, exist_ok=True)
        if not stalls:
            _make_repository(engine, place, signature, names)
        with serving(engine, Path(folder), stalls=stalls) as server:
            server.key = (place / _KEY).read_bytes() if not stalls else b""
            yield server


@contextlib.contextmanager
def serving(engine: DockerEngine, folder: Path, *, stalls: bool = False) -> Iterator[PackageServer]:
    """Serve ``folder`` by HTTP to containers of the default network."""
    ended = threading.Event()
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def send_head(self) -> Any:
            asked.append(self.path)
            if stalls:
                ended.wait()
                return None
            return super().send_head()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on the terminal."""

    httpd = ThreadingHTTPServer((bridge_address(engine), 0), functools.partial(Handler, directory=str(folder)))
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, name="package server", daemon=True)
    thread.start()
    try:
        yield PackageServer(f"http://{httpd.server_address[0]!s}:{httpd.server_port}", asked)
    finally:
        ended.set()
        httpd.shutdown()
        httpd.server_close()
        thread.join()


@contextlib.contextmanager
def with_repository(engine: DockerEngine, base: str, configuration: str, key: bytes = b"") -> Iterator[str]:
    """The name of an image like ``base`` whose only repository is that of ``configuration``; removed at the end.

    ``key`` is one that its packages may be signed with, beside those that the configuration names.
    """
    with _container(engine, base) as container:
        with tarfile.open(fileobj=io.BytesIO(_archive(container, "/etc/yum.repos.d"))) as archive:
            files = [Path(name).name for name in archive.getnames() if name.endswith(".repo")]
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name, text in (*((name, "") for name in files), ("test.repo", configuration)):
                member = tarfile.TarInfo(name)
                member.size = len(text.encode())
                archive.addfile(member, io.BytesIO(text.encode()))
        container.put_archive("/etc/yum.repos.d", stream.getvalue())
        if key:
            stream = io.BytesIO()
            with tarfile.open(fileobj=stream, mode="w") as archive:
                member = tarfile.TarInfo(f"etc/pki/rpm-gpg/{_KEY}")
                member.size, member.mode = len(key), 0o644
                archive.addfile(member, io.BytesIO(key))
            container.put_archive("/", stream.getvalue())
        tag = f"{base.rpartition(':')[2]}-{hashlib.sha256(configuration.encode() + key).hexdigest()[:12]}"
        container.commit(REPOSITORY, tag)
    try:
        yield f"{REPOSITORY}:{tag}"
    finally:
        engine.client.images.remove(f"{REPOSITORY}:{tag}", force=True)


@contextlib.contextmanager
def _container(engine: DockerEngine, image: str) -> Iterator[Any]:
    """A container that never runs: a way to files of an image."""
    container = engine.client.containers.create(image, ["true"])
    try:
        yield container
    finally:
        container.remove(force=True)


def _archive(container: Any, path: str) -> bytes:
    """A folder of a container, as a tar archive."""
    # To its end, here: the engine removes no container whose files are being read.
    content, _ = container.get_archive(path)
    return b"".join(content)


def _make_repository(engine: DockerEngine, folder: Path, signature: Signature, names: tuple[str, ...]) -> None:
    missing = [program for program in ("rpmsign", "createrepo_c", "gpg") if shutil.which(program) is None]
    if missing:
        unavailable(f"a package server needs {', '.join(missing)}: apt-get install rpm createrepo-c gnupg")
    enterprise_base(engine)
    with _container(engine, f"{REPOSITORY}:packages") as container:
        content = _archive(container, "/packages")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive.getmembers():
            package = Path(member.name).name
            stream = archive.extractfile(member)
            if stream is not None and package.rsplit("-", 2)[0] in names:
                (folder / package).write_bytes(stream.read())
    rpms = sorted(str(path) for path in folder.glob("*.rpm"))
    assert len(rpms) == len(names), (rpms, names)
    with _keyring() as keys:
        (folder / _KEY).write_bytes(keys.public("published"))
        if signature != "none":
            keys.sign("published" if signature == "good" else "another", rpms)
    subprocess.run(["createrepo_c", "--quiet", str(folder)], check=True, capture_output=True)


@dataclass(frozen=True)
class _Keys:
    home: Path

    def _gpg(self, *arguments: str) -> bytes:
        command = ["gpg", "--homedir", str(self.home), "--batch", "--quiet", *arguments]
        return subprocess.run(command, check=True, capture_output=True).stdout

    def public(self, name: str) -> bytes:
        """The public key of ``name``, in ASCII."""
        return self._gpg("--armor", "--export", f"={name}")

    def sign(self, name: str, rpms: list[str]) -> None:
        """Sign packages with the key of ``name``."""
        macros = {"_gpg_name": f"={name}", "_gpg_path": str(self.home), "__gpg": str(shutil.which("gpg"))}
        defined = [word for macro, value in macros.items() for word in ("--define", f"{macro} {value}")]
        subprocess.run(["rpmsign", *defined, "--addsign", *rpms], check=True, capture_output=True)


@contextlib.contextmanager
def _keyring() -> Iterator[_Keys]:
    """Two keys, of "published" and of "another"."""
    # The agent's socket stands in there, and the path of a socket may not be long.
    with tempfile.TemporaryDirectory(prefix="gpg.", dir="/tmp") as home:
        keys = _Keys(Path(home))
        try:
            for name in ("published", "another"):
                keys._gpg("--passphrase", "", "--quick-generate-key", name, "rsa2048", "sign", "never")
            yield keys
        finally:
            subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)


def run_in(engine: DockerEngine, image: str, script: str, *, network: str = "none") -> tuple[int, str]:
    """Exit code and output (both streams) of a shell script in ``image``, by the image's own entry point."""
    container = engine.client.containers.create(image, ["sh", "-c", script], network_mode=network)
    try:
        container.start()
        code = container.wait(timeout=300)["StatusCode"]
        return code, container.logs().decode(errors="replace")
    finally:
        container.remove(force=True)

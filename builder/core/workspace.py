"""Where everything lives on disk, and how it gets there: locks, atomic writes, removal.

Nothing here knows what a target or a wheel is; it knows folders, and that a reader must never see
half of a file.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.core.errors import MachineError, RequestError
from builder.core.lock_holders import holder, noted


def resource(name: str) -> Path:
    """The folder of shipped data: ``matrices``, ``docker``, ``patches`` or ``examples``.

    In a checkout it stands beside the package; in an installed wheel it stands inside it.
    """
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "_data" / name, package.parent / name):
        if candidate.is_dir():
            return candidate
    raise MachineError(
        f"the installation lacks its data folder {name!r}",
        hint="install torch-npu-builder again; its wheel carries that folder",
    )


def debian_script() -> str:
    """How the shipped ``docker/bases/debian.sh`` is called from the folder in which this process runs."""
    script = resource("docker") / "bases" / "debian.sh"
    # An installed wheel keeps no modes.
    call = [] if os.access(script, os.X_OK) else ["sh"]
    with suppress(ValueError):
        script = script.relative_to(Path.cwd())
    return shlex.join([*call, str(script)])


def expanded(path: str | Path) -> Path:
    """``path`` with ``~`` and ``~user`` at its start replaced; as it is where such a user has no home."""
    # Path.expanduser raises there.
    return Path(os.path.expanduser(path))


def real(path: Path) -> Path:
    """``path`` without links, as far as it exists; a link that leads to itself stays as it is."""
    # Path.resolve raises RuntimeError there before Python 3.13.
    return Path(os.path.realpath(path))


def user_cache(env: Mapping[str, str]) -> Path | None:
    """Where this user's builders keep what all their workspaces share, made or not; None for a user without a home.

    It is below XDG_CACHE_HOME (https://specifications.freedesktop.org/basedir-spec/latest/) or ``~/.cache``.
    """
    cache = env.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(cache) / "torch-npu-builder" if os.path.isabs(cache) else None


@dataclass(frozen=True)
class Workspace:
    """The folders of DESIGN's workspace contract, below ``root`` (by default ``./build``)."""

    root: Path
    output: Path

    @property
    def mirrors(self) -> Path:
        """Bare git repositories, one for each upstream repository."""
        return self.root / "mirrors"

    @property
    def trees(self) -> Path:
        """``pytorch/<target>``: the prepared torch_npu tree of each target."""
        return self.root / "pytorch"

    @property
    def scratch(self) -> Path:
        """``compile/<target>``: the copy of a prepared tree that upstream's scripts may spoil."""
        return self.root / "compile"

    @property
    def cache(self) -> Path:
        """The compile cache."""
        return self.root / "cache"

    @property
    def manifests(self) -> Path:
        """What the last builds compiled, for ``cache explain``: outside of what builds can write."""
        return self.root / "manifests"

    @property
    def verified(self) -> Path:
        """What ``verify-objects`` has compared so far, a file for each target."""
        return self.root / "verified"

    @property
    def digests(self) -> Path:
        """What was read of the wheels that stand, so that it need not be read again."""
        return self.root / "digests.json"

    @property
    def environments(self) -> Path:
        """Interpreters and PyTorch installed for builds on this host."""
        return self.root / "environments"

    @property
    def runs(self) -> Path:
        """``runs/<run-id>``: logs and result of each run."""
        return self.root / "runs"

    @property
    def written(self) -> tuple[Path, Path]:
        """The folders that may be on disks of their own, and fill them."""
        return self.root, self.output

    def create(self) -> None:
        """Make the folders. Raises RequestError when the place cannot be written."""
        try:
            for folder in (self.root, self.output):
                folder.mkdir(parents=True, exist_ok=True)
            # A folder of generated files: git and backup programs may pass it by.
            marker = self.root / "CACHEDIR.TAG"
            if not marker.exists():
                atomic_write(marker, "Signature: 8a477f597d28d172789f06886806bc55\n# made by torch-npu-builder\n")
        except OSError as error:
            raise RequestError(
                f"the workspace {self.root} cannot be written: {error.strerror or error}",
                hint="give another place with --workspace and --output",
            ) from error

    @contextmanager
    def locked(self, name: str, *, wait_seconds: float = -1) -> Iterator[None]:
        """Hold the named lock; a negative wait means for ever. Raises MachineError when it stays taken."""
        from filelock import FileLock, Timeout

        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.lock"
        lock = FileLock(path)
        try:
            lock.acquire(timeout=wait_seconds)
        except Timeout as error:
            raise MachineError(
                f"another builder holds {name} in {self.root}{holder(path)}",
                hint="wait for it to end, or use another --workspace",
            ) from error
        try:
            with noted(path):
                yield
        finally:
            lock.release()


def fsync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def atomic_write(path: Path, data: str | bytes) -> None:
    """Write ``data`` beside ``path``, make it durable, then give it its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        with open(beside, "wb") as stream:
            stream.write(data.encode() if isinstance(data, str) else data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    fsync_folder(path.parent)


def atomic_json(path: Path, value: Any) -> None:
    """Write ``value`` as readable JSON, whole or not at all."""
    atomic_write(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def publish(source: Path, destination: Path) -> None:
    """Copy ``source`` to ``destination``'s file system, make it durable, then give it its name."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    beside = destination.with_name(f".{destination.name}.{os.urandom(4).hex()}")
    try:
        with open(source, "rb") as reader, open(beside, "wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
            writer.flush()
            os.fsync(writer.fileno())
        os.replace(beside, destination)
    finally:
        beside.unlink(missing_ok=True)
    fsync_folder(destination.parent)


def free_bytes(path: Path) -> int:
    """Free bytes for this user on the file system that would hold ``path``."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free

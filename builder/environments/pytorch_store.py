"""The folder of PyTorch that all of a user's builders on a machine share: what is in it, who may use and remove it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from builder.core.cancellation import file_lock
from builder.core.digests import sha256_of
from builder.core.errors import FailureKind, MachineError, TargetError
from builder.core.untrusted import remove_tree
from builder.core.workspace import atomic_json
from builder.environments.docker_engine import owner, owner_lives
from builder.environments.image_inputs import PYTORCH_FILES, files_digest, inputs_digest
from builder.environments.interface import EnvironmentRequest
from builder.environments.unpacked import MANIFEST, SITE, damage, manifest_of
from builder.progress.reporter import Reporter

VARIABLE = "BUILDER_PACKAGES"
#: Locked while it is used.
_USED = "used"
#: Held together by all who make something, alone by who removes what they may need.
_LOCKS, _MAKERS = "locks", "makers.lock"
#: Between the parts of a name in ``making``.
_MARK = "+"

#: Runs ``docker/pytorch.sh STEP`` for the target's interpreter, with PLACE and KEPT as the folders given.
Run = Callable[[str, Path, Path], None]


@dataclass(frozen=True)
class PyTorch:
    """One that stands: ``site`` is its folder here, ``wheels`` maps the files that it is made of to their SHA-256."""

    site: Path
    key: str
    wheels: Mapping[str, str]

    @contextmanager
    def used(self) -> Iterator[Path]:
        """Its folder, which ``clean`` does not remove while the block runs. Raises TargetError where it is gone."""
        with ExitStack() as held:
            try:
                stream = held.enter_context(open(self.site.parent / _USED, "rb"))
                fcntl.flock(stream, fcntl.LOCK_SH)
                # It may have been removed between the two.
                (self.site.parent / _USED).stat()
            except FileNotFoundError as error:
                raise TargetError(
                    f"the unpacked PyTorch {self.site.parent} was removed before the build could use it",
                    kind=FailureKind.IMAGE,
                    hint="run the same command again; it is unpacked anew",
                ) from error
            yield self.site


class PyTorchStore:
    """The folder that all of a user's builders on this machine share."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, key: str) -> Path:
        """Where the unpacked wheels of that digest stand."""
        return self.root / "pytorch" / key

    def wheels(self, request: EnvironmentRequest) -> Path:
        """Where wheels of the request's source are kept. Indexes have different files of one name."""
        return self.root / "wheels" / f"{request.torch_source}-{request.arch}"

    def resolved(self, inputs: str) -> tuple[str, dict[str, str]] | None:
        """The key and the wheels that were chosen for ``inputs``; None where they were not chosen yet."""
        try:
            data = json.loads((self.root / "resolved" / f"{inputs}.json").read_text(encoding="utf-8"))
            return str(data["key"]), {str(name): str(digest) for name, digest in data["wheels"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def has_wheels(self, request: EnvironmentRequest, wheels: Mapping[str, str]) -> bool:
        """Whether all of them are kept, by name."""
        return all((self.wheels(request) / name).is_file() for name in wheels)

    @contextmanager
    def making(self, inputs: str) -> Iterator[None]:
        """Be the one that makes what ``inputs`` decide; ``clean`` leaves everything that it may need.

        Raises MachineError where the folder cannot be written, TargetError (DISK) where there is no room in it.
        """
        with _written(self.root):
            (self.root / _LOCKS).mkdir(parents=True, exist_ok=True)
            with open(self.root / _LOCKS / _MAKERS, "ab") as stream:
                fcntl.flock(stream, fcntl.LOCK_SH)
                with self.locked(inputs):
                    yield

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold what only one builder may make at a time."""
        with file_lock(self.root / _LOCKS / f"{name[:40]}.lock"):
            yield

    def find(self, inputs: str, request: EnvironmentRequest, reporter: Reporter) -> PyTorch | None:
        """Return the unpacked PyTorch for ``inputs``, or None; a damaged one is removed with a warning."""
        resolved = self.resolved(inputs)
        if resolved is None:
            return None
        key, wheels = resolved
        folder = self.folder(key)
        if not folder.is_dir():
            return None
        fault = damage(folder)
        if fault is None:
            return PyTorch(folder / SITE, key, wheels)
        with self.locked(key):
            if damage(folder) is not None:
                reporter.warning(
                    f"the unpacked PyTorch {request.torch} in {folder} is damaged ({fault}); unpacking anew"
                )
                _remove(folder)
        return None

    def make(
        self,
        inputs: str,
        request: EnvironmentRequest,
        resources: Path,
        run: Run,
        owner_of_files: tuple[int, int] | None,
    ) -> PyTorch:
        """Choose the wheels, unpack them where no other inputs led to the same ones, and remember the choice."""
        kept = self.wheels(request)
        kept.mkdir(parents=True, exist_ok=True)
        with self._place() as place:
            # Whatever this process's umask is: the user of builds reads the one and works in the other.
            for folder in (kept, place) if owner_of_files is not None else ():
                folder.chmod(0o755)
            if owner_of_files is not None:
                os.chown(place, *owner_of_files)
            resolved = self.resolved(inputs)
            wheels = self._put_back(place, kept, resolved[1], owner_of_files) if resolved is not None else None
            if wheels is None:
                wheels = self._collected(place, kept, run)
            key = inputs_digest([wheels, request.python, request.arch, files_digest(resources, PYTORCH_FILES)])[:40]
            with self.locked(key):
                if not self.folder(key).is_dir() or damage(self.folder(key)) is not None:
                    _remove(self.folder(key))
                    run("unpack", place, kept)
                    self._publish(place, key)
            if request.torch_source != "find-links":
                _keep(place / "wheels", kept, wheels)
        atomic_json(self.root / "resolved" / f"{inputs}.json", {"key": key, "wheels": wheels})
        return PyTorch(self.folder(key) / SITE, key, wheels)

    def _collected(self, place: Path, kept: Path, run: Run) -> dict[str, str]:
        """Have pip choose. A wheel that was kept and has changed since is no choice."""
        for _ in range(2):
            run("collect", place, kept)
            wheels = _digests(place / "wheels")
            changed = [
                name
                for name, digest in wheels.items()
                if _noted(kept / name) not in (None, digest) and sha256_of(kept / name) == digest
            ]
            if not changed:
                return wheels
            for name in changed:
                (kept / name).unlink(missing_ok=True)
                _note(kept / name).unlink(missing_ok=True)
        return wheels

    def _put_back(
        self, place: Path, kept: Path, wheels: Mapping[str, str], owner_of_files: tuple[int, int] | None
    ) -> dict[str, str] | None:
        """Lay the wheels that were chosen before into ``place``; None where one is gone or not what it was."""
        (place / "wheels").mkdir()
        for name, digest in wheels.items():
            source = kept / name
            if not source.is_file() or source.is_symlink() or sha256_of(source) != digest:
                remove_tree(place / "wheels")
                return None
            try:
                os.link(source, place / "wheels" / name)
            except OSError:  # not every file system has hard links
                shutil.copyfile(source, place / "wheels" / name)
        if owner_of_files is not None:
            os.chown(place / "wheels", *owner_of_files)
        return dict(wheels)

    @contextmanager
    def _place(self) -> Iterator[Path]:
        """A folder to work in; those of builders that were killed are removed."""
        self.remove_left()
        place = self._name()
        place.mkdir()
        try:
            yield place
        finally:
            remove_tree(place)

    def _name(self) -> Path:
        """A new name in ``making`` that says who works there."""
        making = self.root / "making"
        making.mkdir(parents=True, exist_ok=True)
        return making / _MARK.join([*owner().split(":"), os.urandom(4).hex()])

    def remove_left(self) -> list[Path]:
        """Remove what killed builders were making; returns it."""
        removed = []
        for left in (self.root / "making").iterdir() if (self.root / "making").is_dir() else ():
            if owner_lives(left.name.replace(_MARK, ":").rpartition(":")[0]):
                continue
            # Several builders may find it, and only one can rename it. What is another user's stays.
            with suppress(OSError):
                mine = self._name()
                os.rename(left, mine)
                removed.append(left)
                remove_tree(mine)
        return removed

    def _publish(self, place: Path, key: str) -> None:
        """Give what was unpacked its name, with a manifest of its files, in one step."""
        made = place / "published"
        made.mkdir()
        _own(place / SITE)
        os.rename(place / SITE, made / SITE)
        (made / _USED).touch(mode=0o644)
        atomic_json(made / MANIFEST, {"files": manifest_of(made / SITE)})
        target = self.folder(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(made, target)


@contextmanager
def _written(root: Path) -> Iterator[None]:
    """What the system says of ``root`` in the block, in words for the user."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TargetError(f"{root}: {error.strerror}", kind=FailureKind.DISK) from error
        place = str(error.filename)
        if not place.startswith(str(root)):
            raise
        raise MachineError(
            f"the folder of shared packages cannot be written: {place}: {error.strerror}",
            hint=f"use it as the user who made it, or name another one with the variable {VARIABLE}",
        ) from error


def remove_unused(root: Path) -> tuple[list[Path], list[Path]]:
    """Remove everything below ``root`` but what builds use now; returns what was removed and what stays.

    Raises MachineError where something is another user's.
    """
    with _written(root):
        return _remove_unused(root)


def _remove_unused(root: Path) -> tuple[list[Path], list[Path]]:
    removed: list[Path] = []
    busy: list[Path] = []
    for folder in sorted((root / "pytorch").iterdir()) if (root / "pytorch").is_dir() else ():
        with ExitStack() as held:
            with suppress(FileNotFoundError):
                stream = held.enter_context(open(folder / _USED, "rb"))
                if not _alone(stream):
                    busy.append(folder)
                    continue
            # Still held: who waits for it finds that it is gone.
            _remove(folder)
        removed.append(folder)
    removed += PyTorchStore(root).remove_left()
    rest = [root / name for name in ("wheels", "resolved") if (root / name).is_dir()]
    if rest:
        (root / _LOCKS).mkdir(exist_ok=True)
        with open(root / _LOCKS / _MAKERS, "ab") as makers:
            if not _alone(makers):
                return removed, busy + rest
            for folder in rest:
                remove_tree(folder)
    return removed + rest, busy


def _alone(stream: BinaryIO) -> bool:
    """Hold the file's lock alone; False where somebody else holds it."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _digests(folder: Path) -> dict[str, str]:
    wheels = [path for path in sorted(folder.glob("*.whl")) if path.is_file() and not path.is_symlink()]
    found = {path.name: sha256_of(path) for path in wheels}
    if not found:
        raise TargetError("pip chose no wheels at all", kind=FailureKind.IMAGE)
    return found


def _note(wheel: Path) -> Path:
    return wheel.with_name(f"{wheel.name}.sha256")


def _noted(wheel: Path) -> str | None:
    """The digest that the wheel had when it was kept."""
    try:
        return _note(wheel).read_text(encoding="ascii").strip() if wheel.is_file() else None
    except (OSError, ValueError):
        return None


def _keep(made: Path, kept: Path, wheels: Mapping[str, str]) -> None:
    """Move downloaded wheels to where later choices find them."""
    for name, digest in wheels.items():
        if _noted(kept / name) != digest and (made / name).is_file():
            (kept / name).unlink(missing_ok=True)
            _note(kept / name).write_text(f"{digest}\n", encoding="ascii")
            if os.geteuid() == 0:
                os.chown(made / name, 0, 0)
            os.rename(made / name, kept / name)


def _own(folder: Path) -> None:
    """Make this user the owner of all below ``folder``, so that no build's user may write there."""
    if os.geteuid() != 0:
        return
    os.chown(folder, 0, 0)
    for _, folders, files, parent in os.fwalk(folder):
        for name in (*folders, *files):
            os.chown(name, 0, 0, dir_fd=parent, follow_symlinks=False)


def _remove(folder: Path) -> None:
    if folder.exists():
        # Under another name first: half a folder must not pass for the whole one.
        gone = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(gone, ignore_errors=True)
        os.rename(folder, gone)
        remove_tree(gone)

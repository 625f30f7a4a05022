"""Fixed paths without a container: namespaces in which the folders of a build stand where they always do."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_SCRIPT = Path(__file__).with_name("compose.sh")
#: Options of unshare in order of preference; the last ones work where less is allowed. A builder that
#: runs as root needs no user namespace, and without one files keep their owners.
_AS_ROOT = (
    ("--mount", "--net", "--pid", "--fork", "--kill-child"),
    ("--mount", "--net"),
    ("--mount",),
)
_AS_USER = tuple(("--user", "--map-root-user", *options) for options in _AS_ROOT)


@dataclass(frozen=True)
class Bind:
    """One folder of this machine at a fixed place."""

    source: Path
    place: str
    read_only: bool = False


@dataclass(frozen=True)
class Namespaces:
    """What this machine allows: the options of unshare that work here."""

    options: tuple[str, ...]

    @property
    def network(self) -> bool:
        """True where commands get a network namespace, and so no network."""
        return "--net" in self.options

    def describe(self) -> str:
        """For people: which namespaces there are."""
        return "namespaces: " + ", ".join(name.strip("-") for name in self.options if name in _NAMES)

    def command(self, root: Path, cwd: str, binds: Sequence[Bind], argv: Sequence[str]) -> list[str]:
        """The command that runs ``argv`` with ``binds`` in place; ``root`` is an empty folder."""
        places = [word for b in binds for word in ("ro" if b.read_only else "rw", str(b.source.resolve()), b.place)]
        proc = "new" if "--pid" in self.options else "old"
        return ["unshare", *self.options, "sh", str(_SCRIPT), str(root), cwd, proc, *places, "--", *argv]


_NAMES = ("--user", "--mount", "--net", "--pid")


@lru_cache(maxsize=1)
def find_namespaces() -> Namespaces | None:
    """The best that this machine allows, found by trying; None where it allows none."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    if any(shutil.which(name, path=path) is None for name in ("unshare", "mount", "chroot")):
        return None
    for options in (*_AS_ROOT, *_AS_USER):
        candidate = Namespaces(options)
        with tempfile.TemporaryDirectory(prefix="torch-npu-builder.") as folder:
            shown, root = Path(folder, "shown"), Path(folder, "root")
            shown.mkdir()
            root.mkdir()
            (shown / "proof").touch()
            argv = ["sh", "-c", "test -e /work/pytorch/proof && test -e /proc/self/stat"]
            command = candidate.command(root, "/work/pytorch", [Bind(shown, "/work/pytorch")], argv)
            try:
                done = subprocess.run(command, capture_output=True, timeout=30, check=False)
            except (OSError, subprocess.SubprocessError):
                continue
            if done.returncode == 0:
                return candidate
    return None

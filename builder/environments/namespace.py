"""Namespaces for builds on this host: fixed paths without a container, and as much of its walls as the kernel lets us.

What a command sees is composed by compose_namespace.sh; it then runs without capabilities, with no way to gain any,
and, where the builder is root, as the user that containers run as. What this machine allows is found out by trying.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from builder.environments.ownership import UNPRIVILEGED
from builder.environments.visible import Line, visible
from builder.payload import FOLDER

_SCRIPT = FOLDER / "compose_namespace.sh"
#: Options of unshare in order of preference; the last ones work where less is allowed. A builder that
#: runs as root needs no user namespace, and without one files keep their owners.
_AS_ROOT = (
    ("--mount", "--net", "--ipc", "--pid", "--fork", "--kill-child"),
    ("--mount", "--net"),
    ("--mount",),
)
_AS_USER = tuple(("--user", "--map-root-user", *options) for options in _AS_ROOT)
#: Options of setpriv (util-linux 2.23 and later) that leave a command nothing to undo its walls with.
_WITHOUT_CAPABILITIES = ("--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
#: What a command finds out about its walls: whether the machine is read-only, and which capabilities it has left.
_READ_ONLY = "test ! -w /etc"
_NO_CAPABILITIES = "test $(grep -Ec '^Cap(Eff|Prm|Bnd):[[:space:]]*0+$' /proc/self/status) = 3"


@dataclass(frozen=True)
class Bind:
    """One folder of this machine at a fixed place."""

    source: Path
    place: str
    read_only: bool = False


@dataclass(frozen=True)
class Namespaces:
    """What this machine allows: the options of ``unshare`` that work here, and how commands lose their privileges.

    ``setpriv`` is the command that drops them, empty where none works. ``read_only`` is whether all of the machine
    that is shown could be made read-only.
    """

    options: tuple[str, ...]
    setpriv: tuple[str, ...] = ()
    read_only: bool = True

    @property
    def network(self) -> bool:
        """True where commands get a network namespace, and so no network."""
        return "--net" in self.options

    @property
    def user(self) -> tuple[int, int]:
        """Whose files commands make: uid and gid, as this machine sees them."""
        return UNPRIVILEGED if any("--reuid" in word for word in self.setpriv) else (os.getuid(), os.getgid())

    def describe(self) -> str:
        """For people: which namespaces there are."""
        kept = "" if self.setpriv else ", capabilities kept"
        return "namespaces: " + ", ".join(name.strip("-") for name in self.options if name in _NAMES) + kept

    def reach(self) -> list[str]:
        """For people: what commands can do here that they could not do in a container; each completes "it can"."""
        name = user_name()
        found = []
        if not self.setpriv:
            found.append("undo whatever it is kept from, with the capabilities that it has here")
        if self.user[0] == os.getuid():
            found.append(f"read what {name} may read outside of homes and temporary folders")
        if not self.read_only:
            found.append(f"write where {name} may write there")
        if not self.network:
            found.append("reach the network")
        if "--pid" not in self.options:
            ends = ", and end those of " + (name if self.user[0] == os.getuid() else "other builds")
            found.append(f"see the processes of this machine{ends}")
        return found

    def command(
        self, root: Path, cwd: str, binds: Sequence[Bind], argv: Sequence[str], lines: Sequence[Line] = ()
    ) -> list[str]:
        """The command that runs ``argv`` with ``binds`` in place; ``root`` is an empty folder.

        ``lines`` are what is hidden and shown beside them (``visible.Visible.lines``).
        """
        bound = [("ro" if b.read_only else "rw", str(b.source.resolve()), b.place) for b in binds]
        words = [word for line in (*lines, *bound) for word in line]
        proc = "new" if "--pid" in self.options else "old"
        freeze = "all" if self.read_only else "some"
        script = ["sh", str(_SCRIPT), str(root), cwd, proc, freeze, *words, "--"]
        return ["unshare", *self.options, *script, *self.setpriv, *argv]


_NAMES = ("--user", "--mount", "--net", "--pid")


def user_name() -> str:
    """Who runs the builder."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"user {os.getuid()}"


@lru_cache(maxsize=1)
def find_namespaces() -> Namespaces | None:
    """The best that this machine allows, found by trying; None where it allows none."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    if any(shutil.which(name, path=path) is None for name in ("unshare", "mount", "chroot")):
        return None
    setpriv = shutil.which("setpriv", path=path)
    for options in (*_AS_ROOT, *_AS_USER):
        if not _works(["unshare", *options, "true"]):
            continue
        for candidate in _candidates(options, setpriv):
            if _holds(candidate):
                return candidate
    return None


def _candidates(options: tuple[str, ...], setpriv: str | None) -> Iterator[Namespaces]:
    """Ways to use these namespaces, the safest first."""
    ways: list[tuple[str, ...]] = [()]
    if setpriv is not None:
        ways.insert(0, (setpriv, *_WITHOUT_CAPABILITIES))
        if os.getuid() == 0 and "--user" not in options:
            uid, gid = UNPRIVILEGED
            ways.insert(0, (setpriv, f"--reuid={uid}", f"--regid={gid}", "--clear-groups", *_WITHOUT_CAPABILITIES))
    for read_only in (True, False):
        for way in ways:
            yield Namespaces(options, way, read_only)


def _holds(candidate: Namespaces) -> bool:
    """Whether a command runs there, sees what it is shown, and is kept from what the candidate promises."""
    with tempfile.TemporaryDirectory(prefix="torch-npu-builder.") as folder:
        shown, root, *own = (Path(folder, name) for name in ("shown", "root", "tmp", "var-tmp"))
        for path in (shown, root, *own):
            path.mkdir(mode=0o755)
        (shown / "proof").touch()
        if candidate.user[0] != os.getuid():
            os.chown(shown, *candidate.user)
        checks = ["test -e proof", ": >written", "test -e /proc/self/stat"]
        checks += [_NO_CAPABILITIES] if candidate.setpriv else []
        checks += [_READ_ONLY] if candidate.read_only else []
        binds = [Bind(shown, "/work/pytorch")]
        seen = visible(None, os.environ)
        needed = seen.needed(os.environ.get("PATH", os.defpath), os.environ, [])
        lines = seen.lines(own[: len(seen.temporary)], needed, [bind.place for bind in binds])
        argv = ["sh", "-c", " && ".join(checks)]
        return _works(candidate.command(root, "/work/pytorch", binds, argv, lines))


def _works(command: Sequence[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False

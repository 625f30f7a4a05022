"""What a build on this host sees of it: which places are hidden, and what of them a build needs.

Hidden are homes, temporary folders, the workspace and /run, where sockets of engines and services are. Programs that a
build needs may stand there all the same (an interpreter of pyenv, a compiler of conda, tools in ``~/bin``): those
folders are shown read-only, at their own paths, and nothing beside them.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from glob import glob
from pathlib import Path

#: A line of arguments of compose_namespace.sh: kind, source, place.
Line = tuple[str, str, str]

#: Folders of every system, which stay visible whatever is called a home or a workspace.
_SYSTEM = ("bin", "dev", "etc", "lib", "lib64", "opt", "proc", "sbin", "sys", "usr", "usr/bin", "usr/lib", "var")
#: Where services put their sockets and people their files.
_HIDDEN = ("/run", "/var/run", "/root", "/home")
#: Variables that name further folders of people.
_OWN = ("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "TMPDIR", "DOCKER_CONFIG", "GNUPGHOME")
#: Folders in which every build has its own.
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - to hide them
#: What an installation has beside its folder of programs; anything else there could be a person's.
_INSTALLED = ("bin", "sbin", "lib", "lib32", "lib64", "libexec", "include", "pyvenv.cfg")
_INSTALLED_APART = ("share", "sysroot", "compiler_compat", "Cellar", "opt")
#: Programs that a build starts by name, and whose own installation it needs where they are links.
_PROGRAMS = (
    *("bash", "gcc", "g++", "cc", "c++", "gcov", "make", "git", "ld", "as", "ar", "strip", "objcopy"),
    *("cmake", "ninja", "patchelf", "auditwheel", "ccache", "eu-strip", "xz", "patch", "flock", "tar"),
)
#: Links that are followed on the way to a program, as the kernel has it.
_MOST_LINKS = 40


@dataclass(frozen=True)
class Visible:
    """What is hidden on this host: ``hidden`` are empty inside, ``temporary`` folders of the build's own.

    ``home`` is that of whoever builds. All are real paths.
    """

    hidden: tuple[Path, ...]
    temporary: tuple[Path, ...]
    home: Path

    def hides(self, path: Path) -> bool:
        """True for what is below a hidden place, not for that place itself."""
        return any(place in path.parents for place in (*self.hidden, *self.temporary))

    def lines(self, temporary: Sequence[Path], needed: Iterable[Path], places: Iterable[str]) -> list[Line]:
        """Arguments of compose_namespace.sh: folders ``temporary`` stand for those of the machine.

        ``needed`` stay visible. ``places`` are the fixed paths of the build: one that
        leads through a link into what is hidden does not show it.
        """
        parents = sorted({parent for place in places for parent in Path(place).parents})
        leading = [link for link in parents if link.is_symlink() and self.hides(_real(link) / "below")]
        lines: list[Line] = [("hide", "-", str(place)) for place in (*self.hidden, *leading)]
        lines += [("use", str(own), str(place)) for own, place in zip(temporary, self.temporary, strict=True)]
        return [*lines, *self._shown(needed), *(("mask", "-", place) for place in self._sockets())]

    def needed(self, path: str, env: Mapping[str, str], programs: Iterable[Path]) -> list[Path]:
        """What a build with ``path`` as PATH needs, wherever it is; ``programs`` are further ones that it runs."""
        named = [*path.split(os.pathsep), *env.get("LD_LIBRARY_PATH", "").split(os.pathsep)]
        wanted = [part for entry in named if entry.startswith("/") for part in self._installation(Path(entry))]
        started = [Path(found) for name in _PROGRAMS if (found := shutil.which(name, path=path)) is not None]
        for program in (*programs, *started):
            wanted += [program, *self._installation(_followed(program)[0].parent)]
        return wanted

    def _installation(self, folder: Path) -> list[Path]:
        """``folder``, and the rest of the installation whose folder of programs or libraries it is."""
        prefix = folder.parent
        real = _real(prefix)
        if folder.name not in _INSTALLED or not self.hides(real) or real == self.home or real in self.home.parents:
            return [folder]
        # In ~/.local and the like keys and histories stand beside programs.
        shared = real.parent == self.home and real.name.startswith(".")
        names = _INSTALLED if shared else (*_INSTALLED, *_INSTALLED_APART)
        compilers = [] if shared else [*glob("*-linux", root_dir=prefix), *glob("*-linux-*", root_dir=prefix)]
        return [folder, *(prefix / name for name in (*names, *compilers))]

    def _shown(self, needed: Iterable[Path]) -> list[Line]:
        links: dict[Path, str] = {}
        found = set()
        for path in needed:
            end, passed = _followed(path)
            links.update(passed)
            if self.hides(end) and os.path.exists(end):
                found.add(end)
        whole = _outermost(found)
        shown: list[Line] = [("see", str(path), str(path)) for path in whole]
        for link, target in sorted(links.items()):
            if self.hides(link) and not any(path in link.parents for path in whole):
                shown.append(("link", target, str(link)))
        return shown

    def _sockets(self) -> Iterator[str]:
        """Sockets of services elsewhere, as those of LXD: a read-only mount does not keep anybody from them."""
        try:
            with open("/proc/net/unix", encoding="utf-8", errors="surrogateescape") as table:
                words = [line.rstrip("\n").split(maxsplit=7) for line in table]
        except OSError:
            return
        for name in sorted({line[7] for line in words if len(line) == 8 and line[7].startswith("/")}):
            path = Path(name)
            with suppress(OSError):
                if _real(path) == path and not self.hides(path) and stat.S_ISSOCK(path.lstat().st_mode):
                    yield name


def visible(workspace: Path | None, env: Mapping[str, str]) -> Visible:
    """What builds see that are started with the variables ``env``, and keep their folders in ``workspace``."""
    own = [env[name] for name in _OWN if env.get(name, "").startswith("/")]
    with suppress(KeyError):
        own.append(pwd.getpwuid(os.getuid()).pw_dir)
    temporary = _folders(_TEMPORARY)
    outermost = _outermost([*_folders([*_HIDDEN, *own, *filter(None, [workspace])]), *temporary])
    return Visible(
        tuple(path for path in outermost if path not in temporary),
        tuple(path for path in outermost if path in temporary),
        _real(Path(env.get("HOME") or "/nonexistent")),
    )


def _followed(path: Path) -> tuple[Path, dict[Path, str]]:
    """Where ``path`` leads, and the links on the way there: the place of each, and what it says."""
    links: dict[Path, str] = {}
    place, rest, left = Path("/"), deque(path.parts[1:]), _MOST_LINKS
    while rest:
        part = rest.popleft()
        step = place.parent if part == ".." else place / part
        try:
            target = os.readlink(step)
        except OSError:
            place = step
            continue
        left -= 1
        if left == 0:
            return path, {}
        links[step] = target
        place = Path("/") if target.startswith("/") else place
        rest.extendleft(reversed([name for name in Path(target).parts if name != "/"]))
    return place, links


def _folders(names: Iterable[str | Path]) -> list[Path]:
    """Those of the places that are folders, by their real paths, without those in which a system stands."""
    system = {place for name in _SYSTEM for place in (Path("/", name), _real(Path("/", name)))}
    around = system | {parent for folder in system for parent in folder.parents}
    real = {_real(Path(name)) for name in names}
    return [path for path in real if os.path.isdir(path) and path not in around]


def _outermost(paths: Iterable[Path]) -> list[Path]:
    """Those that are not below another, sorted."""
    every = set(paths)
    return sorted(path for path in every if every.isdisjoint(path.parents))


def _real(path: Path) -> Path:
    """The path without links; the path itself as far as this user may not look."""
    return Path(os.path.realpath(path))

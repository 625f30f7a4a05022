"""A CANN toolkit at its own path: its scripts name that one, at whatever fixed path it stands besides.

The ``set_env.sh`` of CANN 8.5 and later names the folder it was installed in, ``/usr/local/Ascend/cann-8.5.0``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple
from pathlib import Path

from builder.environments.interface import Paths
from builder.environments.namespace import Bind
from builder.environments.visible import Visible

#: HOME of commands in a container: a file system in memory, below which more may be mounted.
HOME = "/home/builder"
#: What builds have in a container beside what ``Paths`` names.
_OURS = ("/work", "/generated", "/opt/python")
#: What the system of an image consists of, with its interpreters (https://github.com/pypa/manylinux) and compilers:
#: nothing may be mounted there or below.
_SYSTEM = (
    *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run", "/sbin", "/sys"),
    *(f"/usr/{name}" for name in ("bin", "include", "lib", "lib32", "lib64", "libexec", "libx32", "sbin", "share")),
    *(f"/usr/local/{name}" for name in ("bin", "etc", "include", "lib", "lib64", "libexec", "sbin", "share")),
    *("/opt/_internal", "/opt/builder", "/opt/interpreters", "/opt/rh", "/var/run"),
)
#: Folders of a system where something may be mounted below, but not in their place.
_PARENTS = ("/", "/home", "/opt", "/root", "/tmp", "/usr", "/usr/local", "/var", "/var/tmp")  # noqa: S108 - names alone


def in_containers(folder: Path | None, paths: Paths) -> tuple[list[tuple[Path, str, bool]], tuple[str, ...]]:
    """Mounts (folder here, path inside, read-only) that show the toolkit ``folder``, a real path, at its own path in a
    container besides ``paths.cann``, and warnings: it is not shown where that would hide what a build needs.
    """
    if folder is None or str(folder) == paths.cann:
        return [], ()
    places = [*_OURS, *(place for part in astuple(paths) for place in ([part] if isinstance(part, str) else part))]
    if str(folder) in _PARENTS or _holds(_SYSTEM, folder) is not None:
        return [], (_warning(folder, paths, "the system of a container is there"),)
    ours = _holds(places, folder) or next((place for place in places if folder in Path(place).parents), None)
    if str(folder) == HOME:
        ours = HOME
    if ours is not None:
        return [], (_warning(folder, paths, f"builds have {ours} there"),)
    return [(folder, str(folder), True)], ()


def on_hosts(folder: Path | None, paths: Paths, binds: Iterable[Bind], seen: Visible) -> tuple[str, ...]:
    """Warnings where the toolkit ``folder``, a real path, is not seen at its own path by builds on this host.

    ``binds`` are what stands at fixed paths there, ``seen`` what is hidden. A toolkit below a hidden folder is shown.
    """
    if folder is None or str(folder) == paths.cann:
        return ()
    ours = _holds([bind.place for bind in binds], folder)
    if ours is not None:
        return (_warning(folder, paths, f"builds have {ours} there"),)
    if folder in (*seen.hidden, *seen.temporary):
        return (_warning(folder, paths, "that folder is hidden from builds"),)
    return ()


def _holds(places: Sequence[str], folder: Path) -> str | None:
    """The first of ``places`` that ``folder`` is, or is below."""
    return next((place for place in places if folder == Path(place) or Path(place) in folder.parents), None)


def _warning(folder: Path, paths: Paths, reason: str) -> str:
    text = f"the CANN toolkit stands at {paths.cann} alone: not at its own path {folder}, as {reason}"
    return f"{text}; where its scripts name that path, install it in another folder"

"""Folders for the length of a step, which are recognised where a killed builder has left them."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from builder.core.untrusted import remove_tree
from builder.core.workspace import user_cache
from builder.environments.docker_engine import owner, owner_lives

PREFIX = "torch-npu-builder"
#: Between the parts of a name: in no host's name, and no separator of PATH or of mounts.
_MARK = "+"


@contextmanager
def temporary() -> Iterator[Path]:
    """A folder of this process, removed after the block; those of killed builders are removed before it."""
    remove_left()
    prefix = _MARK.join([PREFIX, *owner().split(":"), ""])
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield folder
    finally:
        # A build may have written there, at any depth.
        remove_tree(folder)


def remove_left() -> list[Path]:
    """Remove the temporary folders of this user's builders that run no more; return them."""
    removed = []
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}{_MARK}*"):
        _, *parts, _ = folder.name.split(_MARK)
        if len(parts) != 3 or owner_lives(":".join(parts)):
            continue
        # Anybody may make folders here, of any name.
        with suppress(OSError):
            state = folder.lstat()
            if stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid():
                remove_tree(folder)
                removed.append(folder)
    return removed


def lock_folder() -> Path:
    """A folder of this user's alone: in the cache, or among temporary files where that cannot be written."""
    folder = user_cache(os.environ)
    if folder is not None:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                return folder
    folder = Path(tempfile.gettempdir(), f"torch-npu-builder-{os.getuid()}")
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    state = folder.lstat()
    # Anybody may make one of that name there.
    if stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid():
        return folder
    return Path(tempfile.mkdtemp(prefix="torch-npu-builder."))

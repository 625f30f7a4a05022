"""From what upstream's scripts left in ``dist/`` to exactly one manylinux wheel.

A wheel is repaired exactly once: by upstream's setup.py where it knows the platform tag, else by
auditwheel with the same exclusions.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import parse_wheel_filename

from builder.core.errors import FailureKind, TargetError
from builder.core.untrusted import UntrustedFolder
from builder.wheels.inspect import parsing, shown

#: Bytes of a wheel. Released wheels have up to 50 MB; one with all debug symbols has some hundred.
WHEEL_LIMIT = 2 << 30

#: Exclusions for lines whose setup.py has no list of its own (2.0.1 and older); from the list of later lines.
DEFAULT_EXCLUSIONS = (
    "libc10.so",
    "libtorch.so",
    "libtorch_cpu.so",
    "libtorch_python.so",
    "libhccl.so",
    "libascendcl.so",
    "libacl_op_compiler.so",
    "libge_runner.so",
    "libgraph.so",
    "libacl_tdt_channel.so",
    "libfmk_parser.so",
    "libascend_protobuf.so",
    "libascend_ml.so",
    "libtorch_npu.so",
    "libnpu_profiler.so",
    "libgomp.so.1",
    "libatb.so",
)


@dataclass(frozen=True)
class RepairPlan:
    """Who repairs, and to which platform.

    ``platform`` is a tag such as ``manylinux_2_17_x86_64``, or ``auto`` for the most compatible policy
    that the wheel meets: used only where the base image cannot meet the matrix's policy and the user
    accepted that. ``variable`` is the value of ``AUDITWHEEL_PLAT`` during the compile; empty makes
    setup.py leave the wheel alone.
    """

    platform: str
    by_upstream: bool

    @property
    def variable(self) -> str:
        """Value of ``AUDITWHEEL_PLAT`` for the compile; manylinux images preset another, so it is always set."""
        return self.platform if self.by_upstream else ""


def built_wheel(root: Path, folder: str) -> str:
    """Name of the single wheel in ``folder`` (relative) below ``root``; both may be as a build left them.

    Raises TargetError when there is none, or more than one: only regular files in real folders count.
    """
    with _as_left(folder), UntrustedFolder(root) as left, left.folder(folder) as opened:
        return _only_wheel(opened, folder)


def take_wheel(root: Path, folder: str, destination: Path) -> Path:
    """Copy the single wheel in ``folder`` below ``root`` into the folder ``destination``, where no build can write.

    Errors are those of ``built_wheel``; a wheel of more than ``WHEEL_LIMIT`` bytes is one, too.
    """
    destination.mkdir(exist_ok=True)
    with _as_left(folder), UntrustedFolder(root) as left, left.folder(folder) as opened:
        name = _only_wheel(opened, folder)
        (destination / name).unlink(missing_ok=True)
        opened.copy_to(name, destination / name, WHEEL_LIMIT)
    return destination / name


def _only_wheel(opened: UntrustedFolder, folder: str) -> str:
    wheels = opened.files(".whl")
    if len(wheels) != 1:
        raise _nothing(f"the build left {shown(', '.join(wheels)) if wheels else 'nothing'} in {folder}/")
    with parsing(wheels[0], "its name"):
        parse_wheel_filename(wheels[0])
    return wheels[0]


@contextmanager
def _as_left(folder: str) -> Iterator[None]:
    """What a build can do to a folder is its failure; other errors are the machine's."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.EFBIG):
            raise
        raise _nothing(f"the build left no {folder}/ that can be read: {error.strerror}") from error


def _nothing(found: str) -> TargetError:
    error = TargetError(
        f"{found}, expected exactly one wheel",
        kind=FailureKind.COMPILE,
        hint="read the end of the log: upstream's scripts report some failures as success",
    )
    error.conclusive = False
    return error


def auditwheel_command(wheel: str, output: str, platform: str, exclusions: Sequence[str]) -> tuple[str, ...]:
    """The auditwheel call; paths are those inside the environment."""
    excluded = tuple(part for library in (exclusions or DEFAULT_EXCLUSIONS) for part in ("--exclude", library))
    return ("auditwheel", "repair", "--plat", platform, "--wheel-dir", output, *excluded, wheel)

"""From what upstream's scripts left in ``dist/`` to exactly one manylinux wheel.

A wheel is repaired exactly once: by upstream's setup.py where it knows the platform tag, else by
auditwheel with the same exclusions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from builder.errors import FailureKind, TargetError

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


def built_wheel(folder: Path) -> Path:
    """The single wheel in ``folder``. Raises TargetError when there is none, or more than one, or a link."""
    wheels = sorted(file for file in folder.glob("*.whl") if file.is_file() and not file.is_symlink())
    if len(wheels) != 1:
        found = ", ".join(wheel.name for wheel in wheels) or "nothing"
        raise TargetError(
            f"the build left {found} in dist/, expected exactly one wheel",
            kind=FailureKind.COMPILE,
            hint="read the end of the log: upstream's scripts report some failures as success",
        )
    try:
        parse_wheel_filename(wheels[0].name)
    except InvalidWheelFilename as error:
        raise TargetError(str(error), kind=FailureKind.VERIFY) from error
    return wheels[0]


def auditwheel_command(wheel: str, output: str, platform: str, exclusions: Sequence[str]) -> tuple[str, ...]:
    """The auditwheel call; paths are those inside the environment."""
    excluded = tuple(part for library in (exclusions or DEFAULT_EXCLUSIONS) for part in ("--exclude", library))
    return ("auditwheel", "repair", "--plat", platform, "--wheel-dir", output, *excluded, wheel)

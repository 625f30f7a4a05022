"""Every error that a user can meet: one message, one next step, one exit code.

The builder raises these for whatever a user, a machine or an upstream branch can cause. Any other
exception that reaches the top is a defect of the builder and is reported as one.
"""

from __future__ import annotations

import errno
from enum import Enum
from pathlib import Path

EXIT_OK = 0
EXIT_TARGET_FAILED = 1
EXIT_BAD_REQUEST = 2
EXIT_MACHINE_LACKS = 3
EXIT_INTERRUPTED = 130

#: What a full disk, or a full share of it, is called.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
#: Errors of files that are the machine's, whatever was done: its rights, its mounts, its disks.
OF_THE_MACHINE = FULL | {errno.EACCES, errno.EROFS, errno.EIO}


class FailureKind(str, Enum):
    """Why a target failed: a closed list, so that programs can act on it and each kind has its advice."""

    NETWORK = "network"
    SOURCE = "source"
    CHANGED_TREE = "changed-tree"
    OVERLAY = "overlay"
    PATCH = "patch"
    CUSTOM_OPERATOR = "custom-operator"
    IMAGE = "image"
    TOOLCHAIN = "toolchain"
    CODE_GENERATION = "code-generation"
    COMPILE = "compile"
    OUT_OF_MEMORY = "out-of-memory"
    DISK = "disk"
    MACHINE = "machine"
    DISK_LIMIT = "disk-limit"
    TIMEOUT = "timeout"
    REPAIR = "repair"
    VERIFY = "verify"
    ENGINE = "engine"
    LOCK = "lock"
    STORE = "store"
    INTERRUPTED = "interrupted"
    INTERNAL = "internal"

    @property
    def advice(self) -> str:
        """The next step that helps most users with a failure of this kind."""
        return _ADVICE[self]

    @property
    def passing(self) -> bool:
        """True where the same work may well succeed a little later."""
        return self in (FailureKind.NETWORK, FailureKind.ENGINE, FailureKind.OUT_OF_MEMORY)


_ADVICE = {
    FailureKind.NETWORK: "check the network and proxy, or point the source at a reachable URL or local path",
    FailureKind.SOURCE: "check the branch or commit; --refresh fetches again",
    FailureKind.CHANGED_TREE: "--rebuild discards the changes, --keep-changes builds with them and records them",
    FailureKind.OVERLAY: "check the op-plugin branch or folder given by --op-plugin",
    FailureKind.PATCH: "refresh the patch against the commit named above, or remove it from its series",
    FailureKind.CUSTOM_OPERATOR: "correct the declaration or source in the --custom-ops folder",
    FailureKind.IMAGE: "read the image build log named above; --base-image takes another base",
    FailureKind.TOOLCHAIN: "use the base image of the matrix, or accept the difference with --allow-toolchain-mismatch",
    FailureKind.CODE_GENERATION: "read the traceback in the log; it usually names the YAML entry at fault",
    FailureKind.COMPILE: "read the first error above, and the log around it",
    FailureKind.OUT_OF_MEMORY: "build with fewer --jobs or a higher --memory limit",
    FailureKind.DISK: "free some disk space; 'clean' removes what can be made again",
    FailureKind.MACHINE: "see who may read and write the folder named above, how it is mounted, and what the "
    "kernel's log says of its disk; 'doctor' tries the engine",
    FailureKind.DISK_LIMIT: "look for what writes so much; if the sources need it, raise --disk",
    FailureKind.TIMEOUT: "raise --timeout, or look in the log for what did not end",
    FailureKind.REPAIR: "read what auditwheel said in the log; a library may be missing from the exclusions",
    FailureKind.VERIFY: "read which check failed; the wheel was not published",
    FailureKind.ENGINE: "check that the container engine still answers ('doctor')",
    FailureKind.LOCK: "lock again if the new inputs are wanted, and review the file's difference",
    FailureKind.STORE: "check that the store answers and may be written; the wheel is kept in the output folder",
    FailureKind.INTERRUPTED: "run the same command again",
    FailureKind.INTERNAL: "this is a defect of the builder: report it with the log",
}


class BuilderError(Exception):
    """An error with a message for the user. ``hint`` is the next step; ``details`` are lines shown below it."""

    exit_code = EXIT_TARGET_FAILED

    def __init__(self, message: str, *, hint: str | None = None, details: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details


class RequestError(BuilderError):
    """The request is wrong: an option, the matrix, a selection, a file that the user gave."""

    exit_code = EXIT_BAD_REQUEST


class MachineError(BuilderError):
    """The machine lacks something: an engine, disk space, an interpreter, a tool."""

    exit_code = EXIT_MACHINE_LACKS


class TargetError(BuilderError):
    """One target failed. The log and the phase are filled in by the code that runs the phases."""

    def __init__(
        self,
        message: str,
        *,
        kind: FailureKind,
        hint: str | None = None,
        details: str | None = None,
        phase: str | None = None,
        log: Path | None = None,
    ) -> None:
        super().__init__(message, hint=hint if hint is not None else kind.advice, details=details)
        self.kind = kind
        if kind in (FailureKind.DISK, FailureKind.ENGINE, FailureKind.MACHINE):
            self.exit_code = EXIT_MACHINE_LACKS
        self.phase = phase
        self.log = log
        #: What failed was tried several times, with pauses, already.
        self.tried = False
        #: A compiler, code generator or verifier has said so, and no fault of the machine came before. Where nobody
        #: did, the same inputs may do better another time.
        self.conclusive = True

"""Why a compile failed, or would have gone wrong without a word."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from builder.compilation.output_parser import OutputReader, missing_outputs
from builder.core.errors import OF_THE_MACHINE, FailureKind, TargetError
from builder.core.untrusted import UntrustedFolder
from builder.environments.interface import Outcome
from builder.sources.build_scripts import SetupScript

#: What CMake 4 says of a project that asks for a very old one
#: (https://cmake.org/cmake/help/latest/release/4.0.html#deprecated-and-removed-features).
_CMAKE_TOO_NEW = "Compatibility with CMake < "
#: Bytes of the next that are read; upstream's has 1 MB.
LARGEST_SCHEMA = 64 << 20
#: Generated C++ that registers the schemas of all custom operators.
GENERATED_SCHEMA = "torch_npu/csrc/aten/CustomRegisterSchema.cpp"


def check_generated(
    tree: Path, reader: OutputReader, setup: SetupScript, operators: Sequence[str], started: float
) -> None:
    """Raise TargetError where code generation in ``tree`` failed; before 26.1.0 upstream does not notice.

    ``operators`` are the custom operators that must be in the generated schema, ``started`` is when the
    compile began, in epoch seconds.
    """
    if reader.of_the_machine:
        raise machine_failure(reader)
    if reader.generation_failure is not None:
        raise TargetError(
            f"code generation failed, which upstream's script does not notice: {reader.generation_failure}",
            kind=FailureKind.CODE_GENERATION,
            details="\n".join(reader.tail),
        )
    ages: dict[str, float | None] = {}
    for name in setup.generated_files:
        state = os.lstat(tree / name) if os.path.lexists(tree / name) else None
        ages[name] = state.st_mtime if state is not None and stat.S_ISREG(state.st_mode) and state.st_size else None
    # A file system may keep whole seconds only.
    missing = missing_outputs(setup.generated_files, ages, started - 2)
    if missing:
        raise TargetError(
            f"code generation left out {missing[0]}", kind=FailureKind.CODE_GENERATION, details="\n".join(missing)
        )
    if not operators:
        return
    try:
        with UntrustedFolder(tree) as folder:
            generated = folder.read(GENERATED_SCHEMA, LARGEST_SCHEMA).decode(errors="replace")
    except OSError as error:
        if error.errno in OF_THE_MACHINE:
            raise
        generated = ""
    for operator in operators:
        if re.search(rf"(?<![\w.]){re.escape(operator)}\(", generated) is None:
            raise TargetError(
                f"the generated schema does not contain the custom operator {operator}",
                kind=FailureKind.CUSTOM_OPERATOR,
                hint="check its declaration: upstream drops what it does not understand without a word",
            )


def compile_failure(
    reader: OutputReader,
    outcome: Outcome,
    timeout: float | None,
    *,
    cmake: str | None = None,
    mismatch: str | None = None,
    what: str = "ci/build.sh",
) -> TargetError:
    """The error for a compile that ended badly: its kind, its first error, its last lines. ``timeout`` in seconds;
    ``what`` is what was run.

    ``cmake`` is the environment's version of CMake, ``mismatch`` what there is to say of an accepted gcc that is not
    the matrix's: the next step names what may be the reason.
    """
    ended = cut_short(reader, outcome, timeout)
    if ended is not None:
        return ended
    said = (reader.generation_failure if reader.generating else None) or reader.error
    if reader.generating and said is None:
        # Neither a code generator nor a compiler has said anything of the sources.
        last = reader.early_failure or next(filter(None, reversed(reader.tail)), "without a word")
        kind, hints = FailureKind.TOOLCHAIN, [FailureKind.COMPILE.advice]
        why = f"{what} ended with exit code {outcome.exit_code} before the compile began: {last}"
    else:
        generating = reader.generating and reader.generation_failure is not None
        kind = FailureKind.CODE_GENERATION if generating else FailureKind.COMPILE
        why = said or f"{what} ended with exit code {outcome.exit_code}"
        told = _cmake_hint(reader, cmake) if why.startswith("CMake Error") else mismatch
        hints = [kind.advice, *([told] if told and not generating else [])]
    if reader.machine_fault is not None:
        hints.append(f"what this machine did before may be why: {reader.machine_fault}")
    error = TargetError(why, kind=kind, hint="; ".join(hints), details=_below(why, reader))
    error.conclusive = said is not None and reader.machine_fault is None
    return error


def cut_short(
    reader: OutputReader, outcome: Outcome, timeout: float | None, *, what: str = "compile"
) -> TargetError | None:
    """The error for a command that a limit or the machine has ended; None for one that failed by itself.

    ``timeout`` in seconds; ``what`` is what the command does.
    """
    if outcome.timed_out:
        kind, why = FailureKind.TIMEOUT, f"the {what} did not end within {timeout:g} s"
    elif outcome.excess is not None:
        kind, why = FailureKind.DISK_LIMIT, f"the build was ended: {outcome.excess}"
    elif outcome.out_of_memory or reader.killed:
        kind, why = FailureKind.OUT_OF_MEMORY, "the kernel killed a compiler for want of memory"
    elif reader.disk_full:
        kind, why = FailureKind.DISK, "no space left on device"
    elif reader.of_the_machine:
        return machine_failure(reader)
    else:
        return None
    return TargetError(why, kind=kind, details="\n".join(reader.excerpt or reader.tail))


def machine_failure(reader: OutputReader) -> TargetError:
    """The error for a folder of the build that failed."""
    hint = f"{FailureKind.MACHINE.advice}; a script that lacks its execute bit is the sources' own"
    return TargetError(
        str(reader.machine_fault), kind=FailureKind.MACHINE, hint=hint, details="\n".join(reader.excerpt or reader.tail)
    )


def _below(message: str, reader: OutputReader) -> str:
    """The lines that follow the first error, which ``message`` has; without one, the last lines."""
    lines = reader.excerpt or list(reader.tail)
    return "\n".join(lines[1:] if lines and lines[0] in message else lines)


def _cmake_hint(reader: OutputReader, version: str | None) -> str | None:
    """What CMake's version has to do with its failure; None where none is known."""
    if version is None:
        return None
    if any(_CMAKE_TOO_NEW in line for line in reader.excerpt):
        return (
            f"CMake here is {version}, and third-party parts of lines up to 2.7.1 ask for one below 4: take a base "
            'image with an older CMake by --base-image, or give the release line CMAKE_POLICY_VERSION_MINIMUM: "3.5" '
            "under environment in its matrix file"
        )
    return f"CMake here is {version}"


def sources_failure(failed: Mapping[str, OutputReader], tried: int, *, mismatch: str | None = None) -> TargetError:
    """The error for sources that were compiled one by one: each of ``failed`` (of ``tried``) with its first error.

    ``mismatch`` is as of ``compile_failure``.
    """
    readers = list(failed.values())
    errors = {name: reader.error or "the compiler says nothing" for name, reader in failed.items()}
    name, error = next(iter(errors.items()))
    kind, what = FailureKind.COMPILE, f"{len(failed)} of {tried} sources do not compile; the first is {name}: {error}"
    if any(reader.killed for reader in readers):
        kind, what = FailureKind.OUT_OF_MEMORY, "the kernel killed a compiler for want of memory"
    elif any(reader.disk_full for reader in readers):
        kind, what = FailureKind.DISK, "no space left on device"
    elif faulty := next((reader for reader in readers if reader.of_the_machine), None):
        return machine_failure(faulty)
    lines = [f"{name}: {error}" for name, error in errors.items()]
    hint = f"{kind.advice}; {mismatch}" if mismatch and kind is FailureKind.COMPILE else None
    # The lines have the first error, too.
    return TargetError(what, kind=kind, hint=hint, details="\n".join([*lines[1:], *readers[0].excerpt[1:]]))

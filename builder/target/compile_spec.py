"""How one compile is run: command, variables, limits, and who repairs the wheel.

Everything that can differ from machine to machine without changing the wheel is fixed here: time,
locale, time zone, hash seed, umask.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from builder.compilation import ccache, codegen_cache, compile_manifest, pch_stats
from builder.compilation.version_define import find_version_define
from builder.core import machine_limits
from builder.core.build_options import BuildOptions
from builder.core.errors import FailureKind, TargetError
from builder.core.trust import Trust
from builder.core.workspace import atomic_write, debian_script
from builder.environments.interface import Limits, Opened, Paths, is_release
from builder.environments.probe import Probed
from builder.matrix.model import Target
from builder.matrix.toolchains import Compiler, Provider
from builder.sources.build_scripts import SetupScript
from builder.wheels.repair import RepairPlan

#: Bytes that one compiler of torch_npu's larger files takes (measured at 1.2 to 1.9 GB with gcc 12).
COMPILER_MEMORY = 2 << 30

#: Below the launcher: the script that makes a command one of a build.
_RUN_BUILD = "run_build.sh"
#: Bytes that a build may write where nothing is known of its line. A whole torch_npu writes some 5 GB.
DISK = 32 << 30
#: Lines of a short command that are looked at.
_LINES = 1000
#: Below the results folder: where that script puts the compiler of setuptools.
_COMPILERS = "compilers"


@dataclass(frozen=True)
class CompileSpec:
    """One compile. ``epoch`` is SOURCE_DATE_EPOCH in seconds; ``slots`` limits compilers where make does not.

    ``shared_slots``: the slots are those of all targets that run now.

    ``extra`` holds the variables that the matrix gives the release line.

    ``store`` is the compile cache's folder below the cache folder, ``cache_size`` its limit in bytes (0: none);
    ``cached`` is false where nothing is to be looked up or stored. ``pch`` allows precompiled headers. ``python`` is
    the interpreter's path and ``python_include`` the folder of its headers, both as the environment sees them.
    ``version_define``, ``inputs`` and ``read_only`` are found out by ``prepared``.

    ``cmake`` is the environment's version of it, ``mismatch`` what there is to say of a gcc that is not the matrix's
    and was accepted; both are for the next step where the compile fails.
    """

    arguments: tuple[str, ...]
    epoch: int
    repair: RepairPlan
    jobs: int
    slots: int
    shared_slots: bool
    limits: Limits
    cann: bool
    extra: Mapping[str, str]
    store: str = ""
    python: str = ""
    python_include: str | None = None
    cache_size: int = ccache.DEFAULT_LIMIT
    cached: bool = True
    order_is_fixed: bool = False
    pch: bool = False
    version_define: bool = False
    inputs: bool = False
    read_only: bool = False
    cmake: str | None = None
    mismatch: str | None = None

    def command(self, paths: Paths) -> tuple[str, ...]:
        """The command that runs upstream's own ci/build.sh."""
        return self.among_compilers(paths, "bash", "ci/build.sh", *self.arguments)

    def among_compilers(self, paths: Paths, *argv: str) -> tuple[str, ...]:
        """``argv`` as it runs in a build: with CANN's variables, and the launcher before the compilers."""
        set_env = f"{paths.cann}/set_env.sh" if self.cann else ""
        cached = "cached" if self.cached else ""
        first = f"{paths.codegen}:{paths.launcher}"
        script = f"{paths.launcher}/{_RUN_BUILD}"
        return ("bash", script, set_env, first, cached, f"{paths.out}/{_COMPILERS}", *argv)

    def variables(self) -> dict[str, str]:
        """Variables that can change the wheel; they are part of the fingerprint."""
        return {
            **self.extra,
            "AUDITWHEEL_PLAT": self.repair.variable,
            "BUILD_WITHOUT_SHA": "1",
            # glibc 2.17 has no C.UTF-8; Python (3.7 and later) reads UTF-8 by PYTHONUTF8 instead.
            "LC_ALL": "C",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": "0",
            "PYTHONUTF8": "1",
            "SOURCE_DATE_EPOCH": str(self.epoch),
            "TZ": "UTC",
        }

    def environment(self, paths: Paths) -> dict[str, str]:
        """All variables of the compile; paths are those inside the environment."""
        return {
            **self.variables(),
            "MAX_JOBS": str(self.jobs),
            **ccache.environment(
                cache=paths.cache,
                launcher=paths.launcher,
                compile_log=f"{paths.out}/{ccache.COMPILE_LOG}",
                slots=self.slots,
                slot_folder=paths.slots if self.shared_slots else f"{paths.out}/slots",
                limit=self.cache_size,
                temporary=f"{paths.out}/ccache",
                inputs=f"{paths.out}/{compile_manifest.INPUTS}" if self.inputs else None,
                read_only=self.read_only,
            ),
            **({} if self.cached else {"BUILDER_CCACHE": ""}),
            **(
                codegen_cache.environment(paths.generated, paths.out, order_is_fixed=self.order_is_fixed)
                if self.cached
                else {}
            ),
            **self._launcher(paths),
        }

    def _launcher(self, paths: Paths) -> dict[str, str]:
        """What the launcher needs to give all Pythons of a release line the same commands, and to use headers."""
        variables = {"BUILDER_PYTHON": self.python} if self.python else {}
        # Where the results folder has another path in each run, a name in it would be no common one.
        if self.python_include is not None and paths.out == Paths.out:
            variables["BUILDER_PYTHON_INCLUDE"] = self.python_include
            variables["BUILDER_PYTHON_INCLUDE_AS"] = f"{paths.out}/{compile_manifest.PYTHON_INCLUDE}"
        if self.version_define:
            variables["BUILDER_VERSION_DEFINE"] = f"{paths.out}/{compile_manifest.VERSION_DEFINE}"
        if self.pch:
            variables |= pch_stats.environment(out=paths.out, cache=paths.cache)
            # Without a cache there is nothing that earlier builds have left of a header's files.
            if not self.cached or self.read_only:
                del variables["BUILDER_HEADERS_KNOWN"]
        return variables


def prepared(opened: Opened, spec: CompileSpec, *, tree: Path, out: Path, warn: Callable[[str], None]) -> CompileSpec:
    """Adapt ``spec`` to what this tree and this cache allow, and lay what its compile needs into ``out``.

    ``tree`` and ``out`` are this machine's folders of those that ``opened`` shows. Nothing here makes a build fail: a
    cache that cannot be used costs speed, and is told to ``warn``.
    """
    paths = opened.paths
    define = find_version_define(tree)
    if define is not None:
        atomic_write(out / compile_manifest.VERSION_DEFINE, define.text(paths.tree))
        (out / compile_manifest.VERSION_DEFINE).chmod(0o644)
    spec = replace(spec, version_define=define is not None)
    folder = paths.cache if spec.cached else None
    read = (
        f"{paths.out}/{compile_manifest.VERSION_DEFINE}",
        paths.launcher,
        paths.codegen,
        *paths.generated,
        paths.mirrors,
    )
    command = compile_manifest.before_command(
        spec.python, paths.launcher, tree=paths.tree, torch=paths.torch, out=paths.out, cache=folder, read=read
    )
    exit_code, lines = _beside_the_compile(opened, spec, command)
    found = compile_manifest.parse_before(lines) if exit_code == 0 else None
    if problem := compile_manifest.without(compile_manifest.parse_unreadable(lines)):
        warn(problem)
    state, why = found or ("unusable", f"its inputs cannot be listed ({(lines or ['no output'])[-1]})")
    spec = replace(spec, inputs=found is not None)
    if spec.cached and state == "unusable":
        warn(f"the compile cache {spec.store} cannot be used: {why}; compiling without it")
        return replace(spec, cached=False)
    if spec.cached and state == "read-only":
        warn(f"the compile cache {spec.store} cannot be written: {why}; what is in it is used, nothing is added")
        return replace(spec, read_only=True)
    return spec


def keep_manifest(
    opened: Opened, spec: CompileSpec, *, out: Path, folder: Path, target: str, run: str, size: int
) -> str | None:
    """Have the environment write down what the compiles took in, and keep that in ``folder``.

    ``size`` is in bytes, of the cache now. Returns why there is none, None where it stands; a build goes on without.
    """
    paths = opened.paths
    command = compile_manifest.after_command(
        spec.python, paths.launcher, tree=paths.tree, out=paths.out, log=f"{paths.out}/{ccache.COMPILE_LOG}"
    )
    exit_code, lines = _beside_the_compile(opened, spec, command)
    if exit_code != 0:
        return (lines or [f"exit code {exit_code}"])[-1]
    built = datetime.now(timezone.utc)
    try:
        compile_manifest.keep(out, folder, target=target, run=run, built=built, size=size, limit=spec.cache_size)
    except (compile_manifest.DamagedError, OSError) as error:
        return str(error)
    return None


def _beside_the_compile(opened: Opened, spec: CompileSpec, command: Sequence[str]) -> tuple[int, list[str]]:
    """Run a short command with the variables of the compile; its exit code and its lines."""
    lines = deque[str](maxlen=_LINES)
    outcome = opened.run(
        command,
        env=spec.environment(opened.paths),
        cwd=opened.paths.out,
        on_line=lines.append,
        limits=replace(spec.limits, timeout=compile_manifest.TIMEOUT),
    )
    return outcome.exit_code, list(lines)


def trust_of(target: Target, options: BuildOptions, *, changed: bool = False) -> Trust:
    """The level of a build of ``target``; ``changed`` where a person has changed its prepared tree.

    What a machine's administrator chooses, as a base image or a toolkit, does not lower it: sources do.
    """
    most = Trust(options.trust)
    chosen = (
        options.torch_npu is not None
        or options.op_plugin not in ("branch", "pinned")
        or options.custom_ops is not None
        or bool(options.patches)
        or changed
    )
    if chosen:
        return Trust.UNKNOWN
    return most.at_most(Trust.RELEASE if target.release.channel == "release" else Trust.NIGHTLY)


def memory_limit(options: BuildOptions) -> int:
    """Return the bytes of memory that a build may use: what ``options`` say, or nine tenths of the machine's."""
    return options.memory if options.memory is not None else machine_limits.memory() * 9 // 10


def jobs_for(options: BuildOptions) -> int:
    """Count the compilers that run at once: what ``options`` say, or one a core, as many as the memory holds."""
    return options.jobs or max(1, min(machine_limits.cores(), memory_limit(options) // COMPILER_MEMORY))


def limits(options: BuildOptions) -> Limits:
    """Limits of every command of a build: nine tenths of the memory and DISK unless the user says otherwise."""
    memory = memory_limit(options)
    disk = DISK if options.disk is None else options.disk
    return Limits(memory=memory, timeout=options.limit_of("compile"), disk=disk or None)


def repair_plan(target: Target, setup: SetupScript, *, meets_policy: bool) -> RepairPlan:
    """Who repairs the wheel, to which platform.

    Where the base image's glibc is newer than the policy of the matrix, the wheel cannot have that
    policy; auditwheel then finds the best one that it has.
    """
    if not meets_policy:
        return RepairPlan(platform="auto", by_upstream=False)
    platform = target.toolchain.platform
    return RepairPlan(platform=platform, by_upstream=setup.repairs_for(platform))


def meets_policy(target: Target, probed: Probed) -> bool:
    """True where the environment's glibc is old enough for the target's manylinux policy."""
    policy = re.fullmatch(r"manylinux_(\d+)_(\d+)", target.toolchain.manylinux)
    if policy is None:
        return True
    return _numbers(str(probed.glibc), 2) <= (int(policy[1]), int(policy[2]))


def toolchain_mismatches(target: Target, probed: Probed) -> list[str]:
    """Differences between the environment and the matrix that a user may accept."""
    wanted = target.toolchain
    found = []
    if _numbers(str(probed.gcc), 2) != _numbers(wanted.gcc, 2):
        found.append(f"gcc is {probed.gcc}, the matrix wants {wanted.gcc}")
    if not meets_policy(target, probed):
        found.append(f"glibc is {probed.glibc}, too new for {wanted.manylinux}")
    return found


def wrong_toolchain(
    target: Target, mismatches: Sequence[str], probed: Probed, compilers: Mapping[str, Compiler]
) -> TargetError:
    """The error for ``mismatches``, with where the gcc that the matrix wants comes from."""
    advice = gcc_advice(target, probed, compilers)
    accepted = "or accept the difference with --allow-toolchain-mismatch"
    return TargetError(
        "; ".join(mismatches), kind=FailureKind.TOOLCHAIN, hint=f"{advice}; {accepted}" if advice else None
    )


def gcc_advice(target: Target, probed: Probed, compilers: Mapping[str, Compiler]) -> str:
    """What to do where an environment (``probed``) has another gcc than the matrix wants.

    One sentence without a full stop: what gives that gcc on this system, which base image has it, and which command
    makes one. Empty where gcc is the right one, and where ``compilers`` of the matrix say nothing of it.
    """
    wanted = target.toolchain.gcc_minor
    compiler = compilers.get(wanted)
    if compiler is None or _numbers(str(probed.gcc), 2) == _numbers(wanted, 2):
        return ""
    system = probed.system or "this system"
    here = next((provider for provider in compiler.providers if _is_base(provider, probed)), None)
    if here is None:
        found = f"the matrix knows no package of gcc {wanted} for {system}"
    elif here.package is None:
        found = f"gcc {wanted} has to be built from source on {system}"
    elif compiler.is_held_by(here):
        found = f"gcc {wanted} is in {here.package} on {system}"
    else:
        found = f"the nearest to gcc {wanted} on {system} is {here.package}, which is {here.version}"
    made = debian_base(target, compiler)
    if made is None:
        there = f"{debian_script()} makes none that has it"
    else:
        command, name, version = made
        there = f"'{command}' makes one with gcc {version} (--base-image {name})"
    return f"{found}; the base image of the matrix has it ({target.toolchain.base_image}), and {there}"


def debian_base(target: Target, compiler: Compiler) -> tuple[str, str, str] | None:
    """How a base with ``compiler`` for ``target`` is made from Debian's packages: the command, the name of what it
    makes, the version of its gcc. None where no release of Debian has that gcc.
    """
    provider = next((provider for provider in compiler.packaged if provider.base.suite is not None), None)
    if provider is None:
        return None
    major = compiler.minor.split(".")[0]
    command = [debian_script(), "--suite", str(provider.base.suite), "--gcc", major]
    if target.arch != os.uname().machine:
        command += ["--arch", target.arch]
    if target.python != provider.base.python:
        command += ["--python", f"{target.python}=PREFIX"]
    name = f"torch-npu-builder/base:{provider.base.suite}-gcc{major}-{target.arch}"
    return " ".join(command), name, str(provider.version)


def _is_base(provider: Provider, probed: Probed) -> bool:
    base = provider.base
    return any(is_release(os_id, base.version, probed.os_id, probed.os_version) for os_id in base.ids)


def accepted_gcc(target: Target, probed: Probed, compilers: Mapping[str, Compiler]) -> str | None:
    """What to say, where a compile fails, of a gcc that is not the matrix's; None where it is."""
    if _numbers(str(probed.gcc), 2) == _numbers(target.toolchain.gcc, 2):
        return None
    advice = gcc_advice(target, probed, compilers) or "use the base image of the matrix, or one with that gcc"
    found = f"gcc is {probed.gcc}, which may be why: {target.release.branch} is made for {target.toolchain.gcc}"
    return f"{found}; {advice}"


def check_torch(target: Target, probed: Probed) -> None:
    """Raise TargetError where the environment's PyTorch is not the one that the target needs."""
    if probed.torch is None:
        raise TargetError(
            f"PyTorch cannot be imported in the environment: {probed.torch_error}", kind=FailureKind.TOOLCHAIN
        )
    version, abi = str(probed.torch), probed.cxx11_abi
    if version.split("+")[0] != target.release.pytorch:
        raise TargetError(
            f"the environment has PyTorch {version}, the matrix wants {target.release.pytorch}",
            kind=FailureKind.TOOLCHAIN,
            hint="check the folders given by --find-links, and --torch-source",
        )
    if abi is not None and int(abi) != target.toolchain.cxx11_abi:
        raise TargetError(
            f"PyTorch {version} was built with C++ ABI {int(abi)}, "
            f"{target.release.branch} on {target.arch} is built with {target.toolchain.cxx11_abi}",
            kind=FailureKind.TOOLCHAIN,
            hint="a wheel of one ABI cannot be loaded into a PyTorch of the other; choose another --torch-source",
        )


def _numbers(version: str, count: int) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:count])

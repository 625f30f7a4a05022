"""Builds on this machine itself: the same steps without a container.

For CI jobs that run inside a manylinux container already, and for machines without an engine. Where
the kernel allows namespaces, commands see the same fixed paths as in a container and no network; else
they see real paths, which the fingerprint then holds. Commands run as the invoking user (as root when
the builder does), and limits of memory and processes are not enforced here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from builder.console import Reporter
from builder.environments.base import EnvironmentRequest, Folders, Limits, Opened, Outcome, Paths, Ready
from builder.environments.bases import interpreter_folder
from builder.environments.host_maker import HostMaker
from builder.environments.interpreters import Interpreter, need_interpreter
from builder.environments.inventory import Inventory, additions, tools_needed, without_ccache
from builder.environments.namespace import Bind, Namespaces, find_namespaces
from builder.environments.network import NetworkSettings
from builder.environments.process import run_process
from builder.environments.pytorch import WRITTEN, ensure_pytorch
from builder.environments.pytorch_store import PyTorch
from builder.environments.recipe import (
    folders_of_wheels,
    inputs_digest,
    not_offered,
    python_inputs,
    pytorch_digest,
    system_inputs,
)
from builder.environments.temporary import temporary
from builder.environments.variables import merged
from builder.errors import FailureKind, MachineError, TargetError
from builder.live import file_lock
from builder.workspace import atomic_json, remove_tree, resource

#: Programs that no package index has, by the packages that bring them (Debian's, Fedora's).
PROGRAMS = {"gcc": ("gcc", "gcc"), "g++": ("g++", "gcc-c++"), "make": ("make", "make"), "git": ("git", "git")}
#: Written last: a folder without it was left by a builder that was killed.
MARKER = "environment.json"


def ready_host(
    request: EnvironmentRequest,
    *,
    settings: NetworkSettings,
    workspace_environments: Path,
    log: Path,
    reporter: Reporter,
    resources: Path | None = None,
    env: Mapping[str, str] | None = None,
    fixed_paths: bool = True,
) -> Ready:
    """The environment of ``request`` on this machine, made below ``workspace_environments`` when absent.

    ``resources`` is the shipped folder ``docker``, ``env`` this process's variables; ``fixed_paths=False``
    does without namespaces. Raises MachineError when the machine lacks a program, an interpreter or the
    architecture, TargetError (IMAGE) when packages cannot be installed.
    """
    env = os.environ if env is None else env
    resources = resource("docker") if resources is None else resources
    if request.arch != os.uname().machine:
        raise MachineError(
            f"this machine is {os.uname().machine}; a target for {request.arch} cannot be built on it directly",
            hint="build it in a container with --environment docker",
        )
    interpreter = need_interpreter(request.python, env)
    path = env.get("PATH") or os.defpath
    _need_programs(path)
    found = look_around(resources, path)
    path = _with_toolset(path, found, request, workspace_environments)
    wheels = folders_of_wheels(request, settings)
    digest = environment_digest(request, resources, interpreter)
    home = workspace_environments.resolve() / digest[:20]
    workspace_environments.mkdir(parents=True, exist_ok=True)
    with HostMaker(request, interpreter, settings, resources, wheels, home, path, env, log) as maker:
        with file_lock(workspace_environments / f"{digest[:20]}.lock"):
            if settings.offline and (parts := absent_parts(request, found, wheels, home)):
                raise TargetError(
                    f"the environment of Python {request.python} on this host does not stand, and --offline forbids "
                    f"fetching what it is made of: {', '.join(parts)}",
                    kind=FailureKind.IMAGE,
                    hint="make it beforehand with 'pull', or name folders of wheels that have these with --find-links",
                )
            if not (home / MARKER).is_file():
                remove_tree(home)
                with reporter.task(f"environment for Python {request.python} on this host") as task:
                    maker.show = lambda line: task.update(detail=line)
                    try:
                        maker.install(found)
                        told = {"digest": digest, "interpreter": str(interpreter.path), "warnings": maker.warnings}
                        atomic_json(home / MARKER, told)
                    except BaseException:
                        remove_tree(home)
                        raise
        pytorch = ensure_pytorch(
            request,
            resources=resources,
            folders=wheels,
            libc=f"{found.libc} {found.libc_version}",
            owner_of_files=None,
            offline=settings.offline,
            reporter=reporter,
            run=maker.pytorch_run,
        )
    namespaces = find_namespaces() if fixed_paths else None
    path = os.pathsep.join([str(home / "tools" / "bin"), path])

    @contextmanager
    def open_host(folders: Folders) -> Iterator[Opened]:
        with temporary() as scratch, pytorch.used():
            yield Host(home, interpreter, request.python, folders, path, env, namespaces, scratch, pytorch)

    facts = {
        "environment": "host",
        "environment_digest": digest,
        "interpreter": str(interpreter.path),
        "interpreter_version": interpreter.version,
        "base": found.describe(),
        "torch_source": request.torch_source,
        "pytorch": pytorch_digest(request, resources, wheels),
        "pytorch_wheels": dict(sorted(pytorch.wheels.items())),
        "requirements": list(request.requirements),
        "fixed_paths": namespaces is not None,
        "network": namespaces is None or not namespaces.network,
        "folder": None if namespaces else str(workspace_environments.resolve()),
        "eu_strip": shutil.which("eu-strip", path=path),
        "ccache": shutil.which("ccache", path=path),
    }
    made = json.loads((home / MARKER).read_text(encoding="utf-8"))
    warnings = list(made.get("warnings", ()))
    if namespaces is None:
        warnings.append("no namespaces on this machine: compile commands hold real paths, so Pythons share little")
    elif not namespaces.network:
        warnings.append("no network namespace on this machine: the compile could reach the network")
    return Ready(
        "host",
        facts,
        open_host,
        fixed_paths=namespaces is not None,
        build_user=(os.getuid(), os.getgid()),
        identity=("environment", "environment_digest", "pytorch", "fixed_paths", "folder"),
        warnings=tuple(warnings),
        held=(("environment", str(home)), ("PyTorch", str(pytorch.site.parent))),
    )


def absent_parts(request: EnvironmentRequest, found: Inventory, folders: tuple[Path, ...], home: Path) -> list[str]:
    """What the environment at ``home`` is made of that has to be fetched; nothing where it stands."""
    if (home / MARKER).is_file():
        return []
    return not_offered([*request.requirements, *without_ccache(tools_needed(found))], folders)


def host_identity(
    request: EnvironmentRequest,
    *,
    settings: NetworkSettings,
    workspace_environments: Path,
    resources: Path,
    env: Mapping[str, str] | None = None,
) -> dict[str, object]:
    """The identity that ``ready_host`` would give, without making anything. Raises MachineError as it does."""
    interpreter = need_interpreter(request.python, os.environ if env is None else env)
    namespaces = find_namespaces()
    return {
        "environment": "host",
        "environment_digest": environment_digest(request, resources, interpreter),
        "pytorch": pytorch_digest(request, resources, folders_of_wheels(request, settings)),
        "fixed_paths": namespaces is not None,
        "folder": None if namespaces else str(workspace_environments.resolve()),
    }


def environment_digest(request: EnvironmentRequest, resources: Path, interpreter: Interpreter) -> str:
    """Digest of all that decides the environment of ``request``; its folder is called by the beginning of it."""
    parts = [system_inputs(request, resources), python_inputs(request, resources)]
    return inputs_digest([*parts, str(interpreter.path.resolve()), interpreter.version])


def look_around(resources: Path, path: str) -> Inventory:
    """What this machine has for builds, with ``path`` as PATH."""
    lines: list[str] = []
    run_process(
        ["sh", str(resources / "inventory.sh")], env={"PATH": path}, cwd="/", on_line=lines.append, limits=Limits()
    )
    return Inventory.parse(lines)


def _with_toolset(path: str, found: Inventory, request: EnvironmentRequest, folder: Path) -> str:
    """PATH for builds: the wanted gcc first, where this machine has it, then what the user has."""
    compiler = additions(found, request, "this machine").compiler
    if not any(there == compiler for _, there in found.compilers):
        # Nothing is installed on somebody's machine. The version is compared with the matrix before the compile.
        return path
    place = Path(compiler)
    version = place.name.partition("-")[2]
    if not version:
        return path if shutil.which("g++", path=path) == compiler else f"{place.parent}{os.pathsep}{path}"
    links = folder.resolve() / f"gcc-{version}" / "bin"
    links.mkdir(parents=True, exist_ok=True)
    for name in ("gcc", "g++", "gcov", "cc", "c++"):
        target = shutil.which(f"{ {'cc': 'gcc', 'c++': 'g++'}.get(name, name) }-{version}", path=str(place.parent))
        if target and not (links / name).is_symlink():
            (links / name).symlink_to(target)
    return f"{links}{os.pathsep}{path}"


def _need_programs(path: str) -> None:
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        debian, fedora = (" ".join(PROGRAMS[name][number] for name in missing) for number in (0, 1))
        raise MachineError(
            f"this machine lacks {', '.join(missing)}, which a build on the host needs",
            hint=f"apt-get install {debian} (or dnf install {fedora}), or build with --environment docker",
        )


class Host:
    """An opened environment on this machine (see ``base.Opened``)."""

    def __init__(
        self,
        home: Path,
        interpreter: Interpreter,
        python: str,
        folders: Folders,
        path: str,
        env: Mapping[str, str],
        namespaces: Namespaces | None,
        scratch: Path,
        pytorch: PyTorch,
    ) -> None:
        for folder in folders.written:
            folder.mkdir(parents=True, exist_ok=True)
        self._namespaces = namespaces
        self._folders = folders
        self._root = scratch / "root"
        self._root.mkdir()
        (scratch / "home").mkdir()
        # Upstream's code generation changes a file inside torchgen: each build gets a copy of its own.
        modules = scratch / "modules"
        modules.mkdir()
        if (pytorch.site / WRITTEN).is_dir():
            shutil.copytree(pytorch.site / WRITTEN, modules / WRITTEN, symlinks=True)
        place = f"/opt/python/{interpreter_folder(python)}"
        if namespaces is None:
            self.paths = _real_paths(folders, pytorch.site)
            self._binds: list[Bind] = []
            program, modules_path = str(home / "venv" / "bin"), f"{modules}{os.pathsep}{self.paths.torch}"
        else:
            self.paths = folders.paths
            self._binds = [Bind(here, place, read_only=fixed) for here, place, fixed in folders.shown(self.paths)]
            self._binds.append(Bind(pytorch.site, self.paths.torch, read_only=True))
            if (modules / WRITTEN).is_dir():
                self._binds.append(Bind(modules / WRITTEN, f"{self.paths.torch}/{WRITTEN}"))
            program, modules_path = f"{place}/bin", self.paths.torch
            # An interpreter at that very place must stay visible: the venv links to it.
            if interpreter.path.resolve().is_relative_to("/opt/python"):
                program = str(home / "venv" / "bin")
            else:
                self._binds.append(Bind(home / "venv", place))
        kept = {name: env[name] for name in ("LD_LIBRARY_PATH", "TMPDIR") if name in env}
        self.base_env: Mapping[str, str] = {
            **kept,
            "PATH": os.pathsep.join([program, path]),
            "PYTHONPATH": modules_path,
            # Not the user's: settings there (of git, ccache, pip) must not reach a build.
            "HOME": str(scratch / "home"),
            "USER": "builder",
            "LOGNAME": "builder",
            "TERM": "dumb",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
        }

    def show_cache(self, folder: Path) -> None:
        """See ``base.Opened.show_cache``."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folders = replace(self._folders, cache=folder)
        if self._namespaces is None:
            self.paths = replace(self.paths, cache=str(folder.resolve()))
        else:
            self._binds.append(Bind(folder, self.paths.cache))

    def _command(self, argv: Sequence[str], cwd: str) -> tuple[list[str], str | None]:
        """The command and its working directory as this machine starts it."""
        if self._namespaces is None:
            return list(argv), cwd
        return self._namespaces.command(self._root, cwd, self._binds, argv), "/"

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str,
        on_line: Callable[[str], None],
        limits: Limits,
    ) -> Outcome:
        """Run ``argv`` on this machine (see ``base.Opened.run``); memory and processes are not limited."""
        command, place = self._command(argv, cwd)
        variables = merged(self.base_env, env)
        return run_process(
            command, env=variables, cwd=place, on_line=on_line, limits=limits, written=self._folders.written
        )

    def interactive(self, *, env: Mapping[str, str], cwd: str) -> int:
        """Open a shell on the user's terminal; return its exit code."""
        if not sys.stdin.isatty():
            raise MachineError("a shell needs a terminal", hint="run this command in one")
        shell = shutil.which("bash") or "/bin/sh"
        command, place = self._command([shell, "-i"], cwd)
        variables = {**merged(self.base_env, env), "TERM": os.environ.get("TERM", "dumb")}
        return subprocess.run(command, env=variables, cwd=place, check=False).returncode


def _real_paths(folders: Folders, site: Path) -> Paths:
    """Where everything stands on this machine itself, without a namespace."""
    places = {
        "tree": folders.tree,
        "mirrors": folders.mirrors,
        "torch": site,
        "cache": folders.cache,
        "out": folders.out,
        "slots": folders.slots,
        "remote": folders.remote,
        "launcher": folders.launcher,
        "codegen": folders.codegen,
        "cann": folders.cann,
    }
    shown = {name: str(folder.resolve()) for name, folder in places.items() if folder is not None}
    return Paths(generated=tuple(str(folder.resolve()) for folder in folders.generated), **shown)

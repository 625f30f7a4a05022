"""Builds on this machine itself: the same steps without a container.

For CI jobs that run inside a manylinux container already, and for machines without an engine. Where
the kernel allows namespaces, commands see the same fixed paths as in a container and no network; else
they see real paths, which the fingerprint then holds. Commands run as the invoking user (as root when
the builder does), and limits of memory and processes are not enforced here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from builder.console import Reporter
from builder.environments.base import EnvironmentRequest, Folders, Limits, Opened, Outcome, Paths, Ready
from builder.environments.bases import interpreter_folder
from builder.environments.docker import merged
from builder.environments.interpreters import Interpreter, need_interpreter
from builder.environments.namespace import Bind, Namespaces, find_namespaces
from builder.environments.network import NetworkSettings
from builder.environments.process import run_process
from builder.environments.recipe import (
    Log,
    folders_of_wheels,
    inputs_digest,
    install_variables,
    python_inputs,
    stage_files,
)
from builder.environments.temporary import temporary
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
    path = _path(env, request, workspace_environments)
    _need_programs(path)
    wheels = folders_of_wheels(request, settings)
    digest = _digest(request, resources, wheels, interpreter)
    home = workspace_environments.resolve() / digest[:20]
    workspace_environments.mkdir(parents=True, exist_ok=True)
    with file_lock(workspace_environments / f"{digest[:20]}.lock"):
        if not (home / MARKER).is_file():
            remove_tree(home)
            with reporter.task(f"environment for Python {request.python} on this host") as task:
                writer = Log(log, settings, lambda line: task.update(detail=line))
                try:
                    _install(request, interpreter, settings, resources, wheels, home, path, env, writer)
                    atomic_json(home / MARKER, {"digest": digest, "interpreter": str(interpreter.path)})
                except BaseException:
                    remove_tree(home)
                    raise
                finally:
                    writer.close()
    namespaces = find_namespaces() if fixed_paths else None
    path = os.pathsep.join([str(home / "tools" / "bin"), path])

    @contextmanager
    def open_host(folders: Folders) -> Iterator[Opened]:
        with temporary() as scratch:
            yield Host(home, interpreter, request.python, folders, path, env, namespaces, scratch)

    facts = {
        "environment": "host",
        "environment_digest": digest,
        "interpreter": str(interpreter.path),
        "interpreter_version": interpreter.version,
        "torch_source": request.torch_source,
        "requirements": list(request.requirements),
        "fixed_paths": namespaces is not None,
        "network": namespaces is None or not namespaces.network,
        "folder": None if namespaces else str(workspace_environments.resolve()),
        "eu_strip": shutil.which("eu-strip", path=path),
        "ccache": shutil.which("ccache", path=path),
    }
    warnings = []
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
        identity=("environment", "environment_digest", "fixed_paths", "folder"),
        warnings=tuple(warnings),
    )


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
        "environment_digest": _digest(request, resources, folders_of_wheels(request, settings), interpreter),
        "fixed_paths": namespaces is not None,
        "folder": None if namespaces else str(workspace_environments.resolve()),
    }


def _digest(request: EnvironmentRequest, resources: Path, wheels: tuple[Path, ...], interpreter: Interpreter) -> str:
    return inputs_digest(
        [python_inputs(request, resources, wheels), str(interpreter.path.resolve()), interpreter.version]
    )


def _path(env: Mapping[str, str], request: EnvironmentRequest, folder: Path) -> str:
    """PATH for builds: the wanted toolset first, then what the user has."""
    path = env.get("PATH") or os.defpath
    toolset = request.gcc_toolset
    if not toolset:
        return path
    software = Path("/opt/rh") / toolset / "root" / "usr" / "bin"
    if software.is_dir():
        return f"{software}{os.pathsep}{path}"
    suffix = toolset.removeprefix("gcc")
    if toolset.startswith("gcc-") and shutil.which(f"g++{suffix}", path=path):
        links = folder.resolve() / toolset / "bin"
        links.mkdir(parents=True, exist_ok=True)
        for name in ("gcc", "g++", "gcov", "cc", "c++"):
            target = shutil.which({"cc": "gcc", "c++": "g++"}.get(name, name) + suffix, path=path)
            if target and not (links / name).is_symlink():
                (links / name).symlink_to(target)
        return f"{links}{os.pathsep}{path}"
    # The compiler's version is compared with the matrix before the compile; nothing to refuse here.
    return path


def _need_programs(path: str) -> None:
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        debian, fedora = (" ".join(PROGRAMS[name][number] for name in missing) for number in (0, 1))
        raise MachineError(
            f"this machine lacks {', '.join(missing)}, which a build on the host needs",
            hint=f"apt-get install {debian} (or dnf install {fedora}), or build with --environment docker",
        )


def _install(
    request: EnvironmentRequest,
    interpreter: Interpreter,
    settings: NetworkSettings,
    resources: Path,
    wheels: tuple[Path, ...],
    home: Path,
    path: str,
    env: Mapping[str, str],
    log: Log,
) -> None:
    log.line(f"== {home} with {interpreter.path} ({interpreter.version})")
    with temporary() as stage:
        stage_files(stage, request, resources)
        inside = []
        for number, folder in enumerate(wheels):
            # A name without spaces, whatever the folder's own.
            inside.append(str(stage / f"wheels{number}"))
            Path(inside[-1]).symlink_to(folder)
        variables = {
            **{name: env[name] for name in ("LD_LIBRARY_PATH", "TMPDIR") if name in env},
            **settings.environment(
                ca_bundle=str(settings.ca_bundle) if settings.ca_bundle else None,
                pip_config=str(settings.pip_config) if settings.pip_config else None,
            ),
            **install_variables(request, settings, inside),
            "PATH": path,
            "HOME": str(stage),
            "INTERPRETER": str(home / "venv"),
            "TOOLS_PYTHON": sys.executable,
            "TORCH_FOLDER": str(home / "torch"),
            "TOOLS_FOLDER": str(home / "tools"),
        }
        home.mkdir(parents=True)
        for argv in (
            [str(interpreter.path), "-m", "venv", str(home / "venv")],
            ["sh", str(stage / "install.sh")],
        ):
            outcome = run_process(argv, env=variables, cwd="/", on_line=log.line, limits=Limits())
            if outcome.exit_code != 0:
                raise TargetError(
                    f"PyTorch {request.torch} for Python {request.python} cannot be installed on this host",
                    kind=FailureKind.IMAGE,
                    details="\n".join(log.tail),
                    log=log.path,
                    hint="read the log named above; docs/environments.md lists index, proxy and CA settings",
                )
    torchgen = home / "torch" / "torchgen"
    if torchgen.is_dir():
        shutil.copytree(torchgen, home / "torchgen", symlinks=True)


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
    ) -> None:
        for folder in (folders.tree, folders.cache, folders.out):
            folder.mkdir(parents=True, exist_ok=True)
        self._namespaces = namespaces
        self._root = scratch / "root"
        self._root.mkdir()
        (scratch / "home").mkdir()
        # Upstream's code generation changes a file inside torchgen: each build gets a copy of its own.
        modules = scratch / "modules"
        modules.mkdir()
        if (home / "torchgen").is_dir():
            shutil.copytree(home / "torchgen", modules / "torchgen", symlinks=True)
        place = f"/opt/python/{interpreter_folder(python)}"
        if namespaces is None:
            self.paths = Paths(
                tree=str(folders.tree.resolve()),
                mirrors=str(folders.mirrors.resolve()),
                torch=str(home / "torch"),
                cache=str(folders.cache.resolve()),
                out=str(folders.out.resolve()),
                launcher=str(folders.launcher.resolve()),
                cann=str(folders.cann.resolve()) if folders.cann else Paths.cann,
            )
            self._binds: list[Bind] = []
            program, modules_path = str(home / "venv" / "bin"), f"{modules}{os.pathsep}{self.paths.torch}"
        else:
            self.paths = Paths()
            self._binds = [
                Bind(folders.tree, self.paths.tree),
                Bind(folders.cache, self.paths.cache),
                Bind(folders.out, self.paths.out),
                Bind(folders.mirrors, self.paths.mirrors, read_only=True),
                Bind(folders.launcher, self.paths.launcher, read_only=True),
                Bind(home / "torch", self.paths.torch),
            ]
            if (modules / "torchgen").is_dir():
                self._binds.append(Bind(modules / "torchgen", f"{self.paths.torch}/torchgen"))
            if folders.cann is not None:
                self._binds.append(Bind(folders.cann, self.paths.cann, read_only=True))
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
        return run_process(command, env=merged(self.base_env, env), cwd=place, on_line=on_line, limits=limits)

    def interactive(self, *, env: Mapping[str, str], cwd: str) -> int:
        """Open a shell on the user's terminal; return its exit code."""
        if not sys.stdin.isatty():
            raise MachineError("a shell needs a terminal", hint="run this command in one")
        shell = shutil.which("bash") or "/bin/sh"
        command, place = self._command([shell, "-i"], cwd)
        variables = {**merged(self.base_env, env), "TERM": os.environ.get("TERM", "dumb")}
        return subprocess.run(command, env=variables, cwd=place, check=False).returncode

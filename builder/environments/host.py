"""Builds on this machine itself: the same steps without a container.

For CI jobs that run inside a manylinux container already, and for machines without an engine. Where
the kernel allows namespaces, commands see the same fixed paths as in a container, no network and little else of
this machine, and have no capabilities; else they see real paths, which the fingerprint then holds, and run as whoever
runs the builder. What they can reach is in ``Ready.exposure``. Limits of memory and processes are not enforced here.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import JsonValue

from builder.core.cancellation import file_lock
from builder.core.errors import FailureKind, MachineError, TargetError
from builder.core.untrusted import remove_tree
from builder.core.workspace import atomic_json, resource
from builder.environments.host_maker import HostMaker
from builder.environments.host_opened import Host, HostEnvironment, HostView
from builder.environments.image_inputs import (
    folders_of_wheels,
    inputs_digest,
    not_offered,
    python_inputs,
    pytorch_digest,
    system_inputs,
)
from builder.environments.interface import EnvironmentRequest, Folders, Limits, Opened, Ready
from builder.environments.interpreters import Interpreter, need_interpreter
from builder.environments.inventory import Inventory, additions, tools_needed, without_ccache
from builder.environments.namespace import Namespaces, find_namespaces, user_name
from builder.environments.network import NetworkSettings
from builder.environments.process import run_process
from builder.environments.pytorch import ensure_pytorch
from builder.environments.temporary import temporary
from builder.progress.reporter import Reporter

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
    namespaces = find_namespaces() if fixed_paths else None
    workspace = workspace_environments.resolve().parent
    found = look_around(resources, HostView(namespaces, workspace, path, env))
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
    path = os.pathsep.join([str(home / "tools" / "bin"), path])
    view = HostView(namespaces, workspace, path, env, shown=(home,))
    environment = HostEnvironment(home, interpreter, request.python, pytorch.site, view)

    @contextmanager
    def open_host(folders: Folders) -> Iterator[Opened]:
        with temporary() as scratch, pytorch.used():
            yield Host(environment, folders, scratch)

    facts: dict[str, JsonValue] = {
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
        "contained": None if namespaces is None else namespaces.describe(),
        "folder": None if namespaces else str(workspace_environments.resolve()),
        "eu_strip": shutil.which("eu-strip", path=path),
        "ccache": shutil.which("ccache", path=path),
    }
    made = json.loads((home / MARKER).read_text(encoding="utf-8"))
    warnings = list(made.get("warnings", ()))
    if namespaces is None:
        warnings.append("no namespaces on this machine: compile commands hold real paths, so Pythons share little")
    return Ready(
        "host",
        facts,
        open_host,
        fixed_paths=namespaces is not None,
        build_user=(os.getuid(), os.getgid()) if namespaces is None else namespaces.user,
        identity=("environment", "environment_digest", "pytorch", "fixed_paths", "folder"),
        warnings=tuple(warnings),
        exposure=exposure(namespaces),
        held=(("environment", str(home)), ("PyTorch", str(pytorch.site.parent))),
        pytorch=pytorch.site,
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
) -> dict[str, JsonValue]:
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


def look_around(resources: Path, view: HostView) -> Inventory:
    """Find what this machine has for builds that see ``view`` of it. Raises MachineError if it cannot be looked at."""
    script = (resources / "inventory.sh").read_text(encoding="utf-8")
    lines: list[str] = []
    # The view is composed of the machine's mounts, and one of those may just be changing: it is tried once more.
    for _ in range(2):
        lines.clear()
        with temporary() as scratch, view.command(scratch, "/", [], ["sh", "-c", script]) as (command, cwd, _env):
            outcome = run_process(command, env={"PATH": view.path}, cwd=cwd, on_line=lines.append, limits=Limits())
        if outcome.exit_code == 0:
            return Inventory.parse(lines)
    raise MachineError(
        f"the programs of this machine could not be looked at (exit code {outcome.exit_code})",
        details="\n".join(lines[-10:]),
        hint="'doctor' shows what host builds need; --environment docker builds in a container",
    )


def exposure(namespaces: Namespaces | None) -> tuple[str, ...]:
    """In words, what a build here can reach that one in a container cannot; nothing where that is no more than reading
    what everybody on this machine may read.
    """
    if namespaces is None:
        name = user_name()
        text = f"this machine allows no namespaces: a build here runs as {name}, with all that {name} may do"
        return (f"{text}. It can read and change files, end processes, and reach the network and sockets of engines",)
    if reach := namespaces.reach():
        return (f"a build on this host is contained less than one in a container: it can {'; '.join(reach)}",)
    return ()


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
    for made in (links.parent, links):
        made.chmod(0o755)  # whatever the umask is: builds of root run as another user
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

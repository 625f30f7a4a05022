"""An environment on this machine, opened for one target: how its commands are started, and what they see.

With namespaces a command sees the folders of its build at their fixed paths, empty homes, a /tmp of its own, and the
rest of this machine read-only (``visible``, ``namespace``). Without, it runs as whoever runs the builder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from builder.core.errors import MachineError
from builder.core.untrusted import remove_tree
from builder.environments.base_images import interpreter_folder
from builder.environments.interface import Folders, Limits, Outcome, Paths
from builder.environments.interpreters import Interpreter
from builder.environments.namespace import Bind, Namespaces
from builder.environments.ownership import make_and_give
from builder.environments.process import run_process
from builder.environments.pytorch import WRITTEN
from builder.environments.toolkit import on_hosts
from builder.environments.variables import merged
from builder.environments.visible import visible

#: HOME of commands in namespaces, below the /tmp of their own: not the user's, whose settings (of git, ccache, pip)
#: must not reach a build.
_HOME = "/tmp/home"  # noqa: S108
#: The interpreters of an environment: links to those of this machine.
_PYTHONS = ("venv/bin/python", "tools/tools/bin/python")
#: Exit code of a command that was killed, as a shell that waited for it says.
_KILLED = 137


@dataclass(frozen=True)
class HostView:
    """What commands on this machine see of it: ``path`` is their PATH, ``env`` the builder's own variables.

    ``namespaces`` None: everything. ``workspace`` is hidden, but for the folders ``shown``.
    """

    namespaces: Namespaces | None
    workspace: Path
    path: str
    env: Mapping[str, str]
    shown: tuple[Path, ...] = ()

    @contextmanager
    def command(
        self, scratch: Path, cwd: str, binds: Sequence[Bind], argv: Sequence[str]
    ) -> Iterator[tuple[list[str], str, list[Path]]]:
        """How ``argv`` is started with ``binds`` in place: the command, its working directory, its temporary folders.

        ``scratch`` is a folder for the length of the build. What the command leaves in /tmp is gone after the block.
        """
        if self.namespaces is None:
            yield list(argv), cwd, []
            return
        # Each command has folders of its own: what one leaves could lead the composing of the next elsewhere.
        own = Path(tempfile.mkdtemp(dir=scratch))
        try:
            root = own / "root"
            root.mkdir()
            seen = visible(self.workspace, self.env)
            temporary = [own / str(number) for number in range(len(seen.temporary))]
            for folder in temporary:
                home = folder / Path(_HOME).name
                home.mkdir(parents=True)
                folder.chmod(0o1777)
                if os.getuid() == 0:
                    os.chown(home, *self.namespaces.user)
            programs = [folder / name for folder in self.shown for name in _PYTHONS]
            needed = [*self.shown, *seen.needed(self.path, self.env, programs)]
            lines = seen.lines(temporary, needed, [bind.place for bind in binds])
            yield self.namespaces.command(root, cwd, binds, argv, lines), "/", temporary
        finally:
            remove_tree(own)


@dataclass(frozen=True)
class HostEnvironment:
    """What stands on this machine for a build: interpreter, tools and PyTorch.

    ``home`` is the environment's folder, ``python`` the target's version (``3.11``), ``site`` where PyTorch stands.
    """

    home: Path
    interpreter: Interpreter
    python: str
    site: Path
    view: HostView


class Host:
    """An opened environment on this machine (see ``base.Opened``)."""

    def __init__(self, environment: HostEnvironment, folders: Folders, scratch: Path) -> None:
        """Open ``environment`` over ``folders``; ``scratch`` is an empty folder for the length of the build."""
        self._view = environment.view
        if folders.cann is not None:
            # At its own path, too: its scripts name that one.
            self._view = replace(self._view, shown=(*self._view.shown, folders.cann))
        self._namespaces = environment.view.namespaces
        self._owner = self._namespaces.user if os.getuid() == 0 and self._namespaces is not None else None
        self._folders = folders
        self._scratch = scratch
        home = scratch / "home"
        home.mkdir()
        make_and_give(folders.written, self._owner)
        # Upstream's code generation changes a file inside torchgen: each build gets a copy of its own.
        modules = scratch / "modules"
        modules.mkdir()
        if (environment.site / WRITTEN).is_dir():
            shutil.copytree(environment.site / WRITTEN, modules / WRITTEN, symlinks=True)
            make_and_give([modules / WRITTEN], self._owner)
        venv = environment.home / "venv"
        if self._namespaces is None:
            self.paths = _real_paths(folders, environment.site)
            self._binds: list[Bind] = []
            program, modules_path = venv / "bin", f"{modules}{os.pathsep}{self.paths.torch}"
        else:
            self.paths = folders.paths
            self._binds = [Bind(here, place, read_only=fixed) for here, place, fixed in folders.shown(self.paths)]
            self._binds.append(Bind(environment.site, self.paths.torch, read_only=True))
            if (modules / WRITTEN).is_dir():
                self._binds.append(Bind(modules / WRITTEN, f"{self.paths.torch}/{WRITTEN}"))
            program, modules_path = Path("/opt/python", interpreter_folder(environment.python), "bin"), self.paths.torch
            # An interpreter at that very place must stay visible: the venv links to it.
            if environment.interpreter.path.resolve().is_relative_to("/opt/python"):
                program = venv / "bin"
            else:
                self._binds.append(Bind(venv, str(program.parent), read_only=True))
        self.warnings: tuple[str, ...] = ()
        if self._namespaces is not None:
            seen = visible(self._view.workspace, self._view.env)
            self.warnings = on_hosts(folders.cann, self.paths, self._binds, seen)
        # Where /tmp is the build's own, that of the builder is hidden.
        names = ("LD_LIBRARY_PATH", "TMPDIR") if self._namespaces is None else ("LD_LIBRARY_PATH",)
        self.base_env: Mapping[str, str] = {
            **{name: self._view.env[name] for name in names if name in self._view.env},
            # https://setuptools.pypa.io/en/latest/userguide/ext_modules.html: over the interpreter's own LDSHARED.
            **({"LDSHARED": environment.interpreter.ldshared} if environment.interpreter.ldshared else {}),
            "PATH": os.pathsep.join([str(program), self._view.path]),
            "PYTHONPATH": modules_path,
            "HOME": str(home) if self._namespaces is None else _HOME,
            "USER": "builder",
            "LOGNAME": "builder",
            "TERM": "dumb",
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
        }

    def show_cache(self, folder: Path) -> None:
        """See ``base.Opened.show_cache``."""
        make_and_give([folder], self._owner)
        self._folders = replace(self._folders, cache=folder)
        if self._namespaces is None:
            self.paths = replace(self.paths, cache=str(folder.resolve()))
        else:
            self._binds.append(Bind(folder, self.paths.cache))

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
        variables = merged(self.base_env, env)
        with self._view.command(self._scratch, cwd, self._binds, argv) as (command, place, temporary):
            written = [*self._folders.written, *temporary]
            outcome = run_process(command, env=variables, cwd=place, on_line=on_line, limits=limits, written=written)
        if self._namespaces is not None and outcome.exit_code == _KILLED:
            # The shell that waits for the command inside says so by its exit code.
            by_kill = not outcome.timed_out and outcome.excess is None
            return replace(outcome, out_of_memory=by_kill)
        return outcome

    def interactive(self, *, env: Mapping[str, str], cwd: str) -> int:
        """Open a shell on the user's terminal; return its exit code."""
        if not sys.stdin.isatty():
            raise MachineError("a shell needs a terminal", hint="run this command in one")
        shell = shutil.which("bash") or "/bin/sh"
        variables = {**merged(self.base_env, env), "TERM": os.environ.get("TERM", "dumb")}
        with self._view.command(self._scratch, cwd, self._binds, [shell, "-i"]) as (command, place, _):
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

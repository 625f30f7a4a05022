"""Makes environments on this machine by the scripts of ``docker/``: an interpreter's packages, tools, PyTorch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from builder.environments.image_inputs import Log, script_failure, script_variables, stage_files
from builder.environments.interface import EnvironmentRequest, Limits
from builder.environments.interpreters import Interpreter
from builder.environments.inventory import Inventory, tools_needed
from builder.environments.network import NetworkSettings
from builder.environments.process import run_process
from builder.environments.temporary import temporary


class HostMaker:
    """Makes one environment and its PyTorch by the scripts of ``docker/``; a context in which its log is open."""

    def __init__(
        self,
        request: EnvironmentRequest,
        interpreter: Interpreter,
        settings: NetworkSettings,
        resources: Path,
        wheels: tuple[Path, ...],
        home: Path,
        path: str,
        env: Mapping[str, str],
        log: Path,
    ) -> None:
        self.show: Callable[[str], None] = lambda _: None
        self._request = request
        self._interpreter = interpreter
        self._settings = settings
        self._resources = resources
        self._wheels = wheels
        self._home = home
        self._path = path
        self._env = env
        self._log_path = log

    def __enter__(self) -> HostMaker:
        self._log = Log(self._log_path, self._settings, lambda line: self.show(line))
        return self

    def __exit__(self, *_: object) -> None:
        self._log.close()

    @property
    def warnings(self) -> list[str]:
        """What the scripts said is lost."""
        return self._log.warnings

    def install(self, found: Inventory) -> None:
        """Make the interpreter's environment with its build requirements, and the tools that ``found`` lacks."""
        self._log.line(f"== {self._home} with {self._interpreter.path} ({self._interpreter.version})")
        self._home.mkdir(parents=True)
        # Whatever the umask is: builds of root run as another user.
        self._home.chmod(0o755)
        self._script([str(self._interpreter.path), "-m", "venv", str(self._home / "venv")], {}, "the environment")
        self._script(["requirements.sh"], {}, "the build requirements")
        eu_strip = "1" if "eu-strip" not in found.programs and "objcopy" in found.programs else ""
        self._script(["tools.sh", *tools_needed(found)], {"EU_STRIP": eu_strip}, "the tools")

    @contextmanager
    def pytorch_run(self) -> Iterator[Callable[[str, Path, Path], None]]:
        """What runs ``docker/pytorch.sh`` here (see ``pytorch.Run``)."""

        def run(step: str, place: Path, kept: Path) -> None:
            places = {"PLACE": str(place), "KEPT": str(kept)}
            self._script(["pytorch.sh", step], places, f"PyTorch {self._request.torch}")

        yield run

    def _script(self, argv: list[str], more: Mapping[str, str], what: str) -> None:
        """Run one of the scripts, or another command. Raises TargetError where it fails."""
        with temporary() as stage:
            stage_files(stage, self._request, self._resources)
            inside = []
            for number, folder in enumerate(self._wheels):
                # A name without spaces, whatever the folder's own.
                inside.append(str(stage / f"wheels{number}"))
                Path(inside[-1]).symlink_to(folder)
            settings, env = self._settings, self._env
            variables = {
                **{name: env[name] for name in ("LD_LIBRARY_PATH", "TMPDIR") if name in env},
                **settings.environment(
                    ca_bundle=str(settings.ca_bundle) if settings.ca_bundle else None,
                    pip_config=str(settings.pip_config) if settings.pip_config else None,
                ),
                **script_variables(self._request, settings, inside),
                "PATH": self._path,
                "HOME": str(stage),
                "INTERPRETER": str(self._home / "venv"),
                "TOOLS_PYTHON": sys.executable,
                "TOOLS_FOLDER": str(self._home / "tools"),
                **more,
            }
            if argv[0].endswith(".sh"):
                argv = ["sh", str(stage / argv[0]), *argv[1:]]
            self._log.error = ""
            outcome = run_process(argv, env=variables, cwd="/", on_line=self._log.line, limits=Limits(), umask=0o022)
        if outcome.exit_code != 0:
            raise script_failure(
                f"{what} for Python {self._request.python} cannot be installed on this host",
                self._log,
                hint="read the log named above; docs/environments.md lists index, proxy and CA settings",
            )

"""What this machine would load a wheel with: the torch of its Python, and its CANN toolkit. Nothing is imported."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from builder.core.errors import MachineError

_QUESTION = "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
#: Seconds that an interpreter may take to say where its torch is.
_PATIENCE = 60
#: What set_env.sh of a toolkit sets, and where toolkits are installed.
CANN_VARIABLES = ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH")
CANN_PLACES = (
    "/usr/local/Ascend/ascend-toolkit/latest",
    "/usr/local/Ascend/cann",
    "~/Ascend/ascend-toolkit/latest",
)


def torch_here(env: Mapping[str, str]) -> Path:
    """Find the torch that ``python3`` on PATH would import.

    Raises MachineError where it has none.
    """
    python = shutil.which("python3", path=env.get("PATH"))
    if python is None:
        raise MachineError("there is no python3 on PATH", hint="name a PyTorch with --torch DIR")
    try:
        done = subprocess.run([python, "-c", _QUESTION], capture_output=True, text=True, timeout=_PATIENCE, env=env)
    except (OSError, subprocess.SubprocessError) as error:
        raise MachineError(f"{python} does not run: {error}", hint="name a PyTorch with --torch DIR") from error
    found = done.stdout.strip()
    if not found:
        raise MachineError(
            f"{python} has no torch", hint=f"{python} -m pip install torch==<version>, or name one with --torch DIR"
        )
    return Path(found)


def cann_here(env: Mapping[str, str]) -> Path:
    """Find the CANN toolkit of this machine: the one whose set_env.sh was sourced, else where installers put it.

    Raises MachineError where there is none.
    """
    places = [env[name] for name in CANN_VARIABLES if env.get(name)]
    for place in (*places, *CANN_PLACES):
        folder = Path(os.path.expanduser(place))
        if folder.is_dir():
            return folder
    raise MachineError(
        "this machine has no CANN toolkit (looked at "
        f"{', '.join(f'${name}' for name in CANN_VARIABLES)}, {', '.join(CANN_PLACES)})",
        hint="source its set_env.sh, or name its folder with --cann DIR",
    )

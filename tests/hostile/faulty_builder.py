"""The builder, with one fault of its machine at one moment. Usage: MOMENT kill|full|foreign PLACE ARGUMENTS...

``kill`` ends this process as ``kill -9`` does; ``full`` leaves the tmpfs at PLACE no room; ``foreign`` makes all below
PLACE somebody else's, as an engine does that maps its users to others. All else is the builder's own command line.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

#: By phase and fault: the call in which it comes, as ``module:name``, and a word that one of its arguments has.
#: A process is killed when the call has been made; the other faults come before it is.
MOMENTS: dict[str, dict[str, tuple[str, str]]] = {
    "sources": dict.fromkeys(("kill", "full"), ("builder.sources.mirrors:fetch", "")),
    "patches": dict.fromkeys(("kill", "full"), ("builder.sources.patches:_git_apply", "")),
    "overlay": dict.fromkeys(("kill", "full"), ("builder.sources.overlay:lay", "")),
    "environment": dict.fromkeys(("kill", "full"), ("builder.environments.host_maker:HostMaker._script", "venv")),
    "pytorch": {"kill": ("builder.environments.host_maker:HostMaker._script", "pytorch.sh")},
    "compile": {
        **dict.fromkeys(("kill", "full"), ("builder.target.build_log:BuildLog.line", "Building CXX object")),
        "foreign": ("builder.target.build:TargetBuild._compile", ""),
    },
    # Before auditwheel runs, and when it has.
    "repair": {
        "full": ("builder.target.repair_and_publish:auditwheel_command", ""),
        "kill": ("builder.target.repair_and_publish:take_wheel", ""),
    },
    "verify": dict.fromkeys(("kill", "full"), ("builder.target.repair_and_publish:verify", "")),
    # Before the first file is copied, and between the names of the wheel and of its record.
    "publish": {
        "full": ("builder.target.repair_and_publish:publish_wheel", ""),
        "kill": ("builder.wheels.publication:_remove", ""),
    },
}


def fill(place: str) -> None:
    """Leave the tmpfs at ``place`` no room; what is there stays."""
    state = os.statvfs(place)
    used = (state.f_blocks - state.f_bfree) * state.f_frsize
    subprocess.run(["mount", "-o", f"remount,size={used}", place], check=True)


def give_away(place: str) -> None:
    """Make all below ``place`` somebody else's, who lets others read it."""
    subprocess.run(["chown", "-R", "12345:12345", place], check=True)
    subprocess.run(["chmod", "-R", "go-w", place], check=True)


def main() -> None:
    """Put the fault in its place, then be the builder."""
    moment, fault, place, *arguments = sys.argv[1:]
    where, word = MOMENTS[moment][fault]
    module, _, path = where.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    plain: Callable[..., Any] = getattr(owner, name)

    def faulty(*args: Any, **named: Any) -> Any:
        met = word in " ".join(map(str, args))
        if met and fault == "full":
            fill(place)
        elif met and fault == "foreign":
            give_away(place)
        answer = plain(*args, **named)
        if met and fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    setattr(owner, name, faulty)
    sys.argv[1:] = arguments
    from builder.__main__ import main as builder

    builder()


if __name__ == "__main__":
    main()

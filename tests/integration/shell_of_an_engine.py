"""A build's shell on the engine at DOCKER_HOST, on this process's terminal. Usage: IMAGE FOLDER"""

from __future__ import annotations

import sys
from pathlib import Path

from test_engines import opened_on

from builder.environments.docker_engine import engine

found = engine()
with opened_on(found, sys.argv[1], Path(sys.argv[2])) as opened:
    sys.exit(opened.interactive(env={"X": "here", "PS1": "builder:/work/pytorch$ "}, cwd="/work/pytorch"))

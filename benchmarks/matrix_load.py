"""What the matrix costs at the start of a command, as ratios to importing the libraries that a command stands on.

Each case is a fresh process. The cases take turns, so that a busy moment of the machine reaches all of them, and each
is judged by its median. Ratios say the same on a slow machine and on a fast one; nothing here fails on a number.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
#: What is measured: a name, the arguments of Python, and the ratio to aim for.
CASES: tuple[tuple[str, list[str], float | None], ...] = (
    ("import pydantic, yaml, rich", ["-c", "import pydantic, yaml, rich"], None),
    ("load and validate the matrix", ["-c", "from builder.matrix.loader import load_matrix; load_matrix()"], 3.0),
    ("python -m builder list", ["-m", "builder", "list"], 3.0),
)
#: For the reading of these ratios: what one model of pydantic's costs, which nothing that validates can avoid.
FLOOR = (
    "define one pydantic model",
    ["-c", "import yaml, rich, pydantic\nclass Model(pydantic.BaseModel):\n    number: int"],
    None,
)


def seconds(arguments: list[str], environment: dict[str, str]) -> float:
    """Wall-clock seconds of one process of Python."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


def measure(runs: int) -> dict[str, float]:
    """The median seconds of each case."""
    cases = (*CASES, FLOOR)
    with tempfile.TemporaryDirectory(prefix="bytecode-") as bytecode:
        # Compiled modules are kept, as they are for a user, also where this environment forbids it.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = bytecode
        # No answers are kept (that is no absolute path): startup.py measures those.
        environment["XDG_CACHE_HOME"] = "none"
        for _, arguments, _ in cases:
            seconds(arguments, environment)
        times: dict[str, list[float]] = {name: [] for name, _, _ in cases}
        for _ in range(runs):
            for name, arguments, _ in cases:
                times[name].append(seconds(arguments, environment))
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15, help="processes of each case (default: 15)")
    runs = parser.parse_args().runs
    medians = measure(runs)
    base = medians[CASES[0][0]]
    table = Table(title=f"Start of a command: medians of {runs} fresh processes", box=None, title_justify="left")
    table.add_column("case")
    for heading in ("milliseconds", "ratio", "aim"):
        table.add_column(heading, justify="right")
    for name, _, aim in (*CASES, FLOOR):
        table.add_row(
            name, f"{medians[name] * 1000:.0f}", f"{medians[name] / base:.2f}", f"below {aim:g}" if aim else ""
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()

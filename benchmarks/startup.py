"""How much a short command costs beside ``python -c "import click, rich"``: CPU seconds, medians of one run.

    python benchmarks/startup.py [--runs N]

The commands take turns, so that whatever else the machine does meets all of them. Answers are kept in a folder of the
benchmark's own; the first round, which fills it, is shown by itself.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile

_COMPLETION = {
    "_TORCH_NPU_BUILDER_COMPLETE": "bash_complete",
    "COMP_WORDS": "torch-npu-builder build --pytorch v2.7",
    "COMP_CWORD": "3",
}
_BASE = "import click, rich"
CASES: dict[str, tuple[list[str], dict[str, str]]] = {
    _BASE: (["-c", _BASE], {}),
    "--help": (["-m", "builder", "--help"], {}),
    "a completion": (["-m", "builder"], _COMPLETION),
    "list": (["-m", "builder", "list"], {}),
    "explain": (["-m", "builder", "explain", "v2.7.1-7.3.0"], {}),
}


def cost(arguments: list[str], variables: dict[str, str]) -> float:
    """CPU seconds of one call."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], env={**os.environ, **variables}, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15, help="Rounds, 15 by default.")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        kept = {"XDG_CACHE_HOME": folder}
        first = {name: cost(arguments, {**variables, **kept}) for name, (arguments, variables) in CASES.items()}
        rounds = [
            {name: cost(arguments, {**variables, **kept}) for name, (arguments, variables) in CASES.items()}
            for _ in range(runs)
        ]
    print(f"{'':20} {'CPU s':>7} {'ratio':>6} {'first':>7}")
    for name in CASES:
        ratio = statistics.median(each[name] / each[_BASE] for each in rounds)
        print(f"{name:20} {statistics.median(each[name] for each in rounds):7.3f} {ratio:6.2f} {first[name]:7.3f}")


if __name__ == "__main__":
    main()

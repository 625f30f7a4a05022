"""The benchmarks run: each prints its table, with the ratio to what it is compared with."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
CASES = {
    "matrix_load.py": (["--runs=1"], ["import pydantic, yaml, rich", "load and validate the matrix"]),
    "plan.py": (["--runs=1"], ["git ls-remote", "plan --offline: heads", "plan --refresh: heads"]),
    "many_targets.py": (["--runs=1", "--targets=4"], ["4 processes of true", "build of 4 targets", "each target more"]),
    "checkout.py": (["--runs=1"], ["git clone --depth 1", "prepared tree of the tenth target"]),
}


def test_every_benchmark_is_described_and_tried() -> None:
    scripts = {path.name for path in BENCHMARKS.glob("*.py")}
    assert scripts == set(CASES)
    described = re.findall(r"^\| `(\w+\.py)` \|", (BENCHMARKS / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(described) == sorted(scripts)


@pytest.mark.slow
@pytest.mark.parametrize("script", CASES)
def test_a_benchmark_prints_its_ratios(script: str, tmp_path: Path) -> None:
    options, cases = CASES[script]
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(BENCHMARKS.parent), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = {case: next(line for line in done.stdout.splitlines() if case in line) for case in cases}
    ratios = {case: float(re.findall(r"\d+\.\d\d\b", row)[-1]) for case, row in rows.items()}
    assert ratios.pop(cases[0]) == 1
    assert all(ratio > 0 for ratio in ratios.values())
    if script == "plan.py":
        assert "runs git fetch 2 times" in done.stdout
    assert list(tmp_path.iterdir()) == []

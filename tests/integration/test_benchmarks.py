"""The benchmarks run: each prints its table, with the ratio to what it is compared with."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
CASES = {
    "matrix_load.py": (["--runs=1"], ["import pydantic, yaml, rich", "load and validate the matrix"]),
    "startup.py": (["--runs=1"], ["import click, rich", "a completion", "explain"]),
    "plan.py": (["--runs=1"], ["git ls-remote", "plan: heads", "plan --refresh: heads"]),
    "many_targets.py": (["--runs=1", "--targets=4"], ["4 processes of true", "build of 4 targets", "each target more"]),
    "checkout.py": (["--runs=1"], ["git clone --depth 1", "prepared tree of the tenth target"]),
    "compile.py": (["--only=a"], ["upstream, 3.11", "builder, --pch auto", "builder, --pch off"]),
}


def test_every_benchmark_is_described_and_tried() -> None:
    scripts = {path.name for path in BENCHMARKS.glob("*.py")}
    assert scripts == set(CASES)
    described = re.findall(r"^\| `(\w+\.py)` \|", (BENCHMARKS / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(described) == sorted(scripts)


def run(script: str, options: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(BENCHMARKS.parent), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", [pytest.param(name, marks=[pytest.mark.engine] if name == "compile.py" else []) for name in CASES]
)
def test_a_benchmark_prints_its_ratios(script: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    options, cases = CASES[script]
    if script == "compile.py":
        request.getfixturevalue("base_image")
    done = run(script, options, tmp_path)
    rows = {case: next(line for line in done.stdout.splitlines() if case in line) for case in cases}
    ratios = {case: float(re.findall(r"\d+\.\d\d\b", row)[-1]) for case, row in rows.items()}
    assert ratios.pop(cases[0]) == 1
    assert all(ratio > 0 for ratio in ratios.values())
    if script == "plan.py":
        assert "runs git fetch 2 times" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.usefixtures("base_image")
def test_both_sides_compile_the_same_sample(tmp_path: Path) -> None:
    run("compile.py", ["--only=d,g", "--sample=3", "--json=numbers.json"], tmp_path)
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    rows = {row["name"].partition(": ")[2]: row for row in numbers["rows"] if row["case"] != "d"}
    changed = next(row for row in numbers["rows"] if row["case"] == "d")
    files = set(numbers["sample"]["files"])
    assert len(files) == 3
    assert any(file.endswith(numbers["changed"]["source"]) for file in files)
    assert all(set(row["sources"]) == files and row["failure"] is None for row in numbers["rows"])
    assert rows["upstream, 3.11"]["cpu_ratio"] == 1
    assert rows["builder, --pch auto"]["misses"] == 3
    assert (changed["hits"], changed["misses"]) == (2, 1)
    assert rows["upstream with ccache, 3.11"]["misses"] == 3

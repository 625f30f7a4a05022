"""The wheel of the builder itself works away from a checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import nox
import pytest

from builder.cluster import dask_client
from builder.store import errors

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed wheel and nothing else of this project."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT)], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {
        f"builder/_data/{name}" for name in ("matrices/sources.yaml", "docker/packages.sh", "patches/README.md")
    } <= names
    assert not [name for name in names if name.startswith(("tests/", "matrices/"))]
    place = folder / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(place), str(wheel)], check=True)
    return place


def run(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_hints_name_the_packages_of_the_extras() -> None:
    """The builder itself is not on PyPI, so what is missing is named."""
    extras = nox.project.load_toml(ROOT / "pyproject.toml")["project"]["optional-dependencies"]
    for extra, hint in (("store", errors.INSTALL), ("cluster", dask_client.INSTALL)):
        assert hint == "pip install " + " ".join(f"'{each}'" for each in extras[extra])


def test_matrix_and_examples_come_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    where = run(installed, tmp_path, "-c", "import builder, builder.core.workspace as w; print(w.resource('examples'))")
    assert where.stdout.strip() == str(installed / "builder" / "_data" / "examples"), where.stderr
    listed = run(installed, tmp_path, "-m", "builder", "list", "--json")
    assert {target["branch"] for target in json.loads(listed.stdout)} >= {
        "v2.1.0-7.1.0",
        "v2.5.1-7.1.0",
        "v2.6.0-7.1.0",
    }


def test_the_miniature_from_the_wheel_has_the_commits_of_the_checkout(installed: Path, tmp_path: Path) -> None:
    program = (
        "import sys, pathlib, subprocess; from builder.cli.demo_upstream import materialise; "
        "made = materialise(pathlib.Path(sys.argv[1])); "
        "print(subprocess.check_output(['git', '-C', made.torch_npu, 'rev-parse', 'v2.5.1-7.1.0'], text=True).strip())"
    )
    commits = [
        run(place, tmp_path, "-c", program, str(tmp_path / name)).stdout.strip()
        for name, place in (("wheel", installed), ("checkout", ROOT))
    ]
    assert len(commits[0]) == 40
    assert commits[0] == commits[1]

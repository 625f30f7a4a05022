"""A folder of published wheels, as installers of several ages see it with ``--find-links``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from wheel_support import make_record, make_wheel

from builder.wheels.provenance import archive_debug_symbols, debug_path, old_debug_path
from builder.wheels.publication import publish_wheel
from builder.wheels.record import WheelRecord

#: pip 24 was the first to refuse versions that are none. pip 21 does not run on Python 3.12 and later.
INSTALLERS = ["pip==21.3.1", "pip==23.3.2", "pip", "uv"]
#: A night's version: installers prefer anything that they take for a release.
VERSION = "2.5.1.post3.dev20261120+gitabcdef0"


@pytest.fixture(scope="module", params=INSTALLERS)
def installer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of an installer that is there for this test only."""
    wanted = str(request.param)
    if wanted == "pip==21.3.1" and sys.version_info >= (3, 12):
        pytest.skip("pip 21 does not run on this Python")
    folder = tmp_path_factory.mktemp("installer")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"{wanted} cannot be had from a package index: {done.stderr.strip()[-200:]}")
    name = wanted.partition("=")[0]
    return ["env", f"PYTHONPATH={folder}", sys.executable, "-m", name, *(["pip"] if name == "uv" else [])]


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    """A wheel for this Python, published with record and debug symbols."""
    tag = f"cp3{sys.version_info.minor}"
    platform = f"{tag}-{tag}-linux_{os.uname().machine}"
    wheel = make_wheel(tmp_path, f"torch_npu-{VERSION}-{platform}.whl", version=VERSION, tags=(platform,))
    (tmp_path / "dbg").mkdir()
    (tmp_path / "dbg" / "libtorch_npu.so.debug").write_bytes(b"symbols")
    debug = tmp_path / "debug"
    assert archive_debug_symbols(tmp_path, "dbg", debug, 1_700_000_000)
    publish_wheel(wheel, tmp_path / "dist", WheelRecord.model_validate(make_record(wheel)), debug)
    return tmp_path / "dist"


def install(installer: list[str], dist: Path) -> subprocess.CompletedProcess[str]:
    options = ["--no-deps", "--no-index", "--find-links", str(dist), "--target", str(dist.parent / "installed")]
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_"))}
    return subprocess.run(
        [*installer, "install", *options, "torch_npu"],
        env={**plain, "PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_is_published_can_be_installed_from_its_folder(installer: list[str], dist: Path) -> None:
    done = install(installer, dist)
    assert done.returncode == 0, done.stderr
    assert VERSION in (dist.parent / "installed" / "torch_npu" / "version.py").read_text()


def test_the_old_name_of_debug_symbols_is_what_old_installers_stumble_over(dist: Path, tmp_path: Path) -> None:
    """So that the test above would fail with it: pip 23 takes the archive for a release of torch_npu."""
    (wheel,) = dist.glob("*.whl")
    shutil.move(debug_path(wheel), old_debug_path(wheel))
    tool = tmp_path / "pip"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tool), "pip==23.3.2"]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("pip 23 cannot be had from a package index")
    done = install(["env", f"PYTHONPATH={tool}", sys.executable, "-m", "pip"], dist)
    assert done.returncode != 0
    assert old_debug_path(wheel).name in done.stdout + done.stderr

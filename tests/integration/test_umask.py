"""The umask of whoever starts the builder decides nothing: neither hits of the compile cache nor a wheel's bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import MACHINE

from builder.compilation import ccache, compile_manifest
from builder.payload.launcher.compile_manifest import NAMED

pytestmark = pytest.mark.engine

TARGET = f"v2.5.1-7.1.0-py3.11-{MACHINE}"


def built(folder: Path, umask: str, options: list[str]) -> tuple[dict[str, Any], bytes]:
    """What became of the target, and its wheel."""
    command = [sys.executable, "-m", "builder", "build", f"--target={TARGET}", *options, "--rebuild"]
    folder.mkdir(exist_ok=True)
    before = set((folder / "build" / "runs").glob("*"))
    shell = ["sh", "-c", f'umask {umask}; exec "$@"', "sh", *command]
    done = subprocess.run(shell, cwd=folder, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = set((folder / "build" / "runs").iterdir()) - before
    (entry,) = json.loads((run / "result.json").read_text())["targets"]
    (wheel,) = (folder / "dist").glob("*.whl")
    return entry, wheel.read_bytes()


def test_builds_under_077_and_022_share_objects_and_bytes(
    tmp_path: Path, base_image: str, miniature_options: Callable[..., list[str]]
) -> None:
    options = miniature_options("--environment=docker", f"--base-image={base_image}")
    first, before = built(tmp_path, "077", options)
    again, after = built(tmp_path, "022", options)
    assert after == before
    assert again["cache"]["hits"] == again["files_compiled"] == first["files_compiled"] == 16
    assert again["fingerprint"] == first["fingerprint"]
    # In a workspace of its own, where 022 made all folders, as in the first, where 077 would have.
    _, elsewhere = built(tmp_path / "other", "022", options)
    assert elsewhere == before
    for entry in (first, again):
        assert not [warning for warning in entry["warnings"] if "cannot read" in warning]
    wheel, *_ = (tmp_path / "dist").glob("*.whl")
    assert wheel.stat().st_mode & 0o777 == 0o644


@pytest.mark.skipif(os.getuid() != 0, reason="only root can try what another user may read")
def test_what_builds_cannot_read_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    # pytest's own folders (and pytest-xdist's below them) are closed to the user that reads here.
    for parent in tmp_path.parents:
        if parent.stat().st_mode & 0o077 == 0:
            parent.chmod(0o711)
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "file").write_text("x")
    (tmp_path / "closed").mkdir(mode=0o700)
    (tmp_path / "define").write_text("x")
    (tmp_path / "define").chmod(0o600)
    for number in range(NAMED + 5):
        (tmp_path / "open" / f"closed{number:02}").touch(mode=0o600)
    for folder in ("out", "tree"):
        (tmp_path / folder).mkdir()
    (tmp_path / "out").chmod(0o777)
    script = (ccache.LAUNCHER / "compile_manifest.py").read_text()
    names = [str(tmp_path / name) for name in ("define", "closed", "absent", "open")]
    (tmp_path / "compile_manifest.py").write_text(script)
    (tmp_path / "compile_manifest.py").chmod(0o644)
    command = compile_manifest.before_command(
        "/usr/bin/python3",
        str(tmp_path),
        tree=f"{tmp_path}/tree",
        torch="/",
        out=f"{tmp_path}/out",
        cache=None,
        read=names,
    )
    done = subprocess.run(command, capture_output=True, text=True, check=True, user=61000, group=61000, cwd="/")
    found = compile_manifest.parse_unreadable(done.stdout.splitlines())
    assert found[:3] == [names[0], names[1], f"{tmp_path}/open/closed00"]
    assert len(found) == NAMED

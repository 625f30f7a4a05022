"""Temporary folders of builders that were killed are recognised; everybody else's stay."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from builder.environments.docker_engine import owner
from builder.environments.temporary import remove_left, temporary


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def test_it_lasts_as_long_as_the_block(place: Path) -> None:
    with temporary() as first, temporary() as second:
        assert first != second
        assert first.parent == place
        (first / "file").write_text("x")
        assert remove_left() == []
        assert first.is_dir()
    assert names(place) == []


def test_what_a_killed_builder_left_goes_with_the_next_one(place: Path) -> None:
    script = (
        "import sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "from builder.environments.temporary import temporary\n"
        "with temporary() as folder:\n"
        "    (folder / 'root').mkdir(); (folder / 'root' / 'file').write_text('x'); (folder / 'root').chmod(0o500)\n"
        "    print(folder, flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as builder:
        assert builder.stdout is not None
        left = Path(builder.stdout.readline().strip())
        assert remove_left() == [], "it is at work"
        assert left.is_dir()
        builder.send_signal(signal.SIGKILL)
        builder.wait()
        with temporary() as own:
            assert names(place) == [own.name]


def test_folders_of_others_stay(place: Path) -> None:
    host, pid, started = owner().split(":")
    dead = f"torch-npu-builder+{host}+999999999+{started}+abc"
    others = [
        f"torch-npu-builder+elsewhere+{pid}+{started}+abc",
        f"torch-npu-builder+{host}+{pid}+{started}+abc",
        "torch-npu-builder+abc",
        "torch-npu-builder.abc",
        "something+else+1+2+3",
    ]
    for name in (*others, dead):
        (place / name).mkdir()
    target = place / "kept"
    target.mkdir()
    (target / "file").write_text("x")
    link = place / f"torch-npu-builder+{host}+999999998+{started}+abc"
    link.symlink_to(target)
    assert remove_left() == [place / dead]
    assert names(place) == sorted([*others, link.name, "kept"])
    assert (target / "file").exists()

"""The builder is killed, or a disk is full, in each phase of a real build; then the same command is run again.

One story in one workspace, on a small disk of its own: each command goes on where the one before was cut short, so that
a phase which is not done again, or done though it stands, shows in the next. The tests read what was seen on the way.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hostile_support import TARGET, unharmed
from support import Ran

from builder.core.untrusted import remove_tree
from builder.wheels.record import WheelRecord
from builder.wheels.standing import fault_of, records

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root"),
]

PROGRAM = Path(__file__).with_name("faulty_builder.py")
#: Size of the disks where there is room; only what is used takes memory.
ROOM = "2g"
#: In the order in which a build meets them; the last two have a publication that stands.
FAULTS = (
    ("sources", "full"),
    ("sources", "kill"),
    ("patches", "full"),
    ("patches", "kill"),
    ("overlay", "full"),
    ("overlay", "kill"),
    ("environment", "full"),
    ("environment", "kill"),
    ("pytorch", "kill"),
    ("compile", "full"),
    ("compile", "kill"),
    ("repair", "full"),
    ("repair", "kill"),
    ("verify", "full"),
    ("verify", "kill"),
    ("publish", "full"),
    ("publish", "kill"),
)


@dataclass(frozen=True)
class Seen:
    """What a command with a fault led to: how it ended, what stood after it, and what of it was still there."""

    ran: Ran
    standing: dict[str, str]
    visible: list[str]
    processes: list[str]


@dataclass
class Story:
    """A workspace on a small disk, its output folder on another, and what was seen so far."""

    disks: tuple[Path, Path]
    options: list[str]
    seen: dict[tuple[str, str], Seen] = field(default_factory=dict)

    @property
    def build(self) -> Path:
        """The workspace."""
        return self.disks[0] / "build"

    @property
    def dist(self) -> Path:
        """The output folder."""
        return self.disks[1] / "dist"

    def run(self, *more: str, fault: tuple[str, str] | None = None) -> Seen:
        """The same command, with ``fault`` or without; afterwards both disks have room again."""
        disk = self.disks[fault is not None and fault[0] == "publish"]
        program = ["-m", "builder"] if fault is None else [str(PROGRAM), *fault, str(disk)]
        done = subprocess.run(
            [sys.executable, *program, "build", *self.options, *more],
            cwd=self.disks[0],
            env={**os.environ, "BUILDER_PACKAGES": str(self.disks[0] / "packages")},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        for place in self.disks:
            subprocess.run(["mount", "-o", f"remount,size={ROOM}", str(place)], check=True)
        visible = sorted(path.name for path in self.dist.glob("[!.]*"))
        standing = {wheel.name: record.run for wheel, record in self.standing()}
        return Seen(Ran(done.returncode, done.stdout, done.stdout + done.stderr), standing, visible, self.processes())

    def standing(self) -> list[tuple[Path, WheelRecord]]:
        """What a builder takes for a wheel that stands: it must be whole."""
        found = list(records(self.dist).values())
        assert [fault_of(wheel, record) for wheel, record in found] == [None] * len(found)
        return found

    def processes(self) -> list[str]:
        """Processes of a build that still run, some seconds after their builder."""
        tree = f"/{TARGET} /work/pytorch "
        for _ in range(50):
            found = []
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    mounts = (process / "mountinfo").read_text(errors="replace").splitlines()
                    if any(tree in line and f" {self.source(self.disks[0])} " in f" {line} " for line in mounts):
                        found.append((process / "cmdline").read_text(errors="replace").replace("\0", " "))
            if not found:
                break
            time.sleep(0.1)
        return found

    @staticmethod
    def source(place: Path) -> str:
        """What is mounted at ``place``, by the numbers of its device as mountinfo has them."""
        device = place.stat().st_dev
        return f"{os.major(device)}:{os.minor(device)}"

    @property
    def result(self) -> dict[str, Any]:
        """The target's entry of the newest run."""
        newest = max((self.build / "runs").iterdir(), key=lambda run: run.name)
        (entry,) = json.loads((newest / "result.json").read_text())["targets"]
        return dict(entry)


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """Two small disks."""
    folder = tmp_path_factory.mktemp("disks")
    # Builds of root run as another user, and pytest closes its folders to others.
    for parent in (folder, *folder.parents):
        if parent.stat().st_mode & 0o011 == 0:
            parent.chmod(0o711)
    places = (folder / "build", folder / "dist")
    mounted = []
    try:
        for place in places:
            place.mkdir()
            command = ["mount", "-t", "tmpfs", "-o", f"size={ROOM},mode=755", "tmpfs", str(place)]
            made = subprocess.run(command, capture_output=True, text=True, check=False)
            if made.returncode != 0:
                pytest.skip(f"this machine mounts no file system here: {made.stderr.strip()}")
            mounted.append(place)
            # A tmpfs of which nothing is used has no limit of that size.
            (place / "taken").write_bytes(b"x")
        yield places
    finally:
        for place in mounted:
            subprocess.run(["umount", str(place)], check=True)
        remove_tree(folder)


@pytest.fixture(scope="module")
def story(disks: tuple[Path, Path], miniature_options: Callable[..., list[str]]) -> Story:
    """All faults, one after the other, each met by the same command."""
    where = [f"--workspace={disks[0]}/build", f"--output={disks[1]}/dist", "--environment=host"]
    told = Story(disks, [f"--target={TARGET}", *miniature_options(*where)])
    for each in FAULTS:
        told.seen[each] = told.run(fault=each)
    return told


@pytest.mark.parametrize("phase", [phase for phase, fault in FAULTS if fault == "full"])
def test_a_full_disk_is_the_machines_fault_and_loses_nothing(story: Story, phase: str) -> None:
    seen = story.seen[phase, "full"]
    unharmed(seen.ran)
    assert seen.ran.code == 3, seen.ran.text
    said = " ".join(seen.ran.text.split())
    assert "space" in said or "disk is full" in said
    assert f"{story.build} has " in said
    assert f"{story.dist} has " in said
    assert "MiB free" in said
    assert "free some disk space" in said
    # The line that a person reads names the target's failure, and not that it was skipped.
    assert f"{TARGET} failed" in said
    assert (seen.standing, seen.visible) == ({}, [])
    assert seen.processes == []


@pytest.mark.parametrize("phase", [phase for phase, fault in FAULTS if fault == "kill"])
def test_killed_in_any_phase_it_leaves_no_process_and_no_half_wheel(story: Story, phase: str) -> None:
    seen = story.seen[phase, "kill"]
    assert seen.ran.code == -9, seen.ran.text
    assert seen.processes == []
    if phase != "publish":
        assert (seen.standing, seen.visible) == ({}, [])


def test_the_same_command_does_only_what_is_left(story: Story) -> None:
    def did(phase: str, fault: str, word: str) -> bool:
        return word in story.seen[phase, fault].ran.text

    # Mirrors: one was fetched when the builder was killed in the sources, the rest in the next command.
    assert did("sources", "kill", "fetching torch_npu")
    assert not did("patches", "full", "fetching torch_npu")
    assert did("patches", "full", "fetching op-plugin")
    assert not any(did(phase, fault, "fetching") for phase, fault in FAULTS[3:])
    # The tree: prepared until it stood, which was before the disk was full in the making of the environment.
    assert all(did(phase, fault, "preparing") for phase, fault in FAULTS[4:7])
    assert all(did(phase, fault, "(--refresh fetches again)") for phase, fault in FAULTS[7:])
    # The environment: made by the command that was killed when it unpacked PyTorch.
    assert all(did(phase, fault, "environment for Python") for phase, fault in FAULTS[6:9])
    assert not any(did(phase, fault, "environment for Python") for phase, fault in FAULTS[9:])
    # Objects: after one whole compile all are known.
    assert did("repair", "full", "16 files")
    assert all(did(phase, fault, "16 files, 16 from the compile cache") for phase, fault in FAULTS[12:])


def test_a_wheel_that_was_finished_stands_though_its_builder_was_killed(story: Story) -> None:
    (wheel,) = story.seen["publish", "kill"].standing
    again = story.run()
    assert again.ran.code == 0, again.ran.text
    assert f"{wheel} stands" in again.ran.text
    assert story.result["status"] == "skipped"
    assert again.standing == story.seen["publish", "kill"].standing
    assert {name.removeprefix(wheel) for name in again.visible} == {"", ".json", ".debug.tar.gzip"}


def test_on_a_full_output_folder_what_stands_stays_and_with_room_it_is_replaced(story: Story) -> None:
    before = {path.name: path.read_bytes() for path in story.dist.iterdir()}
    (standing,) = story.standing()
    seen = story.run("--rebuild", fault=("publish", "full"))
    unharmed(seen.ran)
    assert seen.ran.code == 3, seen.ran.text
    assert f"{story.dist} has 0 MiB free" in " ".join(seen.ran.text.split())
    assert (story.result["failure"]["kind"], story.result["failure"]["phase"]) == ("disk", "publish")
    assert {path.name: path.read_bytes() for path in story.dist.iterdir()} == before
    assert story.standing() == [standing]

    again = story.run("--rebuild")
    assert again.ran.code == 0, again.ran.text
    ((wheel, record),) = story.standing()
    assert (wheel, record.sha256) == (standing[0], standing[1].sha256)
    assert record.run != standing[1].run
    assert sorted(path.name for path in story.dist.iterdir()) == sorted(before)


def test_nothing_is_left_that_clean_does_not_remove(story: Story) -> None:
    command = [sys.executable, "-m", "builder", "clean", f"--workspace={story.build}", f"--output={story.dist}"]
    subprocess.run(command, cwd=story.disks[0], capture_output=True, check=True)
    assert [path.name for path in (story.build / "compile").iterdir() if path.is_dir()] == []
    # Files of locks are for whoever comes next.
    for folder in ("pytorch", "mirrors", "environments", "store", "nightly"):
        found = [path.name for path in (story.build / folder).glob(".*") if path.suffix != ".lock"]
        assert (folder, found) == (folder, [])
    assert list(story.dist.glob(".*")) == []

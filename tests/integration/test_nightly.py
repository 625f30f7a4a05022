"""Nights that are killed, and nights of real builds of the miniature upstream."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import zipfile
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

import pytest
from nightly_support import KILLED, OTHER_BRANCH, REAL, SATURDAY, SUNDAY, A, B, C, World, git
from packaging.utils import parse_wheel_filename
from packaging.version import Version
from support import MACHINE, containers_of

from builder.cli.demo_upstream import materialise
from builder.core.build_options import BuildOptions
from builder.core.errors import TargetError
from builder.environments.docker_engine import DockerEngine
from builder.executors.local import run_targets
from builder.matrix.loader import load_matrix
from builder.releases import latest, releases, verify
from builder.store import Store, open_store
from builder.wheels.inspect import Wheel
from builder.wheels.verify import Expectation
from builder.wheels.verify import verify as verify_wheel

TESTS = Path(__file__).parents[1]
KILLS = 8


def start(script: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """A night in a process of its own, which a signal reaches alone."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
    )


class Watch:
    """Looks at a channel again and again: whatever is published is whole."""

    def __init__(self, store: Store) -> None:
        self.problems: list[str] = []
        self.looks = 0
        self._store = store
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._end.is_set():
            for found in releases(self._store, "night"):
                if found.manifest is not None:
                    self.problems += verify(self._store, found.manifest)
                    if not found.manifest.complete:
                        self.problems.append(f"{found.name} lacks {[hole.target for hole in found.manifest.holes]}")
            latest(self._store, "night")
            self.looks += 1
            time.sleep(0.01)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def test_killed_at_any_moment_the_same_command_goes_on(tmp_path: Path) -> None:
    folder, upstream = tmp_path / "world", tmp_path / "upstream"
    folder.mkdir()
    materialise(upstream)
    store = open_store(str(folder / "dist" / "nightly"))
    moments = random.Random(20261121)  # noqa: S311
    killed = 0
    with Watch(store) as watch:
        while True:
            process = start(KILLED, folder, upstream, "0.8")
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            try:
                process.wait(moments.uniform(0.0, 0.9) if killed < KILLS else 60)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                killed += 1
                continue
            finally:
                process.stdout.close()
            assert process.returncode == 0
            break
    assert watch.problems == []
    assert watch.looks > killed
    assert killed >= 2, "each of the three takes 0.8 s, no kill waits longer than 0.9 s"
    built = (folder / "built.log").read_text().split()
    assert len(built) == len(set(built)), f"built twice: {built}"
    assert set(built) <= {A, B, C}
    names = [found.name for found in releases(store, "night")]
    assert names == ["2026-11-21"], "one night, whatever happened to it"
    pointed = latest(store, "night")
    assert pointed is not None
    assert pointed.complete
    assert not (folder / "build" / "nightly" / "night" / "wheels").exists()


@pytest.mark.engine
def test_nights_of_real_builds(tmp_path: Path, engine: DockerEngine, base_image: str) -> None:
    """One is killed while its second target compiles; one has nothing new; one has a commit in op-plugin."""
    first, second = (target.replace("x86_64", MACHINE) for target in (B, C))
    folder, upstream = tmp_path / "world", tmp_path / "upstream"
    folder.mkdir()
    world = World(folder, materialise(upstream), load_matrix(), targets={"target": [first, second]}, keep=1)
    arguments = (REAL, folder, upstream, base_image, first, second)
    process = start(*arguments)
    try:
        _wait_for_the_second(world, process, second)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert world.nights == []
    # The engine does not know that its builder is dead: the next one ends what is left.
    assert containers_of(engine, folder / "build") != []

    again = start(*arguments)
    said, _ = again.communicate(timeout=600)
    assert again.returncode == 0, said
    assert "going on with the night 2026-11-20" in said
    assert containers_of(engine, folder / "build") == []
    # One of them has been built before it was killed, and is not built again.
    statuses = {entry["id"]: (entry["status"], entry["reason"]) for entry in world.result()["targets"]}
    assert sorted(statuses.values()) == [
        ("built", "built from source"),
        ("skipped", "finished before this night was interrupted"),
    ]
    assert (world.nights, world.latest) == (["2026-11-20"], "2026-11-20")
    for target, line, op_plugin in ((first, "v2.5.1-7.1.0", "7.1.0"), (second, "v2.6.0-7.1.0", OTHER_BRANCH)):
        commits = (
            git(world.upstream.torch_npu, "rev-parse", line),
            git(world.upstream.op_plugin, "rev-parse", op_plugin),
        )
        _bears_its_night(world, target, "2026-11-20", ".dev20261120+git{}.op{}".format(*(c[:7] for c in commits)))

    world.options = BuildOptions(
        environment="docker",
        base_image=base_image,
        find_links=(world.upstream.wheelhouse,),
        allow_toolchain_mismatch=True,
    )
    begun = time.monotonic()
    assert world.night(SATURDAY, engine=run_targets) == 0
    assert "nothing new since the night 2026-11-20" in world.text
    assert time.monotonic() - begun < 30
    assert world.nights == ["2026-11-20"]

    commit = world.change_op_plugin(OTHER_BRANCH)
    before = world.wheels("2026-11-20")
    assert world.night(SUNDAY, engine=run_targets) == 0
    assert world.statuses("2026-11-22") == {first: "skipped", second: "built"}
    assert world.wheels("2026-11-22")[first] == before[first]
    _bears_its_night(world, second, "2026-11-22", f".op{commit[:7]}")
    # Only the newest night is kept; what it carries over is whole without the others.
    assert (world.nights, world.latest) == (["2026-11-22"], "2026-11-22")
    # The version alone is new in most files: the compile cache knows them.
    (entry,) = (entry for entry in world.result()["targets"] if entry["id"] == second)
    assert entry["cache"]["hits"] > entry["files_compiled"] // 2


def _wait_for_the_second(world: World, process: subprocess.Popen[str], second: str) -> None:
    """Until one target is finished and the other one compiles."""
    wheels, runs = world.folder / "build" / "nightly" / "night" / "wheels", world.workspace.runs
    end = time.monotonic() + 300
    while time.monotonic() < end and process.poll() is None:
        logs = [path.read_text(errors="replace") for path in runs.glob("*/*.log") if "image" not in path.name]
        compiling = sum("Building CXX object" in log for log in logs)
        if list(wheels.glob("*.whl.json")) and compiling == 2:
            return
        time.sleep(0.05)
    raise AssertionError("the second target never compiled")


def _bears_its_night(world: World, target: str, night: str, suffix: str) -> None:
    """File name, METADATA, version.py and record of a published wheel agree on a version that holds ``suffix``."""
    wheel: Any = world.store.root / "night" / night / world.wheels(night)[target]
    _, version, _, _ = parse_wheel_filename(wheel.name)
    assert suffix in str(version)
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        assert Version(HeaderParser().parsestr(archive.read(metadata).decode())["Version"]) == version
        assert f"__version__ = '{version}'" in archive.read("torch_npu/version.py").decode()
    expected = Expectation(
        "cp311", MACHINE, target.split("-")[0][1:], "auto", git_version=_commit(wheel), version_suffix=".dev20991231"
    )
    with pytest.raises(TargetError, match=r"lacks \.dev20991231"):
        verify_wheel(wheel, expected)
    record = json.loads(wheel.with_name(f"{wheel.name}.json").read_text())
    assert record["version"] == str(version)
    assert record["inputs"]["version_suffix"] == f".dev{night.replace('-', '')}+{{commits}}"


def _commit(wheel: Path) -> str:
    """The commit that a wheel says it is from."""
    with Wheel(wheel) as opened:
        return opened.assignments("torch_npu/version.py")["git_version"]

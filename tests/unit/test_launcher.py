"""The compiler launcher: counts, cache results, slots, exit codes. It runs real shells."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from builder.compilation import cache

LAUNCHER = cache.LAUNCHER / "ccache"


def compiler(folder: Path, body: str) -> Path:
    script = folder / "c++"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    return script


def variables(folder: Path, *, ccache: str | None = None, slots: int = 0) -> dict[str, str]:
    (folder / "slots").mkdir(exist_ok=True)
    return {
        "PATH": "/usr/bin:/bin",
        "BUILDER_CCACHE": ccache or "",
        **cache.environment(
            cache=str(folder / "cache"),
            launcher=str(cache.LAUNCHER),
            compile_log=str(folder / "compile.log"),
            slots=slots,
            slot_folder=str(folder / "slots"),
        ),
    }


def test_counts_compiles_and_passes_the_exit_code_on(tmp_path: Path) -> None:
    script = compiler(tmp_path, '[ "$2" = good.cpp ]')
    env = variables(tmp_path)
    for source, code in (("good.cpp", 0), ("bad.cpp", 1)):
        done = subprocess.run([LAUNCHER, script, "-c", source], env=env, cwd=tmp_path, check=False)
        assert done.returncode == code
    counts = cache.read_counts(tmp_path)
    assert (counts.files, counts.failed, counts.cached) == (2, 1, False)


def test_links_and_cmake_probes_are_not_counted(tmp_path: Path) -> None:
    script = compiler(tmp_path, "exit 0")
    probe = tmp_path / "CMakeFiles" / "CMakeScratch" / "TryCompile-x"
    probe.mkdir(parents=True)
    env = variables(tmp_path)
    subprocess.run([LAUNCHER, script, "-o", "x", "a.o"], env=env, cwd=tmp_path, check=True)
    subprocess.run([LAUNCHER, script, "-c", "a.cpp"], env=env, cwd=probe, check=True)
    assert cache.read_counts(tmp_path).files == 0


def test_slots_hold_compilers_back(tmp_path: Path) -> None:
    (tmp_path / "running").mkdir()
    script = compiler(
        tmp_path,
        f"cd {tmp_path}/running && touch $$ && ls | wc -l >>{tmp_path}/peak && sleep 0.3 && rm $$",
    )
    env = variables(tmp_path, slots=2)
    running = [
        subprocess.Popen([LAUNCHER, script, "-c", f"{number}.cpp"], env=env, cwd=tmp_path) for number in range(5)
    ]
    assert [process.wait() for process in running] == [0] * 5
    assert max(int(line) for line in (tmp_path / "peak").read_text().split()) == 2


@pytest.mark.skipif(not (shutil.which("ccache") and shutil.which("g++")), reason="needs ccache and g++")
@pytest.mark.parametrize("report", ["stats", "log"])
def test_hits_and_misses_of_a_real_ccache(tmp_path: Path, report: str) -> None:
    (tmp_path / "a.cpp").write_text("int answer() { return 42; }\n")
    # A file that is only just written is not trusted by ccache's direct mode.
    time.sleep(1.1)
    env = {**variables(tmp_path, ccache=shutil.which("ccache")), "BUILDER_CCACHE_REPORT": report}
    for _ in range(2):
        subprocess.run([LAUNCHER, "g++", "-c", "a.cpp", "-o", "a.o"], env=env, cwd=tmp_path, check=True)
    counts = cache.read_counts(tmp_path)
    assert (counts.files, counts.hits, counts.misses, counts.unknown) == (2, 1, 1, 0)
    assert not list(tmp_path.glob("compile.log.*"))

"""The compiler launcher: counts, cache results, slots, exit codes. Real shells run it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from shells import SHELLS, under
from support import ccache_program, settle

from builder.compilation import ccache as compile_cache

LAUNCHER = compile_cache.LAUNCHER / "ccache"
PATH = "/usr/bin:/bin"


@pytest.fixture(params=SHELLS, autouse=True)
def _shell(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test is run by each shell that may stand in an environment."""
    launcher, path = under(request.param, compile_cache.LAUNCHER, tmp_path / "shell")
    monkeypatch.setitem(globals(), "LAUNCHER", launcher / "ccache")
    monkeypatch.setitem(globals(), "PATH", path)


def compiler(folder: Path, body: str) -> Path:
    script = folder / "c++"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    return script


def variables(folder: Path, *, ccache: str | None = None, slots: int = 0) -> dict[str, str]:
    (folder / "slots").mkdir(exist_ok=True)
    return {
        "PATH": PATH,
        "BUILDER_CCACHE": ccache or "",
        **compile_cache.environment(
            cache=str(folder / "cache"),
            launcher=str(LAUNCHER.parent),
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
    counts = compile_cache.read_counts(tmp_path)
    assert (counts.files, counts.failed, counts.cached) == (2, 1, False)


def test_links_and_cmake_probes_are_not_counted(tmp_path: Path) -> None:
    script = compiler(tmp_path, "exit 0")
    probe = tmp_path / "CMakeFiles" / "CMakeScratch" / "TryCompile-x"
    probe.mkdir(parents=True)
    env = variables(tmp_path)
    subprocess.run([LAUNCHER, script, "-o", "x", "a.o"], env=env, cwd=tmp_path, check=True)
    subprocess.run([LAUNCHER, script, "-c", "a.cpp"], env=env, cwd=probe, check=True)
    assert compile_cache.read_counts(tmp_path).files == 0


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


@pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")
def test_hits_and_misses_of_a_real_ccache(tmp_path: Path) -> None:
    (tmp_path / "a.cpp").write_text("int answer() { return 42; }\n")
    # A file that is only just written is not trusted by ccache's direct mode.
    settle()
    env = variables(tmp_path, ccache=ccache_program())
    for _ in range(2):
        subprocess.run([LAUNCHER, "g++", "-c", "a.cpp", "-o", "a.o"], env=env, cwd=tmp_path, check=True)
    counts = compile_cache.read_counts(tmp_path)
    assert (counts.files, counts.hits, counts.misses, counts.unknown) == (2, 1, 1, 0)
    assert not list(tmp_path.glob("compile.log.*"))


def test_a_build_ends_before_its_first_file(tmp_path: Path) -> None:
    script = compiler(tmp_path, f"touch {tmp_path}/compiled")
    probe = tmp_path / "CMakeFiles" / "CMakeTmp"
    probe.mkdir(parents=True)
    env = {**variables(tmp_path), "BUILDER_STOP_AT_COMPILE": "1"}
    # CMake has to find out what the compiler can do.
    assert subprocess.run([LAUNCHER, script, "-c", "a.cpp"], env=env, cwd=probe, check=False).returncode == 0
    (tmp_path / "compiled").unlink()
    done = subprocess.run(
        [LAUNCHER, script, "-c", "a.cpp"], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "stopped before a.cpp" in done.stderr
    assert not (tmp_path / "compiled").exists()
    assert (tmp_path / "compile.log").read_text() == "stopped a.cpp\n"
    assert compile_cache.read_counts(tmp_path).files == 0


def test_the_python_include_folder_has_one_name(tmp_path: Path) -> None:
    script = compiler(tmp_path, f'printf "%s\\n" "$@" >>{tmp_path}/seen')
    for number, version in enumerate(("3.9", "3.11")):
        include, out = tmp_path / f"python{version}", tmp_path / f"out{number}"
        include.mkdir()
        out.mkdir()
        env = {
            **variables(tmp_path),
            "BUILDER_PYTHON_INCLUDE": str(include),
            "BUILDER_PYTHON_INCLUDE_AS": str(out / "include"),
        }
        subprocess.run([LAUNCHER, script, f"-I{include}", "-c", "a.cpp"], env=env, cwd=tmp_path, check=True)
        assert (out / "include").readlink() == include
    # A name that stands for something else is not used.
    env["BUILDER_PYTHON_INCLUDE"] = str(tmp_path / "python3.9")
    subprocess.run([LAUNCHER, script, f"-I{tmp_path}/python3.9", "-c", "a.cpp"], env=env, cwd=tmp_path, check=True)
    assert [line for line in (tmp_path / "seen").read_text().splitlines() if line.startswith("-I")] == [
        f"-I{tmp_path}/out0/include",
        f"-I{tmp_path}/out1/include",
        f"-I{tmp_path}/python3.9",
    ]
    assert sorted(path.name for path in (tmp_path / "python3.11").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "dropped"),
    [
        ("VERSION\n", True),
        ("VERSION\n/other.cpp\n", True),
        ("VERSION\n/other.cpp\na.cpp\n", False),
        ("", False),
        (None, False),
    ],
)
def test_the_version_define(tmp_path: Path, content: str | None, dropped: bool) -> None:
    script = compiler(tmp_path, 'printf "%s\\n" "$@"')
    if content is not None:
        (tmp_path / "version").write_text(content)
    env = {**variables(tmp_path), "BUILDER_VERSION_DEFINE": str(tmp_path / "version")}
    command = [LAUNCHER, script, '-DVERSION="2.5.1"', "-DVERSION_OF=x", "-c", "a.cpp"]
    seen = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    expected = ["-DVERSION_OF=x", "-c", "a.cpp"] if dropped else ['-DVERSION="2.5.1"', "-DVERSION_OF=x", "-c", "a.cpp"]
    assert seen.splitlines() == expected


@pytest.mark.parametrize(("says", "code", "result"), [("", 0, "uncached"), ("compile_failed", 3, "failed")])
def test_a_ccache_that_fails_is_passed_over(tmp_path: Path, says: str, code: int, result: str) -> None:
    broken = tmp_path / "ccache"
    broken.write_text(f'#!/bin/sh\n[ -z "{says}" ] || echo {says} >"$CCACHE_STATSLOG"\nexit 3\n')
    broken.chmod(0o755)
    script = compiler(tmp_path, "exit 0")
    env = variables(tmp_path, ccache=str(broken))
    done = subprocess.run([LAUNCHER, script, "-c", "a.cpp"], env=env, cwd=tmp_path, check=False)
    assert done.returncode == code
    assert (tmp_path / "compile.log").read_text() == f"{result} a.cpp\n"

"""The parts of benchmarks/compile.py that can be wrong without anybody seeing it in a table."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from compile_parts.builders import measured_by, shared_seconds  # noqa: E402
from compile_parts.measured import Measured, Peak, Row, notes, show  # noqa: E402
from compile_parts.sample import Sample, chosen, configured  # noqa: E402
from compile_parts.subject import Sources  # noqa: E402

from builder.core.errors import TargetError  # noqa: E402

INSIDE = BENCHMARKS / "compile_parts" / "inside.py"
COUNTS = {"groups": 1, "made": 1, "refused": {}, "used": 3, "plain": 1, "plain_reasons": {}, "fallbacks": {"warned": 2}}


def texts(**groups: int) -> dict[str, str]:
    """Sources by path: so many that begin with the include of their group's name."""
    return {
        f"/tree/{group}{number:02}.cpp": f'// a comment\n#include "{group}.h"\nint {group}{number};\n'
        for group, count in groups.items()
        for number in range(count)
    }


def shares(sources: list[str]) -> dict[str, int]:
    return {group: sum(f"/{group}" in source for source in sources) for group in "abc"}


def test_a_sample_takes_from_groups_in_proportion() -> None:
    sources = texts(a=60, b=30, c=10)
    assert shares(chosen(sources, 10, sources.__getitem__, "")) == {"a": 6, "b": 3, "c": 1}
    assert shares(chosen(sources, 20, sources.__getitem__, "")) == {"a": 12, "b": 6, "c": 2}


def test_a_sample_is_the_same_whatever_the_order() -> None:
    sources = texts(c=5, a=20, b=11)
    found = chosen(sources, 7, sources.__getitem__, "")
    assert found == chosen(reversed(list(sources)), 7, sources.__getitem__, "")
    assert len(set(found)) == 7


def test_a_sample_of_more_than_all_is_all() -> None:
    sources = texts(a=3, b=2)
    assert sorted(chosen(sources, 9, sources.__getitem__, "")) == sorted(sources)


@pytest.mark.parametrize("name", ["a00.cpp", "a59.cpp", "b17.cpp", "c09.cpp"])
def test_the_source_that_will_change_is_in_the_sample(name: str) -> None:
    sources = texts(a=60, b=30, c=10)
    found = chosen(sources, 10, sources.__getitem__, name)
    assert f"/tree/{name}" in found
    assert len(set(found)) == 10


def test_all_trees_compile_the_sample_of_the_first(tmp_path: Path) -> None:
    for path, text in texts(a=6).items():
        (tmp_path / Path(path).name).write_text(text)
    sample = Sample(2, "a01.cpp")
    first = sample.of(tmp_path, "/tree", list(texts(a=6)))
    assert len(first) == 2
    assert sample.total == 6
    assert sample.of(tmp_path / "another", "/tree", list(texts(b=9))) == first


def test_a_tree_that_was_not_configured_is_told_with_what_was_said(tmp_path: Path) -> None:
    with pytest.raises(TargetError) as caught:
        configured(tmp_path, "/work/pytorch", ["CMake Error: no compiler"])
    assert "no compiler" in (caught.value.details or "")
    (tmp_path / "build").mkdir()
    entries = [{"file": "/work/pytorch/b.cpp"}, {"file": "/work/pytorch/a.cpp"}]
    (tmp_path / "build" / "compile_commands.json").write_text(json.dumps(entries))
    assert configured(tmp_path, "/work/pytorch", []) == (
        "/work/pytorch/build",
        ["/work/pytorch/a.cpp", "/work/pytorch/b.cpp"],
    )


def build_folder(folder: Path, rules: str, *sources: str) -> Path:
    """A folder as CMake leaves it, with the rules of one target."""
    place = folder / "sub" / "CMakeFiles" / "x.dir"
    place.mkdir(parents=True)
    (place / "build.make").write_text(f"sub/CMakeFiles/x.dir/depend:\n\t@echo depend >>made\n{rules}")
    entries = [
        {
            "directory": str(folder / "sub"),
            "file": f"/tree/{source}",
            "command": f"c++ -o CMakeFiles/x.dir/{source}.o -c /tree/{source}",
        }
        for source in sources
    ]
    (folder / "compile_commands.json").write_text(json.dumps(entries))
    (folder / "list").write_text("".join(f"/tree/{source}\n" for source in sources))
    return folder


def run_inside(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(INSIDE), str(folder), "2", str(folder / "list")]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]})


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_files_are_made_by_the_rules_and_their_time_is_told(tmp_path: Path) -> None:
    spin = f"@{sys.executable} -c 'exec(\"import time\\nwhile time.process_time() < 0.3: pass\")'"
    rules = (
        f"sub/CMakeFiles/x.dir/slow.cpp.o:\n\t{spin}\n\t@echo slow >>made\n"
        "sub/CMakeFiles/x.dir/fast.cpp.o:\n\t@echo fast >>made\n"
    )
    folder = build_folder(tmp_path, rules, "slow.cpp", "fast.cpp")
    done = run_inside(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    told = {line["source"]: line for line in map(json.loads, done.stdout.replace("sample: ", "").splitlines())}
    assert told["/tree/slow.cpp"]["cpu"] >= 0.3
    assert told["/tree/fast.cpp"]["cpu"] < 0.3
    made = (folder / "made").read_text().split()
    # Dependencies come first, as in a whole build.
    assert made[0] == "depend"
    assert sorted(made[1:]) == ["fast", "slow"]


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_a_file_that_fails_is_told_with_its_output(tmp_path: Path) -> None:
    rules = (
        "sub/CMakeFiles/x.dir/bad.cpp.o:\n\t@echo 'error: no such header'; exit 1\n"
        "sub/CMakeFiles/x.dir/good.cpp.o:\n\t@true\n"
    )
    done = run_inside(build_folder(tmp_path, rules, "bad.cpp", "good.cpp"))
    assert done.returncode == 1
    assert "no such header" in done.stdout
    assert done.stdout.count("sample: ") == 2


def test_a_header_is_shared_by_its_whole_group(tmp_path: Path) -> None:
    (tmp_path / "headers").mkdir()
    groups = [{"key": "big", "members": ["x"] * 100}, {"key": "small", "members": ["y"] * 4}]
    (tmp_path / "headers" / "plan-1.json").write_text(json.dumps({"plan": {"groups": groups}}))
    (tmp_path / "headers.log").write_text(
        "making big /a.cpp 0.00 -\nmade big /a.cpp 20.00 -\nused big /a.cpp 4.00 -\nused big /b.cpp 4.00 -\n"
        "made small /c.cpp 8.00 -\nused small /c.cpp 1.00 -\nplain - /d.cpp 9.00 no-group\n"
    )
    assert shared_seconds(tmp_path) == pytest.approx(20 * 2 / 100 + 8 * 1 / 4)


def test_without_headers_there_is_nothing_to_share(tmp_path: Path) -> None:
    assert shared_seconds(tmp_path) == 0


def test_the_builders_numbers_are_those_of_its_result() -> None:
    target = {
        "phases": [
            {"name": "prepare", "seconds": 3.0, "cpu_seconds": 99.0},
            {"name": "compile", "seconds": 10.0, "cpu_seconds": 15.5, "peak_memory": 1 << 30},
        ],
        "files_compiled": 16,
        "cache": {"hits": 12, "misses": 4, "size": 4096},
        "headers": COUNTS,
    }
    one = measured_by({"seconds": 21.0, "targets": [target]}, 350)
    assert (one.cpu_seconds, one.seconds, one.command_seconds, one.peak_memory) == (15.5, 10.0, 21.0, 1 << 30)
    assert (one.files, one.hits, one.misses, one.cache_bytes, one.header_bytes) == (16, 12, 4, 4096, 350)
    without = measured_by({"seconds": 21.0, "targets": [{**target, "headers": None, "cache": None}]}, 0)
    assert (without.hits, without.header_bytes) == (None, None)


def printed(rows: list[Row]) -> str:
    stream = io.StringIO()
    show("title", rows, Console(file=stream, width=170))
    return stream.getvalue()


def test_ratios_are_to_upstream() -> None:
    base = Measured(cpu_seconds=100.0, seconds=50.0)
    counts = {**COUNTS, "cpu_seconds": {"headers": 30.0, "used": 20.0, "plain": 5.0, "fallbacks": 5.0}}
    one = Measured(cpu_seconds=60.0, seconds=40.0, headers=counts, shared_header_seconds=3.0)
    rows = [Row("a", "upstream", "3.11", base, base), Row("a", "builder", "3.11", one, base)]
    assert (rows[1].cpu_ratio, rows[1].wall_ratio) == (0.6, 0.8)
    # 60 with headers of 30, of which 3 are the sample's: 33 of 100.
    assert rows[1].shared_ratio == pytest.approx(0.33)
    lines = printed(rows).splitlines()
    assert lines[2].split()[-2:] == ["1.00", "1.00"]
    assert lines[3].split()[-2:] == ["0.80", "0.60"]
    assert "1/3/2" in lines[3]
    told = "\n".join(notes(rows))
    assert "fallbacks: 2 x warned" in told
    assert "30.0 CPU s of it are 1 headers, which whole groups share" in told
    assert "a ratio of 0.33" in told
    one.shared_header_seconds = None
    assert "30.0 CPU s of it are 1 headers\n" in "\n".join([*notes(rows), ""])
    assert json.loads(json.dumps(rows[1].to_json()))["cpu_ratio"] == 0.6


def test_a_side_that_failed_has_a_row_and_no_ratio() -> None:
    base = Measured(cpu_seconds=100.0, seconds=50.0)
    row = Row("c", "upstream in its old tree", "3.11", Measured(failure="exit code 2\nmake: Error"), base)
    assert (row.cpu_ratio, row.wall_ratio) == (None, None)
    assert "failed" in printed([row])
    assert "make: Error" in "\n".join(notes([row]))


def test_the_most_that_folders_took_is_kept(tmp_path: Path) -> None:
    peak = Peak(tmp_path, "runs/*/headers")
    folder = tmp_path / "runs" / "one" / "headers"
    folder.mkdir(parents=True)
    (folder / "a.gch").write_bytes(b"x" * 100_000)
    peak.look()
    most = peak.bytes
    (folder / "a.gch").unlink()
    with peak.watching():
        pass
    peak.look()
    assert peak.bytes == most >= 100_000


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """A repository that is somebody else's."""
    path = tmp_path / "real"
    run = ["git", "-C", str(path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "init", "--quiet", "--template=", "--initial-branch=7.1.0", str(path)], check=True)
    (path / "ops").mkdir()
    (path / "ops" / "abs.cpp").write_text("int abs;")
    (path / "run.sh").write_text("#!/bin/sh\n")
    (path / "run.sh").chmod(0o755)
    subprocess.run([*run, "add", "."], check=True)
    subprocess.run([*run, "commit", "--quiet", "-m", "first"], check=True)
    return path


def git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_changes_are_commits_of_our_own(real: Path, tmp_path: Path) -> None:
    before = git(real, "rev-parse", "7.1.0")
    sources = Sources(str(real), tmp_path / "ours.git", "7.1.0")
    assert sources.files() == ["ops/abs.cpp", "run.sh"]
    sources.append("ops/abs.cpp", "\nint more;\n")
    assert git(sources.path, "show", "7.1.0:ops/abs.cpp") == "int abs;\nint more;"
    assert git(sources.path, "diff", "--name-only", before, "7.1.0") == "ops/abs.cpp"
    # The next change starts from the first state, and keeps modes.
    sources.append("run.sh", "exit\n")
    assert git(sources.path, "diff", "--raw", "--abbrev=4", before, "7.1.0").startswith(":100755 100755")
    assert git(sources.path, "diff", "--name-only", before, "7.1.0") == "run.sh"
    sources.restore()
    assert git(sources.path, "rev-parse", "7.1.0") == before
    assert git(real, "rev-parse", "--all") == before


def test_a_new_commit_holds_the_same_files_a_day_later(real: Path, tmp_path: Path) -> None:
    sources = Sources(str(real), tmp_path / "ours.git", "7.1.0")
    sources.commit_nothing()
    assert git(sources.path, "diff", "7.1.0~1", "7.1.0") == ""
    first, second = (int(git(sources.path, "show", "-s", "--format=%ct", each)) for each in ("7.1.0~1", "7.1.0"))
    assert second - first == 24 * 3600

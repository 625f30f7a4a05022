"""Which sources a rehearsal compiles, and what it makes of what the environment says."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from builder.compilation import ccache
from builder.core.errors import FailureKind, TargetError
from builder.environments.interface import Limits, Outcome
from builder.target.rehearse import Sample, _judge

sys.path.insert(0, str(ccache.LAUNCHER))

import cache_lookup
import compile_sample
import pch_plan
from compile_command import Names


def names(prefix: str, count: int) -> list[str]:
    return [f"/tree/{prefix}/F{number}.cpp" for number in range(count)]


def test_one_of_each_group_the_largest_first_then_a_second() -> None:
    large, small, alone = names("ops", 9), names("atb", 3), ["/tree/core/Main.cpp"]
    chosen = compile_sample.spread([*alone, *large, *small], [small, large], 6, "/tree")
    places = [os.path.basename(os.path.dirname(source)) for source in chosen]
    assert places == ["ops", "atb", "core", "ops", "atb", "ops"]
    assert len(set(chosen)) == 6


def test_the_same_choice_each_time_wherever_the_tree_stands() -> None:
    large, small = names("ops", 9), names("atb", 3)
    chosen = compile_sample.spread([*large, *small], [large, small], 5, "/tree")
    again = compile_sample.spread([*reversed(small), *reversed(large)], [small[::-1], large[::-1]], 5, "/tree")
    assert again == chosen
    moved = [[source.replace("/tree", "/other/place") for source in group] for group in (large, small)]
    elsewhere = compile_sample.spread([*moved[0], *moved[1]], moved, 5, "/other/place")
    assert [source.replace("/other/place", "/tree") for source in elsewhere] == chosen


def test_more_than_there_are_is_all_of_them_once() -> None:
    sources = [*names("ops", 4), *names("atb", 2)]
    # A group may know sources that are compiled in any case, and two groups may share one.
    chosen = compile_sample.spread(sources[1:], [sources, sources[:3]], 100, "/tree")
    assert sorted(chosen) == sorted(sources[1:])


def test_generated_sources_are_those_newer_than_the_tree(tmp_path: Path) -> None:
    for name, time in (("Old.cpp", 1000), ("Generated.cpp", 2000)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time, time))
    sources = [str(tmp_path / name) for name in ("Old.cpp", "Generated.cpp", "Gone.cpp")]
    assert compile_sample.written_since(sources, 1000) == [str(tmp_path / "Generated.cpp")]


def test_headers_pay_for_the_sources_of_the_sample_only(tmp_path: Path) -> None:
    (tmp_path / pch_plan.COMMANDS).write_text("[]")
    group = pch_plan.Group("key", ["<a.h>"], ["/a.h"], 1_000_000, 2.5, names("ops", 300))
    plan = pch_plan.Plan([group], {f"kind {source}": "key" for source in group.members})
    compile_sample.keep_plan(plan, names("ops", 2), str(tmp_path), str(tmp_path / "headers"))
    commands = str(tmp_path / pch_plan.COMMANDS)
    kept = pch_plan.kept(pch_plan.place(str(tmp_path / "headers"), commands), pch_plan.stamp_of(commands))
    assert kept is not None
    assert kept.groups["key"].members == names("ops", 2)
    assert len(group.members) == 300


@pytest.mark.parametrize("generator", ["make", "ninja", "neither"])
def test_compiles_write_dependencies_where_the_build_does(tmp_path: Path, generator: str) -> None:
    """CMake leaves those arguments out of compile_commands.json; the cache holds what was compiled with them."""
    if generator == "make":
        (tmp_path / "CMakeFiles" / "x.dir").mkdir(parents=True)
        (tmp_path / "CMakeFiles" / "x.dir" / "compiler_depend.ts").touch()
    elif generator == "ninja":
        (tmp_path / "build.ninja").touch()
    output = "CMakeFiles/x.dir/A.cpp.o"
    command = f"ccache /usr/bin/c++ -O2 -o {output} -c /tree/A.cpp"
    entry = {"directory": str(tmp_path), "command": command, "file": "/tree/A.cpp"}
    (tmp_path / pch_plan.COMMANDS).write_text(json.dumps([entry]))
    (asked,) = cache_lookup.read_all(str(tmp_path), Names({}))
    more = [] if generator == "neither" else ["-MD", "-MT", output, "-MF", f"{output}.d"]
    assert asked.argv == ["/usr/bin/c++", "-O2", *more, "-o", output, "-c", "/tree/A.cpp"]


def sample_of(*lines: object) -> Sample:
    sample = Sample()
    sample.stray.generating = False
    for line in lines:
        sample.take(line if isinstance(line, str) else json.dumps(line), "/work/pytorch")
    return sample


def failed(name: str, output: str) -> dict[str, object]:
    return {"file": f"/work/pytorch/{name}", "status": 1, "output": output}


def judged(sample: Sample, outcome: Outcome) -> TargetError:
    with pytest.raises(TargetError) as error:
        _judge(sample, outcome, Limits(timeout=5.0))
    return error.value


def test_every_failing_source_is_told_with_its_first_error() -> None:
    sample = sample_of(
        {"sources": 3, "of": 900},
        failed("a/A.cpp", "a/A.cpp:1:2: error: no such name\n    1 | x\na/A.cpp:9:9: error: another"),
        {"file": "/work/pytorch/b/B.cpp", "status": 0, "output": ""},
        failed("c/C.cpp", "c/C.cpp:7:1: fatal error: x.h: No such file or directory"),
        {"finished": True},
    )
    assert (sample.total, sample.of, sample.done) == (3, 900, 3)
    error = judged(sample, Outcome(0, 1.0))
    assert error.kind is FailureKind.COMPILE
    assert error.message == "2 of 3 sources do not compile; the first is a/A.cpp: a/A.cpp:1:2: error: no such name"
    assert error.details is not None
    # The message has the first one.
    assert error.details.splitlines()[:2] == [
        "c/C.cpp: c/C.cpp:7:1: fatal error: x.h: No such file or directory",
        "    1 | x",
    ]


def test_a_compiler_that_was_killed_is_no_fault_of_its_source() -> None:
    killed = failed("a/A.cpp", "c++: fatal error: Killed signal terminated program cc1plus")
    assert judged(sample_of({"sources": 1, "of": 1}, killed, {"finished": True}), Outcome(0, 1.0)).kind is (
        FailureKind.OUT_OF_MEMORY
    )


def test_a_sample_that_does_not_come_to_its_end() -> None:
    begun = sample_of({"sources": 2, "of": 2}, {"file": "/work/pytorch/A.cpp", "status": 0, "output": ""})
    assert judged(begun, Outcome(137, 5.0, timed_out=True)).kind is FailureKind.TIMEOUT
    stray = judged(sample_of("Traceback (most recent call last):", "ValueError: no plan"), Outcome(1, 1.0))
    assert "ValueError: no plan" in f"{stray.message} {stray.details}"
    assert judged(sample_of("{}", '{"sources": -1}', '{"file"', "x" * 10), Outcome(0, 1.0)).kind is FailureKind.COMPILE
    _judge(sample_of({"sources": 0, "of": 0}, {"finished": True}), Outcome(0, 1.0), Limits())

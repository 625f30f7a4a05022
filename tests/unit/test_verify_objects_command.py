"""What `verify-objects` makes of the lines that the comparison prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder.cli import verify_objects_command
from builder.matrix.loader import load_matrix
from builder.matrix.selection import parse_target_id

GROUP = {"group": "0123456789abcdef", "includes": ['"op_plugin/OpApiInterface.h"'], "members": 5, "header_cpu": 12.5}
SAME = {"file": "/work/pytorch/a.cpp", "group": GROUP["group"], "same": True, "plain_cpu": 8.0, "with_cpu": 2.0}
LINES = [
    {"sources": 5},
    GROUP,
    {**SAME, "fallback": None},
    {**SAME, "file": "/work/pytorch/b.cpp", "fallback": "warning"},
    {**SAME, "file": "/work/pytorch/c.cpp", "same": False, "differences": ["object"], "plain_again_same": False},
    {"group": "fedcba", "members": 9, "refused": "warns"},
]


def groups(*lines: dict[str, object]) -> list[verify_objects_command.Group]:
    return verify_objects_command._groups([verify_objects_command._line(json.dumps(line)) for line in lines])


def test_counting() -> None:
    refused, group = groups(*LINES)
    assert (refused.members, refused.refused, refused.compared) == (9, "warns", 0)
    assert group.to_json() == {
        "group": GROUP["group"],
        "includes": GROUP["includes"],
        "members": 5,
        "compared": 2,
        "identical": 1,
        "different": [{"file": "/work/pytorch/c.cpp", "differences": ["object"], "error": None}],
        "fallbacks": {"warning": 1},
        "cpu_seconds": {"header": 12.5, "plain": 24.0, "with": 6.0},
    }


@pytest.mark.parametrize("text", ["", "{", "[]", '{"file": 3}', '{"members": -1}', '{"plain_cpu": "much"}'])
def test_lines_that_are_none(text: str) -> None:
    assert verify_objects_command._line(text) == verify_objects_command.Line()


def test_what_a_run_goes_on_with() -> None:
    kept = [line for line in LINES if verify_objects_command._settled(json.dumps(line))]
    # What differed is compared again.
    assert [line.get("file", line.get("group")) for line in kept] == [
        GROUP["group"],
        "/work/pytorch/a.cpp",
        "/work/pytorch/b.cpp",
        "fedcba",
    ]


@pytest.mark.parametrize("cached", [False, True])
def test_what_people_see(capsys: pytest.CaptureFixture[str], cached: bool) -> None:
    target = parse_target_id(load_matrix(), "v2.5.1-7.1.0-py3.11-x86_64")
    verify_objects_command._show(
        target, groups(*LINES), verify_objects_command.Scope(cached=cached), Path("out/verify")
    )
    shown = capsys.readouterr().out
    assert "01234567 OpApiInterface.h" in shown
    assert "of 2 sources, 1" in shown
    assert "differs: /work/pytorch/c.cpp: object; two plain compiles differ, too" in shown
    assert "fedcba has no header: warns" in shown
    assert "both objects of each are in out/verify" in shown
    assert all(line == line.rstrip() for line in shown.splitlines())
    assert ("header CPU s" in shown) is not cached

"""What a probe's line is read as: a build's environment prints it, so it may be anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from builder.environments import probe
from builder.environments.probe import Probed

SCRIPT = Path(probe.__file__).parents[1] / "payload" / "probe.py"


def test_what_this_machine_tells_is_read_whole() -> None:
    said = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=True).stdout
    line = said.splitlines()[-1].removeprefix("probe: ")
    told, found = json.loads(line), Probed.from_json(line)
    # Every fact that the script tells has a field, and the record gets them unchanged, in the same order.
    assert found.model_dump(by_alias=True, exclude_unset=True) == told
    places = ("python_path", "python_include", "torch_path")
    tools = {name: told[name] for name in sorted(told) if name not in places}
    assert json.dumps(found.tools()) == json.dumps(tools)


@pytest.mark.parametrize(
    "line", ["", "null", "[]", "3", '{"gcc": 3}', '{"cxx11_abi": "yes"}', '{"python_path": null}', "[" * 10000]
)
def test_anything_else_is_no_answer(line: str) -> None:
    with pytest.raises(ValueError, match=r"probe|JSON|Expecting"):
        Probed.from_json(line)


def test_what_it_adds_is_not_taken_over() -> None:
    found = Probed.from_json('{"gcc": "11.2.1", "evil": {"a": 1}}')
    assert found.gcc == "11.2.1"
    assert "evil" not in found.tools()

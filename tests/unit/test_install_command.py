"""What a run says of its last wheel: the line that installs it, and what it was built without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from wheel_support import make_wheel, write_record

from builder.environments.select import TORCH_CPU_INDEX
from builder.executors.summary import install_command, left_out
from builder.wheels.record import WheelRecord, read_record


def record(wheel: Path, **changes: Any) -> WheelRecord:
    write_record(wheel, **changes)
    return read_record(wheel)


def test_the_index_is_named_that_alone_has_the_torch(tmp_path: Path) -> None:
    folder = tmp_path / "some wheels"
    folder.mkdir()
    wheel = make_wheel(folder)
    plain = record(wheel, requires=["torch==2.5.1", "pyyaml"])
    assert install_command(wheel, plain) == f"python3.11 -m pip install '{wheel}'"
    cpu = record(wheel, requires=["torch==2.5.1+cpu"])
    assert install_command(wheel, cpu) == f"python3.11 -m pip install --extra-index-url {TORCH_CPU_INDEX} '{wheel}'"


@pytest.mark.parametrize(
    ("arguments", "lacking"),
    [
        (["--python=3.11", "--disable_torchair", "--disable_rpc"], ["torchair", "RPC"]),
        (["--python=3.11", "--disable_rpc"], ["RPC"]),
        (["--python=3.11"], []),
    ],
)
def test_what_it_was_built_without(tmp_path: Path, arguments: list[str], lacking: list[str]) -> None:
    assert left_out(record(make_wheel(tmp_path), arguments=arguments)) == lacking

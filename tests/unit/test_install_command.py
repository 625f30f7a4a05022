"""The line by which a wheel that was built is installed."""

from __future__ import annotations

from pathlib import Path

from wheel_support import make_wheel, write_record

from builder.environments.select import TORCH_CPU_INDEX
from builder.executors.summary import install_command


def test_the_index_is_named_that_alone_has_the_torch(tmp_path: Path) -> None:
    folder = tmp_path / "some wheels"
    folder.mkdir()
    wheel = make_wheel(folder)
    assert install_command(wheel) is None
    write_record(wheel, requires=["torch==2.5.1", "pyyaml"])
    assert install_command(wheel) == f"python3.11 -m pip install '{wheel}'"
    write_record(wheel, requires=["torch==2.5.1+cpu"])
    assert install_command(wheel) == f"python3.11 -m pip install --extra-index-url {TORCH_CPU_INDEX} '{wheel}'"

"""Entry points, requirements and headers of a wheel lead to something that is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from wheel_support import EXPECTED, HEADER, INFO, METADATA, make_wheel

from builder.wheels.verify import judge


def found(wheel: Path, rule: str) -> list[str]:
    return [one.what for one in judge(wheel, EXPECTED).findings if one.rule.id == rule]


def with_entry(folder: Path, source: str, target: str = "torch_npu:_autoload") -> Path:
    points = f"[torch.backends]\ntorch_npu = {target}\n".encode()
    return make_wheel(folder, replaced={f"{INFO}/entry_points.txt": points, "torch_npu/__init__.py": source.encode()})


@pytest.mark.parametrize(
    "source",
    [
        "def _autoload(): ...",
        "_autoload = print",
        "from torch_npu.loading import _autoload",
        "import x as _autoload",
        "class _autoload: ...",
        "try:\n    import fast\nexcept ImportError:\n    def _autoload(): ...\n",
        "if True:\n    pass\nelse:\n    with open('x'):\n        _autoload = 1\n",
        "from .somewhere import *",
    ],
)
def test_names_that_a_module_binds(tmp_path: Path, source: str) -> None:
    assert found(with_entry(tmp_path, source), "entry-points") == []


@pytest.mark.parametrize(
    ("source", "target", "says"),
    [
        ("def autoload(): ...", "torch_npu:_autoload", "torch_npu/__init__.py defines no _autoload"),
        ("class A:\n    def _autoload(self): ...\n", "torch_npu:_autoload", "defines no _autoload"),
        ("def f():\n    _autoload = 1\n", "torch_npu:_autoload", "defines no _autoload"),
        ("", "torch_npu.gone:_autoload", "leads to a module that is not there"),
        ("def (", "torch_npu:_autoload", "is not Python"),
    ],
)
def test_entry_points_that_lead_nowhere(tmp_path: Path, source: str, target: str, says: str) -> None:
    (what,) = found(with_entry(tmp_path, source, target), "entry-points")
    assert says in what


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "METADATA requires no torch, expected torch==2.5.1"),
        ("Requires-Dist: torch==2.4.0", "METADATA requires torch==2.4.0, expected torch==2.5.1"),
        ("Requires-Dist: torch>=2.5.1", "METADATA requires torch>=2.5.1, expected torch==2.5.1"),
        ("Requires-Dist: torch", "METADATA requires torch, expected torch==2.5.1"),
        ("Requires-Dist: torch==2.5.1\nRequires-Dist: Torch==2.4", "METADATA requires Torch==2.4"),
    ],
)
def test_another_torch_is_required(tmp_path: Path, line: str, says: str) -> None:
    text = METADATA.replace("Requires-Dist: torch==2.5.1\n", f"{line}\n" if line else "")
    (what,) = found(make_wheel(tmp_path, replaced={f"{INFO}/METADATA": text.encode()}), "requires")
    assert says in what


@pytest.mark.parametrize("line", ["Requires-Dist: torch==2.5.1+cpu", "Requires-Dist: torch (==2.5.1)"])
def test_the_right_torch_in_other_words(tmp_path: Path, line: str) -> None:
    text = METADATA.replace("Requires-Dist: torch==2.5.1", line)
    assert found(make_wheel(tmp_path, replaced={f"{INFO}/METADATA": text.encode()}), "requires") == []


def test_headers_are_there(tmp_path: Path) -> None:
    assert found(make_wheel(tmp_path), "headers") == []
    wheel = make_wheel(tmp_path, replaced={HEADER: b"", "torch_npu/include/other.h": b""})
    assert found(wheel, "headers") == []


def test_a_wheel_without_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wheel_support.HEADER", "torch_npu/include/elsewhere.h")
    assert found(make_wheel(tmp_path), "headers") == ["it lacks the headers below torch_npu/include/torch_npu/csrc/"]


@pytest.mark.parametrize(("last", "says"), [(None, 0), (1.0, 0), (1.15, 0), (1.5, 1), (0.7, 1)])
def test_a_size_far_from_the_last_one(tmp_path: Path, last: float | None, says: int) -> None:
    from dataclasses import replace

    wheel = make_wheel(tmp_path)
    size = None if last is None else int(wheel.stat().st_size * last)
    findings = judge(wheel, replace(EXPECTED, last_size=size)).findings
    assert len([one for one in findings if one.rule.id == "size"]) == says

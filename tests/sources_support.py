"""What tests of sources share."""

from __future__ import annotations

from typing import Any


def record_of_a_tree(commit: str, **changes: Any) -> dict[str, Any]:
    """The record of a prepared tree that was made of one commit, with ``changes``; ``...`` leaves a part out."""
    origin = {
        "asked": {}, "branch": "line", "torch_npu": commit, "submodules": {}, "op_plugin": None, "patches": [],
        "series": [], "custom_operators": None,
    }  # fmt: skip
    record = {
        "target": "target", "branch": "line", "head": "refs/heads/line", "commits": {"torch_npu": commit},
        "commit_time": 0, "overlay": None, "patches": [], "custom_operators": [], "origin": origin, **changes,
    }  # fmt: skip
    return {key: value for key, value in record.items() if value is not ...}

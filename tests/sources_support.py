"""What tests of sources share."""

from __future__ import annotations

import json
from typing import Any

from builder.sources.prepared_record import SCHEMA, Origin, PreparedFacts


def origin_of(commit: str, **changes: Any) -> Origin:
    """What a tree is made of that was made of one commit, with ``changes``, which are as in JSON."""
    made = {
        "asked": {}, "branch": "line", "torch_npu": commit, "submodules": {}, "op_plugin": None, "patches": [],
        "series": [], "custom_operators": None, **changes,
    }  # fmt: skip
    return Origin.model_validate_json(json.dumps(made))


def facts_of_a_tree(commit: str) -> PreparedFacts:
    """What is noted of a prepared tree that was made of one commit."""
    return PreparedFacts(
        schema_version=SCHEMA, target="target", branch="line", head="refs/heads/line", commits={"torch_npu": commit},
        commit_time=0, overlay=None, patches=(), custom_operators=(), origin=origin_of(commit),
    )  # fmt: skip

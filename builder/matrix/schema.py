"""JSON Schemas of the matrix files, written from the models: editors complete and check the YAML with them.

``python -m builder.matrix.schema`` writes them into ``matrices/schema``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from builder.core.workspace import atomic_write, resource
from builder.matrix.channels import ChannelFile
from builder.matrix.decisions import DecisionFile
from builder.matrix.lifecycle import LifecycleFile
from builder.matrix.model import ReleaseFile
from builder.matrix.repositories import SourceTable
from builder.matrix.toolchains import ToolchainFile, TorchFile

#: File name in ``matrices/schema`` -> the model of the files that it describes, and their title.
SCHEMAS: dict[str, tuple[type[BaseModel], str]] = {
    "pytorch.schema.json": (ReleaseFile, "Release lines of one PyTorch minor version"),
    "toolchains.schema.json": (ToolchainFile, "Toolchains by name"),
    "torch.schema.json": (TorchFile, "PyTorch as a build dependency"),
    "lifecycle.schema.json": (LifecycleFile, "Phases of life of PyTorch versions and plugin releases"),
    "decisions.schema.json": (DecisionFile, "Accepted drift, branches left out, contradictions"),
    "nightly.schema.json": (ChannelFile, "Channels of nightly builds"),
    "sources.schema.json": (SourceTable, "Repositories and their URLs"),
}


def schema_texts() -> dict[str, str]:
    """The text of each schema file by its name."""
    texts = {}
    for name, (model, title) in SCHEMAS.items():
        schema = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **model.model_json_schema(),
            "title": title,
        }
        if model is ReleaseFile:
            _allow_defaults(schema)
        texts[name] = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
    return texts


def _allow_defaults(schema: dict[str, Any]) -> None:
    """Rows take what they lack from ``defaults``, so that only the branch must stand in each of them."""
    row = schema["$defs"]["ReleaseRow"]
    row["required"] = ["branch"]
    parts = {name: value for name, value in row["properties"].items() if name != "branch"}
    schema["properties"]["defaults"] = {
        "type": "object",
        "description": "Values of all rows that do not have the key themselves; sources are joined key by key",
        "additionalProperties": False,
        "properties": parts,
    }


def write_schemas(folder: Path) -> list[Path]:
    """Write every schema into ``folder``; return the files."""
    written = []
    for name, text in schema_texts().items():
        atomic_write(folder / name, text)
        written.append(folder / name)
    return written


if __name__ == "__main__":
    for path in write_schemas(resource("matrices") / "schema"):
        print(path, file=sys.stderr)

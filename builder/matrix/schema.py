"""JSON Schemas of the matrix files, written from the models: editors complete and check the YAML with them.

``python -m builder.matrix.schema`` writes them into ``matrices/schema``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pydantic import BaseModel

from builder.matrix.model import ReleaseFile, SourceTable, ToolchainFile
from builder.workspace import atomic_write, resource

#: File name in ``matrices/schema`` -> the model of the files that it describes, and their title.
SCHEMAS: dict[str, tuple[type[BaseModel], str]] = {
    "pytorch.schema.json": (ReleaseFile, "Release lines of one PyTorch minor version"),
    "toolchains.schema.json": (ToolchainFile, "Toolchains by name"),
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
        texts[name] = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
    return texts


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

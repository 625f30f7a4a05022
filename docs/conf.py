"""The site of the pages, made by ``nox -s docs`` from the Markdown that the repository shows."""

from __future__ import annotations

from importlib.metadata import version as version_of

project = "torch-npu-builder"
author = "the authors of torch-npu-builder"
release = version_of("torch-npu-builder")
root_doc = "docs/index"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "docs/*.md",
    "docs/decisions/*.md",
    "examples/README.md",
    "examples/custom_ops/README.md",
    "benchmarks/README.md",
    "patches/README.md",
    "docker/README.md",
    "builder/payload/README.md",
]
myst_heading_anchors = 4
html_theme = "furo"
html_title = f"torch-npu-builder {release}"
nitpicky = True

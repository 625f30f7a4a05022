"""A small matrix with one line of every kind, for tests that should not change with the facts of the shipped one."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from builder.matrix.loader import Matrix, load_matrix

#: The day on which the lines have the statuses that they have here.
DAY = date(2026, 3, 1)

_TOOLCHAINS = """
bases:
  manylinux-2-28: {ids: [almalinux, rocky], version: "8"}
  debian-bookworm: {ids: [debian], version: "12", suite: bookworm, python: "3.11"}
compilers:
  "9.3": {version: "9.3.1", provided_by: {manylinux-2-28: {package: gcc-toolset-9}}, from_source: [debian-bookworm],
    cmake_minimum: "3.18", source: wheels}
  "11.2": {version: "11.2.1", cmake_minimum: "3.18", source: wheels, provided_by: {
    manylinux-2-28: {package: gcc-toolset-11}, debian-bookworm: {package: gcc-11, version: "11.3.0"}}}
toolchains:
  old-x86_64: {arch: x86_64, gcc: "9.3.1", manylinux: manylinux_2_17, base_image: "i/old:1", cxx11_abi: 0, source: A}
  old-aarch64: {arch: aarch64, gcc: "9.3.1", manylinux: manylinux_2_17, base_image: "i/arm:1", cxx11_abi: 0, source: A}
  new-aarch64: {arch: aarch64, gcc: "11.2.1", manylinux: manylinux_2_28, base_image: "i/new:1", cxx11_abi: 1, source: B}
"""

_LIFECYCLE = """
pytorch:
  "1.5.0": {end_of_life: "2022-07-29", rule: stated, source: A}
  "1.8.1": {end_of_life: "2023-04-10", rule: stated, source: A}
  "2.1.0": {maintained: "2023-10-15", end_of_life: "2025-12-30", rule: stated, source: A}
  "2.5.1": {maintained: "2024-11-08", unmaintained: "2026-02-08", end_of_life: "2026-08-08", rule: stated, source: A}
  "2.6.0": {maintained: "2026-01-25", end_of_life: "2027-01-25", rule: stated, source: A}
  "2.7.1": {development: "2026-02-01", rule: stated, source: A}
  "2.8.0": {development: "2026-06-01", rule: stated, source: A}
releases:
  "6.0.0": {end_of_life: "2024-12-30", rule: half a year, source: another table}
"""

_SOURCES = """
repositories:
  torch_npu: {urls: ["https://git.example.org/torch_npu.git"]}
  op-plugin: {urls: ["https://git.example.org/op-plugin.git"]}
"""

_DECISIONS = """
accepted:
  - {line: "v2.6.0-*", fact: ci-images, found: "img/other:2", reason: the wheels were made with the other}
contradictions:
  - claims: [{document: notes.txt, subject: v2.5.1-7.1.0, fact: cann, says: 8.3.RC1}]
    decision: it is for CANN 8.2.RC1
    reason: the table of the branch says so
  - claims: [{document: notes.txt, subject: "2.1.0", fact: pythons, says: "3.7"}]
    decision: 3.8 and later
    reason: torch has no wheel for 3.7
"""

_TORCH = """
torch:
  "1.5.0": {requirements: {x86_64: torch==1.5.0}, source: an index}
  "1.8.1": {requirements: {x86_64: torch==1.8.1+cpu}, wheels: {x86_64: {"3.7": []}}, source: an index}
"""

_BOTH = {"x86_64": "old-x86_64", "aarch64": "old-aarch64"}
_MIXED = {"x86_64": "old-x86_64", "aarch64": "new-aarch64"}
_LEGACY = "legacy: the branch has no ci/build.sh"
_UNKNOWN = "source: unknown"

#: Branch, PyTorch, plugin release, CANN, Pythons (3.x), toolchains, further keys.
_LINES: tuple[tuple[str, str, str, str | None, str, dict[str, str], str], ...] = (
    ("v1.5.0-3.0.0", "1.5.0", "3.0.0", "6.0.1", "7", _BOTH, _LEGACY),
    ("v1.8.1-3.0.0", "1.8.1", "3.0.0", "6.0.1", "7", _BOTH, ""),
    ("v2.1.0", "2.1.0", "development", None, "8 9 10 11", _BOTH, "channel: nightly"),
    ("v2.1.0-6.0.0", "2.1.0", "6.0.0", "8.0.0", "8 9 10 11", _BOTH, ""),
    ("v2.1.0-7.1.0", "2.1.0", "7.1.0", "8.2.RC1", "8 9 10 11", _BOTH, ""),
    ("v2.5.1", "2.5.1", "development", None, "9 10 11", _BOTH, "channel: nightly"),
    ("v2.5.1-7.0.0", "2.5.1", "7.0.0", "8.1.RC1", "9 10 11", _BOTH, ""),
    ("v2.5.1-7.1.0", "2.5.1", "7.1.0", "8.2.RC1", "9 10 11", _BOTH, ""),
    ("v2.6.0-7.1.0", "2.6.0", "7.1.0", "8.2.RC1", "9 10 11", _MIXED, ""),
    ("v2.6.0-7.2.0", "2.6.0", "7.2.0", "8.3.RC1", "9 10 11 12", _MIXED, "finds_ccache: true"),
    ("v2.6.0-7.10.0", "2.6.0", "7.10.0", "8.5.0", "10 11", {"x86_64": "old-x86_64"}, ""),
    ("v2.7.1", "2.7.1", "development", None, "10 11 12", _MIXED, "channel: nightly"),
    ("v2.7.1-26.0.rc1", "2.7.1", "26.0.rc1", "9.0.RC1", "10 11", _MIXED, ""),
    ("v2.7.1-26.0.0", "2.7.1", "26.0.0", "9.0.0", "10 11", _MIXED, ""),
    ("v2.7.1-26.1.0", "2.7.1", "26.1.0", None, "10 11 12", _MIXED, _UNKNOWN),
    ("master", "2.8.0", "development", None, "10 11 12", _MIXED, "channel: nightly"),
    ("v2.8.0-26.1.0", "2.8.0", "26.1.0", None, "10 11 12", _MIXED, _UNKNOWN),
)


def write_matrix(folder: Path) -> Path:
    """Write the files of the matrix into ``folder`` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch = _TORCH
    for pytorch in dict.fromkeys(line[1] for line in _LINES if line[1].startswith("2")):
        torch += f'  "{pytorch}": {{requirements: {{x86_64: torch=={pytorch}+cpu, aarch64: torch=={pytorch}}}, '
        pythons = ", ".join(f'"3.{minor}": ["sha256:{minor * 64:.64}"]' for minor in ("8", "9", "10", "11", "12"))
        torch += f"wheels: {{x86_64: {{{pythons}}}, aarch64: {{{pythons}}}}}, source: an index}}\n"
    for name, text in (
        ("toolchains", _TOOLCHAINS),
        ("lifecycle", _LIFECYCLE),
        ("sources", _SOURCES),
        ("decisions", _DECISIONS),
        ("torch", torch),
    ):
        (folder / f"{name}.yaml").write_text(text.lstrip())
    for minor in dict.fromkeys(line[1].rpartition(".")[0] for line in _LINES):
        rows = [_row(*line) for line in _LINES if line[1].rpartition(".")[0] == minor]
        (folder / f"pytorch-{minor}.yaml").write_text(f'pytorch: "{minor}"\nreleases:\n{"".join(rows)}')
    return folder


def small_matrix(folder: Path, day: date = DAY) -> Matrix:
    """The matrix, written into ``folder`` and loaded as of ``day``."""
    return load_matrix(write_matrix(folder), as_of=day)


def _row(
    branch: str, pytorch: str, release: str, cann: str | None, pythons: str, toolchains: dict[str, str], more: str
) -> str:
    listed = ", ".join(f'"3.{minor}"' for minor in pythons.split())
    said = f'"{cann}"' if cann else "null"
    names = ", ".join(f"{arch}: {name}" for arch, name in toolchains.items())
    keys = [
        f'pytorch: "{pytorch}"',
        f'release: "{release}"',
        f'package_version: "{pytorch}"',
        f"cann: {said}",
        f"op_plugin: {'master' if release == 'development' else release}" if pytorch > "2" else "op_plugin: null",
        f"pythons: [{listed}]",
        f"toolchains: {{{names}}}",
        "requirements: [setuptools==68.2.2, wheel==0.41.2, PyYAML==6.0.1, numpy==1.21.3]",
        'build_options: ["--disable_rpc"]',
        "sources: {cann: table, toolchains: the wheels, legacy: the branch}",
        *filter(None, [more]),
    ]
    return f"  - branch: {branch}\n" + "".join(f"    {key}\n" for key in keys)

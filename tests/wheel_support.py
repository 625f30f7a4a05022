"""Wheels of torch_npu and their records, made here: right ones, and any way of being wrong."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder.matrix.model import Target
from builder.wheels.verify import Expectation

COMMIT = "7c59c54b2e5e73bbc8cb1e7bc88522c8366f0608"
EXPECTED = Expectation("cp311", "x86_64", "2.5.1", "manylinux_2_17_x86_64", COMMIT)
TAGS = ("cp311-cp311-manylinux_2_17_x86_64", "cp311-cp311-manylinux2014_x86_64")
NAME = "torch_npu-2.5.1.post1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"
INFO = "torch_npu-2.5.1.post1.dist-info"
METADATA = "Metadata-Version: 2.1\nName: torch_npu\nVersion: 2.5.1.post1\nRequires-Dist: torch==2.5.1\n"
HEADER = "torch_npu/include/torch_npu/csrc/core/npu/NPUFunctions.h"
ENTRY_POINTS = (
    "[console_scripts]\ntorch_npu_run = torch_npu.distributed.run:_main\n\n"
    "[torch.backends]\ntorch_npu = torch_npu:_autoload\n"
)


def elf(machine: int = 62) -> bytes:
    """The smallest ELF header that names a machine (62 is x86_64, 183 aarch64)."""
    identification = b"\x7fELF\x02\x01\x01" + bytes(9)
    return identification + struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 0, 0, 0, 64, 0, 0, 64, 0, 0)


def record_of(files: Mapping[str, bytes], info: str = INFO) -> bytes:
    """RECORD over ``files`` and itself."""
    rows = []
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(content)}")
    return "\n".join([*rows, f"{info}/RECORD,,", ""]).encode()


def make_wheel(
    folder: Path,
    name: str = NAME,
    *,
    version: str = "2.5.1.post1",
    tags: tuple[str, ...] = TAGS,
    commit: str = COMMIT,
    library: bytes | None = None,
    tamper: str | None = None,
    extra: Mapping[str, bytes] | None = None,
    replaced: Mapping[str, bytes] | None = None,
    members: Mapping[str, int] | None = None,
    compression: int = zipfile.ZIP_DEFLATED,
) -> Path:
    """A wheel with a whole RECORD. ``replaced`` are files that RECORD knows, ``extra`` such that it does not.

    ``members`` gives files and folders the mode that the archive says of them.
    """
    info = "-".join(name.split("-")[:2]) + ".dist-info"
    python = name.split("-")[2].removeprefix("cp")
    files = {
        "torch_npu/__init__.py": b"",
        "torch_npu/version.py": f"__version__ = '{version}'\ngit_version = '{commit}'\n".encode(),
        "torch_npu/lib/libtorch_npu.so": elf() if library is None else library,
        f"torch_npu/_C.cpython-{python}-x86_64-linux-gnu.so": elf(),
        HEADER: b"",
        f"{info}/METADATA": (
            f"Metadata-Version: 2.1\nName: torch_npu\nVersion: {version}\n"
            f"Requires-Dist: torch=={'.'.join(version.split('+')[0].split('.')[:3])}\n"
        ).encode(),
        f"{info}/WHEEL": (
            "Wheel-Version: 1.0\nRoot-Is-Purelib: false\n" + "".join(f"Tag: {t}\n" for t in tags)
        ).encode(),
        **(replaced or {}),
    }
    files.setdefault(f"{info}/RECORD", record_of(files, info))
    if tamper:
        files[tamper] += b"#"
    files |= extra or {}
    wheel = folder / name
    with zipfile.ZipFile(wheel, "w", compression) as archive:
        for path, content in files.items():
            member = zipfile.ZipInfo(path, (2026, 1, 1, 0, 0, 0))
            member.compress_type = compression
            member.external_attr = (members or {}).get(path, 0o100644) << 16
            archive.writestr(member, content)
    return wheel


def make_target_wheel(folder: Path, target: Target, suffix: str = "", *, content: str = "") -> Path:
    """A wheel that may pass for one of ``target``; ``content`` makes it another one."""
    folder.mkdir(parents=True, exist_ok=True)
    version = f"{target.release.package_version}{suffix}"
    tags = f"{target.tag}-{target.tag}-linux_{target.arch}"
    name = f"torch_npu-{version}-{tags}.whl"
    return make_wheel(folder, name, version=version, tags=(tags,), replaced={"torch_npu/content": content.encode()})


def make_record(wheel: Path, /, **changes: Any) -> dict[str, Any]:
    """A whole record of ``wheel``, as a build writes it; ``...`` leaves a part out."""
    content = wheel.read_bytes() if wheel.exists() else b""
    record = {
        "schema": 1,
        "wheel": wheel.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        "fingerprint": "f" * 64,
        "target": "v2.5.1-7.1.0-py3.11-x86_64",
        "phases": [{"name": "compile", "seconds": 2.113, "cpu_seconds": 1.474}],
        "run": "20261121-063427-841e",
        "started": "2026-11-21T06:34:27+00:00",
        "finished": "2026-11-21T06:34:31+00:00",
        **changes,
    }
    return {key: value for key, value in record.items() if value is not ...}


def write_record(wheel: Path, /, **changes: Any) -> Path:
    """Put ``make_record`` beside ``wheel``."""
    path = wheel.with_name(f"{wheel.name}.json")
    path.write_text(json.dumps(make_record(wheel, **changes)), encoding="utf-8")
    return path

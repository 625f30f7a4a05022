"""What a built wheel may hold: each way of being wrong is a finding, and released wheels are right."""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
import struct
import subprocess
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from wheel_support import ENTRY_POINTS, EXPECTED, INFO, METADATA, NAME, TAGS, elf, make_wheel, record_of

from builder.core.errors import FailureKind, TargetError
from builder.wheels import contents, inspect
from builder.wheels.contents import archive_faults, metadata_faults
from builder.wheels.inspect import Wheel
from builder.wheels.verify import verify

#: What upstream's released wheels hold, by version: top folders, metadata, modes (see the file).
RELEASED = json.loads((Path(__file__).parents[1] / "data" / "released_wheels.json").read_text())
_CENTRAL = b"PK\x01\x02"


def fault(wheel: Path) -> str:
    """What is found; anything but a finding fails the test."""
    with pytest.raises(TargetError) as caught:
        verify(wheel, EXPECTED)
    assert caught.value.kind is FailureKind.VERIFY
    said = f"{caught.value.message}\n{caught.value.details or ''}"
    assert all(line.isprintable() for line in said.splitlines())
    return said


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("evil.pth", "evil.pth has no place"),
        ("torch/__init__.py", "torch/__init__.py has no place"),
        ("sitecustomize.py", "has no place"),
        ("torch_npu.py", "has no place"),
        ("torch_npu", "has no place"),
        ("Torch_npu/x.py", "has no place"),
        ("torch_npu.libs/evil.pth", "has no place"),
        ("torch_npu.libs/deep/libx.so", "has no place"),
        ("torch_npu-2.5.1.post1.data/scripts/pip", "has no place"),
        ("torch_npu-2.5.1.post1.data/data/scripts/pip", "has no place"),
        ("pip-99.dist-info/METADATA", "has no place"),
        (f"{INFO}/direct_url.json", "has no place"),
        (f"{INFO}/INSTALLER", "has no place"),
        ("torch_npu.egg-info/x.py", "has no place"),
        ("/etc/passwd", "a place outside"),
        ("../evil.py", "a place outside"),
        ("torch_npu/../../evil.py", "a place outside"),
        ("torch_npu//evil.py", "a place outside"),
        ("torch_npu/./evil.py", "a place outside"),
        ("C:/evil.py", "is no name for a file"),
        ("torch_npu/C:evil.py", "is no name for a file"),
        ("torch_npu\\..\\..\\evil.py", "is no name for a file"),
        ("torch_npu/a\nb.py", "is no name for a file"),
        ("torch_npu/a\x1b[2Jb.py", "is no name for a file"),
        ("torch_npu/\u202egp.py", "is no name for a file"),
        ("torch_npu/" + "x" * 201, "is no name for a file"),
        ("torch_npu/" + "x/" * 40 + "x", "is no name for a file"),
        ("TORCH_NPU/__init__.py", "stands twice"),
        ("torch_npu/Version.py", "stands twice"),
        ("torch_npu/version.py/x.py", "is a file and a folder"),
    ],
)
def test_names_that_no_wheel_may_hold(tmp_path: Path, name: str, says: str) -> None:
    assert says in fault(make_wheel(tmp_path, extra={name: b"x"}))


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        (stat.S_IFLNK | 0o777, "is a link"),
        (stat.S_IFIFO | 0o644, "is a pipe"),
        (stat.S_IFCHR | 0o644, "is a device"),
        (stat.S_IFBLK | 0o644, "is a device"),
        (stat.S_IFSOCK | 0o644, "is a device or a socket"),
        (stat.S_IFDIR | 0o755, "is a folder"),
        (stat.S_IFREG | 0o4755, "special rights (mode 4755)"),
        (stat.S_IFREG | 0o2755, "special rights"),
        (stat.S_IFREG | 0o1644, "special rights"),
        (stat.S_IFREG | 0o666, "can be written by everybody"),
        (0o4755, "special rights"),
    ],
)
def test_modes_that_no_member_may_have(tmp_path: Path, mode: int, says: str) -> None:
    assert says in fault(make_wheel(tmp_path, members={"torch_npu/__init__.py": mode}))


@pytest.mark.parametrize("mode", [0, 0o644, 0o100600, 0o100644, 0o100664, 0o100750, 0o100755])
def test_modes_of_released_wheels_are_right(tmp_path: Path, mode: int) -> None:
    verify(make_wheel(tmp_path, members={"torch_npu/__init__.py": mode}), EXPECTED)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({f"{INFO}/METADATA": METADATA.replace("torch_npu", "pip")}, "METADATA says Name pip"),
        ({f"{INFO}/METADATA": METADATA + "Name: pip\n"}, "METADATA says Name torch_npu, pip"),
        ({f"{INFO}/METADATA": METADATA.replace("post1", "post2")}, "METADATA says 2.5.1.post2"),
        ({f"{INFO}/METADATA": METADATA.replace("2.5.1.post1", "two")}, "METADATA: Invalid version"),
        ({f"{INFO}/METADATA": METADATA.replace("2.5.1", "1" * 5000)}, "METADATA says Version"),
        ({f"{INFO}/METADATA": METADATA.replace("2.5.1", "2.5.1\x1b[2J")}, "METADATA: Invalid version"),
        ({f"{INFO}/METADATA": METADATA + "Requires-Dist: torch @ https://example.org/torch.whl\n"}, "from a URL"),
        ({f"{INFO}/METADATA": METADATA + "Requires-Dist: torch ==\n"}, "METADATA requires torch =="),
        ({f"{INFO}/METADATA": b"\xff\xfe"}, "METADATA: 'utf-8' codec"),
        ({f"{INFO}/METADATA": ""}, "METADATA says Name nothing"),
        ({f"{INFO}/METADATA": METADATA + "x" * inspect.TEXT_LIMIT}, "expected at most"),
        ({f"{INFO}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"}, "Root-Is-Purelib true"),
        ({f"{INFO}/WHEEL": "Wheel-Version: 9.0\nRoot-Is-Purelib: false\n"}, "Wheel-Version 9.0"),
        ({f"{INFO}/WHEEL": "Tag: " + ".".join("abcdefgh" * 20) + "-x-y\n"}, "tags without measure"),
        ({f"{INFO}/WHEEL": "Tag: none\n"}, "a tag in WHEEL"),
        ({f"{INFO}/WHEEL": b"\x80"}, "WHEEL: 'utf-8' codec"),
        ({f"{INFO}/RECORD": b"\x80"}, "RECORD: 'utf-8' codec"),
        ({f"{INFO}/RECORD": 'torch_npu/__init__.py,"' + "x" * 200_000}, "RECORD: field larger than"),
        ({f"{INFO}/RECORD": "x\n"}, "not path,hash,size"),
        ({f"{INFO}/RECORD": "torch_npu/__init__.py,md5=x,0\n"}, "no secure hash"),
        ({f"{INFO}/RECORD": "torch_npu/__init__.py,sha256=x,many\n"}, "RECORD says many"),
        ({f"{INFO}/RECORD": "../../etc/passwd,sha256=x,0\n"}, "in RECORD but not in the wheel"),
        ({f"{INFO}/entry_points.txt": "[console_scripts]\npip = torch_npu:main\n"}, "pip = torch_npu:main"),
        ({f"{INFO}/entry_points.txt": "[console_scripts]\ntorch_npu_run = os:system\n"}, "which upstream has not"),
        ({f"{INFO}/entry_points.txt": "[gui_scripts]\ntorch_npu_run = torch_npu:x\n"}, "in [gui_scripts]"),
        ({f"{INFO}/entry_points.txt": "[DEFAULT]\nx = torch_npu:x\n"}, "which upstream has not"),
        ({f"{INFO}/entry_points.txt": "no section\n"}, "entry_points.txt: File contains no section"),
        ({"torch_npu.egg-info/entry_points.txt": "[pytest11]\nx = torch_npu:x\n"}, "in [pytest11]"),
        ({"torch_npu.egg-info/PKG-INFO": "Name: pip\nVersion: 1\n"}, "PKG-INFO says Name pip"),
        ({f"{INFO}/top_level.txt": "torch\n"}, "top_level.txt names torch"),
        ({"torch_npu/version.py": "git_version = '"}, "version.py is not Python"),
        ({"torch_npu/version.py": "x = 1\0"}, "version.py is not Python"),
        ({"torch_npu/version.py": "x = " + "(" * 100_000}, "version.py is not Python"),
        ({"torch_npu/version.py": "x = " + "-" * 1_000_000 + "1"}, "version.py is not Python"),
        ({"torch_npu/version.py": "# coding: nonsense\n" + "\udcff"}, "version.py"),
        ({"torch_npu/version.py": "__version__ = 'two'\n"}, "torch_npu/version.py: Invalid version"),
    ],
)
def test_metadata_that_no_wheel_may_have(tmp_path: Path, files: dict[str, str | bytes], says: str) -> None:
    replaced = {n: t if isinstance(t, bytes) else t.encode(errors="surrogateescape") for n, t in files.items()}
    assert says in fault(make_wheel(tmp_path, replaced=replaced))


@pytest.mark.parametrize(
    "library",
    [
        elf()[:20],
        elf()[:40] + b"\xff" * 24,
        b"\x7fELF" + b"\xff" * 60,
        b"\x7fELF\x02\x01\x01" + bytes(57),
        elf()[:40] + struct.pack("<QIHHHHHH", 64, 0, 64, 0, 0, 64, 3, 9) + b"\xff" * 300,
    ],
)
def test_libraries_that_cannot_be_read(tmp_path: Path, library: bytes) -> None:
    assert "libtorch_npu.so" in fault(make_wheel(tmp_path, library=library))


def test_a_wheel_that_unpacks_to_very_much_more_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_wheel(tmp_path, extra={"torch_npu/zeros": bytes(32 << 20)})
    monkeypatch.setattr(Wheel, "chunks", lambda *_: pytest.fail("it was read"))
    assert "it unpacks from" in fault(wheel)


def test_sizes_are_bounded_whatever_the_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_wheel(tmp_path)
    monkeypatch.setattr(contents, "TOTAL_LIMIT", 100)
    assert "it unpacks from" in fault(wheel)
    monkeypatch.setattr(contents, "MEMBER_LIMIT", 60)
    assert "expected at most 60" in fault(wheel)
    monkeypatch.setattr(inspect, "MEMBER_COUNT", 3)
    assert "it has 8 members" in fault(wheel)


def test_a_directory_is_measured_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_wheel(tmp_path, extra={f"torch_npu/{number}": b"" for number in range(inspect.MEMBER_COUNT)})
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_: pytest.fail("it was read"))
    assert "members in a directory" in fault(wheel)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_are_deflated_or_stored(tmp_path: Path, method: int) -> None:
    verify(make_wheel(tmp_path, compression=zipfile.ZIP_STORED), EXPECTED)
    assert "packed in another way" in fault(make_wheel(tmp_path, compression=method))


def damaged(wheel: Path, kind: str) -> Path:
    """The wheel with a damage that changes what different readers find in it."""
    data = bytearray(wheel.read_bytes())
    directory = data.index(_CENTRAL)
    if kind == "prefix":
        data[:0] = b"#!/bin/sh\n"
    elif kind == "trailing":
        data += b"more"
    elif kind == "comment":
        data[-2:] = b"\x04\0"
        data += b"more"
    elif kind == "gap":
        data[directory:directory] = b"hidden"
        data[-6:-2] = struct.pack("<L", directory + 6)
    elif kind == "local name":
        data[30] ^= 1
    elif kind == "local size":
        data[22:26] = struct.pack("<L", 7)
    elif kind == "encrypted":
        data[directory + 8] |= 1
        data[6] |= 1
    elif kind == "stream":
        data[directory + 8] |= 8
        data[6] |= 8
    elif kind == "method":
        data[directory + 10] = data[8] = 99
    elif kind == "offset":
        data[directory + 42 : directory + 46] = b"\xff" * 4
    elif kind == "content":
        data[data.index(b"torch_npu/version.py") + 25] ^= 0xFF
    elif kind == "count":
        data[-14:-10] = b"\x01\0\x01\0"
    elif kind == "nul":
        place = data.index(b"torch_npu/__init__.py", directory)
        data[place + 12] = data[30 + 12] = 0
    wheel.write_bytes(data)
    return wheel


@pytest.mark.parametrize(
    "kind",
    [
        "prefix", "trailing", "comment", "gap", "local name", "local size", "encrypted", "stream", "method", "offset",
        "content", "count", "nul",
    ],
)  # fmt: skip
def test_archives_that_two_readers_may_read_differently(tmp_path: Path, kind: str) -> None:
    fault(damaged(make_wheel(tmp_path), kind))


@pytest.mark.parametrize("content", [b"", b"PK", b"not a wheel at all", b"PK\x05\x06" + bytes(18), b"\0" * 100])
def test_files_that_are_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    fault(tmp_path / NAME)


def test_only_a_regular_file_is_a_wheel(tmp_path: Path) -> None:
    whole = make_wheel(tmp_path)
    (tmp_path / "x").mkdir()
    for make in (lambda path: path.symlink_to(whole), os.mkfifo, os.mkdir):
        place = tmp_path / "x" / NAME
        make(place)
        assert "not a whole wheel" in fault(place)
        place.rmdir() if place.is_dir() and not place.is_symlink() else place.unlink()
    assert "not a whole wheel" in fault(place)


def test_names_of_wheels_without_measure(tmp_path: Path) -> None:
    assert "Invalid wheel filename" in fault(make_wheel(tmp_path).rename(tmp_path / "torch_npu.whl"))


def test_whatever_a_reader_raises_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_wheel(tmp_path)
    for error in (
        zlib.error("x"), struct.error("x"), NotImplementedError("x"), RuntimeError("x"), RecursionError("x"),
        MemoryError(), OverflowError("x"), EOFError(), zipfile.BadZipFile("x"), ValueError("x"), OSError(22, "x"),
    ):  # fmt: skip

        def broken(*_: Any, error: Exception = error) -> bytes:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(zipfile.ZipExtFile, "read", broken)
            fault(wheel)
    with monkeypatch.context() as patch:

        def full(*_: Any) -> bytes:
            raise OSError(28, "No space left on device")

        patch.setattr(zipfile.ZipExtFile, "read", full)
        # No word about the wheel: its build must not be remembered as a failure.
        with pytest.raises(OSError, match="No space"):
            verify(wheel, EXPECTED)


def _mutated(data: bytes, chance: random.Random) -> bytes:
    """A few bytes replaced, cut out, put in or repeated; often where lengths and signatures stand."""
    mutated = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5])):
        heads = [place for place in range(len(mutated) - 3) if mutated[place : place + 2] == b"PK"] or [0]
        at = chance.choice(heads) + chance.randrange(46) if chance.random() < 0.6 else chance.randrange(len(mutated))
        at = min(at, len(mutated) - 1)
        what = chance.randrange(5)
        if what == 0:
            mutated[at] ^= 1 << chance.randrange(8)
        elif what == 1:
            mutated[at : at + 4] = chance.choice([b"\xff" * 4, b"\0" * 4, struct.pack("<L", chance.getrandbits(32))])
        elif what == 2:
            del mutated[at : at + chance.randrange(1, 60)]
        elif what == 3:
            mutated[at:at] = chance.randbytes(chance.randrange(1, 30))
        else:
            mutated[at:at] = mutated[at : at + chance.randrange(1, 200)]
        if len(mutated) < 4:
            break
    return bytes(mutated)


def outcome(wheel: Path) -> FailureKind | None:
    """The kind of what is found, None for nothing; any other exception fails the test."""
    try:
        verify(wheel, EXPECTED)
    except TargetError as error:
        return error.kind
    return None


def _released_files() -> dict[str, bytes]:
    return {f"{INFO}/entry_points.txt": ENTRY_POINTS.encode(), f"{INFO}/top_level.txt": b"torch_npu\n"}


@pytest.mark.parametrize("packed", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damage_of_any_kind_is_a_finding_or_none(tmp_path: Path, packed: int) -> None:
    whole = make_wheel(tmp_path, compression=packed, replaced=_released_files()).read_bytes()
    chance, found = random.Random(11), 0  # noqa: S311
    for _ in range(600):
        (tmp_path / NAME).write_bytes(_mutated(whole, chance))
        found += outcome(tmp_path / NAME) is FailureKind.VERIFY
    # The others changed times, or nothing.
    assert found > 500


def test_damage_inside_of_members_is_a_finding_or_none(tmp_path: Path) -> None:
    chance = random.Random(12)  # noqa: S311
    compiled = elf()
    if shutil.which("gcc"):
        (tmp_path / "x.c").write_text("int x(void) { return 1; }")
        subprocess.run(["gcc", "-shared", "-o", "x.so", "x.c"], cwd=tmp_path, check=True)
        compiled = (tmp_path / "x.so").read_bytes()
    parts = {
        f"{INFO}/METADATA": (METADATA + "Requires-Dist: torch (==2.5.1+cpu)\n").encode(),
        f"{INFO}/WHEEL": "\n".join(
            ["Wheel-Version: 1.0", "Root-Is-Purelib: false", *(f"Tag: {tag}" for tag in TAGS)]
        ).encode(),
        f"{INFO}/RECORD": record_of({"torch_npu/__init__.py": b"", f"{INFO}/METADATA": b"x"}),
        f"{INFO}/entry_points.txt": ENTRY_POINTS.encode(),
        "torch_npu/version.py": f"__version__ = '2.5.1.post1'\ngit_version = '{EXPECTED.git_version}'\n".encode(),
        "torch_npu/lib/libtorch_npu.so": compiled,
    }  # fmt: skip
    for number in range(420):
        name = list(parts)[number % len(parts)]
        assert outcome(make_wheel(tmp_path, replaced={name: _mutated(parts[name], chance)})) in (
            None,
            FailureKind.VERIFY,
        )


@pytest.mark.parametrize("released", RELEASED, ids=lambda released: released["wheel"].split("-")[1])
def test_released_wheels_are_right(tmp_path: Path, released: dict[str, Any]) -> None:
    info = "-".join(released["wheel"].split("-")[:2]) + ".dist-info"
    files = {name.replace("DIST-INFO", info): text.encode() for name, text in released["files"].items()}
    modes = {name.replace("DIST-INFO", info): int(mode, 8) for name, mode in released["modes"].items()}
    with Wheel(make_wheel(tmp_path, released["wheel"], replaced=files, members=modes)) as wheel:
        assert [*archive_faults(wheel), *metadata_faults(wheel)] == []

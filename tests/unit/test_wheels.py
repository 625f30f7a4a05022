"""Reading, repairing, verifying and publishing wheels, on wheels made here with a real shared library."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from wheel_support import COMMIT, EXPECTED, NAME, TAGS, elf, make_record, make_wheel

from builder.core import untrusted
from builder.core.errors import FailureKind, TargetError
from builder.wheels import repair
from builder.wheels.provenance import archive_debug_symbols, debug_path
from builder.wheels.publication import publish_wheel
from builder.wheels.record import WheelRecord, read_record
from builder.wheels.repair import RepairPlan, auditwheel_command, built_wheel, take_wheel
from builder.wheels.verify import Expectation, verify


def fault(wheel: Path, expected: Expectation = EXPECTED) -> str:
    with pytest.raises(TargetError) as caught:
        verify(wheel, expected)
    assert caught.value.kind is FailureKind.VERIFY
    return caught.value.details or caught.value.message


def test_a_right_wheel_passes(tmp_path: Path) -> None:
    verified = verify(make_wheel(tmp_path), EXPECTED)
    assert verified.version == "2.5.1.post1"
    assert verified.git_version == COMMIT
    assert verified.platforms == ("manylinux2014_x86_64", "manylinux_2_17_x86_64")


@pytest.mark.parametrize(
    ("change", "expected", "says"),
    [
        ({"commit": "Unknown"}, EXPECTED, "git_version 'Unknown'"),
        ({"version": "2.5.1.post1+git1234567"}, EXPECTED, "METADATA says 2.5.1.post1+git1234567"),
        ({"tags": TAGS[:1]}, EXPECTED, "WHEEL says"),
        ({"tamper": "torch_npu/__init__.py"}, EXPECTED, "another hash than RECORD"),
        ({"extra": {"torch_npu/stale.py": b""}}, EXPECTED, "stale.py is in the wheel but not in RECORD"),
        ({"extra": {"../evil.py": b""}}, EXPECTED, "a place outside the wheel"),
        ({"library": elf(183)}, EXPECTED, "EM_AARCH64"),
        ({}, replace(EXPECTED, version_suffix=".dev1"), "lacks .dev1"),
        ({}, replace(EXPECTED, python_tag="cp310"), "is not for cp310"),
        ({}, replace(EXPECTED, python_tag="cp310"), "lacks the extension module torch_npu/_C.cpython-310"),
        ({}, replace(EXPECTED, arch="aarch64", platform="auto"), "not a manylinux tag of aarch64"),
        ({}, replace(EXPECTED, pytorch="2.6.0"), "not for PyTorch 2.6.0"),
        ({}, replace(EXPECTED, platform="manylinux_2_28_x86_64"), "lack manylinux_2_28_x86_64"),
    ],
)
def test_each_fault_is_found(tmp_path: Path, change: dict[str, object], expected: Expectation, says: str) -> None:
    assert says in fault(make_wheel(tmp_path, **change), expected)  # type: ignore[arg-type]


def test_an_unrepaired_wheel_is_refused(tmp_path: Path) -> None:
    name = "torch_npu-2.5.1.post1-cp311-cp311-linux_x86_64.whl"
    wheel = make_wheel(tmp_path, name, tags=("cp311-cp311-linux_x86_64",))
    assert "not a manylinux tag" in fault(wheel, replace(EXPECTED, platform="auto"))


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_a_library_that_needs_cuda_is_refused(tmp_path: Path) -> None:
    for source, output, options in (
        ("", "libtorch_cuda.so", []),
        ("", "user.so", ["-L.", "-Wl,--no-as-needed", "-ltorch_cuda"]),
    ):
        (tmp_path / "x.c").write_text(source)
        subprocess.run(["gcc", "-shared", "-o", output, "x.c", *options], cwd=tmp_path, check=True)
    assert "libtorch_cuda.so" in fault(make_wheel(tmp_path, library=(tmp_path / "user.so").read_bytes()))


def test_a_truncated_wheel_is_refused(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path)
    wheel.write_bytes(wheel.read_bytes()[:200])
    with pytest.raises(TargetError, match="not a whole wheel"):
        verify(wheel, EXPECTED)


def test_exactly_one_wheel_is_taken(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="left no dist/ that can be read"):
        built_wheel(tmp_path, "dist")
    (tmp_path / "dist").mkdir()
    with pytest.raises(TargetError, match="left nothing in dist"):
        built_wheel(tmp_path, "dist")
    wheel = make_wheel(tmp_path / "dist")
    assert built_wheel(tmp_path, "dist") == NAME
    assert take_wheel(tmp_path, "dist", tmp_path / "taken").read_bytes() == wheel.read_bytes()
    make_wheel(tmp_path / "dist", NAME.replace("post1", "post2"))
    with pytest.raises(TargetError, match="expected exactly one"):
        built_wheel(tmp_path, "dist")


def test_auditwheel_gets_upstreams_exclusions() -> None:
    command = auditwheel_command("/t/x.whl", "/out", "manylinux_2_17_x86_64", ("libc10.so",))
    assert command[-1] == "/t/x.whl"
    assert command[command.index("--exclude") + 1] == "libc10.so"
    assert RepairPlan("auto", by_upstream=False).variable == ""
    assert RepairPlan("manylinux_2_17_x86_64", by_upstream=True).variable == "manylinux_2_17_x86_64"


def test_publishing_leaves_only_whole_files(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path)
    symbols = tmp_path / "tree" / "build" / "dbg"
    symbols.mkdir(parents=True)
    (symbols / "libtorch_npu.so.debug").write_bytes(b"symbols")
    archives = [tmp_path / "1.tar.gz", tmp_path / "2.tar.gz"]
    packed = [archive_debug_symbols(tmp_path / "tree", "build/dbg", archive, 1_700_000_000) for archive in archives]
    assert packed == [True, True]
    assert archives[0].read_bytes() == archives[1].read_bytes()
    output = tmp_path / "dist"
    record = WheelRecord.model_validate(make_record(wheel))
    published = publish_wheel(wheel, output, record, archives[0])
    assert {file.name for file in output.iterdir()} == {NAME, f"{NAME}.json", f"{NAME}.debug.tar.gzip"}
    assert read_record(published) == record
    with tarfile.open(debug_path(published)) as archive:
        assert archive.getnames() == ["libtorch_npu.so.debug"]


def test_no_symbols_no_archive(tmp_path: Path) -> None:
    assert not archive_debug_symbols(tmp_path, "none", tmp_path / "x.tar.gz", 0)


def test_links_that_a_build_left_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key.debug").write_text("private")
    tree = tmp_path / "tree"
    (tree / "build" / "dbg").mkdir(parents=True)
    (tree / "build" / "dbg" / "x.debug").symlink_to(secret / "key.debug")
    assert not archive_debug_symbols(tree, "build/dbg", tmp_path / "1.tar.gz", 0)
    (tree / "other").mkdir()
    (tree / "other" / "dbg").symlink_to(secret)
    assert not archive_debug_symbols(tree, "other/dbg", tmp_path / "2.tar.gz", 0)


@pytest.mark.parametrize(
    "bend", ["the file", "the folder", "a folder above", "to a pipe", "to a folder", "to the tree"]
)
def test_no_wheel_of_the_host_is_taken_for_the_builds(tmp_path: Path, bend: str) -> None:
    host, tree, taken = tmp_path / "host", tmp_path / "tree", tmp_path / "taken"
    for folder in (host / "dist", tree / "out"):
        folder.mkdir(parents=True)
    wheel = make_wheel(host / "dist")
    dist = tree / "out" / "dist"
    if bend == "the folder":
        dist.symlink_to(host / "dist")
    elif bend == "a folder above":
        (tree / "out").rmdir()
        (tree / "out").symlink_to(host)
    elif bend == "to the tree":
        wheel.rename(tree / NAME)
        dist.symlink_to("..")
    else:
        dist.mkdir()
        place = dist / NAME
        {
            "the file": lambda: place.symlink_to(wheel),
            "to a pipe": lambda: os.mkfifo(place),
            "to a folder": place.mkdir,
        }[bend]()
    for call in (lambda: built_wheel(tree, "out/dist"), lambda: take_wheel(tree, "out/dist", taken)):
        with pytest.raises(TargetError, match=r"expected exactly one wheel") as caught:
            call()
        assert caught.value.kind is FailureKind.COMPILE
    assert list(taken.iterdir()) == []


def test_what_a_build_leaves_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dist").mkdir()
    with open(tmp_path / "dist" / NAME, "wb") as sparse:
        sparse.truncate(1 << 40)
    monkeypatch.setattr(repair, "WHEEL_LIMIT", 5 << 20)
    with pytest.raises(TargetError, match=f"more than {5 << 20} bytes"):
        take_wheel(tmp_path, "dist", tmp_path / "taken")
    assert list((tmp_path / "taken").iterdir()) == []
    monkeypatch.setattr(untrusted, "MOST_ENTRIES", 3)
    for number in range(4):
        (tmp_path / "dist" / str(number)).touch()
    with pytest.raises(TargetError, match="more than 3 entries"):
        built_wheel(tmp_path, "dist")


def test_a_second_publication_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path)
    output = tmp_path / "dist"
    publish_wheel(wheel, output, WheelRecord.model_validate(make_record(wheel)), None)
    (output / f".{NAME}.deadbeef").write_bytes(b"half")
    (output / f".{NAME}.json.deadbeef").write_bytes(b"half")
    publish_wheel(wheel, output, WheelRecord.model_validate(make_record(wheel)), None)
    assert {file.name for file in output.iterdir()} == {NAME, f"{NAME}.json"}

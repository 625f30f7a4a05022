"""How two wheels differ: what is found, and what passes for an explanation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from library_support import make_library
from wheel_support import COMMIT, INFO, METADATA, make_wheel

from builder.cli.main import cli
from builder.core.errors import RequestError, TargetError
from builder.wheels.compare import Difference, differences, read_side

SOURCE = "namespace at_npu { void first() {} } void second(); void run() { second(); }"


def wheel(folder: Path, source: str = SOURCE, *options: str, commit: str = COMMIT, **replaced: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    library = make_library(folder / "l.so", source, "-Wl,-z,now", *options).read_bytes()
    files = {name.replace("__", "/"): content for name, content in replaced.items()}
    return make_wheel(folder, library=library, commit=commit, replaced=files)


def found(first: Path, second: Path) -> list[Difference]:
    return differences(read_side(first), read_side(second))


def run(*arguments: str | Path) -> Result:
    words = ["compare", *map(str, arguments)]
    return CliRunner().invoke(cli, words, standalone_mode=False, catch_exceptions=False)


def test_the_same_wheel_twice(tmp_path: Path) -> None:
    first, second = wheel(tmp_path / "a"), wheel(tmp_path / "b")
    assert found(first, second) == []
    ran = run(first, second)
    assert (ran.return_value, ran.output.splitlines()[-1]) == (0, "they are the same")


def test_a_symbol_of_the_same_commit_is_not_explained(tmp_path: Path) -> None:
    first = wheel(tmp_path / "a")
    second = wheel(tmp_path / "b", SOURCE.replace("first", "other"))
    kinds = [(one.kind, one.first, one.second, one.because) for one in found(first, second)]
    assert kinds == [
        ("exported symbols", "at_npu::first()", "", None),
        ("exported symbols", "", "at_npu::other()", None),
    ]
    ran = run(first, second)
    assert ran.return_value == 1
    assert "exported symbols of torch_npu/lib/libtorch_npu.so: not explained" in ran.output
    assert "2 differences, 2 without an explanation" in ran.output


def test_another_commit_explains_files_and_symbols(tmp_path: Path) -> None:
    first = wheel(tmp_path / "a")
    second = wheel(tmp_path / "b", SOURCE.replace("first", "other"), commit="1" * 40, torch_npu__new=b"")
    told = found(first, second)
    assert {one.kind for one in told} == {"commit", "contents", "exported symbols", "files"}
    assert {one.because for one in told} == {f"torch_npu {COMMIT[:12]} and 111111111111"}
    assert run(first, second).return_value == 0


def test_a_component_that_one_of_them_lacks(tmp_path: Path) -> None:
    first = wheel(tmp_path / "a")
    second = wheel(tmp_path / "b", torch_npu__dynamo__torchair__core=b"x")
    (told,) = found(first, second)
    assert (told.kind, told.because) == ("files", "A was built without torchair")
    # Where both have it, its absence explains nothing.
    first = wheel(tmp_path / "a", torch_npu__dynamo__torchair__core=b"x")
    second = wheel(tmp_path / "b", torch_npu__dynamo__torchair__core=b"x", torch_npu__dynamo__torchair__more=b"x")
    (told,) = found(first, second)
    assert told.because is None


def test_how_they_were_linked(tmp_path: Path) -> None:
    make_library(tmp_path / "libhccl.so", "void second() {}", "-Wl,-soname,libhccl.so")
    first = wheel(tmp_path / "a", SOURCE, "-Wl,-rpath,$ORIGIN/lib")
    second = wheel(
        tmp_path / "b", SOURCE, "-Wl,-rpath,$ORIGIN/lib:$ORIGIN/../../torch_npu.libs", f"-L{tmp_path}", "-lhccl"
    )
    told = {one.kind: one for one in found(first, second)}
    assert told["NEEDED"].second == "libhccl.so"
    assert told["NEEDED"].because is None
    assert "auditwheel" in str(told["RPATH"].because)
    third = wheel(tmp_path / "c", SOURCE, "-Wl,-rpath,$ORIGIN/elsewhere")
    assert {one.kind: one for one in found(first, third)}["RPATH"].because is None


def test_metadata(tmp_path: Path) -> None:
    first = wheel(tmp_path / "a")
    other = METADATA.replace("torch==2.5.1", "torch==2.5.1+cpu").encode()
    (tmp_path / "b").mkdir()
    library = make_library(tmp_path / "l.so", SOURCE, "-Wl,-z,now").read_bytes()
    second = make_wheel(tmp_path / "b", library=library, replaced={f"{INFO}/METADATA": other})
    (told,) = json.loads(run(first, second, "--json").output)
    assert told == {
        "kind": "metadata", "where": "Requires-Dist", "first": "torch==2.5.1", "second": "torch==2.5.1+cpu",
        "because": None,
    }  # fmt: skip


def test_what_is_no_wheel_of_torch_npu(tmp_path: Path) -> None:
    first = wheel(tmp_path / "a")
    other = tmp_path / "numpy-1.0-py3-none-any.whl"
    other.write_bytes(first.read_bytes())
    with pytest.raises(TargetError, match="it is a wheel of numpy, expected torch_npu"):
        run(first, other)
    with pytest.raises(RequestError, match="there is no wheel"):
        run(first, tmp_path / "gone.whl")
    other.write_bytes(b"")
    with pytest.raises(TargetError, match="it is not a whole wheel"):
        run(other, first)

"""The command ``verify``: what it takes, what it says, and what wrong input is told."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from library_support import make_library, make_toolkit, make_torch
from wheel_support import make_wheel, write_record

from builder.cli.main import cli
from builder.core.errors import BuilderError
from builder.environments.pytorch_store import VARIABLE

PLUG_IN = (
    'namespace at { void empty(int); } extern "C" int aclrtSetDevice(int); void run() { at::empty(aclrtSetDevice(0)); }'
)


@pytest.fixture(autouse=True)
def _no_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What builds of this machine have used must not matter."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "packages"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_library(tmp_path_factory.mktemp("plug-in") / "l.so", PLUG_IN, "-Wl,-z,now").read_bytes()


@pytest.fixture
def wheel(tmp_path: Path, library: bytes) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    return make_wheel(folder, library=library)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["verify", *map(str, arguments)], standalone_mode=False, catch_exceptions=False)


def refused(*arguments: str | Path) -> str:
    with pytest.raises(BuilderError) as raised:
        run(*arguments)
    assert raised.value.hint
    return raised.value.message


def test_a_file_and_a_folder(wheel: Path) -> None:
    for named in (wheel, wheel.parent):
        ran = run(named)
        assert ran.return_value == 0
        assert ran.output.startswith(f"{wheel.name}: right\n")
        assert "1 symbol of PyTorch not looked up: none at hand has them; name one with --torch DIR" in ran.output


def test_against_a_torch_and_a_toolkit(wheel: Path, tmp_path: Path) -> None:
    torch, cann = make_torch(tmp_path / "site"), make_toolkit(tmp_path / "cann")
    ran = run(wheel, f"--torch={torch}", f"--cann={cann}", "--json")
    (told,) = json.loads(ran.output)
    assert (ran.return_value, told["right"], told["torch"]) == (0, True, "torch 2.5.1")
    assert told["needs_cann"] == {"libascendcl.so": ["aclrtSetDevice"]}
    assert [one["rule"] for one in told["findings"]] == ["debuglink"]
    # The torch package itself may be named as well.
    assert run(wheel, f"--torch={torch / 'torch'}").return_value == 0


def test_a_torch_that_builds_have_used_is_found_by_its_version(wheel: Path, tmp_path: Path) -> None:
    make_torch(tmp_path / "packages" / "pytorch" / "other" / "site", "2.6.0")
    assert "held against its own files alone" in run(wheel).output
    make_torch(tmp_path / "packages" / "pytorch" / "this" / "site", "2.5.1+cpu")
    assert "held against torch 2.5.1+cpu" in run(wheel).output


def test_another_torch_and_another_cann(wheel: Path, tmp_path: Path) -> None:
    torch = make_torch(tmp_path / "site", "2.6.0")
    cann = make_toolkit(tmp_path / "cann", "7.0.0")
    ran = run(wheel, f"--torch={torch}", f"--cann={cann}")
    assert ran.return_value == 1
    assert "error torch-version: it is for PyTorch 2.5.1, that one is 2.6.0" in ran.output
    assert (
        "warning cann-version: the toolkit is CANN 7.0.0, the wheel's line is for 8.2.RC1 (v2.5.1-7.1.0)" in ran.output
    )


def test_a_toolkit_that_lacks_a_symbol_is_named(wheel: Path, tmp_path: Path) -> None:
    cann = make_toolkit(tmp_path / "cann", source='extern "C" int aclInit() { return 0; }')
    ran = run(wheel, f"--cann={cann}")
    assert ran.return_value == 1
    assert f"undefined symbol aclrtSetDevice: the CANN 8.2.RC1 of {cann} does not have it" in ran.output


def test_here_is_the_python_on_path_and_the_sourced_toolkit(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch, cann = make_torch(tmp_path / "site"), make_toolkit(tmp_path / "cann")
    (torch / "torch" / "__init__.py").write_text("raise SystemExit('it was imported')")
    monkeypatch.setenv("ASCEND_TOOLKIT_HOME", str(cann))
    monkeypatch.setenv("PYTHONPATH", str(torch))
    ran = run(wheel, "--here")
    assert ran.return_value == 0, ran.output
    assert f"held against torch 2.5.1, the CANN 8.2.RC1 of {cann}" in ran.output
    monkeypatch.setenv("PATH", str(tmp_path))
    assert refused(wheel, "--here") == "there is no python3 on PATH"
    monkeypatch.delenv("ASCEND_TOOLKIT_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    if not any(Path(place).is_dir() for place in ("/usr/local/Ascend/cann", "/usr/local/Ascend/ascend-toolkit/latest")):
        assert "this machine has no CANN toolkit" in refused(wheel, "--here")


def test_the_record_beside_it(wheel: Path) -> None:
    write_record(wheel)
    assert run(wheel).return_value == 0
    write_record(wheel, sha256="0" * 64)
    assert "error record: it is of a wheel with another SHA-256" in run(wheel).output
    write_record(wheel, size=1)
    assert "error record: it is of a wheel of 1 bytes" in run(wheel).output
    write_record(wheel, commits={"torch_npu": "1" * 40})
    assert "the checkout is 1111111111" in run(wheel).output
    wheel.with_name(f"{wheel.name}.json").write_text("{")
    assert "error record: " in run(wheel).output


def test_the_target_it_must_be_of(wheel: Path) -> None:
    assert run(wheel, "--target=v2.5.1-7.1.0-py3.11-x86_64").return_value == 0
    ran = run(wheel, "--target=v2.6.0-7.1.0-py3.10-aarch64")
    assert ran.return_value == 1
    assert "is not for cp310" in ran.output
    assert "version 2.5.1.post1 is not for PyTorch 2.6.0" in ran.output
    assert "v2.9" in refused(wheel, "--target=v2.9")


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x05\x06" + bytes(18)])
def test_files_that_are_no_wheels(wheel: Path, content: bytes) -> None:
    wheel.write_bytes(content)
    ran = run(wheel)
    assert ran.return_value == 1
    assert "error archive: " in ran.output
    assert "Traceback" not in ran.output


def test_names_that_lead_nowhere(tmp_path: Path, wheel: Path) -> None:
    assert refused(tmp_path / "gone.whl") == f"there is no wheel {tmp_path / 'gone.whl'}"
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty") == f"{tmp_path / 'empty'} holds no wheel"
    assert "is neither a wheel, a folder, a URL nor a requirement" in refused("===")
    assert refused("https://example.invalid/page") == "https://example.invalid/page names no wheel"
    assert "is no CANN toolkit" in refused(wheel, f"--cann={tmp_path}")
    other = wheel.rename(tmp_path / "some-name.whl")
    assert "error archive: " in run(other).output


def test_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    listed = {line.split()[0] for line in run("--rules").output.splitlines()[1:] if line[0] != " "}
    rules = json.loads(run("--rules", "--json").output)
    assert listed == {rule["rule"] for rule in rules}
    assert all(rule["advice"] and rule["title"] for rule in rules)
    assert os.environ["COLUMNS"] == "80"

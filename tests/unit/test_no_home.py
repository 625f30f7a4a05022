"""Users without a home: no HOME, no entry in passwd, or a home that cannot be written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder.core.build_options import BuildOptions
from builder.core.errors import MachineError
from builder.core.workspace import expanded
from builder.environments.images import lock
from builder.environments.interpreters import find_interpreter
from builder.environments.pytorch import packages_folder
from builder.matrix.repositories import resolved

VARIABLES = {"PATH": "/nonexistent"}


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user without HOME and without an entry in passwd; the folder of temporary files."""

    def unknown(_: object) -> None:
        raise KeyError("getpwuid(): uid not found")

    for name in ("HOME", "XDG_CACHE_HOME", "BUILDER_PACKAGES", "PYENV_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("pwd.getpwnam", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_without_a_home_packages_need_a_folder_of_their_own(homeless: Path) -> None:
    with pytest.raises(MachineError, match="HOME") as caught:
        packages_folder()
    assert "BUILDER_PACKAGES" in str(caught.value.hint)
    # The next step leads somewhere.
    assert packages_folder({"BUILDER_PACKAGES": str(homeless)}) == homeless
    assert packages_folder({"XDG_CACHE_HOME": str(homeless)}) == homeless / "torch-npu-builder" / "packages"


def test_without_a_home_interpreters_and_folders_are_looked_for_elsewhere(homeless: Path) -> None:
    assert find_interpreter("3.99", VARIABLES) is None
    assert expanded("~/x") == Path("~/x")
    assert BuildOptions(op_plugin="~/x").op_plugin_folder == Path("~/x")
    assert resolved("~someone/x", Path("/base")) == "/base/~someone/x"


@pytest.mark.parametrize("home", ["/proc/nothing", None])
def test_images_are_made_in_turn_without_a_home(
    homeless: Path, home: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All builders of the user hold the same file."""
    if home is not None:
        monkeypatch.setenv("HOME", home)
    with lock("x"):
        pass
    first = sorted(path for path in homeless.rglob("*") if path.is_dir())
    with lock("x"):
        assert [path.name for path in homeless.rglob("*.lock")] == ["x.lock"]
    assert sorted(path for path in homeless.rglob("*") if path.is_dir()) == first
    (folder,) = first
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_that_somebody_else_has_put_there_is_not_used(homeless: Path) -> None:
    planted = homeless / f"torch-npu-builder-{os.getuid()}"
    planted.mkdir()
    os.chown(planted, 61000, 61000)
    with lock("x"):
        assert list(planted.iterdir()) == []

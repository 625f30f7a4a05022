"""PyTorch once for a machine: chosen, unpacked, shared, found to be damaged, and removed."""

from __future__ import annotations

import errno
import os
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from builder.core.errors import FailureKind, MachineError, TargetError
from builder.environments import docker_engine, pytorch_store
from builder.environments.interface import EnvironmentRequest
from builder.environments.pytorch import ensure_pytorch, packages_folder
from builder.environments.pytorch_store import PyTorch, remove_unused
from builder.environments.unpacked import damage
from builder.progress.reporter import Reporter

DOCKER = Path(__file__).resolve().parents[2] / "docker"
REQUEST = EnvironmentRequest(
    arch="x86_64", python="3.11", torch="2.5.1", torch_source="pypi", requirements=("numpy==1.26.4",), base_image="x"
)
#: A builder that runs no more.
DEAD = f"{os.uname().nodename}:999999999:1"


class Place:
    """A stand-in of the container: pip's part is played by copying and unpacking."""

    def __init__(self, *, fails: str | None = None, content: str = "1") -> None:
        self.steps: list[str] = []
        self.kept: list[str] = []
        self.fails = fails
        self.content = content

    @contextmanager
    def __call__(self) -> Iterator[Any]:
        yield self.run

    def run(self, step: str, place: Path, kept: Path) -> None:
        self.steps.append(step)
        if step == self.fails:
            (place / "site").mkdir(exist_ok=True)
            (place / "site" / "half").write_text("of it")
            raise TargetError("the disk is full", kind=FailureKind.DISK)
        name = "torch-2.5.1-cp311-none-any.whl"
        if step == "collect":
            self.kept = sorted(path.name for path in kept.iterdir())
            (place / "wheels").mkdir()
            with zipfile.ZipFile(place / "wheels" / name, "w") as wheel:
                for file in ("torch/__init__.py", "torchgen/gen.py"):
                    wheel.writestr(zipfile.ZipInfo(file, (2020, 1, 1, 0, 0, 0)), self.content)
        else:
            (place / "site").mkdir()
            with zipfile.ZipFile(place / "wheels" / name) as wheel:
                wheel.extractall(place / "site")
            (place / "site" / "link").symlink_to("torch")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BUILDER_PACKAGES", str(tmp_path / "packages"))
    return tmp_path / "packages"


def ensure(place: Place, request: EnvironmentRequest = REQUEST, *, libc: str = "glibc 2.17", **more: Any) -> PyTorch:
    return ensure_pytorch(
        request,
        resources=DOCKER,
        folders=more.pop("folders", ()),
        libc=libc,
        owner_of_files=None,
        offline=more.pop("offline", False),
        reporter=more.pop("reporter", Reporter(quiet=True)),
        run=place,
    )


def test_what_stands_is_not_made_again() -> None:
    place = Place()
    made = ensure(place)
    assert place.steps == ["collect", "unpack"]
    assert (made.site / "torch" / "__init__.py").read_text() == "1"
    again = Place()
    assert ensure(again) == made
    assert again.steps == []


def test_bases_whose_wheels_are_the_same_share_it() -> None:
    older = ensure(Place())
    place = Place()
    newer = ensure(place, libc="glibc 2.36")
    assert place.steps == ["collect"]
    assert place.kept == ["torch-2.5.1-cp311-none-any.whl", "torch-2.5.1-cp311-none-any.whl.sha256"]
    assert newer.site == older.site
    # Another C library may get other wheels; so may another Python.
    other = ensure(Place(content="2"), libc="glibc 2.28")
    assert other.site != older.site
    assert ensure(Place(), replace(REQUEST, python="3.10")).site != older.site


def test_several_that_want_the_same_wait_for_one_making() -> None:
    place, found = Place(), []
    threads = [threading.Thread(target=lambda: found.append(ensure(place))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert place.steps == ["collect", "unpack"]
    assert len({each.key for each in found}) == 1
    assert len(found) == 5


@pytest.mark.parametrize("how", ["cut", "changed", "removed", "added", "link"])
def test_a_damaged_one_is_noticed_and_made_again_from_the_same_wheels(
    how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = ensure(Place())
    file = made.site / "torch" / "__init__.py"
    if how == "cut":
        file.write_text("")
    elif how == "changed":
        file.write_text("2")
    elif how == "removed":
        file.unlink()
    elif how == "added":
        (made.site / "torch" / "more.py").write_text("")
    else:
        (made.site / "link").unlink()
        (made.site / "link").symlink_to("/etc")
    place = Place()
    again = ensure(place, reporter=Reporter())
    # Nothing is fetched: the wheels are kept.
    assert place.steps == ["unpack"]
    assert again.key == made.key
    assert file.read_text() == "1"
    assert not (made.site / "torch" / "more.py").exists()
    assert "is damaged" in capsys.readouterr().err


def test_another_time_alone_is_no_damage() -> None:
    made = ensure(Place())
    os.utime(made.site / "torch" / "__init__.py", (1, 1))
    assert damage(made.site.parent) is None
    place = Place()
    ensure(place)
    assert place.steps == []


@pytest.mark.parametrize("step", ["collect", "unpack"])
def test_half_of_it_never_stands(step: str, root: Path) -> None:
    with pytest.raises(TargetError) as caught:
        ensure(Place(fails=step))
    assert caught.value.kind is FailureKind.DISK
    assert not list((root / "making").iterdir())
    assert not list(root.glob("pytorch/*"))
    place = Place()
    ensure(place)
    assert place.steps == ["collect", "unpack"]


def test_what_a_killed_builder_left_is_removed(root: Path) -> None:
    left = root / "making" / "+".join([os.uname().nodename, "999999999", "1", "abcd"])
    (left / "site").mkdir(parents=True)
    ensure(Place())
    assert not left.exists()


def test_a_kept_wheel_that_was_damaged_is_no_choice(root: Path) -> None:
    made = ensure(Place())
    kept = next(root.glob("wheels/*/*.whl"))
    kept.write_bytes(b"PK broken")
    remove = root / "pytorch" / made.key
    (remove / "site" / "torch" / "__init__.py").write_text("gone")
    place = Place()
    ensure(place)
    assert place.steps == ["collect", "unpack"]


def test_offline_says_at_once_what_is_missing() -> None:
    place = Place()
    with pytest.raises(TargetError, match=r"PyTorch 2.5.1 for Python 3.11 on x86_64 is not on this machine") as caught:
        ensure(place, offline=True)
    assert "pull" in str(caught.value.hint)
    assert place.steps == []
    made = ensure(Place())
    assert ensure(Place(fails="collect"), offline=True) == made


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BUILDER_PACKAGES", str(tmp_path / "file" / "below"))
    with pytest.raises(MachineError, match="cannot be written") as caught:
        ensure(Place())
    assert "BUILDER_PACKAGES" in str(caught.value.hint)


def test_what_builds_use_stays(root: Path) -> None:
    used, idle = ensure(Place()), ensure(Place(content="2"), replace(REQUEST, torch="2.5.1", python="3.10"))
    with used.used() as site:
        removed, busy = remove_unused(root)
        assert site.is_dir()
    assert busy == [used.site.parent]
    assert idle.site.parent in removed
    assert not idle.site.exists()
    assert remove_unused(root)[1] == []
    assert not used.site.exists()


def test_the_place_is_the_users_unless_it_is_named(tmp_path: Path) -> None:
    assert packages_folder({"BUILDER_PACKAGES": "~/p"}) == Path.home() / "p"
    assert packages_folder({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "torch-npu-builder" / "packages"
    assert packages_folder({}) == Path.home() / ".cache" / "torch-npu-builder" / "packages"


def test_what_others_need_while_they_make_it_stays(root: Path) -> None:
    place, before = Place(), ensure(Place(), replace(REQUEST, python="3.10"))
    cleaned: list[tuple[list[Path], list[Path]]] = []

    def run(step: str, where: Path, kept: Path) -> None:
        if step == "unpack":
            cleaned.append(remove_unused(root))
        Place.run(place, step, where, kept)

    place.run = run  # type: ignore[method-assign]
    made = ensure(place)
    assert cleaned == [([before.site.parent], [root / "wheels", root / "resolved"])]
    # It was made whole, and its wheels are kept.
    assert ensure(Place(fails="collect")) == made
    assert list(root.glob("wheels/*/*.whl"))


def test_nobody_begins_to_use_what_is_being_removed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ensure(Place())
    errors: list[BaseException] = []

    def use() -> None:
        try:
            with made.used():
                pass
        except TargetError as error:
            errors.append(error)

    waiting = threading.Thread(target=use)

    def remove(folder: Path) -> None:
        waiting.start()
        waiting.join(0.3)
        real(folder)

    real = pytorch_store._remove
    monkeypatch.setattr(pytorch_store, "_remove", remove)
    remove_unused(root)
    waiting.join()
    assert "was removed before the build could use it" in str(errors[0])


def test_what_killed_builders_left_goes_with_the_packages(root: Path) -> None:
    ensure(Place())
    left, mine = (root / "making" / "+".join([*owner.split(":"), "ab"]) for owner in (DEAD, docker_engine.owner()))
    (left / "site").mkdir(parents=True)
    mine.mkdir()
    assert left in remove_unused(root)[0]
    assert list((root / "making").iterdir()) == [mine]


def test_several_remove_what_killed_builders_left(root: Path) -> None:
    for number in range(100):
        for file in range(10):
            path = root / "making" / f"{DEAD.replace(':', '+')}+{number}" / f"{file}" / "file"
            path.parent.mkdir(parents=True)
            path.write_text("")
    with ThreadPoolExecutor(8) as several:
        pythons = [replace(REQUEST, python=f"3.{minor}") for minor in range(6, 14)]
        assert len(list(several.map(lambda request: ensure(Place(), request), pythons))) == 8
    assert not list((root / "making").iterdir())


@pytest.mark.parametrize("part", ["locks", "making", "wheels", "resolved", "pytorch"])
def test_a_part_that_cannot_be_written_is_named(part: str, root: Path) -> None:
    root.mkdir()
    (root / part).write_text("")
    with pytest.raises(MachineError, match=f"cannot be written: .*{part}") as caught:
        ensure(Place())
    assert "BUILDER_PACKAGES" in str(caught.value.hint)


def test_no_room_is_told_as_that(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pytorch_store, "atomic_json", full)
    with pytest.raises(TargetError) as caught:
        ensure(Place())
    assert caught.value.kind is FailureKind.DISK


def test_a_file_system_without_hard_links_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    made = ensure(Place())
    (made.site / "torch" / "__init__.py").write_text("2")
    monkeypatch.setattr(os, "link", link)
    place = Place()
    ensure(place)
    assert place.steps == ["unpack"]


def test_packages_of_another_user_are_not_removed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ensure(Place())

    def rename(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(made.site.parent))

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(MachineError, match=f"{made.site.parent}: Permission denied") as caught:
        remove_unused(root)
    assert "BUILDER_PACKAGES" in str(caught.value.hint)

"""Folders that a build could have written: no link is followed, no pipe waited for, no depth too deep."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support import as_builder

from builder.core.untrusted import DEEPEST, TooDeepError, UntrustedFolder, open_inside, read_regular, remove_tree

SECRET = "of the machine"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """What no build may reach."""
    folder = tmp_path / "host"
    (folder / "below").mkdir(parents=True)
    (folder / "file").write_text(SECRET)
    (folder / "below" / "file").write_text(SECRET)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "file").write_text("of the build")
    return folder


def intact(host: Path) -> bool:
    return (host / "file").read_text() == SECRET == (host / "below" / "file").read_text()


# -- names lead nowhere else -----------------------------------------------------------------------------------

CALLS: dict[str, Callable[[UntrustedFolder, str], object]] = {
    "open": lambda folder, name: folder.open(name),
    "read": lambda folder, name: folder.read(name, 100),
    "copy_to": lambda folder, name: folder.copy_to(name, folder.path.parent / "copy", 100),
    "touch": lambda folder, name: folder.touch(name),
    "write": lambda folder, name: folder.write(name, b"written"),
    "folder": lambda folder, name: folder.folder(name),
    "make a folder": lambda folder, name: folder.folder(f"{name}/made", make=True),
    "open_inside": lambda folder, name: open_inside(folder.path, name),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", ["../host/file", "a/../../host/file", "/etc/passwd", "a//b", "a/./b", "x\0y", ""])
def test_a_name_that_could_lead_out_is_refused(root: Path, host: Path, call: str, name: str) -> None:
    if call in ("folder", "make a folder") and name == "":
        return  # the folder itself
    with UntrustedFolder(root) as folder, pytest.raises(OSError, match="not a name"):
        CALLS[call](folder, name)
    assert intact(host)


@pytest.mark.parametrize("call", CALLS)
def test_a_link_in_a_folders_place_is_not_followed(root: Path, host: Path, call: str) -> None:
    (root / "linked").symlink_to(host)
    with UntrustedFolder(root) as folder, pytest.raises(OSError, match=r"linked") as error:
        CALLS[call](folder, "linked/below" if "folder" in call else "linked/file")
    assert error.value.errno in (errno.ENOTDIR, errno.ELOOP)
    assert intact(host)
    assert not (host / "below" / "made").exists()


@pytest.mark.parametrize("call", [name for name in CALLS if name not in ("write", "folder", "make a folder")])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "dangling"])
def test_only_a_regular_file_is_read(root: Path, host: Path, call: str, kind: str) -> None:
    odd = root / "odd"
    if kind == "pipe":
        os.mkfifo(odd)
    elif kind == "folder":
        odd.mkdir()
    else:
        odd.symlink_to(host / ("file" if kind == "link" else "absent"))
    with UntrustedFolder(root) as folder, pytest.raises(OSError, match=r"odd|regular file"):
        CALLS[call](folder, "odd")


def test_the_folder_itself_may_stand_behind_a_link(root: Path, tmp_path: Path) -> None:
    # The builder's own folder, for example a cache on another disk.
    (tmp_path / "link").symlink_to(root)
    with UntrustedFolder(tmp_path / "link") as folder:
        assert folder.read("a/b/file", 100) == b"of the build"


def test_a_folder_that_is_exchanged_while_it_is_held_leads_nowhere_else(root: Path, host: Path) -> None:
    with UntrustedFolder(root) as folder, folder.folder("a") as below:
        (root / "a").rename(root / "away")
        (root / "a").symlink_to(host)
        below.write("file", b"written")
        below.remove("b")
    assert intact(host)
    assert [path.name for path in (root / "away").iterdir()] == ["file"]


# -- reading and writing ---------------------------------------------------------------------------------------


def test_nothing_larger_than_allowed_is_read_or_copied(root: Path, tmp_path: Path) -> None:
    with open(root / "sparse", "wb") as stream:
        stream.truncate(5 << 30)
    with UntrustedFolder(root) as folder:
        with pytest.raises(OSError, match="more than 10 bytes") as error:
            folder.read("sparse", 10)
        assert error.value.errno == errno.EFBIG
        with pytest.raises(OSError, match="more than 10 bytes"):
            folder.copy_to("sparse", tmp_path / "copy", 10)
        assert not (tmp_path / "copy").exists()
        assert folder.copy_to("a/b/file", tmp_path / "copy", 12) == 12
    assert (tmp_path / "copy").read_text() == "of the build"


def test_a_write_replaces_a_link_and_not_what_it_leads_to(root: Path, host: Path) -> None:
    (root / "link").symlink_to(host / "file")
    with UntrustedFolder(root) as folder:
        folder.write("link", b"written", mode=0o640)
        folder.write("a/b/file", b"other")
    assert intact(host)
    assert (root / "link").read_text() == "written"
    assert stat.S_IMODE((root / "link").lstat().st_mode) == 0o640
    assert sorted(path.name for path in root.iterdir()) == ["a", "link"]
    assert (root / "a" / "b" / "file").read_text() == "other"


def test_a_write_that_fails_leaves_nothing(root: Path) -> None:
    (root / "full").mkdir()
    (root / "full" / "file").touch()
    with UntrustedFolder(root) as folder, pytest.raises(OSError, match="full"):
        folder.write("full", b"written")
    assert sorted(path.name for path in root.iterdir()) == ["a", "full"]


def test_entries_are_told_apart_without_following_them(root: Path, host: Path) -> None:
    (root / "link").symlink_to(host)
    (root / "file").touch()
    os.mkfifo(root / "pipe")
    with UntrustedFolder(root) as folder:
        assert (folder.files(), folder.folders()) == (["file"], ["a"])
        assert [name for name, _ in folder.walk()] == ["a", "a/b", "a/b/file", "file", "link", "pipe"]
        assert folder.stored_bytes() < 1 << 16


# -- depth and removal -----------------------------------------------------------------------------------------


def make_deep(root: Path, names: list[str]) -> None:
    descriptor = os.open(root, os.O_RDONLY)
    for name in names:
        os.mkdir(name, dir_fd=descriptor)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
        below = os.open(name, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)


DEPTHS = {"3000 folders": ["d"] * 3000, "longer than any path": ["n" * 250] * 20}


@pytest.mark.parametrize("depth", DEPTHS)
def test_what_is_nested_deeply_is_removed(root: Path, depth: str) -> None:
    make_deep(root / "a", DEPTHS[depth])
    remove_tree(root)
    assert not root.exists()


def test_a_walk_ends_where_nothing_real_goes_on(root: Path) -> None:
    make_deep(root, ["d"] * (DEEPEST - 2))
    with UntrustedFolder(root) as folder:
        folder.stored_bytes()
        make_deep(root / Path(*["d"] * (DEEPEST - 2)), ["d"] * 3)
        with pytest.raises(TooDeepError, match=f"more than {DEEPEST} folders inside each other"):
            folder.stored_bytes()


def test_a_removal_follows_no_link(root: Path, host: Path) -> None:
    (root / "a" / "host").symlink_to(host)
    (root / "a" / "b" / "file2").symlink_to(host / "file")
    (root / "link").symlink_to(host)
    remove_tree(root / "link")
    remove_tree(root / "a")
    assert intact(host)
    assert list(root.iterdir()) == []


def test_a_removal_of_what_is_absent_is_fine(root: Path) -> None:
    remove_tree(root / "absent")
    remove_tree(root / "absent" / "below")
    remove_tree(root / "a" / "b" / "file" / "below")
    with UntrustedFolder(root) as folder:
        folder.remove("absent")
        folder.remove("absent/below")


def test_folders_without_permissions_are_removed_by_their_owner() -> None:
    # Not below pytest's own folder, into which nobody else may look.
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o777)
        root = Path(place, "locked")

        def work() -> None:
            for name in ("a/b/c", "a/d"):
                (root / name).mkdir(parents=True)
                (root / name / "file").touch()
            for name in ("a/b/c", "a/b", "a/d", "a", ""):
                (root / name).chmod(0)
            remove_tree(root)

        assert as_builder(work) == 0
        assert not root.exists()


def test_a_named_file_is_read_through_links(root: Path) -> None:
    (root / "link").symlink_to("a/b/file")
    assert read_regular(root / "link", 100) == b"of the build"


def test_a_named_file_has_a_limit(root: Path) -> None:
    with pytest.raises(OSError, match="more than 5 bytes"):
        read_regular(root / "a" / "b" / "file", 5)
    (root / "grows").symlink_to("/proc/self/maps")  # of no size, says the system
    with pytest.raises(OSError, match="more than 10 bytes"):
        read_regular(root / "grows", 10)


@pytest.mark.parametrize("place", ["/dev/zero", "pipe", "loop", "a"])
def test_a_named_file_is_a_file(root: Path, place: str) -> None:
    os.mkfifo(root / "pipe")
    (root / "loop").symlink_to("loop")
    opened = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=r"not a regular file|symbolic links"):
        read_regular(root / place, 100)
    assert len(os.listdir("/proc/self/fd")) == opened

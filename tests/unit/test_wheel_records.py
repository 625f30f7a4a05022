"""The record beside a wheel, which wheels stand by it, and how wheel and record get to where they are published."""

from __future__ import annotations

import builtins
import errno
import json
import os
import re
import shutil
import tarfile
import traceback
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from wheel_support import NAME, elf, make_record, make_wheel, write_record

from builder.cli.history_command import rebuild_ledger
from builder.core.cancellation import Attempt
from builder.core.errors import FailureKind
from builder.core.workspace import Workspace
from builder.progress.reporter import Reporter
from builder.wheels import provenance, record, standing
from builder.wheels.provenance import (
    archive_debug_symbols,
    debug_path,
    new_debug_name,
    old_debug_path,
    other_fingerprint,
    rename_old_debug,
)
from builder.wheels.publication import publish_wheel
from builder.wheels.record import RecordError, WheelRecord, read_record, record_path, refusing
from builder.wheels.standing import Digests, fault_of, records

#: A record as a build writes it, to the byte.
GOLDEN = Path(__file__).parents[1] / "data" / "record.json"


# -- records ----------------------------------------------------------------------------------------------


def test_a_record_is_written_as_it_was_read() -> None:
    data = GOLDEN.read_bytes()
    assert WheelRecord.from_json(data, "x").to_json().encode() == data
    # As `repair_and_publish` makes one.
    assert WheelRecord.model_validate(json.loads(data)).to_json().encode() == data


def test_a_record_of_an_older_or_later_builder_is_read_and_kept(tmp_path: Path) -> None:
    old = make_record(tmp_path / NAME)
    assert json.loads(WheelRecord.model_validate(old).to_json()) == old
    assert WheelRecord.model_validate(old).mismatches == []
    later = {**old, "invented": {"later": [1, None]}}
    assert json.loads(WheelRecord.model_validate(later).to_json()) == later


def test_names_of_files_that_are_no_unicode_cost_no_wheel(tmp_path: Path) -> None:
    written = WheelRecord.model_validate(make_record(tmp_path / NAME, changes_by_hand=["modified \udcff.py"]))
    assert written.changes_by_hand == ["modified ?.py"]


def test_what_a_build_may_not_write_is_told_as_what_is_read(tmp_path: Path) -> None:
    told = r"x\.json is no record of a wheel: version: .*control characters"
    with pytest.raises(RecordError, match=told), refusing("x.json"):
        WheelRecord.model_validate(make_record(tmp_path / NAME, version="1\x1b[2J"))


BAD: dict[str, dict[str, Any]] = {
    "no schema": {"schema": ...},
    "another schema": {"schema": 2},
    "a number for a name": {"wheel": 1},
    "a path for a name": {"wheel": "../x.whl"},
    "no wheel": {"wheel": "x.zip"},
    "a short digest": {"sha256": "x"},
    "digits that are none": {"sha256": "\u0661" * 64},
    "a list for a digest": {"sha256": []},
    "a negative size": {"size": -1},
    "a truth for a size": {"size": True},
    "a text for a size": {"size": "5"},
    "a broken size": {"size": 0.5},
    "a size beyond measure": {"size": 10**30},
    "no fingerprint": {"fingerprint": None},
    "an object for a target": {"target": {}},
    "control characters": {"target": "x\x1b[2J"},
    "a number for mismatches": {"mismatches": 5},
    "numbers in mismatches": {"mismatches": [1]},
    "an escape in mismatches": {"mismatches": ["\x1b]0;x\x07"]},
    "an object for mismatches": {"mismatches": {"a": "b"}},
    "a text for inputs": {"inputs": "x"},
    "a list for phases": {"phases": [[]]},
    "a number for a run": {"run": 7},
    "no end": {"finished": ...},
    "a date only": {"finished": "2026-11-21"},
    "no zone": {"finished": "2026-11-21T06:34:31"},
    "a number for a time": {"finished": "1763706871"},
    "no such day": {"finished": "2026-02-30T00:00:00Z"},
    "before all time": {"finished": "0001-01-01T00:00:00+23:59"},
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD.keys())
def test_what_is_no_record_is_one_clear_error(tmp_path: Path, change: dict[str, Any]) -> None:
    wheel = make_wheel(tmp_path)
    write_record(wheel, **change)
    with pytest.raises(RecordError) as caught:
        read_record(wheel)
    assert caught.value.kind is FailureKind.VERIFY
    assert caught.value.message.startswith(f"{NAME}.json is no record of a wheel: {next(iter(change))}")
    assert caught.value.message.isprintable()
    assert caught.value.hint
    warned: list[str] = []
    assert records(tmp_path, warned.append) == {}
    assert warned == [f"passed over: {caught.value.message}"]
    assert other_fingerprint(wheel, "f" * 64) == "unknown"


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b"[" * 100_000, b'{"a":' * 100_000, b'{"schema": NaN}', b"9" * 10_000],
)
def test_what_is_no_json_is_one_clear_error(tmp_path: Path, data: bytes) -> None:
    record_path(tmp_path / NAME).write_bytes(data)
    with pytest.raises(RecordError, match="is no record of a wheel"):
        read_record(tmp_path / NAME)


def test_only_bounded_regular_files_are_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_wheel(tmp_path)
    written = write_record(wheel)
    shutil.copy(written, tmp_path / "elsewhere")
    for make in (lambda path: path.symlink_to("elsewhere"), os.mkfifo, os.mkdir):
        written.rmdir() if written.is_dir() else written.unlink()
        make(written)
        warned: list[str] = []
        assert records(tmp_path, warned.append) == {}
        assert warned[0].startswith(f"passed over: {NAME}.json cannot be read: ")
    written.rmdir()
    write_record(wheel)
    monkeypatch.setattr(record, "RECORD_LIMIT", 100)
    with pytest.raises(RecordError, match="more than 100 bytes"):
        read_record(wheel)


def test_a_record_is_that_of_the_wheel_beside_it(tmp_path: Path) -> None:
    write_record(make_wheel(tmp_path), wheel="other.whl")
    with pytest.raises(RecordError, match=r"it is the record of other\.whl"):
        read_record(tmp_path / NAME)


# -- what stands ------------------------------------------------------------------------------------------


def stand(folder: Path, number: int, **changes: Any) -> Path:
    wheel = make_wheel(folder, NAME.replace("post1", f"post{number}"))
    write_record(wheel, **{"finished": f"2026-11-0{number}T00:00:00+00:00", **changes})
    return wheel


def test_the_newest_whole_record_of_a_target_counts(tmp_path: Path) -> None:
    stand(tmp_path, 1)
    # An hour before it in truth, later as a text.
    newest = stand(tmp_path, 3, finished="2026-11-03T00:00:00+00:00")
    stand(tmp_path, 2, finished="2026-11-03T01:00:00+02:00")
    ((wheel, found),) = records(tmp_path).values()
    assert wheel == newest
    assert fault_of(wheel, found) is None


def test_a_record_from_the_future_is_warned_about_and_does_not_win(tmp_path: Path) -> None:
    now = datetime.now(timezone.utc)
    ahead = stand(tmp_path, 3, finished="2031-01-01T00:00:00Z")
    warned: list[str] = []
    assert [wheel for wheel, _ in records(tmp_path, warned.append).values()] == [ahead]
    assert [text.partition(":")[0] for text in warned] == [f"{ahead.name}.json is dated 2031-01-01T00"]
    for number, finished in ((1, now - timedelta(days=300)), (2, now + timedelta(seconds=30))):
        honest = stand(tmp_path, number, finished=finished.isoformat())
        assert [wheel for wheel, _ in records(tmp_path).values()] == [honest]


def test_a_forged_record_makes_no_wheel_of_any_file(tmp_path: Path) -> None:
    wheel = tmp_path / NAME
    wheel.write_bytes(b"eighteen bytes ...")
    write_record(wheel)
    ((_, forged),) = records(tmp_path).values()
    assert forged.size == 18
    assert "not a whole wheel" in str(fault_of(wheel, forged))
    make_wheel(tmp_path, extra={"evil.pth": b"import os"})
    write_record(wheel)
    assert "evil.pth has no place" in str(fault_of(wheel, read_record(wheel)))


@pytest.mark.parametrize("remembered", [False, True])
def test_a_wheel_that_is_not_the_verified_file_is_found_out(tmp_path: Path, remembered: bool) -> None:
    wheel = stand(tmp_path, 1)
    found, digests = read_record(wheel), Digests(tmp_path / "digests.json") if remembered else None
    data = wheel.read_bytes()
    aged(wheel)
    assert fault_of(wheel, found, digests) is None
    state = wheel.stat()
    changed = data.replace(b"post1", b"post9")
    # Written in place, with the size and the time that it had.
    wheel.write_bytes(changed)
    os.utime(wheel, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert fault_of(wheel, found, digests) == f"{wheel.name} is not the file that was verified"
    wheel.write_bytes(data + b"more")
    assert fault_of(wheel, found, digests) == f"{wheel.name} is not the file that was verified"
    wheel.unlink()
    assert "No such file" in str(fault_of(wheel, found, digests))
    wheel.symlink_to("elsewhere")
    assert fault_of(wheel, found, digests)
    wheel.unlink()
    os.mkfifo(wheel)
    assert "not a regular file" in str(fault_of(wheel, found, digests))


def aged(wheel: Path) -> None:
    """Let a file look as if it had rested; the change of its state cannot be set back, so it is waited out."""
    os.utime(wheel, (1, 1))
    standing._RESTED = 0


@pytest.fixture(autouse=True)
def _rested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "_RESTED", standing._RESTED)


def test_a_wheel_is_read_once_however_many_runs_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = stand(tmp_path, 1)
    found, note = read_record(wheel), tmp_path / "digests.json"
    aged(wheel)
    first = Digests(note)
    assert fault_of(wheel, found, first) is None
    first.save()
    monkeypatch.setattr(standing, "sha256_of_stream", lambda _: pytest.fail("it was read again"))
    assert fault_of(wheel, found, Digests(note)) is None
    lie = found.model_copy(update={"sha256": "0" * 64})
    assert fault_of(wheel, lie, Digests(note)) == f"{wheel.name} is not the file that was verified"


def test_a_wheel_that_has_just_been_written_is_not_remembered(tmp_path: Path) -> None:
    wheel, note = stand(tmp_path, 1), tmp_path / "digests.json"
    digests = Digests(note)
    assert fault_of(wheel, read_record(wheel), digests) is None
    digests.save()
    assert not note.exists()


DAMAGED_NOTES = (b"", b"[]", b"[" * 100_000, b'{"schema": 1, "files": [{}]}', b'{"schema": 9, "files": []}')


@pytest.mark.parametrize("damage", DAMAGED_NOTES)
def test_a_damaged_note_costs_only_time(tmp_path: Path, damage: bytes) -> None:
    wheel, note = stand(tmp_path, 1), tmp_path / "digests.json"
    note.write_bytes(damage)
    aged(wheel)
    digests = Digests(note)
    assert fault_of(wheel, read_record(wheel), digests) is None
    digests.save()
    assert json.loads(note.read_text())["files"][0]["sha256"] == read_record(wheel).sha256


# -- publishing -------------------------------------------------------------------------------------------


def debug_archive(folder: Path, content: bytes) -> Path:
    (folder / "dbg").mkdir(parents=True, exist_ok=True)
    (folder / "dbg" / "x.so.debug").write_bytes(content)
    assert archive_debug_symbols(folder, "dbg", folder / "debug", 1_700_000_000)
    return folder / "debug"


class Publishing:
    """A wheel that stands with record and debug symbols, and another build of it that is about to take its place."""

    def __init__(self, folder: Path, *, old: bool = True, new_debug: bool = True) -> None:
        self.output, self.folder = folder / "dist", folder / "made"
        self.old_debug: bytes | None = None
        self.folder.mkdir()
        if old:
            first = make_wheel(self.folder, replaced={"torch_npu/which": b"old"})
            publish_wheel(
                first, self.output, WheelRecord.model_validate(make_record(first)), debug_archive(folder, b"old")
            )
            self.old_debug = debug_path(self.output / NAME).read_bytes()
        self.wheel = make_wheel(self.folder, replaced={"torch_npu/which": b"new"}, library=elf())
        self.record = WheelRecord.model_validate(make_record(self.wheel, fingerprint="e" * 64))
        self.debug = debug_archive(folder, b"new") if new_debug else None

    def publish(self) -> Path:
        return publish_wheel(self.wheel, self.output, self.record, self.debug)

    def abandoned(self) -> None:
        """Publish it when nobody waits for it any more."""
        attempt = Attempt()
        assert attempt.abandon()
        with pytest.raises(KeyboardInterrupt):
            publish_wheel(self.wheel, self.output, self.record, self.debug, attempt)

    def tried(self) -> int | None:
        """The number of the error where it cannot be published."""
        try:
            self.publish()
        except OSError as error:
            return error.errno
        return None

    @property
    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.output.iterdir()} if self.output.exists() else {}

    def restore(self, files: dict[str, bytes]) -> None:
        """Let the output folder hold ``files`` and nothing else."""
        shutil.rmtree(self.output, ignore_errors=True)
        self.output.mkdir()
        for name, data in files.items():
            (self.output / name).write_bytes(data)

    def next_build(self) -> str:
        """What the next build finds to stand, whole with all that belongs to it: ``new``, ``old`` or ``none``."""
        warned: list[str] = []
        found = list(records(self.output, warned.append).values())
        assert warned == []
        if not found:
            return "none"
        ((wheel, standing),) = found
        assert fault_of(wheel, standing) is None
        new = standing == self.record
        symbols = (self.debug.read_bytes() if self.debug else None) if new else self.old_debug
        debug = debug_path(wheel)
        assert (debug.read_bytes() if debug.exists() else None) == symbols
        return "new" if new else "old"


#: Every call of the system that puts something on the disk, or takes it away.
STEPS = ("fsync", "replace", "write", "open")


def killed_at(count: int, act: Callable[[], object], *, after: bool) -> bool:
    """Do something in a process that dies at its call number ``count`` that changes a disk; tells whether it did."""
    child = os.fork()
    if child == 0:
        seen = 0

        def mortal(call: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*arguments: Any, **named: Any) -> Any:
                nonlocal seen
                seen += 1
                if seen == count and not after:
                    os._exit(9)
                try:
                    return call(*arguments, **named)
                finally:
                    if seen == count:
                        os._exit(9)

            return wrapped

        for name in ("replace", "rename", "link", "unlink", "remove", "mkdir", "fsync", "open"):
            setattr(os, name, mortal(getattr(os, name)))
        shutil.copyfileobj = mortal(shutil.copyfileobj)
        builtins.open = mortal(open)
        try:
            act()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


def fail_at(monkeypatch: pytest.MonkeyPatch, step: str, count: int, error: int, *, always: bool) -> Callable[[], bool]:
    """Let the call number ``count`` of ``step`` fail, and where ``always`` all that follow; tells whether it did."""
    seen = 0

    def failing(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == count or (always and seen > count):
                raise OSError(error, os.strerror(error))
            return call(*arguments, **named)

        return wrapped

    if step == "write":
        monkeypatch.setattr(shutil, "copyfileobj", failing(shutil.copyfileobj))
    elif step == "open":
        monkeypatch.setattr("builtins.open", failing(open))
    else:
        monkeypatch.setattr(os, step, failing(getattr(os, step)))
    return lambda: seen >= count


@pytest.mark.parametrize("old", [True, False], ids=["over an old one", "for the first time"])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_an_error_at_any_step_leaves_the_old_publication_or_makes_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: int, old: bool
) -> None:
    made = Publishing(tmp_path, old=old)
    before, failed = made.files, 0
    for count in range(1, 50):
        made.restore(before)
        with monkeypatch.context() as patch:
            happened = fail_at(patch, step, count, error, always=step in ("write", "open"))
            failed += made.tried() == error
        assert happened() == (failed == count)
        if not happened():
            break
        # Nothing lies about: either nothing was done, or all is there and the next to look gives it its names.
        assert made.files == before or made.next_build() == "new"
        assert made.next_build() in (("old", "new") if old else ("none", "new"))
    # Another step than none was met, and at last it went well.
    assert failed >= 2
    assert sorted(made.files) == sorted([NAME, f"{NAME}.json", debug_path(Path(NAME)).name])
    assert made.next_build() == "new"


@pytest.mark.parametrize("after", [False, True], ids=["before the call", "after the call"])
@pytest.mark.parametrize("new_debug", [True, False], ids=["with debug symbols", "without"])
@pytest.mark.parametrize("old", [True, False], ids=["over an old one", "for the first time"])
def test_killed_at_any_call_of_the_system_no_finished_wheel_is_lost(
    tmp_path: Path, old: bool, new_debug: bool, after: bool
) -> None:
    """Not even where whoever completes it is killed as well."""
    made = Publishing(tmp_path, old=old, new_debug=new_debug)
    before, seen, states = made.files, [], []
    alive, count = False, 0
    while not alive:
        count += 1
        made.restore(before)
        alive = not killed_at(count, made.publish, after=after)
        left = made.files
        # Many calls change nothing that is seen. Waiting names have a part that is never the same.
        if (state := {re.sub(r"\.[0-9a-f]{8}\b", "", name): data for name, data in left.items()}) in states[-1:]:
            continue
        states.append(state)
        for again in range(1, 100):
            made.restore(left)
            completed = not killed_at(again, lambda: records(made.output), after=after)
            seen.append(made.next_build())
            # From the first name that changes on, everything new is there, and is not built again.
            if {name: data for name, data in left.items() if name[0] != "."} != before:
                assert seen[-1] == "new"
            if completed:
                break
    assert seen == sorted(seen, key=["none", "old", "new"].index)
    assert seen[0] == ("old" if old else "none")
    assert len(states) > 5


def test_on_a_real_full_disk_the_old_publication_stays(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs root")
    made = Publishing(tmp_path)
    small = tmp_path / "small"
    small.mkdir()
    if os.system(f"mount -t tmpfs -o size=256k none '{small}' 2>/dev/null") != 0:  # noqa: S605
        pytest.skip("this machine mounts no file system here")
    try:
        for path in made.output.iterdir():
            shutil.copy(path, small)
        made.output, before = small, {path.name: path.read_bytes() for path in small.iterdir()}
        for rest in range(0, 40 << 10, 2 << 10):
            filler = small / "filler"
            free = shutil.disk_usage(small).free
            filler.write_bytes(bytes(max(0, free - rest)))
            problem = made.tried()
            if problem is None:
                break
            assert problem == errno.ENOSPC
            filler.unlink()
            assert made.files == before
        else:
            pytest.fail("it never fitted")
        assert rest > 0
        assert read_record(small / NAME) == made.record
    finally:
        os.system(f"umount '{small}'")  # noqa: S605


def test_an_interruption_between_two_names_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Publishing(tmp_path)
    replace, calls = os.replace, []

    def interrupted(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        replace(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            made.publish()
    # A new wheel beside the old record, for who does not ask for what is unfinished.
    assert read_record(made.output / NAME) != made.record
    assert made.next_build() == "new"


def test_what_was_left_unfinished_is_completed_before_the_next_publication(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Publishing(tmp_path)
    with monkeypatch.context() as patch:
        fail_at(patch, "replace", 2, errno.EIO, always=False)
        assert made.tried() == errno.EIO
        fail_at(patch, "write", 1, errno.ENOSPC, always=True)
        assert made.tried() == errno.ENOSPC
    assert read_record(made.output / NAME) == made.record
    assert fault_of(made.output / NAME, made.record) is None


def test_a_ledger_is_restored_from_what_was_left_unfinished_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Publishing(tmp_path)
    with monkeypatch.context() as patch:
        fail_at(patch, "replace", 3, errno.EIO, always=False)
        assert made.tried() == errno.EIO
    rebuild_ledger(Workspace(tmp_path / "build", made.output), Reporter(quiet=True))
    assert read_record(made.output / NAME) == made.record


def test_what_cannot_be_completed_is_warned_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Publishing(tmp_path)
    warned: list[str] = []
    with monkeypatch.context() as patch:
        fail_at(patch, "replace", 2, errno.EROFS, always=True)
        assert made.tried() == errno.EROFS
        records(made.output, warned.append)
    assert warned == [f"{NAME} is finished and cannot be put in its place: Read-only file system"]
    assert made.next_build() == "new"


def test_two_that_complete_the_same_publication_end_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Publishing(tmp_path, new_debug=False)
    replace = os.replace

    def and_another(source: Path, place: Path) -> None:
        replace(source, place)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            records(made.output)

    monkeypatch.setattr(os, "replace", and_another)
    made.publish()
    assert sorted(made.files) == [NAME, f"{NAME}.json"]
    assert made.next_build() == "new"


def test_nothing_old_goes_before_the_new_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Publishing(tmp_path, new_debug=False)
    old_debug_path(made.output / NAME).write_bytes(b"of an earlier builder")
    before, replace, noted = made.files, os.replace, []

    def look(source: Path, place: Path) -> None:
        standing = {name: data for name, data in made.files.items() if name[0] != "."}
        if not noted:
            # From here on who looks next finds the new one.
            assert standing == before
            noted.append(place)
        elif place.suffix == ".whl":
            assert standing == before
        replace(source, place)

    monkeypatch.setattr(os, "replace", look)
    made.publish()
    assert noted
    assert sorted(made.files) == [NAME, f"{NAME}.json"]


# -- debug symbols ----------------------------------------------------------------------------------------


def test_debug_symbols_have_a_name_that_says_what_they_are(tmp_path: Path) -> None:
    made = Publishing(tmp_path)
    with tarfile.open(debug_path(made.publish())) as archive:
        assert archive.getnames() == ["x.so.debug"]
    assert new_debug_name(f"{NAME}.debug.tar.gz") == f"{NAME}.debug.tar.gzip"
    for name in (NAME, f"{NAME}.json", f"{NAME}.debug.tar.gzip", "other.debug.tar.gz"):
        assert new_debug_name(name) == name


def test_debug_symbols_of_an_earlier_builder_get_the_new_name(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path)
    old_debug_path(wheel).write_bytes(b"symbols")
    assert rename_old_debug(wheel) == debug_path(wheel)
    assert debug_path(wheel).read_bytes() == b"symbols"
    assert rename_old_debug(wheel) is None
    old_debug_path(wheel).write_bytes(b"older")
    assert rename_old_debug(wheel) is None
    assert debug_path(wheel).read_bytes() == b"symbols"


def test_debug_symbols_are_bounded_and_cost_no_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warned: list[str] = []

    def packed(folder: str = "dbg") -> bool:
        return archive_debug_symbols(tmp_path, folder, tmp_path / "x", 0, warned.append)

    assert not packed()
    assert warned == []
    debug_archive(tmp_path, b"symbols")
    assert packed()
    with open(tmp_path / "dbg" / "y.debug", "wb") as sparse:
        sparse.truncate(1 << 42)
    assert not packed()
    assert not (tmp_path / "x").exists()
    assert warned == [f"the debug symbols are left out: dbg: more than {provenance.DEBUG_LIMIT} bytes"]
    (tmp_path / "link").symlink_to("dbg")
    assert not packed("link")
    assert len(warned) == 2
    monkeypatch.setattr(os, "scandir", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OSError, match="Input/output"):
        packed()


def test_a_publication_that_nobody_waits_for_changes_nothing(tmp_path: Path) -> None:
    made = Publishing(tmp_path)
    before = made.files
    made.abandoned()
    assert made.files == before

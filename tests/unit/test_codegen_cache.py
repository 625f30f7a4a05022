"""Code generation cached by its inputs: the result of an earlier run is taken whole, where every input is the same."""

from __future__ import annotations

import ast
import json
import os
import random
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from codegen_support import LINE, Place, state

from builder.compilation import codegen_cache
from builder.core.trust import Trust
from builder.payload.codegen import entries, run, tree


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(scope="module")
def first_build(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A place after its first build, and a copy of it."""
    place = Place(tmp_path_factory.mktemp("codegen") / "place")
    outcome = place.build()
    assert (outcome.result, place.runs, place.warning) == ("miss", 1, None)
    return place.root, shutil.copytree(place.root, place.root.with_name("copy"), symlinks=True)


@pytest.fixture
def built(first_build: tuple[Path, Path]) -> Place:
    """A place after its first build. It is always the same folder, which an entry is for."""
    folder, copy = first_build
    shutil.rmtree(folder)
    shutil.copytree(copy, folder, symlinks=True)
    return Place(folder)


def edit(place: Place, name: str, text: str) -> None:
    (place.source / name).parent.mkdir(parents=True, exist_ok=True)
    (place.source / name).write_text(text)


# -- a hit -----------------------------------------------------------------------------------------------------


def test_a_second_build_takes_the_whole_result_and_runs_nothing(place: Place) -> None:
    first = place.build()
    assert (first.result, place.runs, place.warning) == ("miss", 1, None)
    assert "code generation: runs for the first time" in place.said
    generated = state(place.tree)
    assert generated["made/generated.cpp"][1] == 0o550
    assert "sources/removed" not in generated
    assert "sources/old.cpp" not in generated
    started = os.stat(place.tree).st_mtime
    second = place.build()
    assert (second.result, place.runs) == ("hit", 1)
    assert "files from the cache, made by Python" in place.said
    assert state(place.tree) == generated
    # The builder tells stale files by their time, also those that were written with the bytes that they had.
    for name in ("made/generated.cpp", "config/info.yaml", "untouched.txt"):
        assert (place.tree / name).stat().st_mtime >= started
    assert len(place.entries) == 1


def test_without_a_cache_upstreams_script_just_runs(place: Place) -> None:
    place.prepare()
    assert place.generate().returncode == 0
    generated = state(place.tree)
    codegen_cache.keep(place.out, place.store)
    place.cached = False
    for _ in range(2):
        place.prepare()
        assert place.generate().returncode == 0
        assert state(place.tree) == generated
        assert codegen_cache.outcome(place.out) is None
    assert place.runs == 3


def test_the_files_are_those_that_the_script_makes_without_the_cache(built: Place) -> None:
    built.build()
    cached = state(built.tree)
    built.cached = False
    built.prepare()
    built.generate()
    assert state(built.tree) == cached


# -- what is an input ------------------------------------------------------------------------------------------

NO_INPUT: dict[str, Callable[[Place], object]] = {
    "source that nobody reads": lambda place: edit(place, "sources/op.cpp", "other\n"),
    "header that nobody reads": lambda place: edit(place, "include/unread.h", "other\n"),
    "module of the package": lambda place: edit(place, "package/module.py", "other\n"),
    "commit": lambda place: edit(place, ".git/HEAD", "other\n"),
    "compiled Python": lambda place: edit(place, "codegen/__pycache__/gen.cpython-39.pyc", "other\n"),
    "local part of the version": lambda place: setattr(place, "version", "2.5.1.post3+git1234567"),
    "where tools are found": lambda place: place.variables.update(MAX_JOBS="7", CCACHE_DIR="/x", HOME="/nowhere"),
    "when the commit was made": lambda place: place.variables.update(SOURCE_DATE_EPOCH="1756963070"),
}
INPUT: dict[str, tuple[Callable[[Place], object], str]] = {
    "YAML": (lambda place: edit(place, "config/functions.yaml", "one two three\n"), "config/functions.yaml"),
    "generator": (lambda place: extend(place, "codegen/gen.py"), "codegen/gen.py"),
    "script": (lambda place: extend(place, "generate_code.sh"), "generate_code.sh"),
    "header that is read": (lambda place: edit(place, "include/read.h", "other\n"), "include/read.h"),
    "unknown kind of file": (lambda place: edit(place, "untouched.txt", "other\n"), "untouched.txt"),
    "new source": (lambda place: edit(place, "sources/new.cpp", "new\n"), "sources/new.cpp"),
    "source that is gone": (lambda place: (place.source / "sources/op.cpp").unlink(), "sources/op.cpp"),
    "source that would be removed": (lambda place: edit(place, "sources/old.cpp", "other\n"), "sources/old.cpp"),
    "permission": (lambda place: (place.source / "sources/op.cpp").chmod(0o755), "sources/op.cpp"),
    "link": (lambda place: relink(place, "link.yaml", "config/info.yaml"), "link.yaml"),
    "version": (lambda place: setattr(place, "version", "2.6.0"), "arguments"),
    "variable": (lambda place: place.variables.update(ACLNN="1"), "variables ACLNN"),
    "hash seed": (lambda place: place.variables.update(PYTHONHASHSEED="1"), "variables PYTHONHASHSEED"),
    "torchgen": (lambda place: module(place, "torchgen", "model.py"), "torchgen model.py"),
    "PyTorch": (lambda place: module(place, "torch", "version.py"), "torch version.py"),
    "PyYAML": (lambda place: module(place, "yaml", "dumper.py"), "yaml dumper.py"),
    "compiler": (lambda place: (place.tools / "gcc").write_text("#!/bin/sh\nexit 2\n"), "tools gcc"),
}


def extend(place: Place, name: str) -> None:
    edit(place, name, place_text(place, name) + "#\n")


def place_text(place: Place, name: str) -> str:
    return (place.source / name).read_text()


def relink(place: Place, name: str, target: str) -> None:
    (place.source / name).unlink()
    (place.source / name).symlink_to(target)


def module(place: Place, package: str, name: str) -> None:
    """Let ``package`` have another file."""
    folder = place.root / "site" / package
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / name).write_text("other\n")
    place.variables["PYTHONPATH"] = str(folder.parent)


@pytest.mark.parametrize("name", NO_INPUT)
def test_what_reaches_no_generated_file_keeps_the_result(built: Place, name: str) -> None:
    NO_INPUT[name](built)
    assert built.build().result == "hit"
    assert built.runs == 1


@pytest.mark.parametrize("name", INPUT)
def test_what_can_reach_a_generated_file_makes_a_new_result(built: Place, name: str) -> None:
    change, because = INPUT[name]
    change(built)
    outcome = built.build()
    assert (outcome.result, built.runs) == ("miss", 2)
    assert because in outcome.because
    assert built.build().result == "hit"


def test_another_folder_makes_a_new_result(tmp_path: Path) -> None:
    first, second = Place(tmp_path / "a"), Place(tmp_path / "b")
    first.build()
    second.variables["BUILDER_CODEGEN_CACHE"] = first.environment()["BUILDER_CODEGEN_CACHE"]
    second.variables["RUNS"] = first.environment()["RUNS"]
    assert second.build().because == ("place",)


def test_both_states_of_a_header_that_is_read_stay_in_the_cache(built: Place) -> None:
    before = place_text(built, "include/read.h")
    edit(built, "include/read.h", "other\n")
    built.build()
    edit(built, "include/read.h", before)
    assert built.build().result == "hit"
    assert (built.tree / "made/deep/copy.txt").read_text() == before


def test_pythons_that_hash_alike_share_and_where_the_order_is_fixed_all_do(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from builder.payload.codegen import key

    def described(order: str, seed: str, algorithm: str) -> str:
        monkeypatch.setenv(key.ORDER, order)
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        monkeypatch.setattr(sys, "hash_info", type("Info", (), {"algorithm": algorithm}))
        return key.key_of(key.inputs(place.source, ["generate_code.sh", sys.executable, "2.5.1"], {}))

    assert described("", "0", "siphash13") != described("", "0", "siphash24")
    assert described("", "0", "siphash13") != described("", "1", "siphash13")
    assert described("fixed", "0", "siphash13") == described("fixed", "1", "siphash24")
    assert described("fixed", "0", "siphash13") != described("", "0", "siphash13")


def test_where_the_kernel_keeps_no_times_of_access_every_file_counts(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_times(path: object, *args: object, **kwargs: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    place.prepare()
    listing = tree.scan(place.tree)
    monkeypatch.setattr(os, "utime", no_times)
    assert tree.watch(place.tree, listing) is False
    assert not (place.tree / ".codegen-probe").exists()
    monkeypatch.undo()
    held = tree.contents(place.tree, listing)
    read = tree.read_files(place.tree, listing, tree.scan(place.tree), held, {"outputs": []})
    assert read == {path for path, item in listing.items() if item.kind == "file" and tree.seldom_read(path)}
    assert tree.watch(place.tree, listing) is True
    assert tree.read_files(place.tree, listing, tree.scan(place.tree), held, {"outputs": []}) == set()
    (place.tree / "sources/op.cpp").read_text()
    assert tree.read_files(place.tree, listing, tree.scan(place.tree), held, {"outputs": []}) == {"sources/op.cpp"}


def test_a_file_that_was_copied_without_being_read_counts_as_read(place: Place) -> None:
    place.prepare()
    listing = tree.scan(place.tree)
    held = tree.contents(place.tree, listing)
    assert tree.watch(place.tree, listing)
    copied = {"outputs": [{"path": "x", "sha256": held["include/unread.h"].split(" ")[1]}]}
    assert tree.read_files(place.tree, listing, tree.scan(place.tree), held, copied) == {"include/unread.h"}


# -- what is not kept ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("git -C $CDIR rev-parse HEAD > made/commit.txt", "made/commit.txt holds"),
        ("echo $2 > made/version.txt", "made/version.txt holds 'git1234567'"),
        ("echo $SOURCE_DATE_EPOCH > made/time.txt", "made/time.txt holds '1756963070'"),
        ("ln -s generated.cpp made/link.cpp", "it makes made/link.cpp, which is no file"),
    ],
)
def test_a_result_that_holds_more_than_its_inputs_is_not_kept(place: Place, line: str, said: str) -> None:
    edit(place, "generate_code.sh", f"{place_text(place, 'generate_code.sh')}\n{line}\n")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-C", str(place.source)]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "one"], check=True)
    place.version = "2.5.1+git1234567"
    place.variables["SOURCE_DATE_EPOCH"] = "1756963070"
    outcome = place.build()
    assert outcome.result == "miss"
    assert outcome.not_kept.startswith(said)
    assert place.entries == []
    assert place.build().result == "miss"


def test_a_generation_that_fails_is_not_kept(place: Place) -> None:
    edit(place, "generate_code.sh", f"{place_text(place, 'generate_code.sh')}\nexit 3\n")
    assert place.build(status=3).result == "failed"
    assert codegen_cache.keep(place.out, place.store) is None
    assert place.entries == []


def test_nothing_is_kept_before_the_builder_says_so(place: Place) -> None:
    place.prepare()
    place.generate()
    assert place.entries == []
    assert place.build().result == "miss"


def test_a_second_generation_in_one_tree_is_upstreams_own(built: Place) -> None:
    built.prepare()
    assert built.generate().returncode == 0
    assert built.generate().returncode == 0
    assert built.runs == 2
    assert (built.tree / "config/info.yaml").read_text().count("- base") == 2


def test_a_generator_that_gives_other_bytes_each_time_is_not_cached(place: Place) -> None:
    edit(
        place,
        "generate_code.sh",
        place_text(place, "generate_code.sh") + "\ncat /proc/sys/kernel/random/uuid > made/u\n",
    )
    place.prepare()
    place.generate()
    other = (place.out / run.ENTRY).read_bytes()
    place.build()
    (place.out / run.ENTRY).write_bytes(other)
    said = codegen_cache.keep(place.out, place.store)
    assert said == "code generation gave another made/u from the same inputs; it is not cached"
    assert place.entries == []


def test_two_builds_that_generate_at_once_leave_one_entry(place: Place) -> None:
    place.prepare()
    place.generate()
    other = (place.out / run.ENTRY).read_bytes()
    place.build()
    (place.out / run.ENTRY).write_bytes(other)
    assert codegen_cache.keep(place.out, place.store) is None
    assert len(place.entries) == 1


def test_the_entries_that_were_not_used_for_long_go_first(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codegen_cache, "KEPT", 2)
    place.build()
    oldest = place.entries[0]
    edit(place, "config/functions.yaml", "second\n")
    place.build()
    (second,) = [entry for entry in place.entries if entry != oldest]
    for number, entry in enumerate((oldest, second)):
        os.utime(entry, (1000 + number, 1000 + number))
    edit(place, "config/functions.yaml", "one two\n")
    assert place.build().result == "hit"
    edit(place, "config/functions.yaml", "third\n")
    place.build()
    assert oldest in place.entries
    assert second not in place.entries
    assert len(place.entries) == 2


# -- checking --------------------------------------------------------------------------------------------------


def test_a_check_runs_generation_and_compares(built: Place) -> None:
    built.check = True
    assert built.build().result == "same"
    assert built.runs == 2
    assert state(built.tree)["made/generated.cpp"][1] == 0o550


def test_a_check_fails_where_the_cache_has_something_else(place: Place) -> None:
    script = place_text(place, "generate_code.sh")
    edit(place, "generate_code.sh", f"{script}\ncat /proc/sys/kernel/random/uuid > made/u\n")
    place.build()
    place.check = True
    outcome = place.build(status=1)
    assert (outcome.result, outcome.differs) == ("differs", ("made/u",))
    assert "other than in the cache: made/u" in place.said


# -- bad entries, full disks -----------------------------------------------------------------------------------


def spoil(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("change", [spoil, lambda data: data[:-30], lambda data: b"", lambda data: b"no zip file"])
def test_a_damaged_entry_is_as_good_as_none(built: Place, change: Callable[[bytes], bytes]) -> None:
    generated = state(built.tree)
    (entry,) = built.entries
    entry.write_bytes(change(entry.read_bytes()))
    outcome = built.build()
    assert (outcome.result, built.runs) == ("miss", 2)
    assert "it is damaged" in outcome.because[0]
    assert state(built.tree) == generated


def forged(place: Place, change: Callable[[dict[str, object]], None]) -> None:
    """Replace the entry by one that is whole and says something else."""
    (entry,) = place.entries
    with zipfile.ZipFile(entry) as archive:
        described = json.loads(archive.read(entries.DESCRIPTION))
        members = {name: archive.read(name) for name in archive.namelist() if name != entries.DESCRIPTION}
    key = described["key"]
    change(described)
    entry.unlink()
    with zipfile.ZipFile(entry, "w") as archive:
        archive.writestr(entries.DESCRIPTION, json.dumps(described))
        for name, data in members.items():
            archive.writestr(name, data)
    entry.rename(entry.with_name(f"{key}.{tree.digest(entry)}.zip"))


@pytest.mark.parametrize(
    ("part", "name"),
    [
        *(("outputs", name) for name in ("../x", "/tmp/x", ".git/hooks/x", "made/../../x", "", "made//x", "./x")),
        *((part, "made/../../x") for part in ("removed", "folders", "removed_folders")),
    ],
)
def test_no_entry_names_a_place_outside_of_the_tree(built: Place, part: str, name: str) -> None:
    generated = state(built.tree)
    item = {"path": name, "mode": 0o644, "sha256": "0" * 64} if part in ("outputs", "folders") else name
    forged(built, lambda described: described[part].insert(0, item))  # type: ignore[attr-defined]
    outcome = built.build()
    assert (outcome.result, built.runs) == ("miss", 2)
    assert "it names" in outcome.because[0]
    assert state(built.tree) == generated


def test_an_entry_of_another_builder_or_key_is_not_used(built: Place) -> None:
    forged(built, lambda described: described.update(schema=0))
    assert "another builder has made it" in built.build().because[0]
    for entry in built.entries:
        entry.rename(entry.with_name(f"{'0' * 64}.{entry.name.split('.')[1]}.zip"))
    assert built.build().result == "miss"


def test_an_entry_whose_files_are_not_what_it_says_leaves_the_tree_alone(built: Place) -> None:
    generated = state(built.tree)
    forged(built, lambda described: described["outputs"][-1].update(sha256="0" * 64))  # type: ignore[index]
    assert built.build().result == "miss"
    assert state(built.tree) == generated


def test_an_entry_that_does_not_fit_the_tree_leaves_it_alone(built: Place) -> None:
    generated = state(built.tree)

    def into_a_file(described: dict[str, object]) -> None:
        described["outputs"][-1]["path"] = "config/functions.yaml/x"  # type: ignore[index]

    forged(built, into_a_file)
    outcome = built.build()
    assert "config/functions.yaml/x is not in a folder here" in outcome.because[0]
    assert state(built.tree) == generated


def test_a_tree_that_was_changed_by_half_ends_the_build(
    built: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built.prepare()
    done: list[str] = []

    def replace(source: Path, destination: Path) -> None:
        done.append(str(destination))
        if len(done) == 2:
            raise OSError(28, "No space left on device")
        os.rename(source, destination)

    for name, value in built.environment().items():
        monkeypatch.setenv(name, value)
    for name in set(os.environ) - set(built.environment()):
        monkeypatch.delenv(name)
    monkeypatch.setattr(entries.os, "replace", replace)
    status = run.main(["/bin/bash", str(built.tree / "generate_code.sh"), sys.executable, built.version])
    assert status == 1
    assert "the tree is spoilt, build it again" in capsys.readouterr().out
    assert built.runs == 1


def test_a_cache_that_cannot_be_read_or_written_costs_only_time(place: Place) -> None:
    place.variables["BUILDER_CODEGEN_CACHE"] = str(place.source / "version.txt")
    assert place.build().result == "miss"
    shutil.rmtree(place.store)
    place.store.write_text("a file")
    with pytest.raises(FileExistsError):
        codegen_cache.folders(place.cache, place.trust, LINE)
    said = codegen_cache.keep(place.out, place.store)
    assert said is not None
    assert "the result of code generation is not kept" in said


def test_results_that_cannot_be_written_cost_only_the_cache(place: Place) -> None:
    place.prepare()
    (place.out / run.ENTRY).mkdir()
    # Anything in the place of the result says that a generation was there already.
    (place.out / run.RESULT).symlink_to("/nowhere/at/all")
    done = place.generate()
    assert done.returncode == 0
    assert "its result is not kept" in done.stdout
    assert "its result is not recorded" in done.stdout
    assert place.runs == 1
    assert codegen_cache.outcome(place.out) is None
    assert "not a regular file" in str(codegen_cache.keep(place.out, place.store))


@pytest.mark.parametrize("told", [b"", b"[]", b"{", b'{"result": 1, "seconds": "x"}', b'{"because": 3}', b"\xff"])
def test_what_a_build_leaves_is_not_trusted(built: Place, told: bytes) -> None:
    (built.out / run.RESULT).write_bytes(told)
    assert codegen_cache.outcome(built.out) is None
    for entry in built.entries:
        entry.unlink()
    (built.out / run.ENTRY).unlink(missing_ok=True)
    assert codegen_cache.keep(built.out, built.store) is None
    (built.out / run.ENTRY).symlink_to("/etc/passwd")
    assert "is not kept" in str(codegen_cache.keep(built.out, built.store))
    (built.out / run.ENTRY).unlink()
    (built.out / run.ENTRY).write_bytes(told)
    assert "is not kept" in str(codegen_cache.keep(built.out, built.store))
    assert list(built.store.iterdir()) == []


def test_an_entry_that_is_too_large_is_not_kept(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codegen_cache, "LARGEST", 100)
    place.build()
    assert "more than 100 bytes" in str(place.warning)
    assert list(place.store.iterdir()) == []


# -- entries that a build has made up --------------------------------------------------------------------------

FORGERIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "key that leads out": lambda described: described.update(key="../../../../owned"),
    "key that is no text": lambda described: described.update(key=["a"]),
    "mode that sets the uid": lambda described: described["outputs"][0].update(mode=0o4755),
    "mode that is no number": lambda described: described["outputs"][0].update(mode="rwx"),
    "outputs that are no list": lambda described: described.update(outputs={"path": "x"}),
    "read that is no table": lambda described: described.update(read=[1]),
    "digest that is none": lambda described: described["outputs"][0].update(sha256=3),
    "removed that is no text": lambda described: described.update(removed=[None]),
    "nested too deeply": lambda described: described.update(inputs=nested(100_000)),
}


def nested(depth: int) -> Any:
    """Lists inside each other; written as text, because json cannot write them."""
    return f"@{depth}"


def left(place: Place, change: Callable[[dict[str, Any]], object]) -> None:
    """Let the build's results hold the entry of an honest build, changed."""
    honest = place.entries[0]
    with zipfile.ZipFile(honest) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    honest.unlink()
    described = json.loads(members[entries.DESCRIPTION])
    change(described)
    text = re.sub(r'"@(\d+)"', lambda found: "[" * int(found[1]) + "]" * int(found[1]), json.dumps(described))
    with zipfile.ZipFile(place.out / run.ENTRY, "w") as archive:
        for name, data in {**members, entries.DESCRIPTION: text.encode()}.items():
            archive.writestr(name, data)


@pytest.mark.parametrize("forgery", FORGERIES)
def test_an_entry_that_no_generation_makes_is_not_kept(built: Place, forgery: str) -> None:
    left(built, FORGERIES[forgery])
    assert "the result of code generation is not kept" in str(codegen_cache.keep(built.out, built.store))
    assert list(built.store.iterdir()) == []
    assert not list(built.root.rglob("owned*"))


def test_an_entry_that_unpacks_to_more_than_any_is_not_kept(built: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    left(built, lambda described: None)
    monkeypatch.setattr(entries, "MOST_BYTES", 100)
    assert "it is too large" in str(codegen_cache.keep(built.out, built.store))


def test_an_entry_that_is_damaged_anywhere_ends_in_words(built: Place) -> None:
    left(built, lambda described: None)
    whole = (built.out / run.ENTRY).read_bytes()
    chance = random.Random(11)  # noqa: S311 - the same bytes each time
    for _ in range(300):
        data = bytearray(whole[: chance.randrange(len(whole))] if chance.random() < 0.3 else whole)
        for _ in range(chance.randrange(1, 20)):
            if data:
                data[chance.randrange(len(data))] = chance.randrange(256)
        (built.out / run.ENTRY).write_bytes(data)
        said = codegen_cache.keep(built.out, built.store)
        assert said is None or "code generation" in said


# -- levels of trust -------------------------------------------------------------------------------------------


def test_a_build_reads_entries_of_higher_levels_and_leaves_none_there(place: Place) -> None:
    place.trust = Trust.NIGHTLY
    assert place.build().result == "miss"
    place.trust = Trust.UNKNOWN
    assert place.build().result == "hit"
    edit(place, "config/functions.yaml", "other\n")
    assert place.build().result == "miss"
    place.trust = Trust.NIGHTLY
    assert place.build().result == "miss"
    place.trust = Trust.RELEASE
    assert place.build().result == "miss"
    kept = {trust: len(list(codegen_cache.store(place.cache, trust, LINE).glob("*.zip"))) for trust in Trust}
    assert kept == {Trust.RELEASE: 1, Trust.NIGHTLY: 2, Trust.UNKNOWN: 1}


# -- the bash on PATH ------------------------------------------------------------------------------------------


def bash(place: Place, *arguments: str) -> subprocess.CompletedProcess[str]:
    place.prepare()
    command = ["env", "bash", *arguments]
    return subprocess.run(command, env=place.environment(), cwd=place.root, capture_output=True, text=True, check=False)


def test_everything_else_is_the_real_bash(place: Place) -> None:
    assert bash(place, "-c", 'printf "<%s>" "$0" "$@"; exit 7', "a b", "", "c").stdout == "<a b><><c>"
    assert bash(place, "-c", "exit 7").returncode == 7
    assert "GNU bash" in bash(place, "--version").stdout
    script = place.root / "generate_code.sh"
    script.write_text('echo "$BASH" "$@"\n')
    # Nobody says which Python: nothing to go through the cache.
    assert bash(place, str(script), "x", "python3-of-nobody").stdout.split()[1:] == ["x", "python3-of-nobody"]
    assert codegen_cache.outcome(place.out) is None


def test_nothing_of_it_needs_more_than_python_3_7_and_its_library() -> None:
    folder = Path(entries.__file__).parent
    for source in folder.glob("*.py"):
        module = ast.parse(source.read_text(), feature_version=(3, 7))
        for node in ast.walk(module):
            if isinstance(node, ast.Import):
                assert {name.name.split(".")[0] for name in node.names} <= set(sys.stdlib_module_names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 1 or str(node.module).split(".")[0] in sys.stdlib_module_names

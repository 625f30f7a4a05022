"""Where compile caches lie, what they are told, and what the launcher's log adds up to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder.compilation import ccache
from builder.compilation.ccache import CompileCounts
from builder.core.trust import Trust


def variables(**more: object) -> dict[str, str]:
    places = {"cache": "/cache/x", "launcher": "/opt/launcher", "compile_log": "/out/compile.log", "slot_folder": "/s"}
    return dict(ccache.environment(slots=0, **places, **more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "arch", "gcc", "name"),
    [
        ("v2.5.1-7.1.0", "x86_64", "12.2.0", "v2.5.1-7.1.0-x86_64-gcc12.2"),
        ("v2.7.1-7.2.0", "aarch64", "11.2.1 20210728", "v2.7.1-7.2.0-aarch64-gcc11.2"),
        ("master", "x86_64", "13", "master-x86_64-gcc13"),
        ("my/branch", "x86_64", "9.3.1", "my_branch-x86_64-gcc9.3"),
    ],
)
def test_each_release_line_and_toolchain_has_a_folder(line: str, arch: str, gcc: str, name: str) -> None:
    assert ccache.store_name(Trust.NIGHTLY, line, arch, gcc) == f"nightly/{name}"
    assert (
        ccache.parse_store(name)
        == ccache.parse_store(f"nightly/{name}")
        == (line.replace("/", "_"), arch, ".".join(gcc.split(" ")[0].split(".")[:2]))
    )


@pytest.mark.parametrize("name", ["headers", "0", "slots-x", "v2.5.1", ".cleared.ab12", "x86_64-gcc12"])
def test_other_folders_of_the_cache_are_none(name: str) -> None:
    assert ccache.parse_store(name) is None


def test_the_limit() -> None:
    assert variables()["CCACHE_MAXSIZE"] == f"{5 << 20}Ki"
    assert variables(limit=0)["CCACHE_MAXSIZE"] == "0"
    # Never none where there is one.
    assert variables(limit=1)["CCACHE_MAXSIZE"] == "1Ki"


def test_what_was_not_asked_for_is_not_told() -> None:
    told = variables()
    assert {"CCACHE_TEMPDIR", "CCACHE_EXTRAFILES", "CCACHE_READONLY"}.isdisjoint(told)
    told = variables(temporary="/out/ccache", inputs="/out/inputs", read_only=True)
    assert (told["CCACHE_TEMPDIR"], told["CCACHE_EXTRAFILES"], told["CCACHE_READONLY"]) == (
        "/out/ccache",
        "/out/inputs",
        "1",
    )


def test_nothing_that_differs_is_taken_for_the_same() -> None:
    told = variables()
    assert told["CCACHE_SLOPPINESS"] == ""
    assert "CCACHE_NOHASHDIR" not in told
    assert told["CCACHE_COMPILERCHECK"] == "content"


def test_every_word_of_the_log_is_counted(tmp_path: Path) -> None:
    words = ["hit-direct"] * 5 + ["hit-preprocessed"] * 2 + ["miss"] * 3 + ["uncached", "unknown", "plain", "failed"]
    (tmp_path / "compile.log").write_text("".join(f"{word} /a b.cpp\n" for word in [*words, "stopped", "tomorrow"]))
    counts = ccache.read_counts(tmp_path)
    assert counts == CompileCounts(
        direct=5, preprocessed=2, misses=3, uncached=1, unknown=2, plain=1, failed=1
    )  # "tomorrow" is a file of which nothing is known; "stopped" none
    assert (counts.files, counts.hits, counts.cached) == (15, 7, True)
    assert counts.use(size=10, limit=20).to_json() == {
        "hits": 7,
        "misses": 3,
        "direct": 5,
        "preprocessed": 2,
        "uncached": 2,
        "unknown": 2,
        "failed": 1,
        "size": 10,
        "limit": 20,
    }
    assert (
        counts.summary()
        == "15 files, 7 from the compile cache, 3 compiled, 2 without the cache, 2 by a ccache that does not say"
    )


def test_a_build_without_ccache_says_so(tmp_path: Path) -> None:
    (tmp_path / "compile.log").write_text("plain a.cpp\nplain b.cpp\n\n")
    assert ccache.read_counts(tmp_path).summary() == "2 files compiled, no ccache"
    assert ccache.read_counts(tmp_path / "none") == CompileCounts()


def test_a_link_in_the_log_s_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("miss a.cpp\n")
    (tmp_path / "compile.log").symlink_to("elsewhere")
    assert ccache.read_counts(tmp_path).files == 0


def test_folders_that_cannot_be_written_say_why(tmp_path: Path) -> None:
    assert ccache.trouble(tmp_path / "new" / "cache") is None
    assert list((tmp_path / "new" / "cache").iterdir()) == []
    (tmp_path / "file").touch()
    assert ccache.trouble(tmp_path / "file") in {"File exists", "Not a directory"}
    assert ccache.trouble(Path("/proc/nowhere")) == "No such file or directory"


def test_stores_are_those_of_each_level_and_no_links(tmp_path: Path) -> None:
    names = [
        "nightly/v2.5.1-7.1.0-x86_64-gcc12.2",
        "release/v2.5.1-7.1.0-x86_64-gcc12.2",
        "unknown/master-x86_64-gcc13",
    ]
    for name in (*names, "release/generated/v2.5.1-7.1.0", "other/v2.5.1-7.1.0-x86_64-gcc12.2"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "release" / "v9-x86_64-gcc9.3").symlink_to(tmp_path)
    found = [path.relative_to(tmp_path).as_posix() for path in ccache.stores(tmp_path)]
    assert sorted(found) == sorted(names)
    assert ccache.higher_stores(names[2]) == ["release/master-x86_64-gcc13", "nightly/master-x86_64-gcc13"]
    assert ccache.higher_stores(names[1]) == []


def test_what_earlier_builders_left_is_recognised(tmp_path: Path) -> None:
    assert ccache.earlier_layouts(tmp_path / "none") == []
    for folder in ("release/v2.5.1-7.1.0-x86_64-gcc12.2", ".remote-ab", "slots", "tmp"):
        (tmp_path / folder).mkdir(parents=True)
    # A folder for temporary files alone is nobody's cache.
    assert ccache.earlier_layouts(tmp_path) == []
    for folder in ("0", "f", "v2.5.1-7.1.0-x86_64-gcc12.2", "generated/v2.5.1-7.1.0"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "stats").touch()
    (tmp_path / "mine").touch()
    (tmp_path / "v3-x86_64-gcc12.2").symlink_to(tmp_path)
    found = {path.name for path in ccache.earlier_layouts(tmp_path)}
    assert found == {"0", "f", "tmp", "stats", "generated", "v2.5.1-7.1.0-x86_64-gcc12.2"}


def test_sizes_are_those_on_disk(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"x" * 10000)
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 1 << 30)
    assert 10000 <= ccache.stored_bytes(tmp_path) < 1 << 20
    assert ccache.stored_bytes(tmp_path / "none") == 0

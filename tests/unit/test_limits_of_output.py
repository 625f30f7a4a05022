"""What a build chooses the size of: its lines, its log, the launcher's logs, and files that are read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder.compilation import ccache, pch_stats
from builder.compilation.version_define import find_version_define
from builder.core.untrusted import LONGEST_LINE, UntrustedFolder
from builder.environments import line_splitter
from builder.environments.line_splitter import LineSplitter
from builder.target import build_log
from builder.target.build_log import BuildLog


def sparse(path: Path, size: int = 3 << 30) -> None:
    """A file that takes no room on the disk, and all memory of whoever reads it whole."""
    path.touch()
    os.truncate(path, size)


def test_a_line_without_an_end_is_cut_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_splitter, "LONGEST", 10)
    taken: list[str] = []
    splitter = LineSplitter(taken.append)
    for _ in range(1000):
        splitter.feed(b"x" * 4096)
    splitter.feed(b"\nnext\n0123456789\n")
    splitter.feed(b"01234567890")
    splitter.close()
    cut = f"xxxxxxxxxx [{4096 * 1000 - 10} more characters of this line were left out]"
    assert taken == [cut, "next", "0123456789", "0123456789 [1 more characters of this line were left out]"]


def test_a_log_that_is_full_says_so_and_takes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_log, "LARGEST", 1 << 20)
    (tmp_path / "log").write_text("before\n")
    for _ in range(2):
        with BuildLog(tmp_path / "log") as log:
            for number in range(20_000):
                log.line(f"line {number} " + "x" * 90)
    text = (tmp_path / "log").read_text()
    assert text.startswith("before\nline 0 ")
    assert text.endswith("\n(the log has 1 MiB; what follows was left out)\n")
    assert text.count("left out") == 1
    assert len(text) < 2 << 20


@pytest.mark.parametrize("content", ["sparse", "words", "pipe", "line"])
def test_the_launcher_s_logs_are_read_within_bounds(tmp_path: Path, content: str) -> None:
    for name in (ccache.COMPILE_LOG, pch_stats.HEADERS_LOG):
        if content == "sparse":
            sparse(tmp_path / name)
        elif content == "pipe":
            os.mkfifo(tmp_path / name)
        elif content == "line":
            (tmp_path / name).write_bytes(b"miss " + b"x" * (10 * LONGEST_LINE) + b"\nmiss a\n")
        else:
            words = (f"word{number} group{number} 1 1.5 reason{number}\n" for number in range(200_000))
            (tmp_path / name).write_text("miss a\n" + "".join(words))
    counts = ccache.read_counts(tmp_path)
    assert counts.misses == {"sparse": 0, "words": 1, "pipe": 0, "line": 2}[content]
    assert counts.unknown == (200_000 if content == "words" else 1 if content == "sparse" else 0)
    assert not ccache.stopped(tmp_path)
    assert pch_stats.read_counts(tmp_path).groups == 0


def test_lines_of_an_untrusted_file_end_where_they_must(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"one\r\n" + b"y" * (2 * LONGEST_LINE) + b"\n\xff\nlast")
    with UntrustedFolder(tmp_path) as folder:
        assert list(folder.lines("file", 1 << 30)) == ["one", "y" * LONGEST_LINE, "\N{REPLACEMENT CHARACTER}", "last"]
        assert list(folder.lines("file", 4)) == ["one"]
        assert list(folder.lines("file", 0)) == []


def test_a_tree_with_a_huge_file_or_a_pipe_is_looked_through_within_bounds(tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text('add_definitions(-DX_NPU_VERSION="${X_VERSION}")\n')
    os.mkfifo(tmp_path / "pipe.cpp")
    found = find_version_define(tmp_path)
    assert found is not None
    sparse(tmp_path / "huge.cpp")
    assert find_version_define(tmp_path) is None, "what was not looked through could mention it"

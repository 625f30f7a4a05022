"""Output of programs as lines."""

from __future__ import annotations

import pytest

from builder.environments.line_splitter import LineSplitter


@pytest.mark.parametrize(
    ("chunks", "lines"),
    [
        ([b"a\nb\n"], ["a", "b"]),
        ([b"a\n\nb"], ["a", "", "b"]),
        ([b"10%\r20%\r30%\n"], ["10%", "20%", "30%"]),
        ([b"a\r\nb\r\n"], ["a", "b"]),
        ([b"a\r", b"\nb\r\n\r\n"], ["a", "b", ""]),
        ([b"\xc3", b"\xa9t\xc3\xa9\n"], ["été"]),
        ([b"bad \xff byte\n"], ["bad \ufffd byte"]),
        ([b"no newline at the end"], ["no newline at the end"]),
        ([b"x" * 100, b"y" * 100, b"\n"], ["x" * 100 + "y" * 100]),
        ([b"\r\r"], []),
    ],
)
def test_lines(chunks: list[bytes], lines: list[str]) -> None:
    seen: list[str] = []
    splitter = LineSplitter(seen.append)
    for chunk in chunks:
        splitter.feed(chunk)
    splitter.close()
    assert seen == lines

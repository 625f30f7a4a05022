"""Reading the log of precompiled headers."""

from __future__ import annotations

from pathlib import Path

from builder.compilation.pch_stats import HEADERS_LOG, HeaderCounts, environment, read_counts

LOG = """\
made one /src/a.cpp 19.35 -
used one /src/a.cpp 1.55 -
used one /src/b.cpp 1.45 -
plain one /src/c.cpp 8.00 being-made
plain - /src/d.cpp 4.00 -
fallback one /src/e.cpp 9.50 exit-1
fallback one /src/f.cpp 9.50 exit-1
refused two /src/g.cpp 12.00 /inc/x.h%20uses%20__BASE_FILE__
plain two /src/g.cpp 8.00 refused
nonsense
used one /src/h.cpp not-a-number -
used one /src/h.cpp nan -
used one /src/h.cpp -1 -
\xff\xfe
"""


def test_counts(tmp_path: Path) -> None:
    (tmp_path / HEADERS_LOG).write_bytes(LOG.encode("latin-1"))
    counts = read_counts(tmp_path)
    assert (counts.groups, counts.made, counts.used, counts.plain) == (2, 1, 2, 3)
    assert counts.fallbacks == {"exit-1": 2}
    assert counts.refused == {"/inc/x.h uses __BASE_FILE__": 1}
    assert counts.reasons == {"being-made": 1, "refused": 1}
    assert counts.header_seconds == 31.35
    assert counts.cpu_seconds == 31.35 + 3.0 + 20.0 + 19.0
    assert counts.summary() == "1 precompiled headers for 2 of 7 files, 2 compiled again without"
    assert counts.to_json()["cpu_seconds"] == {"headers": 31.35, "used": 3.0, "plain": 20.0, "fallbacks": 19.0}


def test_no_log_is_no_headers(tmp_path: Path) -> None:
    assert read_counts(tmp_path) == HeaderCounts()
    assert read_counts(tmp_path).summary() == ""
    (tmp_path / HEADERS_LOG).symlink_to("/etc/passwd")
    assert read_counts(tmp_path) == HeaderCounts()


def test_a_build_cannot_fill_the_record(tmp_path: Path) -> None:
    lines = "".join(f"plain - /src/{number}.cpp 1.0 {'x' * 900}{number}\n" for number in range(500))
    (tmp_path / HEADERS_LOG).write_text(lines)
    counts = read_counts(tmp_path)
    assert counts.plain == 500
    assert len(str(counts.to_json())) < 10_000


def test_variables() -> None:
    assert environment(out="/out", cache="/cache/line") == {
        "BUILDER_HEADERS": "/out/headers",
        "BUILDER_HEADERS_KNOWN": "/cache/line/known-headers",
    }

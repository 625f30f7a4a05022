"""Files that a compile did not read, and would have read had they been there: ccache alone does not see them come.

It knows the files that a compile read (https://github.com/ccache/ccache/issues/811, and 504 for headers that hide
others), so the builder hands it, as one more input, what answers to the include names of the tree. Each case is
compiled both ways: once ccache sees a file by itself, its row here fails, and the builder need not look for it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import ccache_program, settle

from builder.compilation import ccache, compile_manifest

FIRST, SECOND = "-Itree/first", "-Itree/second"
#: What the source sees of a header is a number, so that objects differ.
ASKS = '#if __has_include("h.h")\n#define H 1\n#else\n#define H 2\n#endif\n'


def source(start: str) -> str:
    return f"{start}int number() {{ return H; }}\n"


#: Name: files before; the file that comes (or goes, where it is None); options; whether ccache alone is right.
CASES: dict[str, tuple[dict[str, str], tuple[str, str | None], list[str], bool]] = {
    "hides another": (
        {"a.cpp": source("#include <h.h>\n"), "second/h.h": "#define H 2\n", "first/x.h": ""},
        ("first/h.h", "#define H 1\n"),
        [FIRST, SECOND],
        False,
    ),
    "in a folder that was not there": (
        {"a.cpp": source("#include <h.h>\n"), "second/h.h": "#define H 2\n"},
        ("first/h.h", "#define H 1\n"),
        [FIRST, SECOND],
        True,
    ),
    "in a folder below, which was not there": (
        {"a.cpp": source("#include <s/h.h>\n"), "second/s/h.h": "#define H 2\n", "first/x.h": ""},
        ("first/s/h.h", "#define H 1\n"),
        [FIRST, SECOND],
        False,
    ),
    "beside the source": (
        {"a.cpp": source('#include "h.h"\n'), "second/h.h": "#define H 2\n"},
        ("h.h", "#define H 1\n"),
        [SECOND],
        False,
    ),
    "nested": (
        {
            "a.cpp": source("#include <m.h>\n"),
            "second/m.h": "#include <h.h>\n",
            "second/h.h": "#define H 2\n",
            "first/x.h": "",
        },
        ("first/h.h", "#define H 1\n"),
        [FIRST, SECOND],
        False,
    ),
    "nested, beside the header": (
        {"a.cpp": source("#include <m.h>\n"), "first/m.h": '#include "h.h"\n', "second/h.h": "#define H 2\n"},
        ("first/h.h", "#define H 1\n"),
        [FIRST, SECOND],
        False,
    ),
    "include_next": (
        {
            "a.cpp": source("#include <h.h>\n"),
            "first/h.h": "#include_next <h.h>\n",
            "second/x.h": "",
            "third/h.h": "#define H 2\n",
        },
        ("second/h.h", "#define H 1\n"),
        [FIRST, SECOND, "-Itree/third"],
        False,
    ),
    "iquote": (
        {"a.cpp": source('#include "h.h"\n'), "second/h.h": "#define H 2\n", "first/x.h": ""},
        ("first/h.h", "#define H 1\n"),
        ["-iquote", "tree/first", SECOND],
        False,
    ),
    "hides a header of the system": (
        {"a.cpp": source("#include <wctype.h>\n#ifndef H\n#define H 2\n#endif\n"), "first/x.h": ""},
        ("first/wctype.h", "#define H 1\n"),
        [FIRST],
        False,
    ),
    "asked for, and comes": ({"a.cpp": source(ASKS), "first/x.h": ""}, ("first/h.h", ""), [FIRST], False),
    "asked for, and goes": ({"a.cpp": source(ASKS), "first/h.h": ""}, ("first/h.h", None), [FIRST], False),
    "asked for by a header": (
        {"a.cpp": source("#include <m.h>\n"), "second/m.h": ASKS, "first/x.h": ""},
        ("first/h.h", ""),
        [FIRST, SECOND],
        False,
    ),
    "asked for, in a folder that was not there": ({"a.cpp": source(ASKS)}, ("first/h.h", ""), [FIRST], True),
}


class Compiles:
    """One source, compiled as builds ask ccache, from one cache."""

    def __init__(self, root: Path, files: dict[str, str], options: list[str]) -> None:
        self.root = root
        self._options = options
        self._compiler = root / "c++"
        for name, text in files.items():
            self.write(name, text)
        (root / "out").mkdir()

    def write(self, name: str, text: str | None) -> None:
        path = self.root / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            path.unlink()
        else:
            path.write_text(text)

    def run(self, *, inputs: bool) -> tuple[str, bytes]:
        """What the launcher says of the compile, and its object; ``inputs`` as the builder lists them."""
        out = self.root / "out"
        env = {
            "PATH": "/usr/bin:/bin",
            "BUILDER_CCACHE": ccache_program(),
            **ccache.environment(
                cache=str(self.root / f"cache-{inputs}"),
                launcher=str(ccache.LAUNCHER),
                compile_log=str(out / "compile.log"),
                slots=0,
                slot_folder=str(out),
                temporary=str(out / "ccache"),
                inputs=str(out / compile_manifest.INPUTS) if inputs else None,
            ),
        }
        places = {"tree": str(self.root / "tree"), "torch": str(self.root / "torch"), "out": str(out)}
        before = compile_manifest.before_command(sys.executable, str(ccache.LAUNCHER), cache=None, **places)
        subprocess.run(before, env=env, cwd=self.root, check=True, stdout=subprocess.DEVNULL)
        (out / "compile.log").unlink(missing_ok=True)
        command = [str(ccache.LAUNCHER / "ccache"), *self._command("a.o"), "-MD", "-MT", "a.o", "-MF", "a.o.d"]
        subprocess.run(command, env=env, cwd=self.root, check=True)
        result, _, _ = (out / "compile.log").read_text().partition(" ")
        return result, (self.root / "a.o").read_bytes()

    def plain(self) -> bytes:
        subprocess.run(self._command("plain.o"), cwd=self.root, check=True)
        return (self.root / "plain.o").read_bytes()

    def _command(self, output: str) -> list[str]:
        return ["g++", *self._options, "-c", "tree/a.cpp", "-o", output]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_what_a_compile_would_have_read(tmp_path: Path, case: str) -> None:
    files, (name, text), options, alone_is_right = CASES[case]
    compiles = Compiles(tmp_path, files, options)
    # ccache takes no file that is younger than the compile.
    settle()
    before = compiles.plain()
    for inputs in (False, True):
        assert compiles.run(inputs=inputs) == ("miss", before)
        assert compiles.run(inputs=inputs) == ("hit-direct", before)
    compiles.write(name, text)
    settle()
    after = compiles.plain()
    assert after != before
    assert compiles.run(inputs=True) == ("miss", after)
    assert compiles.run(inputs=False) == (("miss", after) if alone_is_right else ("hit-direct", before))


@pytest.mark.slow
def test_names_that_a_macro_makes_up_are_not_seen(tmp_path: Path) -> None:
    """The limit of it, as docs/cache.md says."""
    files = {"a.cpp": source("#define N <h.h>\n#include N\n"), "second/h.h": "#define H 2\n", "first/x.h": ""}
    compiles = Compiles(tmp_path, files, [FIRST, SECOND])
    settle()
    assert compiles.run(inputs=True)[0] == "miss"
    compiles.write("first/h.h", "#define H 1\n")
    settle()
    assert compiles.run(inputs=True)[0] == "hit-direct"

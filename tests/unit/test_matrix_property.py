"""Whatever happens to a matrix file: the matrix is valid, or one error says where it is not. Never anything else."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import examples

from builder.core.errors import RequestError
from builder.core.workspace import resource
from builder.matrix.loader import load_matrix

#: Legacy and unknown lines, development branches, lines with and without defaults; enough, and quick to load.
FILES = (
    "pytorch-1.5.yaml",
    "pytorch-2.1.yaml",
    "pytorch-2.9.yaml",
    "pytorch-2.14.yaml",
    "toolchains.yaml",
    "torch.yaml",
    "lifecycle.yaml",
    "decisions.yaml",
    "sources.yaml",
)
#: What a file is made wrong with: syntax, characters that are none, tags, references, text that YAML takes for more.
PIECES = (
    *("\t", "\x00", "\x07", "\x1b[31m", "\x7f", "\x85", "\u2028", "\ufeff", "\ufffe", "\U0001f600", "\r"),
    *("'", '"', "[", "]", "{", "}", ":", ": ", "- ", "? ", "#", "|", ">", "%", "@", "`", ",", "&a ", "*a ", "<<: "),
    *("\n---\n", "\n...\n", "!!bool ", "!!int ", "!!str ", "!!python/name:os.system ", "! ", "\\", "\\u0000", "[" * 40),
    *("~", "=", "null", "yes", "1e3", "0x1F", "3.10", "2026-01-25", "1:30", "٣", "-"),
)
#: What any value may be replaced with.
VALUES: tuple[Any, ...] = (
    *(None, True, 0, 1, -1, 10**30, 3.1, float("nan"), float("inf"), date(2026, 1, 25), b"bytes"),
    *(
        "",
        " ",
        "x",
        "3.10",
        "x" * 5000,
        "9" * 5000,
        "1." + "9" * 5000,
        "ünï",
        "\u202e",
        "a\nb",
        "\x00",
        "\x85",
        "2.1.0",
    ),
    *("--option", "../..", "2.1.0 ", "v2.1.0-*", "sha256:" + "0" * 64, "20260125", "2026-01-25T00:00:00", "0"),
    *([], [[]], ["x"], [None], {}, {"x": 1}, {"": ""}, {"a\nb": "x"}, {"x86_64": "x"}, {None: None}, {3.8: ["a==1"]}),
)
PLACE = re.compile(r"(?P<file>[^:]+\.yaml):(?P<line>[1-9][0-9]*)(:[1-9][0-9]*)?: ")

QUICK = settings(
    max_examples=examples(150),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("mutated") / "matrices"
    copy.mkdir()
    for name in FILES:
        shutil.copy(resource("matrices") / name, copy)
    load_matrix(copy)
    return copy


@contextmanager
def changed(path: Path, text: str) -> Iterator[None]:
    original = path.read_bytes()
    path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    try:
        yield
    finally:
        path.write_bytes(original)


def is_valid_or_one_clear_error(folder: Path) -> bool:
    """True where the matrix in ``folder`` is valid; fails where the loader says neither that nor what is wrong."""
    try:
        matrix = load_matrix(folder)
    except RequestError as error:
        assert_clear(error, folder)
        return False
    described = [target.describe() for target in matrix.targets()]
    assert json.loads(json.dumps(described)) == described
    return True


def assert_clear(error: RequestError, folder: Path) -> None:
    """One line for each problem, with a place that exists and in words that a terminal can show."""
    lines = [error.message, *(error.details or "").splitlines()]
    if re.fullmatch(r"and [0-9]+ more", lines[-1]):
        lines.pop()
    for line in lines:
        place = PLACE.match(line)
        assert place, line
        file = Path(place["file"])
        assert file.parent == folder
        rows = re.split(r"\r\n|[\r\n\x85\u2028\u2029]", file.read_text("utf-8", "replace"))
        assert int(place["line"]) <= len(rows) + 1  # the end of a file that lacks its last newline
        assert len(line) < 3000
        assert line.isprintable(), line
    assert error.hint


def texts_changed(text: str, data: st.DataObject) -> str:
    """``text`` with one to three small accidents."""
    for _ in range(data.draw(st.integers(1, 3))):
        lines = text.split("\n")
        row = data.draw(st.integers(0, len(lines) - 1))
        place = data.draw(st.integers(0, len(lines[row])))
        match data.draw(st.sampled_from(["delete", "repeat", "indent", "dedent", "swap", "insert", "cut", "move"])):
            case "delete":
                del lines[row]
            case "repeat":
                lines.insert(row, lines[row])
            case "indent":
                lines[row] = " " * data.draw(st.integers(1, 5)) + lines[row]
            case "dedent":
                lines[row] = lines[row][data.draw(st.integers(1, 3)) :]
            case "swap":
                lines[row] = lines[row][:place] + lines[row][place : place + 2][::-1] + lines[row][place + 2 :]
            case "insert":
                lines[row] = lines[row][:place] + data.draw(st.sampled_from(PIECES)) + lines[row][place:]
            case "cut":
                lines[row] = lines[row][:place] + lines[row][place + data.draw(st.integers(1, 4)) :]
            case "move":
                lines.insert(data.draw(st.integers(0, len(lines) - 1)), lines.pop(row))
        text = "\n".join(lines) or "\n"
    return text


def places_in(value: Any, keys: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The keys of every value inside ``value``."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, part in items for place in ((*keys, key), *places_in(part, (*keys, key)))]


def values_changed(content: Any, data: st.DataObject) -> Any:
    """``content`` with one or two of its values, keys or items replaced, removed, renamed or repeated."""
    for _ in range(data.draw(st.integers(1, 2))):
        places = places_in(content)
        if not places:
            break
        *above, last = data.draw(st.sampled_from(places))
        part = content
        for key in above:
            part = part[key]
        match data.draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename", "repeat"])):
            case "replace":
                part[last] = deepcopy(data.draw(st.sampled_from(VALUES)))
            case "remove":
                del part[last]
            case "rename" if isinstance(part, dict):
                part[data.draw(st.sampled_from(["x", "", "-", "3.99", "pytorch", "a\nb", "9" * 5000, 7, None]))] = (
                    part.pop(last)
                )
            case "repeat" if isinstance(part, list):
                part.append(deepcopy(part[last]))
    return content


@pytest.mark.timeout(60)
def test_text_that_was_damaged(folder: Path) -> None:
    outcomes = set()

    @QUICK
    @given(name=st.sampled_from(FILES), data=st.data())
    def damage(name: str, data: st.DataObject) -> None:
        text = texts_changed((folder / name).read_text(), data)
        with changed(folder / name, text):
            outcomes.add(is_valid_or_one_clear_error(folder))

    damage()
    assert outcomes == {True, False}  # the changes are neither all harmless nor all fatal


class Dumper(yaml.SafeDumper):
    """Writes what is repeated out in each place."""

    def ignore_aliases(self, data: Any) -> bool:
        """Never an anchor."""
        return True


@pytest.mark.timeout(60)
def test_values_that_were_replaced(folder: Path) -> None:
    outcomes = set()

    @QUICK
    @given(name=st.sampled_from(FILES), data=st.data())
    def replace(name: str, data: st.DataObject) -> None:
        content = values_changed(yaml.safe_load((folder / name).read_text()), data)
        with changed(folder / name, yaml.dump(content, Dumper=Dumper, sort_keys=False, allow_unicode=True)):
            outcomes.add(is_valid_or_one_clear_error(folder))

    replace()
    assert outcomes == {True, False}

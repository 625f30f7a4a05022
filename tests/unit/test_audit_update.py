"""Corrections in matrix files: what is asked for changes, and no other byte."""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from audit_support import FILES, LINE, small_matrix, write_matrix

from builder.audit.drift import Correction, Drift
from builder.audit.update import Change, apply, update
from builder.core.errors import MachineError
from builder.core.workspace import resource
from builder.matrix.loader import load_matrix

ROWS = "pytorch-2.6.yaml"
MATRICES = sorted(resource("matrices").glob("*.yaml"))


def corrected(text: str, *values: tuple[tuple[str | int, ...], Any]) -> str:
    return apply(text, [Correction(Path(ROWS), keys, value) for keys, value in values])


def drift(folder: Path, *keys: str | int, value: Any, file: str = ROWS) -> Drift:
    correction = Correction(folder / file, keys, value)
    return Drift(LINE, str(keys[-1]), "old", "new", "place", "source", correction=correction)


def difference(old: str, new: str) -> tuple[list[str], list[str]]:
    """The lines that went and those that came."""
    before, after = old.splitlines(), new.splitlines()
    steps = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    changed = [step for step in steps if step[0] != "equal"]
    return (
        [line for _, start, end, _, _ in changed for line in before[start:end]],
        [line for _, _, _, start, end in changed for line in after[start:end]],
    )


@pytest.mark.parametrize("path", MATRICES, ids=lambda path: path.name)
def test_a_file_without_corrections_stays_as_it_is(path: Path) -> None:
    text = path.read_text()
    assert apply(text, []) == text


@pytest.mark.parametrize("path", [path for path in MATRICES if path.name.startswith("pytorch-")], ids=lambda p: p.name)
def test_every_row_can_be_corrected_and_nothing_else_moves(path: Path) -> None:
    values: dict[str, Any] = {
        "package_version": "9.9.9",
        "pythons": ["3.9", "3.14"],
        "cmake_minimum": None,
        "ci_images": {"x86_64": "images.example/a:1", "aarch64": "images.example/b:1"},
        "torch_requirement": {},
        "finds_ccache": True,
        "overlay": ["op_plugin", "*.sh", "new"],
    }
    text = path.read_text()
    data = yaml.safe_load(text)
    comments = [line for line in text.splitlines() if line.strip().startswith("#") or not line.strip()]
    for index, row in enumerate(data["releases"]):
        new = corrected(text, *((("releases", index, key), value) for key, value in values.items()))
        expected = {**data, "releases": [*data["releases"]]}
        expected["releases"][index] = {**row, **values}
        assert yaml.safe_load(new) == expected
        assert [line for line in new.splitlines() if line.strip().startswith("#") or not line.strip()] == comments
        # Every line that came or went is of one of these keys.
        for line in (line for lines in difference(text, new) for line in lines):
            key = line.strip().partition(":")[0]
            assert key in {*values, "x86_64", "aarch64"} or line.startswith("      - "), line
        # Rows stay apart by one empty line, and the file ends as it did.
        assert new.count("\n\n  - branch:") == text.count("\n\n  - branch:")
        assert new.endswith("\n")
        assert not new.endswith("\n\n")


def row(*lines: str, file: str = FILES[ROWS]) -> str:
    """The small matrix's rows with these lines in the row of the line that tests change."""
    head, mark, tail = file.partition("    redefines_file: true\n")
    return head + mark + "".join(f"    {line}\n" for line in lines) + tail


@pytest.mark.parametrize(
    ("text", "key", "value", "gone", "come"),
    [
        # A value keeps its quotes, and one that is new has those of the same key in other rows.
        (row(), "package_version", "2.6.0.post4", ['    package_version: "2.6.0.post3"'],
         ['    package_version: "2.6.0.post4"']),
        (row(), "version_source", "setup.py", [], ["    version_source: setup.py"]),
        (row(), "op_plugin", "7.2.0", ['    op_plugin: "7.1.0"'], ['    op_plugin: "7.2.0"']),
        (row(), "op_plugin", None, ['    op_plugin: "7.1.0"'], ["    op_plugin: null"]),
        (row(), "redefines_file", False, ["    redefines_file: true"], ["    redefines_file: false"]),
        # Lists: in brackets while they fit; a word keeps being one, and what YAML would misread gets quotes.
        (row(), "pythons", ["3.9"], [], ['    pythons: ["3.9"]']),
        (row(), "overlay", ["op_plugin", "test", "*.sh", "on"], [], ['    overlay: [op_plugin, test, "*.sh", "on"]']),
        (row(), "released", [f"2.6.0.post{i}" for i in range(9)], ['    released: ["2.6.0", "2.6.0.post2"]'],
         ["    released:", *(f'      - "2.6.0.post{i}"' for i in range(9))]),
        (row("build_options: []"), "build_options", ["--a"], ["    build_options: []"], ['    build_options: ["--a"]']),
        (row("build_options:", '  - "--a"'), "build_options", ["--a", "--b"], [], ['      - "--b"']),
        (row("build_options: []"), "build_options", None, ["    build_options: []"], ["    build_options: null"]),
        # Mappings: as blocks; what stays keeps its line and its comment.
        (row("ci_images: {}"), "ci_images", {"x86_64": "a/b:1"}, ["    ci_images: {}"],
         ["    ci_images:", "      x86_64: a/b:1"]),
        (row("ci_images:", "  x86_64: a/b:1  # old", "  aarch64: a/c:1"), "ci_images",
         {"x86_64": "a/b:1", "aarch64": "a/c:2"}, ["      aarch64: a/c:1"], ["      aarch64: a/c:2"]),
        (row("ci_images:", "  x86_64: a/b:1", "  aarch64: a/c:1"), "ci_images", {"x86_64": "a/b:1"},
         ["      aarch64: a/c:1"], []),
        (row("ci_images:", "  x86_64: a/b:1"), "ci_images", {"x86_64": "a/b:1", "aarch64": "a/c:1"}, [],
         ["      aarch64: a/c:1"]),
        (row("ci_images:", "  x86_64: a/b:1"), "ci_images", {}, ["    ci_images:", "      x86_64: a/b:1"],
         ["    ci_images: {}"]),
    ],
)  # fmt: skip
def test_values_are_written_as_the_file_writes_them(
    text: str, key: str, value: Any, gone: list[str], come: list[str]
) -> None:
    new = corrected(text, (("releases", 1, key), value))
    assert difference(text, new) == (gone, come)
    assert yaml.safe_load(new)["releases"][1][key] == value


def test_a_new_key_stands_where_the_model_has_it() -> None:
    new = corrected(FILES[ROWS], (("releases", 1, "cmake_minimum"), "3.20"), (("releases", 0, "overlay"), ["test"]))
    lines = new.splitlines()
    at = lines.index('    cmake_minimum: "3.20"')
    assert lines[at + 1] == "    redefines_file: true"
    at = lines.index("    overlay: [test]")
    assert lines[at - 1 : at + 2] == ['    op_plugin: "master"', "    overlay: [test]", "    uses_ninja: true"]


def test_what_stands_behind_a_value_stays_behind_it() -> None:
    text = FILES[ROWS].replace("    uses_ninja: true\n", "    ci_images:\n      x86_64: a/b:1\n\n  # Above.\n")
    new = corrected(text, (("releases", 0, "ci_images"), {"x86_64": "a/b:2", "aarch64": "a/c:1"}))
    assert "      x86_64: a/b:2\n      aarch64: a/c:1\n\n  # Above.\n\n  # The line that most" in new
    # The last key of a row: the empty line behind it stays between the rows.
    new = corrected(FILES[ROWS], (("releases", 0, "uses_mold"), True))
    assert "\n    uses_mold: true\n    uses_ninja: true\n\n  # The line" in new or (
        "\n    uses_ninja: true\n    uses_mold: true\n\n  # The line" in new
    )


def test_hashes_are_appended_to_the_cell() -> None:
    keys = ("torch", "2.6.0", "wheels", "x86_64", "3.9")
    old = yaml.safe_load(FILES["torch.yaml"])["torch"]["2.6.0"]["wheels"]["x86_64"]["3.9"]
    new = corrected(FILES["torch.yaml"], (keys, [*old, "sha256:" + "f" * 64]))
    assert difference(FILES["torch.yaml"], new) == ([], [f"          - sha256:{'f' * 64}"])
    new = corrected(FILES["torch.yaml"], ((*keys[:-1], "3.11"), ["sha256:" + "f" * 64]))
    assert yaml.safe_load(new)["torch"]["2.6.0"]["wheels"]["x86_64"]["3.11"] == ["sha256:" + "f" * 64]
    assert difference(FILES["torch.yaml"], new)[0] == []
    new = corrected(FILES["torch.yaml"], (("torch", "1.5.0", "wheels", "aarch64", "3.7"), ["sha256:" + "f" * 64]))
    assert yaml.safe_load(new)["torch"]["1.5.0"]["wheels"] == {"aarch64": {"3.7": ["sha256:" + "f" * 64]}}


def test_hashes_that_are_gone_leave_the_others_on_their_lines() -> None:
    keys = ("torch", "2.6.0", "wheels", "x86_64", "3.9")
    (old,) = yaml.safe_load(FILES["torch.yaml"])["torch"]["2.6.0"]["wheels"]["x86_64"]["3.9"]
    others = [f"sha256:{digit * 64}" for digit in "ab"]
    line, more = f"          - {old}\n", "".join(f"          - {other}\n" for other in others)
    # The last item has the blank line and the comment of what follows.
    text = FILES["torch.yaml"].replace(line, f"{line}{more}\n        # The next one.\n")
    new = corrected(text, (keys, [old, "sha256:" + "c" * 64]))
    assert new == text.replace(more, f"          - sha256:{'c' * 64}\n")


def test_the_files_change_and_the_places_are_told(tmp_path: Path) -> None:
    write_matrix(tmp_path)
    found = drift(tmp_path, "releases", 1, "package_version", value="2.6.0.post4")
    changes = update(tmp_path, [found], pytest.fail)
    line = load_matrix(tmp_path).release(LINE)
    assert line is not None
    assert line.package_version == "2.6.0.post4"
    number = (tmp_path / ROWS).read_text().splitlines().index('    package_version: "2.6.0.post4"') + 1
    assert changes == [Change(f"{tmp_path / ROWS}:{number}:22", found)]
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)


def test_without_a_certain_value_nothing_is_written(tmp_path: Path) -> None:
    write_matrix(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert update(tmp_path, [Drift(LINE, "pythons", "a", "b", "place", "source")], pytest.fail) == []
    # The value that stands there already changes no byte either.
    assert update(tmp_path, [drift(tmp_path, "releases", 1, "package_version", value="2.6.0.post3")], pytest.fail) == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_a_correction_that_would_make_the_matrix_invalid_is_left_out_alone(tmp_path: Path) -> None:
    write_matrix(tmp_path)
    said: list[str] = []
    hashes = yaml.safe_load(FILES["torch.yaml"])["torch"]["2.6.0"]["wheels"]["x86_64"]["3.9"]
    keys = ("torch", "2.6.0", "wheels", "x86_64", "3.9")
    first = drift(tmp_path, *keys, value=[*hashes, "sha256:" + "f" * 64], file="torch.yaml")
    bad = drift(tmp_path, "releases", 1, "pythons", value=["3.9", "3.12"])
    last = drift(tmp_path, "releases", 1, "package_version", value="2.6.0.post4")
    assert [change.drift for change in update(tmp_path, [first, bad, last], said.append)] == [first, last]
    line = load_matrix(tmp_path).release(LINE)
    assert line is not None
    assert (line.package_version, line.pythons) == ("2.6.0.post4", ("3.9", "3.10"))
    assert len(line.torch.wheels["x86_64"]["3.9"]) == 2
    (warning,) = said
    assert warning.startswith(f"{LINE}: pythons is left as it is, the corrected matrix would not be valid: ")
    assert f"{tmp_path / ROWS}:" in warning
    assert "3.12: expected Pythons that torch 2.6.0 has wheels for" in warning
    # Two that cannot be, and nothing else.
    other = drift(tmp_path, "releases", 0, "pythons", value=["3.12"])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert update(tmp_path, [bad, other], said.append) == []
    assert len(said) == 3
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_that_cannot_be_written_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_matrix(tmp_path)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builder.audit.update.atomic_write", refuse)
    with pytest.raises(MachineError, match=r"pytorch-2\.6\.yaml cannot be written: Permission denied") as caught:
        update(tmp_path, [drift(tmp_path, "releases", 1, "package_version", value="2.6.0.post4")], pytest.fail)
    assert "--matrix" in str(caught.value.hint)


def test_the_real_matrix_survives_corrections_of_all_its_lines(tmp_path: Path) -> None:
    for path in MATRICES:
        shutil.copyfile(path, tmp_path / path.name)
    matrix = load_matrix(tmp_path)
    drifts = []
    for line in matrix.releases:
        document, index = matrix.rows[line.branch]
        correction = Correction(document.path, ("releases", index, "finds_ccache"), not line.finds_ccache)
        drifts.append(Drift(line.branch, "finds_ccache", "a", "b", "p", "s", correction=correction))
    assert len(update(tmp_path, drifts, pytest.fail)) == len(matrix.releases)
    for line in load_matrix(tmp_path).releases:
        old = matrix.release(line.branch)
        assert old is not None
        assert line.finds_ccache is not old.finds_ccache
        assert line.package_version == old.package_version
    # Corrected back, every row keeps the key and nothing else has changed.
    update(tmp_path, [drift_back(item) for item in drifts], pytest.fail)
    for line in load_matrix(tmp_path).releases:
        assert line == matrix.release(line.branch)


def drift_back(item: Drift) -> Drift:
    assert item.correction is not None
    keys, value = item.correction.keys, item.correction.value
    return Drift(item.line, item.fact, "b", "a", "p", "s", correction=Correction(item.correction.path, keys, not value))


def test_small_matrix_is_written_in_the_files_style(tmp_path: Path) -> None:
    small_matrix(tmp_path)
    for path in tmp_path.iterdir():
        # Inline mappings with spaces as the test's own files have them are kept, too.
        assert apply(path.read_text(), []) == path.read_text()

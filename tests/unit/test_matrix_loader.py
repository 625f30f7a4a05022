"""Errors of matrix files: each names file, line, column, value and expectation, and a next step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import date, datetime, timezone
from pathlib import Path

import pytest

from builder.core.errors import RequestError
from builder.core.workspace import resource
from builder.matrix.loader import load_matrix

Edit = Callable[..., None]
ROWS = "pytorch-2.5.yaml"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copy = tmp_path / "matrices"
    shutil.copytree(resource("matrices"), copy)
    return copy


@pytest.fixture
def edit(folder: Path) -> Edit:
    def replace(name: str, old: str, new: str) -> None:
        text = (folder / name).read_text()
        assert old in text, old
        (folder / name).write_text(text.replace(old, new, 1))

    return replace


def failure(folder: Path, sources_file: Path | None = None) -> RequestError:
    with pytest.raises(RequestError) as caught:
        load_matrix(folder, sources_file)
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value


def place(path: Path, text: str, after: str = "") -> str:
    """file:line:column of ``text`` behind ``after`` in its line."""
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if text in line and after in line:
            return f"{path}:{number}:{line.index(text, line.index(after)) + 1}: "
    raise AssertionError(text)


@pytest.mark.parametrize(
    ("old", "new", "at", "says"),
    [
        ("branch: v2.5.1-7.1.0", "branch: --upload-pack=x", "--upload", "expected a branch name"),
        ("branch: v2.5.1-7.1.0", "branch: ../../etc", "../..", "expected a branch name"),
        ("branch: v2.5.1-7.1.0", "branch: v2.5.1/7.1.0", "v2.5.1/", "expected a branch name"),
        ("branch: v2.5.1-7.1.0", 'branch: "v2.5.1-7.1.0\\n"', '"v2.5.1', "expected a branch name"),
        ('op_plugin: "7.1.0"', 'op_plugin: "-c7.1.0"', '"-c', "expected a branch name"),
        ('"3.10"', "3.10", "3.10", 'put it in quotes: "3.10"'),
        ('"3.10"', '"py3.10"', '"py3', "such as \"3.9\""),
        ('cann: "8.2.RC1"', "cann: [8]", "[8]", "expected text"),
        ("channel: nightly", "channel: weekly", "weekly", "'release' or 'nightly'"),
        ("honours_max_jobs: true", 'honours_max_jobs: "true"', '"true"', "expected true or false"),
        ("numpy==1.21.3", "numpy>=1.21.3", "numpy>=", "NAME==VERSION"),
        ('cmake_minimum: "3.18"', "environment: {path: x}", "path", "environment variable in capitals"),
        ('cmake_minimum: "3.18"', "cmake_minimum: 3.18", "3.18", 'put it in quotes: "3.18"'),
        ('cmake_minimum: "3.18"', "cmake_minimum: !!bool x", "!!bool", "tag 'tag:yaml.org,2002:bool' is not allowed"),
        ('cmake_minimum: "3.18"', "cmake_minimum: !!int ²", "!!int", "tag 'tag:yaml.org,2002:int' is not allowed"),
        ('cmake_minimum: "3.18"', "cmake_minimum: *x", "*x", "anchors and aliases"),
        ('cmake_minimum: "3.18"', f'environment: {{"{"A" * 1001}": x}}', '"AAA', "longer than 1000 characters"),
        ('cmake_minimum: "3.18"', 'environment: {"a\\nb": x}', '"a', "environment['a\\nb']"),
        ('package_version: "2.5.1.post3"', 'package_version: "2.6.0"', '"2.6.0"', "package version of PyTorch 2.5.1"),
    ],
)  # fmt: skip
def test_wrong_values_are_located(folder: Path, edit: Edit, old: str, new: str, at: str, says: str) -> None:
    edit(ROWS, old, new)
    error = failure(folder)
    assert error.message.startswith(place(folder / ROWS, at, new.split(":")[0]))
    assert says in error.message
    assert error.exit_code == 2


@pytest.mark.parametrize(
    "image",
    ["--privileged", "../../etc:1", "-v/:/host", "x.org/../etc", "a b", "UPPER/case", "x@sha256:00", "/etc", "a//b"],
)
def test_base_images_cannot_be_options_or_paths(folder: Path, edit: Edit, image: str) -> None:
    edit("toolchains.yaml", "base_image: pytorch/manylinux-builder:cpu-2.1", f'base_image: "{image}"')
    error = failure(folder)
    assert error.message.startswith(place(folder / "toolchains.yaml", f'"{image}"'))
    assert "expected an image reference" in error.message


@pytest.mark.parametrize(
    "image", ["debian:12", "localhost:5000/base/py__x:1.0", "example.org/pypa/manylinux_2_28_x86_64"]
)
def test_ordinary_base_images_pass(folder: Path, edit: Edit, image: str) -> None:
    edit("toolchains.yaml", "base_image: pytorch/manylinux-builder:cpu-2.1", f'base_image: "{image}"')
    assert load_matrix(folder).toolchains["gcc9-cpu-2.1-x86_64"].base_image == image


def test_unknown_key_gets_the_nearest_name(folder: Path, edit: Edit) -> None:
    edit(ROWS, "    op_plugin:", "    op_plugins:")
    error = failure(folder)
    everything = error.message + (error.details or "")
    assert "unknown key 'op_plugins'; did you mean 'op_plugin'?" in everything
    assert "the key 'op_plugin' is missing" in everything
    assert place(folder / ROWS, "op_plugins") + "unknown key" in everything


def test_several_problems_are_all_told(folder: Path, edit: Edit) -> None:
    edit(ROWS, "channel: nightly", "channel: weekly")
    edit(ROWS, 'cann: "8.2.RC1"', "cann: -8")
    error = failure(folder)
    assert "'weekly'" in error.message
    assert error.details is not None
    assert place(folder / ROWS, "-8") + "releases[2].cann: '-8': expected text" in error.details


def test_of_very_many_problems_the_first_are_told(folder: Path) -> None:
    (folder / ROWS).write_text('pytorch: "2.5"\nreleases:\n' + "".join(f"  - {number}\n" for number in range(5000)))
    error = failure(folder)
    assert "releases[0]: '0'" in error.message
    assert error.details is not None
    assert error.details.splitlines()[-2:] == [
        f"{folder / ROWS}:22:5: releases[19]: '19': expected a mapping of keys to values",
        "and 4980 more",
    ]


def test_hashes_of_torch_wheels(folder: Path, edit: Edit) -> None:
    edit("torch.yaml", "sha256:865d", "sha256:zzzz")
    error = failure(folder)
    assert error.message.startswith(place(folder / "torch.yaml", "sha256:zzzz"))
    assert "torch['1.5.0']" in error.message or "torch.1.5.0.wheels.x86_64.3.7[0]" in error.message
    assert "64 hexadecimal digits" in error.message


def test_pytorch_without_an_entry_in_the_tables(folder: Path, edit: Edit) -> None:
    edit("torch.yaml", '  "2.5.1":', '  "2.5.9":')
    error = failure(folder)
    assert "expected requirements of torch 2.5.9 to require it, not torch==2.5.1+cpu" in error.message
    edit("torch.yaml", "torch==2.5.1+cpu", "torch==2.5.9+cpu")
    edit("torch.yaml", "torch==2.5.1\n", "torch==2.5.9\n")
    error = failure(folder)
    assert error.message.startswith(place(folder / ROWS, '"2.5.1"', '  pytorch: "2.5.1"'))
    assert "releases[0].pytorch: '2.5.1': expected a version of torch.yaml" in error.message
    assert error.hint == "add it to torch.yaml, or correct it here"
    edit("torch.yaml", '  "2.5.9":', '  "2.5.1":')
    edit("torch.yaml", "torch==2.5.9+cpu", "torch==2.5.1+cpu")
    edit("torch.yaml", "torch==2.5.9\n", "torch==2.5.1\n")
    edit("lifecycle.yaml", '  "2.5.1":', '  "5":')
    error = failure(folder)
    assert "'5': expected a PyTorch version" in error.message
    edit("lifecycle.yaml", '  "5":', '  "1.0.0":')
    error = failure(folder)
    assert "expected a version of lifecycle.yaml" in error.message
    assert error.message.startswith(place(folder / ROWS, '"2.5.1"', '  pytorch: "2.5.1"'))


def test_python_without_a_torch_wheel(folder: Path, edit: Edit) -> None:
    edit(ROWS, '["3.9", "3.10", "3.11"]', '["3.7", "3.10", "3.11"]')
    error = failure(folder)
    assert error.message.startswith(place(folder / ROWS, '["3.7"'))
    assert "3.7: expected Pythons that torch 2.5.1 has wheels for, 3.9, 3.10, 3.11, 3.12" in error.message


def test_toolchain_whose_gcc_is_of_no_compiler(folder: Path, edit: Edit) -> None:
    edit("toolchains.yaml", 'gcc: "9.3.1"', 'gcc: "9.4.0"')
    error = failure(folder)
    assert error.message.startswith(place(folder / "toolchains.yaml", '"9.4.0"'))
    assert "toolchains.gcc9-cpu-1.11-x86_64.gcc: '9.4': expected a name of compilers" in error.message
    assert error.hint == "did you mean 9.3?"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("{package: gcc-9,", "{package: g++,", "'g++': expected a toolset or package such as gcc-toolset-11"),
        ("debian-bullseye: {package: gcc-9", "debian-bullsey: {package: gcc-9",
         "compilers.9.3.provided_by: 'debian-bullsey': expected a name of bases"),
        ("from_source: [manylinux-2-28, debian-bookworm, debian-trixie]", "from_source: [manylinux-2-28]",
         "compilers.9.3: expected debian-bookworm, debian-trixie once, under provided_by or from_source"),
        ('ids: [debian], version: "12"', "ids: [debian], version: 12", "'12': expected text; put it in quotes"),
        ('ids: [debian], version: "11"', 'version: "11"', "bases.debian-bullseye: the key 'ids' is missing"),
    ],
)  # fmt: skip
def test_each_gcc_is_said_for_each_base(folder: Path, edit: Edit, old: str, new: str, says: str) -> None:
    edit("toolchains.yaml", old, new)
    error = failure(folder)
    assert error.message.startswith(f"{folder / 'toolchains.yaml'}:")
    assert says in error.message


@pytest.mark.parametrize("day", ["2026-01-25", "0", '"0"', "86400", '"2026-01-25T00:00:00"', "soon", "2026", "true"])
def test_days_are_written_in_one_way(folder: Path, edit: Edit, day: str) -> None:
    edit("lifecycle.yaml", 'maintained: "2021-07-29"', f"maintained: {day}")
    error = failure(folder)
    assert error.message.startswith(place(folder / "lifecycle.yaml", day, "maintained"))
    assert 'expected a day in quotes, such as "2026-01-25"' in error.message


def test_status_is_that_of_the_day(folder: Path) -> None:
    def status(day: str) -> str:
        line = load_matrix(folder, as_of=date.fromisoformat(day)).release("v2.6.0-7.1.0")
        assert line is not None
        return line.status

    assert [status(day) for day in ("2025-07-24", "2025-07-25", "2026-01-25", "2027-01-25")] == [
        "planned",
        "development",
        "maintained",
        "end-of-life",
    ]
    assert load_matrix(folder).as_of == datetime.now(timezone.utc).date()


def test_unknown_toolchain_and_submodule(folder: Path, edit: Edit) -> None:
    edit(ROWS, "x86_64: gcc9-cpu-2.1-x86_64", "x86_64: gcc9-cpu-2.1-x86-64")
    error = failure(folder)
    assert error.message.startswith(place(folder / ROWS, "gcc9-cpu-2.1-x86-64"))
    assert error.hint == "did you mean gcc9-cpu-2.1-x86_64?"
    edit(ROWS, "gcc9-cpu-2.1-x86-64", "gcc9-cpu-2.1-x86_64")
    edit(ROWS, "required: [nlohmann-json]", "required: [nlohmann]")
    error = failure(folder)
    assert error.message.startswith(place(folder / ROWS, "nlohmann]"))
    assert "submodules.required[0]" in error.message


def test_toolchain_of_the_other_architecture(folder: Path, edit: Edit) -> None:
    edit(ROWS, "x86_64: gcc9-cpu-2.1-x86_64", "x86_64: gcc10-manylinux2014-aarch64")
    assert "expected a toolchain for x86_64, this one is for aarch64" in failure(folder).message


def test_branch_must_agree_with_its_parts(folder: Path, edit: Edit) -> None:
    edit(ROWS, 'release: "7.1.0"', 'release: "7.2.0"')
    assert "that is v2.5.1-7.2.0" in failure(folder).message


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("numpy==1.21.3]", "numpy==2.0.2]", "numpy below 2 beside PyTorch 2.1.0"),
        (", PyYAML==6.0.1", "", "pin pyyaml for Python 3.8"),
        ('"3.11": [numpy', '"3.12": [numpy', "not 3.12"),
        ('["3.8", "3.9"', '["3.9", "3.9"', "each Python once"),
    ],
)
def test_rules_of_pins_and_pythons(folder: Path, edit: Edit, old: str, new: str, says: str) -> None:
    edit("pytorch-2.1.yaml", old, new)
    assert says in failure(folder).message


def test_duplicate_release_lines_name_both_places(folder: Path) -> None:
    path = folder / ROWS
    text = path.read_text()
    path.write_text(text + text[text.index("  - branch:") :])
    second = text.count("\n") + 1
    error = failure(folder)
    assert error.message.startswith(f"{path}:{second}:13: the release line 'v2.5.1' stands twice")
    assert f"{path}:38:13" in error.message


def test_rows_stand_in_the_file_of_their_pytorch(folder: Path) -> None:
    (folder / "pytorch-2.7.yaml").write_text((folder / ROWS).read_text())
    (folder / ROWS).unlink()
    assert "expected '2.7', as the file's name says" in failure(folder).message
    text = (folder / "pytorch-2.7.yaml").read_text()
    (folder / "pytorch-2.7.yaml").write_text(text.replace('pytorch: "2.5"', 'pytorch: "2.7"'))
    error = failure(folder)
    assert "expected a version of PyTorch 2.7" in error.message
    assert error.hint == "move the row to pytorch-2.5.yaml"


def test_a_rows_own_value_wins_over_the_default(folder: Path, edit: Edit) -> None:
    edit(ROWS, "    channel: nightly", '    channel: nightly\n    finds_ccache: false\n    pythons: ["3.11"]')
    own, other = (load_matrix(folder).release(name) for name in ("v2.5.1", "v2.5.1-7.1.0"))
    assert own is not None
    assert other is not None
    assert (own.finds_ccache, own.pythons) == (False, ("3.11",))
    assert (other.finds_ccache, other.pythons) == (True, ("3.9", "3.10", "3.11"))
    # A mapping is replaced as a whole; only sources are joined.
    assert own.submodules == other.submodules


def test_sources_are_joined_key_by_key(folder: Path) -> None:
    line = load_matrix(folder).release("v2.5.1")
    assert line is not None
    assert set(line.sources) == {"toolchains", "released", "op_plugin"}
    assert line.sources["toolchains"] == "toolchains.yaml says it for each"  # of the defaults
    assert line.sources["released"] == "wheels on PyPI, by the commit that their version.py names"  # its own


def test_other_mappings_are_not_joined(folder: Path, edit: Edit) -> None:
    edit(ROWS, "    channel: nightly", "    channel: nightly\n    toolchains: {aarch64: gcc10-manylinux2014-aarch64}")
    line = load_matrix(folder).release("v2.5.1")
    assert line is not None
    assert line.architectures == ("aarch64",)


def test_places_of_values_lead_to_rows_and_defaults(folder: Path) -> None:
    matrix, path = load_matrix(folder), folder / ROWS
    branch = "v2.5.1-7.1.0"

    def of(*keys: str | int) -> str:
        return matrix.place_of(branch, *keys) + ": "

    assert matrix.places[branch] + ": " == of("branch") == place(path, branch)
    assert of("cann") == place(path, '"8.2.RC1"')
    assert of("pythons", 1) == place(path, '"3.10"')
    assert of("toolchains", "aarch64") == place(path, "gcc10-manylinux2014-aarch64")
    assert of("sources", "toolchains") == place(path, '"toolchains.yaml says')
    assert of("sources", "cann") == f"{path}:69:13: "
    assert of("no such key") == f"{path}:62:5: "  # the row


@pytest.mark.parametrize(
    ("old", "new", "at", "says"),
    [
        ("  custom_operators: true", "  custom_operators: 7", "7", "defaults.custom_operators: '7': expected true"),
        ('"3.10"', '"3.x"', '"3.x"', "defaults.pythons[1]: '3.x': expected a Python minor version"),
        ("full: [torchair,", "full: [torch air,", "torch air", "defaults.submodules.full[0]: 'torch air'"),
        ("  overlay:", "  overlays:", "overlays", "unknown key 'overlays'; did you mean 'overlay'?"),
        ("  overlay:", "  branch: v2.5.1\n  overlay:", "branch", "defaults.branch: expected in each of releases"),
        ('    toolchains: "t', '    toolchains: [1]\n    cann: "t', "[1]", "defaults.sources.toolchains: a list"),
        ('    toolchains: "t', '    "a\\nb": "t', '"a', "defaults.sources['a\\nb']: 'a\\nb': expected a name"),
    ],
)  # fmt: skip
def test_errors_in_defaults_are_told_once_with_their_place(
    folder: Path, edit: Edit, old: str, new: str, at: str, says: str
) -> None:
    edit(ROWS, old, new)
    error = failure(folder)
    assert error.message.startswith(place(folder / ROWS, at, new.split("\n")[0].split(":")[0]))
    assert says in error.message
    assert error.details is None


@pytest.mark.parametrize("value", ["[x]", "x", "3", "null", ""])
def test_defaults_are_a_mapping(folder: Path, value: str) -> None:
    path = folder / ROWS
    path.write_text(f"defaults: {value}\n" + path.read_text().replace("defaults:", "ignored:"))
    assert failure(folder).message.startswith(f"{path}:1:{11 if value else 10}: defaults: ")
    path.write_text(f"defaults: {{sources: {value}}}\nreleases: []\n")
    assert failure(folder).message.startswith(f"{path}:1:21: defaults.sources: ")


def test_defaults_do_not_make_rows(folder: Path) -> None:
    path = folder / ROWS
    path.write_text(path.read_text().partition("releases:")[0] + "releases: []\n")
    assert load_matrix(folder).release("v2.5.1") is None
    path.write_text(path.read_text().replace("releases: []", "releases: [x]"))
    assert "releases[0]: 'x': expected a mapping" in failure(folder).message


def test_a_file_that_would_be_passed_over(folder: Path) -> None:
    (folder / "pytorch2.7.yaml").write_text("releases: []\n")
    assert str(folder / "pytorch2.7.yaml") in failure(folder).message


def test_missing_folder_and_file(tmp_path: Path, folder: Path) -> None:
    assert "cannot be read" in failure(tmp_path / "absent").message
    for name in ("toolchains.yaml", "torch.yaml", "lifecycle.yaml", "sources.yaml"):
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        assert f"{folder / name} cannot be read: No such file" in failure(folder).message
        (folder / name).write_bytes(content)
    (folder / "decisions.yaml").unlink()
    assert load_matrix(folder).decisions.contradictions == ()


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('pytorch: "2.5"\nreleases: [\n', 3, "malformed YAML"),
        ('pytorch: "2.5"\n\treleases: []\n', 2, "malformed YAML"),
        ('pytorch: "2.5"\nreleases: []\npytorch: "2.6"\n', 3, "'pytorch' stands twice; the first is at"),
        ("pytorch: &a x\nreleases: [*a]\n", 1, "anchors and aliases"),
        ("a: !!python/object/apply:os.system [id]\n", 1, "tag"),
        ("[" * 200, 1, "nested more than"),
        ("? [a]\n: b\n", 1, "a key must be plain text"),
        ("", 1, "empty"),
        ("just text\n", 1, "'just text': expected a mapping of keys to values"),
        ('pytorch: "2.5"\nreleases: x\n', 2, "releases: 'x': expected a list"),
        ('pytorch: "2.5"\nreleases: [x]\n', 2, "releases[0]: 'x': expected a mapping of keys to values"),
        ("---\na: 1\n---\nb: 2\n", 3, "malformed YAML: a second document starts here"),
        ("a: \x07\n", 1, "control character"),
        (f"pytorch: {'1' * 900}\nreleases: []\n", 1, "put it in quotes"),
        (f"pytorch: {'1' * 5000}\nreleases: []\n", 1, "longer than 1000 characters"),
        (f"{'x' * 5000}: 1\n", 1, "longer than 1000 characters"),
        ("pytorch: <<\nreleases: []\n", 1, "tag"),
        ("a: " + "{a: " * 200, 1, "nested more than"),
        ("a: !x {}\n", 1, "the tag '!x' is not allowed"),
        ("a: !x []\n", 1, "the tag '!x' is not allowed"),
        ("&a pytorch: x\n", 1, "a key must be plain text"),
    ],
)
def test_text_that_is_not_plain_yaml(folder: Path, text: str, line: int, says: str) -> None:
    path = folder / ROWS
    path.write_text(text)
    error = failure(folder)
    assert says in error.message
    assert f"{path}:{line}:" in error.message
    assert len(error.message) < 600


def test_bytes_that_are_not_text(folder: Path) -> None:
    (folder / ROWS).write_bytes(b'pytorch: "2.5"\n# \xff\xfe\n')
    assert failure(folder).message == f"{folder / ROWS}:2: the file is not UTF-8 text"


def test_a_huge_file_is_not_parsed(folder: Path) -> None:
    (folder / ROWS).write_text("#" * (1 << 20) + "\n")
    assert "larger than 1 MiB" in failure(folder).message


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("gone")])
@pytest.mark.parametrize("name", ["pytorch-2.5.yaml", "pytorch-3.0.yml", "lifecycle.yaml", "decisions.yaml"])
def test_what_is_called_as_a_file_of_the_matrix_must_be_one(
    folder: Path, name: str, make: Callable[[Path], None]
) -> None:
    (folder / name).unlink(missing_ok=True)
    make(folder / name)
    assert failure(folder).message == f"{folder / name} is no file"


def test_what_an_editor_puts_into_the_folder_is_passed_over(folder: Path) -> None:
    before = load_matrix(folder).releases
    (folder / ".#pytorch-2.5.yaml").symlink_to("ann@machine.example.org:1234")
    (folder / ".pytorch-2.5.yaml.swp").write_bytes(b"\0")
    (folder / ".pytorch-9.9.yaml").write_text("releases: [")
    (folder / "pytorch-2.5.yaml~").write_text("releases: [")
    (folder / "#pytorch-2.5.yaml#").write_text("releases: [")
    assert load_matrix(folder).releases == before

"""Errors of matrix files: each names file, line, column, value and expectation, and a next step."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.errors import RequestError
from builder.matrix.loader import load_matrix
from builder.workspace import resource

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
        ("status: maintained", "status: loved", "loved", "'maintained'"),
        ("honours_max_jobs: true", 'honours_max_jobs: "true"', '"true"', "expected true or false"),
        ("numpy==1.21.3", "numpy>=1.21.3", "numpy>=", "NAME==VERSION"),
        ("environment: {}", "environment: {path: x}", "path", "environment variable in capitals"),
        ('package_version: "2.5.1.post3"', 'package_version: "2.6.0"', '"2.6.0"', "package version of PyTorch 2.5.1"),
        ("sha256:a3ad", "sha256:zzzz", "sha256:zzzz", "64 hexadecimal digits"),
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
    [
        "--privileged",
        "../../etc:1",
        "-v/:/host",
        "example.org/../etc",
        "a b",
        "UPPER/case",
        "x@sha256:00",
        "/etc",
        "a//b",
    ],
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
    edit(ROWS, "status: maintained", "status: loved")
    edit(ROWS, 'cann: "8.2.RC1"', "cann: -8")
    error = failure(folder)
    assert "-8" in error.message
    assert error.details is not None
    assert "'loved'" in error.details


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
    assert error.message.startswith(f"{path}:{second}:13: the release line 'v2.5.1-7.1.0' stands twice")
    assert f"{path}:8:13" in error.message


def test_rows_stand_in_the_file_of_their_pytorch(folder: Path) -> None:
    (folder / "pytorch-2.7.yaml").write_text((folder / ROWS).read_text())
    assert "expected '2.7', as the file's name says" in failure(folder).message
    (folder / "pytorch-2.7.yaml").write_text((folder / ROWS).read_text().replace('pytorch: "2.5"', 'pytorch: "2.7"'))
    error = failure(folder)
    assert "expected a version of PyTorch 2.7" in error.message
    assert error.hint == "move the row to pytorch-2.5.yaml"


def test_a_file_that_would_be_passed_over(folder: Path) -> None:
    (folder / "pytorch2.7.yaml").write_text("releases: []\n")
    assert str(folder / "pytorch2.7.yaml") in failure(folder).message


def test_missing_folder_and_file(tmp_path: Path, folder: Path) -> None:
    assert "cannot be read" in failure(tmp_path / "absent").message
    (folder / "toolchains.yaml").unlink()
    assert str(folder / "toolchains.yaml") in failure(folder).message


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
        ("---\na: 1\n---\nb: 2\n", 3, "malformed YAML"),
        ("a: \x07\n", 1, "control character"),
        (f"pytorch: {'1' * 5000}\nreleases: []\n", 1, "put it in quotes"),
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


def test_a_users_file_replaces_urls_and_keeps_the_old_names(tmp_path: Path, folder: Path) -> None:
    place_of_user = tmp_path / "mine"
    place_of_user.mkdir()
    mine = place_of_user / "sources.yaml"
    mine.write_text("repositories:\n  op-plugin:\n    urls: [./op-plugin.git, https://git.example.org/o.git]\n")
    sources = load_matrix(folder, mine).sources
    assert sources.urls("op-plugin") == (str(place_of_user / "op-plugin.git"), "https://git.example.org/o.git")
    assert sources.find("https://gitee.com/ascend/op-plugin") == "op-plugin"
    assert sources.urls("torch_npu") == load_matrix(folder).sources.urls("torch_npu")


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("repositories: {op_plugin: {urls: [https://x.org/y]}}", "'op_plugin'", "did you mean op-plugin?"),
        ("repositories: {op-plugin: {urls: ['ext::sh -c id']}}", "expected a git URL", None),
        ("repositories: {op-plugin: {urls: ['--upload-pack=id']}}", "expected a git URL", None),
        ("repositories: {op-plugin: {urls: ['ssh://-oProxyCommand=id/x']}}", "expected a git URL", None),
        ("repositories: {op-plugin: {urls: []}}", "at least 1", None),
    ],
)
def test_wrong_users_file(tmp_path: Path, folder: Path, text: str, says: str, hint: str | None) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(text + "\n")
    error = failure(folder, mine)
    assert error.message.startswith(f"{mine}:1:")
    assert says in error.message
    assert hint is None or error.hint == hint


def test_a_password_is_refused_and_not_shown(tmp_path: Path, folder: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("repositories: {op-plugin: {urls: ['https://me:hunter2@git.example.org/o.git']}}\n")
    error = failure(folder, mine)
    assert "without a password" in error.message
    assert "hunter2" not in error.message + (error.details or "") + (error.hint or "")

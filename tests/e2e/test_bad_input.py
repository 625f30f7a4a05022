"""Bad input through the command line: one clear error each, the right exit code, nothing left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import CommandLine, Ran

from builder.cli.demo_upstream import Miniature
from builder.core.workspace import resource

Options = Callable[..., list[str]]
LINE = "--pytorch=v2.5.1-7.1.0"


def clear(ran: Ran, code: int, *says: str) -> None:
    """One error, in words, without a traceback."""
    assert ran.code == code, ran.text
    assert "Traceback" not in ran.text
    for words in says:
        assert words in " ".join(ran.text.split()), ran.text


def nothing_made(cli: CommandLine) -> None:
    """No wheel, no prepared tree, no half-made folder."""
    assert cli.dist == []
    for folder in ("pytorch", "compile"):
        place = cli.build / folder
        assert not place.exists() or not [name for name in os.listdir(place) if "lock" not in name]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--pytorch=v2.5.1-7.1.9"], ["v2.5.1-7.1.9", "v2.5.1-7.1.0"]),
        ([LINE, "--python=3.8"], ["3.8", "3.9, 3.10"]),
        ([LINE, "--pyton=3.9"], ["--pyton", "--python"]),
        (["--pytorch=--upload-pack=x"], ["--upload-pack=x"]),
        (["--pytorch=../../etc"], ["../../etc"]),
        ([], ["--help"]),
        (["bild"], ["bild"]),
        (["build"], ["--pytorch"]),
        ([LINE, "--jobs=0"], ["--jobs"]),
        ([LINE, "--memory=much"], ["'much'", "8G"]),
        ([LINE, "--op-plugin=--exec=x", "--offline"], ["--exec=x"]),
        ([LINE, "--keep-changes", "--rebuild"], ["--keep-changes"]),
        ([LINE, "--torch-npu-url=--upload-pack=x"], ["--upload-pack=x"]),
    ],
)
def test_wrong_requests(cli: CommandLine, arguments: list[str], says: list[str]) -> None:
    clear(cli(*arguments, env={"COLUMNS": "200"}), 2, *says)
    nothing_made(cli)


def matrix_copy(folder: Path) -> Path:
    return Path(shutil.copytree(resource("matrices"), folder / "matrices"))


def test_malformed_yaml_names_file_line_and_column(cli: CommandLine) -> None:
    matrix = matrix_copy(cli.folder)
    file = matrix / "pytorch-2.5.yaml"
    file.write_text(file.read_text() + "\n  - [broken\n")
    clear(cli("list", f"--matrix={matrix}"), 2, "pytorch-2.5.yaml:")


def test_duplicate_rows_name_both_places(cli: CommandLine) -> None:
    matrix = matrix_copy(cli.folder)
    file = matrix / "pytorch-2.5.yaml"
    text = file.read_text()
    file.write_text(text + text[text.index("  - branch:") :])
    lines = [number for number, line in enumerate(file.read_text().splitlines(), 1) if line.startswith("  - branch:")]
    first, second = lines[0], lines[len(lines) // 2]
    clear(cli("list", f"--matrix={matrix}"), 2, "'v2.5.1'", *(f"pytorch-2.5.yaml:{line}:" for line in (first, second)))


def test_overlay_with_a_symlink_leading_out(cli: CommandLine, upstream: Miniature, miniature_options: Options) -> None:
    overlay = Path(shutil.copytree(upstream.op_plugin, cli.folder / "op-plugin"))
    (overlay / "op_plugin" / "escape").symlink_to("/etc/passwd")
    ran = cli(LINE, "--python=3.11", f"--op-plugin={overlay}", *miniature_options("--environment=host"))
    assert ran.code in {1, 2}
    clear(ran, ran.code, "escape")
    nothing_made(cli)


def test_custom_operators_with_a_symlink_leading_out(
    cli: CommandLine, upstream: Miniature, miniature_options: Options
) -> None:
    folder = Path(shutil.copytree(upstream.custom_ops, cli.folder / "ops"))
    (folder / "Evil.cpp").symlink_to("/etc/passwd")
    clear(cli(LINE, "--python=3.11", f"--custom-ops={folder}", *miniature_options("--environment=host")), 2, "Evil.cpp")
    nothing_made(cli)


def test_patch_that_leaves_the_tree(cli: CommandLine, miniature_options: Options) -> None:
    series = cli.folder / "patches" / "v2.5.1-7.1.0" / "torch_npu"
    series.mkdir(parents=True)
    (series / "series").write_text("evil.patch\n")
    (series / "evil.patch").write_text("--- /dev/null\n+++ b/../../evil\n@@ -0,0 +1 @@\n+evil\n")
    ran = cli(LINE, "--python=3.11", "--patches=patches", *miniature_options("--environment=host"))
    assert ran.code in {1, 2}
    clear(ran, ran.code, "evil.patch")
    assert not (cli.folder / "evil").exists()
    nothing_made(cli)


def test_patch_that_does_not_apply(cli: CommandLine, miniature_options: Options) -> None:
    series = cli.folder / "patches" / "v2.5.1-*" / "torch_npu"
    series.mkdir(parents=True)
    (series / "series").write_text("stale.patch\n")
    (series / "stale.patch").write_text("--- a/setup.py\n+++ b/setup.py\n@@ -1 +1 @@\n-no such line\n+other\n")
    ran = cli(LINE, "--python=3.11", "--patches=patches", *miniature_options("--environment=host"))
    clear(ran, 1, "stale.patch", "setup.py")
    nothing_made(cli)


def test_missing_engine(cli: CommandLine, miniature_options: Options) -> None:
    ran = cli(
        LINE,
        "--python=3.11",
        *miniature_options("--environment=docker"),
        env={"DOCKER_HOST": "unix:///nowhere/docker.sock"},
    )
    clear(ran, 3, "/nowhere/docker.sock")
    assert cli.dist == []


def test_branch_without_build_script(cli: CommandLine, upstream: Miniature, miniature_options: Options) -> None:
    repository = cli.folder / "torch_npu"
    for command in (
        ["git", "clone", "-q", "-b", "v2.5.1-7.1.0", str(upstream.torch_npu), str(repository)],
        ["git", "-C", str(repository), "rm", "-q", "ci/build.sh"],
        ["git", "-C", str(repository), "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "old"],
    ):
        subprocess.run(command, check=True)
    clear(
        cli(LINE, "--python=3.11", *miniature_options("--environment=host", f"--torch-npu-url={repository}")),
        2,
        "no ci/build.sh",
    )
    nothing_made(cli)


def test_unreachable_hosts_are_named_each_with_its_reason(cli: CommandLine, miniature_options: Options) -> None:
    folder = cli.folder / "no-repository"
    folder.mkdir()
    sources = cli.folder / "sources.yaml"
    sources.write_text(f"repositories:\n  torch_npu:\n    urls: [{folder}, 'http://127.0.0.1:9/torch_npu.git']\n")
    ran = cli(LINE, "--python=3.11", *miniature_options("--environment=host", f"--sources={sources}"))
    clear(ran, 1, str(folder), "does not appear to be a git repository", "127.0.0.1:9", "onnect")
    nothing_made(cli)


def test_offline_without_mirrors_says_what_is_missing(cli: CommandLine, miniature_options: Options) -> None:
    clear(
        cli(LINE, "--python=3.11", *miniature_options("--environment=host", "--offline")),
        1,
        "v2.5.1-7.1.0",
        "--offline",
    )
    nothing_made(cli)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_full_disk(cli: CommandLine, miniature_options: Options) -> None:
    small = cli.folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], check=True)
    try:
        ran = cli(LINE, "--python=3.11", f"--workspace={small}/build", f"--output={small}/dist", *miniature_options())
        clear(ran, 3, "space")
        assert not (small / "dist").exists() or not os.listdir(small / "dist")
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.engine
def test_base_image_without_the_wanted_python(cli: CommandLine, base_image: str, miniature_options: Options) -> None:
    ran = cli(
        "--pytorch=v2.1.0-7.1.0",
        "--python=3.8",
        *miniature_options("--environment=docker", f"--base-image={base_image}"),
    )
    clear(ran, 1, "has no Python 3.8", "cp311-cp311")
    assert cli.dist == []


def test_a_shell_without_a_terminal_prepares_nothing(cli: CommandLine, miniature_options: Options) -> None:
    clear(cli("shell", "v2.5.1-7.1.0-py3.11-x86_64", *miniature_options()), 3, "a shell needs a terminal")
    assert not cli.build.exists()

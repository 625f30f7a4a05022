"""Wheels that nobody could import are built without an error, and not published: each with a small edit of upstream.

Each build reports what is wrong with its wheel; the last one has no edit left and is published.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from difflib import unified_diff

import pytest
from support import CommandLine, Ran

from builder.cli.demo_upstream import Miniature

LINE = "--pytorch=v2.5.1-7.1.0"
PYTHON = "3.11"
Build = Callable[..., Ran]


@pytest.fixture(scope="module")
def cli(tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """One workspace for the module: its compile cache makes the later builds quick."""
    return CommandLine(tmp_path_factory.mktemp("loading"))


@pytest.fixture(scope="module")
def build(cli: CommandLine, miniature_options: Callable[..., list[str]]) -> Build:
    options = miniature_options("--environment=host", "--pch=off", f"--python={PYTHON}")
    return lambda *more: cli("build", LINE, *options, *more)


def operators(cli: CommandLine, upstream: Miniature, source: str) -> str:
    """The option for custom operators whose source is ``source``."""
    folder = cli.folder / "operators"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(upstream.custom_ops, folder)
    (place,) = folder.glob("*.cpp")
    place.write_text(source)
    return f"--custom-ops={folder}"


def edited(cli: CommandLine, upstream: Miniature, name: str, old: str, new: str) -> str:
    """The option for a series of one patch, which replaces ``old`` in a file of torch_npu."""
    show = ["git", "-C", str(upstream.torch_npu), "show", f"v2.5.1-7.1.0:{name}"]
    # As bytes: some of upstream's files end their lines as Windows does.
    before = subprocess.run(show, capture_output=True, check=True).stdout.decode()
    assert old in before
    lines = before.splitlines(keepends=True), before.replace(old, new).splitlines(keepends=True)
    folder = cli.folder / "patches"
    shutil.rmtree(folder, ignore_errors=True)
    place = folder / "v2.5.1-*" / "torch_npu"
    place.mkdir(parents=True)
    (place / "series").write_text("edit.patch\n")
    (place / "edit.patch").write_bytes("".join(unified_diff(*lines, f"a/{name}", f"b/{name}")).encode())
    return f"--patches={folder}"


def refused(cli: CommandLine, ran: Ran, *says: str) -> None:
    assert ran.code == 1, ran.text
    assert "failed verification" in ran.text
    for text in says:
        assert text in ran.text, ran.text
    assert "next step:" in ran.text
    assert "Traceback" not in ran.text
    assert cli.dist == []


OWN = '#include "op_plugin/OpApiInterface.h"\n#include "op_plugin/utils/OpUtils.h"\n'


def test_an_operator_defined_otherwise_than_it_is_declared(cli: CommandLine, build: Build, upstream: Miniature) -> None:
    source = f"{OWN}namespace op_api {{ at::Tensor npu_add_custom(const at::Tensor& x, double y) {{ return x; }} }}\n"
    ran = build(operators(cli, upstream, source))
    refused(
        cli, ran, "op_api::npu_add_custom(at::Tensor const&, at::Tensor const&)", "the custom operator npu_add_custom"
    )


def test_an_operator_that_calls_what_is_nowhere(cli: CommandLine, build: Build, upstream: Miniature) -> None:
    source = (
        f"{OWN}namespace op_api {{\nat::Tensor a_helper(const at::Tensor& x);\n"
        "at::Tensor npu_add_custom(const at::Tensor& x, const at::Tensor& y) { return a_helper(x); }\n}\n"
    )
    refused(cli, build(operators(cli, upstream, source)), "undefined symbol op_api::a_helper(at::Tensor const&)")


def test_another_cxx_abi_than_torch_s(cli: CommandLine, build: Build, upstream: Miniature) -> None:
    old = "set(OPS_PLUGIN_SRCS)"
    other = 'string(REPLACE "CXX11_ABI=0" "CXX11_ABI=1" CMAKE_CXX_FLAGS "${CMAKE_CXX_FLAGS}")'
    option = edited(cli, upstream, "CMakeLists.txt", old, f"{old}\n{other}")
    refused(cli, build(option), "_GLIBCXX_USE_CXX11_ABI=1, torch 2.5.1 with 0")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("install_requires=requirements", 'install_requires=["torch==2.4.0"]', "METADATA requires torch==2.4.0"),
        ("install_requires=requirements", "install_requires=[]", "METADATA requires no torch"),
        (
            "install_requires=requirements",
            'install_requires=requirements, entry_points={"torch.backends": ["torch_npu = torch_npu:_autoloaded"]}',
            "torch_npu/__init__.py defines no _autoloaded",
        ),
        (
            '"include/torch_npu")',
            '"include/elsewhere")',
            "it lacks the headers below torch_npu/include/torch_npu/csrc/",
        ),
    ],
)
def test_metadata_and_headers(
    cli: CommandLine, build: Build, upstream: Miniature, old: str, new: str, says: str
) -> None:
    refused(cli, build(edited(cli, upstream, "setup.py", old, new)), says)


def test_the_right_one_is_published_and_judged(cli: CommandLine, build: Build) -> None:
    ran = build()
    assert ran.code == 0, ran.text
    (wheel,) = (cli.folder / "dist").glob("*.whl")
    record = json.loads(wheel.with_name(f"{wheel.name}.json").read_text())
    assert record["needs_cann"]["libascendcl.so"]
    shown = cli("verify", "dist", "--json")
    assert shown.code == 0, shown.text
    (one,) = json.loads(shown.out)
    assert (one["wheel"], one["right"], one["sha256"]) == (wheel.name, True, record["sha256"])
    # The torch that the build used is found by its version.
    assert one["torch"] == "torch 2.5.1"
    assert [finding["rule"] for finding in one["findings"] if finding["severity"] == "error"] == []
    record["git_version"] = record["commits"]["torch_npu"] = "0" * 40
    record["sha256"] = "0" * 64
    wheel.with_name(f"{wheel.name}.json").write_text(json.dumps(record))
    shown = cli("verify", wheel)
    assert shown.code == 1
    assert "record: it is of a wheel with another SHA-256" in shown.out
    assert "the checkout is 0000000000" in shown.out

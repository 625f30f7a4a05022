"""``plan`` by the command line: a wrong request is refused before anything is asked or made."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import CommandLine

from builder.miniature import Miniature


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--github=2", "--gitlab=2"], "--github and --gitlab are different forms of a plan"),
        (["--github=2", "--json"], "--json and --github are different forms of a plan"),
        (["--gitlab=2", "--json"], "--json and --gitlab are different forms of a plan"),
        (["--github=257"], "a matrix of GitHub has at most 256 jobs"),
        (["--github=2", "--runner=amd64=big"], "expected an architecture (x86_64 or aarch64)"),
        (["--gitlab=2", "--runner=x86_64="], "is no label of a runner"),
        (["--runner=x86_64=big"], "none is asked for"),
    ],
)
def test_a_wrong_request_is_refused_before_planning(cli: CommandLine, options: list[str], said: str) -> None:
    # Planning would fail otherwise, and later: this repository is nowhere.
    ran = cli("plan", "--pytorch=2.5", "--torch-npu-url=git://127.0.0.1:1/nowhere", *options)
    assert ran.code == 2
    assert said in " ".join(ran.text.split())
    assert "Traceback" not in ran.text
    assert ran.out == ""
    assert not cli.build.exists()


def test_a_plan_runs_nothing_that_an_op_plugin_folder_names(
    cli: CommandLine, upstream: Miniature, miniature_options: Callable[..., list[str]]
) -> None:
    folder = Path(shutil.copytree(upstream.op_plugin, cli.folder / "op-plugin"))
    sprung, trap = cli.folder / "sprung", cli.folder / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {sprung}\ncat\n")
    trap.chmod(0o755)
    for key in ("filter.x.clean", "core.fsmonitor"):
        subprocess.run(["git", "config", key, str(trap)], cwd=folder, check=True)
    (folder / ".gitattributes").write_text("* filter=x\n")
    edited = folder / "op_plugin" / "ops" / "opapi" / "AddKernelNpuOpApi.cpp"
    edited.write_text(edited.read_text() + "// edited\n")
    ran = cli("plan", "--pytorch=2.5", f"--op-plugin={folder}", "--json", *miniature_options("--environment=host"))
    assert ran.code == 0, ran.text
    assert json.loads(ran.out)[0]["action"] == "build"
    assert not sprung.exists()
    told = [line for line in ran.text.splitlines() if "is taken as it is" in line]
    assert len(told) == 1, ran.text
    assert "1 edited (op_plugin/ops/opapi/AddKernelNpuOpApi.cpp), 1 new (.gitattributes)" in told[0]

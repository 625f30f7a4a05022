"""``plan`` by the command line: a wrong request is refused before anything is asked or made."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from nightly_support import copy_of
from support import CommandLine, Ran

from builder.cli.demo_upstream import Miniature
from builder.matrix.loader import load_matrix


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


# -- a plan and a build mean the same -------------------------------------------------------------------------


def planned(ran: Ran) -> list[dict[str, Any]]:
    assert "Traceback" not in ran.text
    return list(json.loads(ran.out))


@pytest.mark.parametrize(
    "selection", [["--pytorch=2.5.1"], ["--pytorch=2.5,2.6"], ["--pytorch=2.5.1", "--all-lines"], ["--release=7.1.0"]]
)
def test_a_plan_takes_the_targets_of_a_build(cli: CommandLine, selection: list[str]) -> None:
    # All that is asked of the host is whether it is there.
    places = ["--torch-npu-url=git://127.0.0.1:1/nowhere", "--environment=host", "--offline", "--quiet"]
    plan, build = cli("plan", *selection, "--json", *places), cli("build", *selection, *places)
    (run,) = (cli.build / "runs").iterdir()
    result = json.loads((run / "result.json").read_text())
    assert [target["id"] for target in planned(plan)] == [target["id"] for target in result["targets"]]
    assert (plan.code, build.code) == (1, 1)
    lines = {target["branch"] for target in planned(plan) if target["pytorch"] == "2.5.1"}
    assert len(lines) == (1 if "--all-lines" not in selection else 2), "the matrix has two lines of 2.5.1"


def test_a_line_that_cannot_be_built_cannot_be_planned(cli: CommandLine) -> None:
    line = next(line for line in load_matrix().releases if line.refusal is not None)
    build = cli("build", f"--pytorch={line.branch}")
    assert f"{line.branch} cannot be built" in build.text
    for form in ([], ["--json"], ["--github=2"], ["--gitlab=2"]):
        plan = cli("plan", f"--pytorch={line.branch}", *form)
        assert (plan.code, plan.out) == (build.code, "")
        assert f"{line.branch} cannot be built: {line.refusal}" in plan.text


@pytest.mark.parametrize(
    ("form", "nothing"), [("--github=4", '{"include":[]}'), ("--gitlab=4", "3 of 3 targets cannot be built")]
)
def test_there_is_no_job_for_what_cannot_be_built(cli: CommandLine, form: str, nothing: str) -> None:
    ran = cli("plan", "--pytorch=v2.5.1-7.1.0", "--offline", "--environment=host", form)
    assert ran.code == 1
    assert nothing in ran.out
    assert "--target" not in ran.out
    assert "stands" not in ran.out
    assert "this machine lacks: branch v2.5.1-7.1.0 of torch_npu" in ran.text


def test_a_tag_that_is_none_is_no_build(cli: CommandLine, miniature_options: Callable[..., list[str]]) -> None:
    options = miniature_options("--environment=host", "--torch-npu=no-such-tag")
    ran = cli("plan", "--pytorch=2.5", "--python=3.11", "--json", *options)
    assert ran.code == 1
    (target,) = planned(ran)
    assert (target["action"], target["fingerprint"]) == ("error", None)
    assert "no-such-tag" in target["reason"]
    dry = cli("build", "--pytorch=2.5", "--python=3.11", "--dry-run", *options)
    assert dry.code == 1
    assert "0 to build, 0 stand, 1 cannot be built" in dry.out


def test_a_plan_of_a_lock(cli: CommandLine, upstream: Miniature, miniature_options: Callable[..., list[str]]) -> None:
    copied = copy_of(upstream, cli.folder / "upstream")
    options = [*miniature_options("--environment=host"), f"--torch-npu-url={copied.torch_npu}"]
    python = f"--python={sys.version_info.major}.{sys.version_info.minor}"
    locking = cli("lock", "--pytorch=v2.5.1-7.1.0", python, *options)
    assert locking.code == 0, locking.text
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--allow-empty", "--message=more"],
        cwd=copied.torch_npu,
        check=True,
    )
    locked = cli("plan", "--locked=builder.lock.yaml", "--refresh", "--json", *options)
    assert [target["action"] for target in planned(locked)] == ["build"], locked.text
    entries = yaml.safe_load((cli.folder / "builder.lock.yaml").read_text())["targets"]
    assert {each["id"]: each["fingerprint"] for each in planned(locked)} == {
        name: entry["fingerprint"] for name, entry in entries.items()
    }
    other = cli("plan", "--locked=builder.lock.yaml", f"--custom-ops={upstream.custom_ops}", "--json", *options)
    assert other.code == 1
    assert [target["action"] for target in planned(other)] == ["error"]
    assert "is not what" in planned(other)[0]["reason"]
    # What the lock does not name.
    more = cli("plan", "--pytorch=v2.6.0-7.1.0", python, "--locked=builder.lock.yaml", "--json", *options)
    assert more.code == 1
    assert "is not in" in planned(more)[0]["reason"]

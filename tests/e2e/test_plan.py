"""``plan`` by the command line: a wrong request is refused before anything is asked or made."""

from __future__ import annotations

import pytest
from support import CommandLine


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

"""The command ``plan``: what is asked of it is checked first, and the plan comes in the form that was asked for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from builder.core.build_options import BuildOptions
from builder.core.errors import RequestError
from builder.core.workspace import Workspace
from builder.ledger import Estimates
from builder.matrix.loader import Matrix, load_matrix
from builder.matrix.selection import parse_target_id
from builder.pipelines import Form, command, github_matrix, gitlab_pipeline, plan_form, run_plan
from builder.planning.planner import Planned
from builder.progress.reporter import Reporter

NOTHING_KNOWN = Estimates()


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return load_matrix()


def asked(**options: Any) -> Form:
    return plan_form(**{"as_json": False, "github": None, "gitlab": None, "runners": [], **options})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"github": 2, "gitlab": 2}, "--github and --gitlab are different forms"),
        ({"github": 2, "as_json": True}, "--json and --github are different forms"),
        ({"gitlab": 2, "as_json": True}, "--json and --gitlab are different forms"),
        ({"github": 2, "gitlab": 2, "as_json": True}, "--json and --github and --gitlab"),
        ({"github": 257}, "at most 256 jobs"),
        ({"github": 2, "runners": ["amd64=big"]}, "x86_64 or aarch64"),
        ({"gitlab": 2, "runners": ["x86_64="]}, "no label"),
        ({"runners": ["x86_64=big"]}, "none is asked for"),
        ({"runners": ["x86_64=big"], "as_json": True}, "none is asked for"),
    ],
)
def test_what_cannot_be_asked_of_a_plan_is_refused_before_it_is_made(options: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=re.escape(said)) as caught:
        asked(**options)
    assert caught.value.hint


def test_forms_of_a_plan() -> None:
    assert asked() == Form()
    assert asked(as_json=True) == Form(as_json=True)
    assert asked(github=256, runners=["x86_64=big"]) == Form(write=github_matrix, jobs=256, runners={"x86_64": "big"})
    assert asked(gitlab=257) == Form(write=gitlab_pipeline, jobs=257, runners={})


def test_a_plan_is_printed_in_its_form(
    matrix: Matrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = [f"v2.5.1-7.1.0-py3.{minor}-x86_64" for minor in (9, 10, 11)]
    planned = [Planned(parse_target_id(matrix, name), "build", "no wheel of it stands") for name in ids]
    monkeypatch.setattr(command, "plan_targets", lambda *_: planned)

    def printed(form: Form) -> str:
        workspace = Workspace(tmp_path / "build", tmp_path / "dist")
        targets = [plan.target for plan in planned]
        assert run_plan(targets, matrix, workspace, BuildOptions(), Reporter(quiet=True), form) == 0
        return capsys.readouterr().out

    runners = {"x86_64": "big"}
    for form, text in (
        (asked(github=2, runners=["x86_64=big"]), github_matrix(planned, NOTHING_KNOWN, 2, runners) + "\n"),
        (asked(gitlab=2, runners=["x86_64=big"]), gitlab_pipeline(planned, NOTHING_KNOWN, 2, runners)),
    ):
        assert printed(form) == text
    assert [plan["id"] for plan in json.loads(printed(asked(as_json=True)))] == [plan.target.id for plan in planned]
    assert "3 to build, 0 stand" in printed(asked())

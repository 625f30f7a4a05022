"""The command ``plan``: what is asked of it is checked first, for a plan may take a while."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from builder.core.build_options import BuildOptions
from builder.core.errors import RequestError
from builder.core.workspace import Workspace
from builder.executors.local import plan_targets
from builder.executors.summary import show_plan, show_plan_errors
from builder.ledger import BuildLedger, Estimates, ledger_path
from builder.matrix.loader import Matrix
from builder.matrix.model import Target
from builder.pipelines.github import check_jobs, github_matrix
from builder.pipelines.gitlab import gitlab_pipeline
from builder.pipelines.groups import parse_runners
from builder.planning.lockfile import Lock
from builder.planning.planner import Planned
from builder.progress.reporter import Reporter

Writer = Callable[[Sequence[Planned], Estimates, int, Mapping[str, str]], str]


@dataclass(frozen=True)
class Form:
    """How a plan is printed: by ``write`` in at most ``jobs`` jobs on ``runners``, else as JSON or for people."""

    as_json: bool = False
    write: Writer | None = None
    jobs: int = 0
    runners: Mapping[str, str] | None = None


def plan_form(*, as_json: bool, github: int | None, gitlab: int | None, runners: Sequence[str]) -> Form:
    """What the options ask for. Raises RequestError for options that exclude each other, and for wrong values."""
    numbers = {"--github": github, "--gitlab": gitlab}
    asked = ["--json"] * as_json + [option for option, jobs in numbers.items() if jobs is not None]
    if len(asked) > 1:
        raise RequestError(
            f"{' and '.join(asked)} are different forms of a plan",
            hint="ask for one of them at a time",
        )
    parsed = parse_runners(runners)
    if github is not None:
        check_jobs(github)
        return Form(write=github_matrix, jobs=github, runners=parsed)
    if gitlab is not None:
        return Form(write=gitlab_pipeline, jobs=gitlab, runners=parsed)
    if parsed:
        raise RequestError(
            "--runner says where the jobs of a hosted CI system run, and none is asked for",
            hint="add --github JOBS or --gitlab JOBS",
        )
    return Form(as_json=as_json)


def run_plan(
    targets: Sequence[Target],
    matrix: Matrix,
    workspace: Workspace,
    options: BuildOptions,
    reporter: Reporter,
    form: Form,
    locked: Lock | None = None,
) -> int:
    """Plan a build of ``targets``, and print the plan in its form on standard output; the exit code.

    Jobs are made only for targets that can be built. The reasons of the others go to standard error, and the exit code
    is the one that building them would have.
    """
    planned = plan_targets(targets, matrix, workspace, options, reporter, locked)
    if form.write is None:
        show_plan(planned, as_json=form.as_json)
    else:
        with BuildLedger(ledger_path(workspace), reporter) as known:
            text = form.write(planned, known.estimates(), form.jobs, form.runners or {})
        sys.stdout.write(text.rstrip("\n") + "\n")
    return show_plan_errors(planned, reporter)

"""Plans for hosted CI systems: the targets that are to be built, dealt out to jobs that a workflow starts."""

from builder.pipelines.command import Form, plan_form, run_plan
from builder.pipelines.github import github_matrix
from builder.pipelines.gitlab import gitlab_pipeline
from builder.pipelines.groups import parse_runners

__all__ = ["Form", "github_matrix", "gitlab_pipeline", "parse_runners", "plan_form", "run_plan"]

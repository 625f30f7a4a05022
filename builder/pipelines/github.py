"""A plan as GitHub Actions takes it: one line of JSON for ``strategy.matrix`` of a workflow's job.

An empty plan is ``{"include":[]}``, which GitHub refuses as a matrix. A job's ``if`` is evaluated before its matrix:
``if: fromJSON(needs.plan.outputs.matrix).include[0] != null`` skips it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from builder.core.errors import RequestError
from builder.ledger import Estimates
from builder.matrix.base import Arch
from builder.pipelines.groups import group, labels
from builder.planning.planner import Planned

#: GitHub's own machines: a native one for each architecture.
RUNNERS: Mapping[Arch, str] = {"x86_64": "ubuntu-24.04", "aarch64": "ubuntu-24.04-arm"}
#: Jobs that one matrix may have (docs.github.com, Actions limits).
MOST_JOBS = 256
#: Bytes that the outputs of a job may have, counted as UTF-16 (docs.github.com, passing information between jobs).
OUTPUT_BYTES = 1 << 20


def check_jobs(jobs: int) -> None:
    """Raises RequestError for more jobs than a matrix may have."""
    if jobs > MOST_JOBS:
        raise RequestError(
            f"--github {jobs}: a matrix of GitHub has at most {MOST_JOBS} jobs",
            hint=f"ask for {MOST_JOBS} jobs or fewer: a job takes as many targets as it has to",
        )


def github_matrix(planned: Sequence[Planned], estimates: Estimates, jobs: int, runners: Mapping[str, str]) -> str:
    """The matrix of at most ``jobs`` jobs, in one line.

    ``runners`` gives labels by architecture in place of RUNNERS; several are separated by commas. Each entry has
    ``name`` (unique), ``cache`` (what to keep its compile cache by), ``runner`` (a label, or a list of them), ``arch``,
    ``targets`` (as ``--target`` takes them) and ``minutes`` (expected). Raises RequestError for a number of jobs that
    cannot be, and for a matrix that is too long for GitHub.
    """
    check_jobs(jobs)
    entries = []
    for job in group(planned, estimates, jobs):
        runner = labels(job.arch, runners, RUNNERS)
        entries.append(
            {
                "name": job.name,
                "cache": job.cache,
                "runner": runner[0] if len(runner) == 1 else runner,
                "arch": job.arch,
                "targets": job.ids,
                "minutes": job.minutes,
            }
        )
    text = json.dumps({"include": entries}, separators=(",", ":"))
    size = len(text.encode("utf-16-le"))
    if size > OUTPUT_BYTES:
        raise RequestError(
            f"the matrix would have {size} bytes as GitHub counts them; the outputs of a job have at most "
            f"{OUTPUT_BYTES}",
            hint="select fewer targets, in workflows of their own",
        )
    return text

"""A plan as GitLab takes it: a child pipeline, which a job writes into a file and a trigger job starts.

It is whole for a runner that has the builder and a container engine. Other runners need ``default`` and ``variables``
of their own (an image, services, what installs the builder); the text has neither, so that they can stand before it in
the same file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from builder.core.errors import RequestError
from builder.ledger import Estimates
from builder.matrix.base import Arch
from builder.pipelines.groups import Job, group, labels
from builder.planning.planner import Planned

#: The tags of GitLab.com's own machines that have the memory for a build.
TAGS: Mapping[Arch, str] = {"x86_64": "saas-linux-medium-amd64", "aarch64": "saas-linux-medium-arm64"}
#: What all jobs have in common.
TEMPLATE = ".wheels"
#: Hours that a job may take at least. Without a limit of its own it would be ended after one hour.
LEAST_HOURS = 6
#: How much longer than expected a job may take.
PATIENCE = 3
#: Bytes of YAML that GitLab takes as a configuration; newer versions take twice as many (docs.gitlab.com, instance
#: limits, max_yaml_size_bytes).
CONFIGURATION_BYTES = 1 << 20

_HEADER = "# A child pipeline: the wheels that a plan found to be built.\n"


def gitlab_pipeline(planned: Sequence[Planned], estimates: Estimates, jobs: int, runners: Mapping[str, str]) -> str:
    """The YAML of a child pipeline with at most ``jobs`` jobs; of one that says so where there is nothing to build.

    ``runners`` gives tags by architecture in place of TAGS; several are separated by commas. Raises RequestError for a
    number of jobs that cannot be, and for a pipeline that is too long for GitLab.
    """
    groups = group(planned, estimates, jobs)
    content = {job.name: _job(job, runners) for job in groups}
    # A child pipeline without jobs cannot be created: its trigger job would fail.
    content = {TEMPLATE: _template(), **content} if groups else {"nothing-to-build": _nothing(planned, runners)}
    text = _HEADER + yaml.safe_dump(content, sort_keys=False, width=1000)
    size = len(text.encode())
    if size > CONFIGURATION_BYTES:
        raise RequestError(
            f"the pipeline would have {size} bytes; GitLab takes at most {CONFIGURATION_BYTES}",
            hint="ask for fewer jobs, or select fewer targets, in pipelines of their own",
        )
    return text


def _template() -> dict[str, Any]:
    return {
        "stage": "build",
        # What to build is in the variables of each job.
        "script": ["python -m builder build"],
        "cache": [
            {"key": "wheels-$WHEELS_CACHE", "paths": ["build/cache"], "when": "always"},
            {"key": "mirrors", "paths": ["build/mirrors"], "policy": "pull"},
        ],
        "artifacts": {
            "when": "always",
            "paths": ["dist", "build/runs"],
            "reports": {"junit": "build/runs/*/junit.xml"},
            "expire_in": "1 week",
        },
    }


def _job(job: Job, runners: Mapping[str, str]) -> dict[str, Any]:
    hours = max(LEAST_HOURS, math.ceil(PATIENCE * job.minutes / 60))
    return {
        "extends": TEMPLATE,
        "tags": labels(job.arch, runners, TAGS),
        "timeout": f"{hours} hours",
        "variables": {
            "BUILDER_TARGET": job.ids,
            "BUILDER_ARCH": job.arch,
            "WHEELS_CACHE": job.cache,
            "EXPECTED_MINUTES": str(job.minutes),
        },
    }


def _nothing(planned: Sequence[Planned], runners: Mapping[str, str]) -> dict[str, Any]:
    errors = sum(plan.action == "error" for plan in planned)
    said = f"{errors} of {len(planned)} targets cannot be built; the plan says why."
    return {
        "tags": labels("x86_64", runners, TAGS),
        "variables": {"GIT_STRATEGY": "none"},
        "script": [f"echo '{said}'", "exit 1"] if errors else ["echo 'Every wheel stands.'"],
    }

"""Jobs of hosted CI systems: nothing is lost, nothing waits for one long job, and the workflows of docs/ci.md fit."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import examples

from builder.core.errors import RequestError
from builder.executors.schedule import UNKNOWN_SECONDS
from builder.ledger import Estimates
from builder.ledger.estimates import Sample
from builder.matrix.loader import Matrix, load_matrix
from builder.matrix.model import Target
from builder.matrix.selection import Query, parse_target_id, select_for_build
from builder.pipelines import github, github_matrix, gitlab, gitlab_pipeline, groups, parse_runners
from builder.pipelines.groups import Job, group
from builder.planning.planner import Planned

PAGE = Path(__file__).resolve().parents[2] / "docs" / "ci.md"
NOTHING_KNOWN = Estimates()
LINES = ("v2.5.1-7.1.0", "v2.6.0-7.1.0", "v2.1.0-7.1.0")


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return load_matrix()


@pytest.fixture(scope="module")
def everything(matrix: Matrix) -> list[Target]:
    return [target for target in matrix.targets() if target.release.refusal is None]


def builds(targets: Sequence[Target]) -> list[Planned]:
    return [Planned(target, "build", "no wheel of it stands") for target in targets]


def cells(matrix: Matrix, *lines: str, pythons: str = "9 10 11", archs: str = "x86_64") -> list[Planned]:
    ids = [f"{line}-py3.{python}-{arch}" for line in lines for python in pythons.split() for arch in archs.split()]
    return builds([parse_target_id(matrix, name) for name in ids])


def minutes(planned: Sequence[Planned], cold: float, warm: float) -> Estimates:
    """What builds of these lengths leave in a ledger."""
    return Estimates(
        Sample(plan.target.id, is_warm, {"compile": 60.0 * (warm if is_warm else cold)})
        for plan in planned
        for is_warm in (True, False)
    )


def names(job: Job) -> list[str]:
    return [target.id.removesuffix(f"-{job.arch}") for target in job.targets]


def sizes(jobs: Sequence[Job]) -> list[int]:
    return sorted(len(job.targets) for job in jobs)


# -- which targets share a job ----------------------------------------------------------------------------


def test_each_line_has_a_job_where_there_are_as_many(matrix: Matrix) -> None:
    planned = cells(matrix, *LINES)
    jobs = group(planned, NOTHING_KNOWN, 3)
    assert {frozenset(names(job)) for job in jobs} == {
        frozenset(f"{line}-py3.{python}" for python in (9, 10, 11)) for line in LINES
    }


def test_lines_stay_together_in_fewer_jobs_than_lines(matrix: Matrix) -> None:
    """A line that was taken apart would compile twice."""
    lines = [*LINES, "v2.5.1-7.0.0"]
    jobs = group(cells(matrix, *lines), NOTHING_KNOWN, 2)
    assert [len({target.release.branch for target in job.targets}) for job in jobs] == [2, 2]
    assert sizes(jobs) == [6, 6]


def test_a_line_longer_than_an_even_share_is_split(matrix: Matrix) -> None:
    jobs = group(cells(matrix, LINES[0]), NOTHING_KNOWN, 3)
    assert sizes(jobs) == [1, 1, 1]


def test_a_line_is_taken_apart_where_the_others_would_wait_for_it(matrix: Matrix) -> None:
    """Three lines of three in two jobs: no line is longer than a share, but whole lines would give 6 and 3."""
    jobs = group(cells(matrix, *LINES), NOTHING_KNOWN, 2)
    assert sizes(jobs) == [4, 5]
    parts = [(target.release.branch, job.name) for job in jobs for target in job.targets]
    assert len(set(parts)) == 4, "one line is in both jobs, the others are whole"


def test_a_split_that_repeats_nearly_all_the_work_is_not_made(matrix: Matrix) -> None:
    planned = cells(matrix, LINES[0])
    (job,) = group(planned, minutes(planned, cold=120, warm=4), 3)
    assert names(job) == [plan.target.id.removesuffix("-x86_64") for plan in planned]
    assert job.minutes == 128


def test_a_split_that_saves_enough_is_made(matrix: Matrix) -> None:
    planned = cells(matrix, LINES[0])
    jobs = group(planned, minutes(planned, cold=120, warm=100), 3)
    assert [job.minutes for job in jobs] == [120, 120, 120]


def test_expected_durations_decide_not_numbers(matrix: Matrix) -> None:
    planned = cells(matrix, *LINES)
    slow = parse_target_id(matrix, f"{LINES[0]}-py3.9-x86_64")
    samples = [
        Sample(plan.target.id, False, {"compile": 9000.0 if plan.target == slow else 1000.0, "verify": 20.0})
        for plan in planned
    ]
    longest, other = group(planned, Estimates(samples), 2)
    assert names(longest) == [f"{LINES[0]}-py3.9"]
    assert longest.seconds == 9020
    assert other.seconds == 8 * 1020


def test_long_lines_are_dealt_out_first(matrix: Matrix) -> None:
    planned = cells(matrix, "v2.1.0-7.1.0", "v2.5.1-7.0.0", "v2.5.1-7.1.0", "v2.6.0-7.1.0", pythons="9")
    lengths = (5, 4, 2, 7)
    samples = [
        Sample(plan.target.id, False, {"compile": 60.0 * length}) for plan, length in zip(planned, lengths, strict=True)
    ]
    assert [job.minutes for job in group(planned, Estimates(samples), 2)] == [9, 9]


def test_unknown_targets_count_as_the_schedule_counts_them(matrix: Matrix) -> None:
    (job,) = group(cells(matrix, LINES[0], pythons="9 10"), NOTHING_KNOWN, 1)
    assert job.seconds == 2 * UNKNOWN_SECONDS
    assert job.minutes == 240


def test_the_longest_job_comes_first(matrix: Matrix) -> None:
    planned = [*cells(matrix, LINES[1], pythons="9"), *cells(matrix, LINES[0])]
    assert [len(job.targets) for job in group(planned, NOTHING_KNOWN, 2)] == [2, 2]
    seconds = [job.seconds for job in group(cells(matrix, *LINES, pythons="9 10"), NOTHING_KNOWN, 4)]
    assert seconds == sorted(seconds, reverse=True)
    assert len(set(seconds)) > 1


def test_a_job_has_one_architecture_and_the_busier_one_gets_more_jobs(matrix: Matrix) -> None:
    planned = [*cells(matrix, *LINES), *cells(matrix, LINES[0], archs="aarch64")]
    jobs = group(planned, NOTHING_KNOWN, 4)
    assert all({target.arch for target in job.targets} == {job.arch} for job in jobs)
    assert sorted(job.arch for job in jobs) == ["aarch64", "x86_64", "x86_64", "x86_64"]


def test_an_architecture_gets_no_more_jobs_than_it_has_targets(matrix: Matrix) -> None:
    planned = [*cells(matrix, LINES[0]), *cells(matrix, LINES[0], pythons="9", archs="aarch64")]
    slow = planned[-1].target.id
    samples = [Sample(plan.target.id, False, {"compile": 9e4 if plan.target.id == slow else 9e2}) for plan in planned]
    assert sizes(group(planned, Estimates(samples), 4)) == [1, 1, 1, 1]


def test_no_more_jobs_than_targets(matrix: Matrix) -> None:
    jobs = group(cells(matrix, LINES[0], pythons="9", archs="x86_64 aarch64"), NOTHING_KNOWN, 200)
    assert sizes(jobs) == [1, 1]


def test_what_stands_is_left_out(matrix: Matrix) -> None:
    first, second, third = cells(matrix, LINES[0])
    stands = Planned(second.target, "skip", "x.whl stands")
    (job,) = group([first, stands, third], NOTHING_KNOWN, 1)
    assert names(job) == [f"{LINES[0]}-py3.9", f"{LINES[0]}-py3.11"]
    assert group([stands], NOTHING_KNOWN, 1) == []


def test_names_say_what_is_in_a_job_and_never_repeat(matrix: Matrix) -> None:
    line = LINES[0]
    assert [job.name for job in group(cells(matrix, line, pythons="9"), NOTHING_KNOWN, 1)] == [f"{line}-py3.9-x86_64"]
    assert [job.name for job in group(cells(matrix, line), NOTHING_KNOWN, 1)] == [f"{line}-x86_64"]
    assert [job.name for job in group(cells(matrix, *LINES), NOTHING_KNOWN, 1)] == [f"{line}-x86_64+2"]
    split = group(cells(matrix, "v2.7.1-7.3.0", pythons="9 10 11 12"), NOTHING_KNOWN, 2)
    assert [job.name for job in split] == ["v2.7.1-7.3.0-x86_64", "v2.7.1-7.3.0-x86_64_2"]
    assert {job.cache for job in split} == {"v2.7.1-7.3.0-x86_64"}


def test_the_cache_is_named_after_the_line_that_takes_most(matrix: Matrix) -> None:
    planned = [*cells(matrix, LINES[1], pythons="9"), *cells(matrix, LINES[0])]
    (job,) = group(planned, NOTHING_KNOWN, 1)
    assert job.cache == f"{LINES[0]}-x86_64"


@pytest.mark.parametrize("count", [0, -1])
def test_no_jobs_are_refused(matrix: Matrix, count: int) -> None:
    with pytest.raises(RequestError, match="build nothing"):
        group(cells(matrix, LINES[0]), NOTHING_KNOWN, count)
    with pytest.raises(RequestError, match="build nothing"):
        group([], NOTHING_KNOWN, count)


def test_fewer_jobs_than_architectures_are_refused(matrix: Matrix) -> None:
    with pytest.raises(RequestError, match="x86_64 and aarch64") as caught:
        group(cells(matrix, LINES[0], archs="x86_64 aarch64"), NOTHING_KNOWN, 1)
    assert "2 jobs or more" in str(caught.value.hint)


@settings(
    max_examples=examples(80),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_every_target_is_in_one_job(everything: list[Target], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(everything), unique_by=lambda target: target.id, max_size=60))
    count = data.draw(st.integers(2, 40))
    seconds = st.floats(0, 1e5)
    samples = [
        Sample(target.id, warm, {"compile": data.draw(seconds)})
        for target in chosen
        for warm in (True, False)
        if data.draw(st.booleans())
    ]
    jobs = group(builds(chosen), Estimates(samples), count)
    assert len(jobs) <= count
    assert sorted(target.id for job in jobs for target in job.targets) == sorted(target.id for target in chosen)
    assert all({target.arch for target in job.targets} == {job.arch} for job in jobs)
    assert len({job.name for job in jobs}) == len(jobs)
    # What artifacts, cache keys and jobs may be called.
    assert all(re.fullmatch(r"[A-Za-z0-9._+-]{1,200}", text) for job in jobs for text in (job.name, job.cache))
    assert [job.seconds for job in jobs] == sorted((job.seconds for job in jobs), reverse=True)


@settings(
    max_examples=examples(60),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_no_job_keeps_all_the_others_waiting(everything: list[Target], data: st.DataObject) -> None:
    """With targets of the same length: the longest job is at most a fourth above an even share, but for one target."""
    pool = [target for target in everything if target.arch == "x86_64"]
    chosen = data.draw(st.lists(st.sampled_from(pool), unique_by=lambda target: target.id, min_size=1, max_size=120))
    count = data.draw(st.integers(1, 40))
    longest = max(len(job.targets) for job in group(builds(chosen), NOTHING_KNOWN, count))
    assert longest <= len(chosen) / count * 1.25 + 1


# -- runners ----------------------------------------------------------------------------------------------


def test_runners_are_read() -> None:
    assert parse_runners([]) == {}
    assert parse_runners(["x86_64=big", " aarch64 = self-hosted, arm "]) == {
        "x86_64": "big",
        "aarch64": "self-hosted, arm",
    }


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["big"], "expected an architecture"),
        (["amd64=big"], "x86_64 or aarch64"),
        (["x86_64="], "no label"),
        (["x86_64=a,,b"], "no label"),
        (["x86_64=a\nb"], "no label"),
        (["x86_64=a", "x86_64=b"], "twice"),
    ],
)
def test_wrong_runners_are_refused(texts: list[str], said: str) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        parse_runners(texts)
    assert caught.value.hint


# -- GitHub -----------------------------------------------------------------------------------------------


def entries(text: str) -> list[dict[str, Any]]:
    found = json.loads(text)
    assert set(found) == {"include"}
    return list(found["include"])


def test_github_matrix(matrix: Matrix) -> None:
    planned = cells(matrix, LINES[0], pythons="9 10", archs="x86_64 aarch64")
    text = github_matrix(planned, minutes(planned, cold=90, warm=9.5), 2, {})
    assert "\n" not in text
    assert entries(text) == [
        {
            "name": f"{LINES[0]}-{arch}",
            "cache": f"{LINES[0]}-{arch}",
            "runner": runner,
            "arch": arch,
            "targets": f"{LINES[0]}-py3.9-{arch},{LINES[0]}-py3.10-{arch}",
            "minutes": 100,
        }
        for arch, runner in (("aarch64", "ubuntu-24.04-arm"), ("x86_64", "ubuntu-24.04"))
    ]


def test_github_matrix_of_nothing(matrix: Matrix) -> None:
    assert github_matrix([], NOTHING_KNOWN, 5, {}) == '{"include":[]}'
    (plan,) = cells(matrix, LINES[0], pythons="9")
    assert github_matrix([Planned(plan.target, "skip", "it stands")], NOTHING_KNOWN, 5, {}) == '{"include":[]}'


def test_github_runners_are_replaced_by_architecture(matrix: Matrix) -> None:
    planned = cells(matrix, LINES[0], archs="x86_64 aarch64")
    text = github_matrix(planned, NOTHING_KNOWN, 2, {"x86_64": "big"})
    assert {entry["arch"]: entry["runner"] for entry in entries(text)} == {
        "x86_64": "big",
        "aarch64": "ubuntu-24.04-arm",
    }
    text = github_matrix(planned, NOTHING_KNOWN, 2, {"aarch64": "self-hosted, arm"})
    assert {entry["arch"]: entry["runner"] for entry in entries(text)} == {
        "x86_64": "ubuntu-24.04",
        "aarch64": ["self-hosted", "arm"],
    }


def test_github_takes_256_jobs(everything: list[Target]) -> None:
    assert len(entries(github_matrix(builds(everything), NOTHING_KNOWN, 256, {}))) == 256
    with pytest.raises(RequestError, match="at most 256 jobs"):
        github_matrix(builds(everything), NOTHING_KNOWN, 257, {})


def test_github_takes_a_mebibyte_of_utf_16(matrix: Matrix) -> None:
    planned = cells(matrix, LINES[0], pythons="9")
    rest = len(github_matrix(planned, NOTHING_KNOWN, 1, {"x86_64": "x"})) - 1
    longest = (github.OUTPUT_BYTES // 2) - rest
    assert len(github_matrix(planned, NOTHING_KNOWN, 1, {"x86_64": "x" * longest})) == 1 << 19
    with pytest.raises(RequestError, match="1048578 bytes"):
        github_matrix(planned, NOTHING_KNOWN, 1, {"x86_64": "x" * (longest + 1)})


@pytest.mark.parametrize("jobs", [2, 17, 256])
def test_a_build_selects_the_targets_of_its_job(matrix: Matrix, everything: list[Target], jobs: int) -> None:
    """Development branches and both architectures too, whatever machine the job runs on."""
    for entry in entries(github_matrix(builds(everything), NOTHING_KNOWN, jobs, {})):
        query = Query(target=tuple(entry["targets"].split(",")), arch=(entry["arch"],))
        assert ",".join(target.id for target in select_for_build(matrix, query).targets) == entry["targets"]


# -- GitLab -----------------------------------------------------------------------------------------------


def pipeline(planned: Sequence[Planned], jobs: int, runners: Mapping[str, str] | None = None) -> dict[str, Any]:
    return dict(yaml.safe_load(gitlab_pipeline(planned, NOTHING_KNOWN, jobs, runners or {})))


def test_gitlab_pipeline(matrix: Matrix) -> None:
    content = pipeline(cells(matrix, LINES[0], archs="x86_64 aarch64"), 2, {"aarch64": "own, arm"})
    template = content.pop(".wheels")
    assert template["script"] == ["python -m builder build"]
    assert template["artifacts"]["paths"] == ["dist", "build/runs"]
    assert content == {
        f"{LINES[0]}-{arch}": {
            "extends": ".wheels",
            "tags": tags,
            "timeout": "18 hours",
            "variables": {
                "BUILDER_TARGET": ",".join(f"{LINES[0]}-py3.{python}-{arch}" for python in (9, 10, 11)),
                "BUILDER_ARCH": arch,
                "WHEELS_CACHE": f"{LINES[0]}-{arch}",
                "EXPECTED_MINUTES": "360",
            },
        }
        for arch, tags in (("aarch64", ["own", "arm"]), ("x86_64", ["saas-linux-medium-amd64"]))
    }


def test_a_short_job_of_gitlab_still_has_time(matrix: Matrix) -> None:
    """Expectations come from builds with full caches too; the first without one must not be ended."""
    planned = cells(matrix, LINES[0], pythons="9")
    content = yaml.safe_load(gitlab_pipeline(planned, minutes(planned, cold=1, warm=1), 1, {}))
    assert content[f"{LINES[0]}-py3.9-x86_64"]["timeout"] == "6 hours"


def test_gitlab_pipeline_of_nothing_has_a_job() -> None:
    """GitLab refuses a child pipeline without jobs."""
    content = pipeline([], 3, {"x86_64": "mine"})
    assert list(content) == ["nothing-to-build"]
    assert content["nothing-to-build"]["script"]
    assert content["nothing-to-build"]["tags"] == ["mine"]


def test_gitlab_pipeline_can_be_too_long(matrix: Matrix) -> None:
    with pytest.raises(RequestError, match="at most 1048576"):
        pipeline(cells(matrix, LINES[0], pythons="9"), 1, {"x86_64": "x" * gitlab.CONFIGURATION_BYTES})


def test_all_targets_fit_into_both_systems(everything: list[Target]) -> None:
    assert len(pipeline(builds(everything), 1000)) > 256
    assert len(entries(github_matrix(builds(everything), NOTHING_KNOWN, 1 + 1, {}))) == 2


# -- docs/ci.md -------------------------------------------------------------------------------------------


def workflows() -> dict[str, dict[Any, Any]]:
    """The page's YAML files by the path that their first line names."""
    blocks = re.findall(r"```yaml\n# (\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    return {path: yaml.safe_load(text) for path, text in blocks}


def test_the_page_has_whole_workflows() -> None:
    assert set(workflows()) == {".github/workflows/wheels.yml", ".gitlab-ci.yml", ".gitlab/wheels.yml"}


def test_the_workflow_for_github_reads_what_there_is(matrix: Matrix) -> None:
    text = PAGE.read_text(encoding="utf-8")
    (entry,) = entries(github_matrix(cells(matrix, LINES[0]), NOTHING_KNOWN, 1, {}))
    used = set(re.findall(r"\bmatrix\.([a-z_]+)", text))
    assert used == set(entry) - {"minutes"}
    build = workflows()[".github/workflows/wheels.yml"]["jobs"]["build"]
    assert build["strategy"]["matrix"] == "${{ fromJSON(needs.plan.outputs.matrix) }}"
    assert build["if"] == "fromJSON(needs.plan.outputs.matrix).include[0] != null"
    assert build["if"] in str(github.__doc__)
    assert build["strategy"]["fail-fast"] is False


def test_the_files_for_gitlab_do_not_say_twice_what_the_pipeline_says(matrix: Matrix) -> None:
    """They stand in one file, where a key that stands twice is lost once."""
    files = workflows()
    before, generated = files[".gitlab/wheels.yml"], pipeline(cells(matrix, LINES[0]), 1)
    assert not set(before) & set(generated)
    assert not set(before.get("default", {})) & set(generated[".wheels"])
    assert files[".gitlab-ci.yml"]["wheels"]["trigger"]["include"] == [{"artifact": "pipeline.yml", "job": "plan"}]
    mirrors = next(entry for entry in generated[".wheels"]["cache"] if entry["paths"] == ["build/mirrors"])
    assert files[".gitlab-ci.yml"]["plan"]["cache"][0]["key"] == mirrors["key"]
    assert mirrors["policy"] == "pull", "only the plan changes what all jobs build from"


def test_the_page_names_the_limits() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert str(github.MOST_JOBS) in text
    assert f"{groups.WORTH:.0%}".replace("10%", "a tenth") in text
    assert all(label in text for label in (*github.RUNNERS.values(), *gitlab.TAGS.values()))

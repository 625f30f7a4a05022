"""What is refused before anything is made: lines that cannot be built, PyTorch that no index has, other compilers."""

from __future__ import annotations

import dataclasses

import pytest

from builder.environments.recipe import torch_requirement
from builder.errors import FailureKind, RequestError
from builder.gather import check_request
from builder.inputs import environment_request
from builder.matrix.loader import Matrix, load_matrix
from builder.matrix.model import Target
from builder.matrix.selection import parse_target_id
from builder.options import BuildOptions
from builder.recipe import toolchain_mismatches, wrong_toolchain


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return load_matrix()


def target(matrix: Matrix, branch: str, python: str, arch: str = "x86_64") -> Target:
    return next(t for t in matrix.targets() if (t.release.branch, t.python, t.arch) == (branch, python, arch))


@pytest.mark.parametrize(
    ("branch", "python", "reason"),
    [("v1.5.0-3.0.0", "3.7", "no ci/build.sh"), ("v2.13.0-26.2.0", "3.12", "the branch that they were built from")],
)
def test_lines_that_cannot_be_built_are_refused_with_the_reason(
    matrix: Matrix, branch: str, python: str, reason: str
) -> None:
    with pytest.raises(RequestError, match=f"{branch} cannot be built: .*{reason}"):
        check_request([target(matrix, branch, python)], BuildOptions())


def test_torch_without_a_wheel_on_any_index_has_to_be_brought(matrix: Matrix, tmp_path) -> None:  # type: ignore[no-untyped-def]
    line = target(matrix, "v2.5.1-7.1.0", "3.9", "aarch64")
    wheels = {**line.release.torch.wheels, "aarch64": {}}
    torch = line.release.torch.model_copy(update={"wheels": wheels})
    alone = dataclasses.replace(line, release=line.release.model_copy(update={"torch": torch}))
    with pytest.raises(
        RequestError, match=r"no index has a wheel of PyTorch 2\.5\.1 for Python 3\.9 on aarch64"
    ) as caught:
        check_request([alone], BuildOptions())
    assert "--find-links" in str(caught.value.hint)
    check_request([alone], BuildOptions(find_links=(tmp_path,)))
    check_request([dataclasses.replace(alone, arch="x86_64")], BuildOptions())


@pytest.mark.parametrize(
    ("system", "hint"),
    [
        ("Debian GNU/Linux 11 (bullseye)", "gcc 9.3 comes with gcc-9 on Debian GNU/Linux 11"),
        ("Debian GNU/Linux 12 (bookworm)", "gcc 9.3 has to be built from source on Debian GNU/Linux 12"),
        ("CentOS Linux 7 (Core)", "gcc 9.3 comes with devtoolset-9 on CentOS Linux 7"),
        ("Slackware 15", FailureKind.TOOLCHAIN.advice),
        (None, FailureKind.TOOLCHAIN.advice),
    ],
)
def test_another_gcc_comes_with_advice_for_the_base(matrix: Matrix, system: str | None, hint: str) -> None:
    wanted = target(matrix, "v2.5.1-7.1.0", "3.9")
    mismatches = toolchain_mismatches(wanted, {"gcc": "12.2.0", "glibc": "2.17"})
    error = wrong_toolchain(wanted, mismatches, matrix.compilers, system)
    assert error.message == "gcc is 12.2.0, the matrix wants 9.3.1"
    assert str(error.hint).startswith(hint)


@pytest.mark.parametrize(
    ("name", "source", "requirement", "index"),
    [
        ("v2.5.1-7.1.0-py3.9-x86_64", None, "torch==2.5.1+cpu", "cpu_index"),
        ("v2.5.1-7.1.0-py3.9-x86_64", "pypi", "torch==2.5.1", "wheels"),
        ("v2.5.1-7.1.0-py3.9-aarch64", None, "torch==2.5.1", "wheels"),
        # No document states hashes of the CPU index for 2.11: PyPI's must not be asked of its wheels.
        ("v2.11.0-26.1.0-py3.11-x86_64", None, "torch==2.11.0+cpu", None),
        ("v2.10.0-26.0.0-py3.11-aarch64", None, "torch==2.10.0+cpu", None),
        ("v2.10.0-26.0.0-py3.11-aarch64", "pypi", "torch==2.10.0", "wheels"),
    ],
)
def test_torch_is_required_from_its_index_with_the_hashes_of_that_index(
    matrix: Matrix, name: str, source: str | None, requirement: str, index: str | None
) -> None:
    wanted = parse_target_id(matrix, name)
    request = environment_request(wanted, BuildOptions(torch_source=source))
    known = () if index is None else getattr(wanted.release.torch, index)[wanted.arch][wanted.python]
    assert request.torch_hashes == known
    assert bool(known) == (index is not None)
    lines = [requirement, *(f"--hash={digest}" for digest in known)]
    assert torch_requirement(request).split() == lines

"""File names of released wheels, compilers in .comment, and which indexes and URLs are spoken of how."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.core.errors import RequestError
from builder.wheels.indexclient import shown, without_login
from builder.wheels.upstream_wheels import ReleasedIndex, compiler, parse_name


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        (
            "2.5.1.post1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64",
            ("2.5.1.post1", "3.11", "x86_64", "manylinux_2_17"),
        ),
        ("2.1.0rc1-cp38-cp38-manylinux2014_aarch64", ("2.1.0rc1", "3.8", "aarch64", "manylinux_2_17")),
        ("1.4.0-cp37-cp37m-manylinux1_x86_64", ("1.4.0", "3.7", "x86_64", "manylinux_2_5")),
        ("1.9.0-cp39-cp39-manylinux2010_x86_64", ("1.9.0", "3.9", "x86_64", "manylinux_2_12")),
        # Numbers, not letters, decide which policy is the lowest.
        ("2.6.0-cp39-cp39-manylinux_2_28_aarch64.manylinux_2_5_aarch64", ("2.6.0", "3.9", "aarch64", "manylinux_2_5")),
        ("2.6.0-cp39-cp39-linux_x86_64.manylinux_2_35_x86_64", ("2.6.0", "3.9", "x86_64", "manylinux_2_35")),
        ("2.6.0-cp39-cp39-linux_x86_64", ("2.6.0", "3.9", "x86_64", "linux")),
        ("2.6.0+gitabc-cp39-cp39-linux_x86_64", ("2.6.0+gitabc", "3.9", "x86_64", "linux")),
        ("2.8.0-3-cp314-cp314-manylinux_2_28_x86_64", ("2.8.0", "3.14", "x86_64", "manylinux_2_28")),
    ],
)
def test_a_file_name_tells_version_python_architecture_and_policy(rest: str, expected: tuple[str, ...]) -> None:
    assert parse_name(f"torch_npu-{rest}.whl", "torch-npu") == expected


@pytest.mark.parametrize(
    "filename",
    [
        "torch_npu-2.6.0.tar.gz",
        "torch_npu-2.6.0-cp314-cp314t-manylinux_2_28_x86_64.whl",
        "torch_npu-2.6.0-cp38-abi3-manylinux_2_28_x86_64.whl",
        "torch_npu-2.6.0-cp39-none-manylinux_2_28_x86_64.whl",
        "torch_npu-2.6.0-py3-none-any.whl",
        "torch_npu-2.6.0-cp27-cp27m-manylinux1_x86_64.whl",
        "torch_npu-2.6.0-cp39-cp39-win_amd64.whl",
        "torch_npu-2.6.0-cp39-cp39-macosx_11_0_arm64.whl",
        "torch_npu-2.6.0-cp39-cp39-musllinux_1_2_x86_64.whl",
        "torch_npu-2.6.0-cp39-cp39-manylinux_2_28_ppc64le.whl",
        "torch_npu-2.6.0-cp39-cp39-manylinux_2_28_x86_64_v3.whl",
        "torch_npu-2.6.0-cp39-cp39-manylinux_2_28_x86_64.manylinux_2_28_aarch64.whl",
        "torch_npu-2.6.0-cp39.cp310-cp39-manylinux_2_28_x86_64.whl",
        "torch-2.6.0-cp39-cp39-manylinux_2_28_x86_64.whl",
        "torch_npu-latest-cp39-cp39-manylinux_2_28_x86_64.whl",
        "../torch_npu.whl",
    ],
)
def test_other_files_are_left_out(filename: str) -> None:
    assert parse_name(filename, "torch-npu") is None


@pytest.mark.parametrize(
    ("comments", "expected"),
    [
        (["GCC: (GNU) 9.3.1 20200408 (Red Hat 9.3.1-2)"], "9.3.1"),
        (["mold 2.32.1 (compatible with GNU ld)", "GCC: (GNU) 13.3.1 20240611 (Red Hat 13.3.1-2)"], "13.3.1"),
        (["GCC: (Debian 12.2.0-14+deb12u1) 12.2.0"], "12.2.0"),
        # A start-up file of the system's compiler beside objects of a toolset's.
        (["GCC: (GNU) 8.5.0 20210514 (Red Hat 8.5.0-4)", "GCC: (GNU) 11.2.1 20220127 (Red Hat 11.2.1-9)"], "11.2.1"),
        (["GCC: (GNU) 9.3.1 20200408", "GCC: (GNU) 10.2.1 20210130"], "10.2.1"),
        (["clang version 17.0.6"], None),
        ([], None),
    ],
)
def test_the_compiler_is_read_from_comments(comments: list[str], expected: str | None) -> None:
    assert compiler(comments) == expected


def test_urls_are_shown_without_what_may_be_secret() -> None:
    url = "https://ann:pass%40word@index.example:8443/packages/x.whl?token=secret"
    assert shown(url) == "https://index.example:8443/packages/x.whl"
    assert without_login(url) == "https://index.example:8443/packages/x.whl?token=secret"


@pytest.mark.parametrize("url", ["file:///srv/simple", "index.example/simple", "ftp://ann:hush@index.example/simple"])
def test_an_index_that_is_not_on_the_web_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(RequestError, match="is not an http or https URL") as caught:
        ReleasedIndex(tmp_path, index_url=url)
    assert "hush" not in caught.value.message

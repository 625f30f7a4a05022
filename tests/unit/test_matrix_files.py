"""The shipped matrix: what it says, that it agrees with itself, and that its schemas are current."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import date
from itertools import chain
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from packaging.version import Version

from builder.core.errors import RequestError
from builder.core.workspace import resource
from builder.matrix.base import ARCHITECTURES, project_of
from builder.matrix.loader import Matrix, load_matrix
from builder.matrix.model import BUILD_REQUIREMENTS, ReleaseLine
from builder.matrix.schema import SCHEMAS, schema_texts, write_schemas
from builder.matrix.toolchains import Toolchain, gcc_minor

MATRICES = resource("matrices")
#: The day that statuses in this module are for.
DAY = date(2026, 3, 1)
#: Pythons for which PyPI has a wheel of these requirements, or whose requires-python admits pure ones.
PYTHONS_OF = {
    "setuptools==68.0.0": range(7, 13),
    "setuptools==68.2.2": range(8, 13),
    "setuptools==80.9.0": range(9, 15),
    "wheel==0.41.2": range(7, 15),
    "PyYAML==6.0.1": range(6, 13),
    "PyYAML==6.0.2": range(8, 14),
    "PyYAML==6.0.3": range(8, 15),
    "numpy==1.21.3": range(7, 11),
    "numpy==1.21.6": range(7, 11),
    "numpy==1.23.2": range(8, 12),
    "numpy==1.26.4": range(9, 13),
    "numpy==2.1.3": range(10, 14),
    "numpy==2.3.3": range(11, 15),
}


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return load_matrix(as_of=DAY)


def line_of(matrix: Matrix, branch: str) -> ReleaseLine:
    line = matrix.release(branch)
    assert line is not None
    return line


def toolchains_of(line: ReleaseLine) -> dict[str, Toolchain]:
    return {str(arch): toolchain for arch, toolchain in line.toolchains.items()}


def schema_errors(name: str, content: Any) -> Iterator[str]:
    schema = json.loads(schema_texts()[name])
    return (error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(content))


# What it says


def test_lines_of_op_plugin_7_1_0(matrix: Matrix) -> None:
    lines = [line for line in matrix.releases if line.release == "7.1.0"]
    assert [(line.branch, line.package_version, line.pythons) for line in lines] == [
        ("v2.1.0-7.1.0", "2.1.0.post16", ("3.8", "3.9", "3.10", "3.11")),
        ("v2.5.1-7.1.0", "2.5.1.post3", ("3.9", "3.10", "3.11")),
        ("v2.6.0-7.1.0", "2.6.0.post2", ("3.9", "3.10", "3.11")),
    ]
    assert {(line.cann, line.op_plugin) for line in lines} == {("8.2.RC1", "7.1.0")}
    assert len([target for target in matrix.targets() if target.release in lines]) == (4 + 3 + 3) * 2


def test_it_reaches_from_the_first_line_to_the_newest_wheels(matrix: Matrix) -> None:
    assert list(dict.fromkeys(line.pytorch for line in matrix.releases)) == [
        *("1.5.0", "1.8.1", "1.11.0", "2.0.1", "2.1.0", "2.2.0", "2.3.1", "2.4.0", "2.5.1", "2.6.0", "2.7.1", "2.8.0"),
        *("2.9.0", "2.9.1", "2.10.0", "2.11.0", "2.12.0", "2.13.0", "2.14.0"),
    ]
    releases = {line.release for line in matrix.releases if line.channel == "release"}
    assert {
        "2.0.2",
        "3.0.rc1",
        "5.0.rc2.1",
        "6.0.0",
        "7.0.0",
        "7.1.0",
        "7.2.0",
        "7.3.0",
        "26.0.0",
        "26.1.0",
    } <= releases
    order = [line.branch for line in matrix.releases if line.pytorch == "2.1.0"]
    assert order[0] == "v2.1.0"  # development, then candidates before what they are for
    assert order.index("v2.1.0-6.0.rc3") < order.index("v2.1.0-6.0.0") < order.index("v2.1.0-7.0.0")


def expected_toolchain(pytorch: tuple[int, ...], arch: str) -> tuple[str, str, int]:
    """gcc, policy and C++ ABI of the wheels that upstream released for ``pytorch``."""
    if pytorch >= (2, 7):
        return ("13.3" if pytorch >= (2, 8) else "11.2"), "manylinux_2_28", 1
    if pytorch >= (2, 6) and arch == "aarch64":
        return "11.2", "manylinux_2_28", 1
    return ("9.3" if arch == "x86_64" else "10.2"), "manylinux_2_17", 0


def test_toolchains_are_those_of_the_released_wheels(matrix: Matrix) -> None:
    since_2_0 = [line for line in matrix.releases if line.pytorch_key >= (2, 0)]
    assert len(since_2_0) > 50
    for line in since_2_0:
        for arch, toolchain in toolchains_of(line).items():
            stated = (toolchain.gcc_minor, toolchain.manylinux, toolchain.cxx11_abi)
            assert stated == expected_toolchain(line.pytorch_key, arch), f"{line.branch} {arch}"


def test_older_lines_take_the_compiler_of_the_documents_or_of_their_image(matrix: Matrix) -> None:
    for line in matrix.releases:
        if line.pytorch_key < (2, 0):
            found = {arch: toolchain.gcc_minor for arch, toolchain in toolchains_of(line).items()}
            with_image = {"x86_64": "9.3", "aarch64": "10.2"}
            assert found == (with_image if line.ci_images else dict.fromkeys(ARCHITECTURES, "7.3")), line.branch
            assert {toolchain.cxx11_abi for toolchain in line.toolchains.values()} == {0}


def test_development_branches_are_nightly(matrix: Matrix) -> None:
    for line in matrix.releases:
        development = line.branch == "master" or (
            re.fullmatch(r"v[0-9.]+", line.branch) is not None and line.source == "branch"
        )
        assert (line.channel == "nightly") is development, line.branch
        if development:
            assert (line.release, line.cann) == ("development", None)
    assert {"master", "v2.7.1", "v2.9.0"} <= {line.branch for line in matrix.releases if line.channel == "nightly"}


def test_lines_that_cannot_be_built_say_why(matrix: Matrix) -> None:
    for line in matrix.releases:
        assert (line.legacy is not None) == (line.pytorch_key < (1, 8)), line.branch
        if line.legacy:
            assert "no ci/build.sh" in line.legacy
            assert line.refusal == line.legacy
        elif line.source == "unknown":
            assert "branch" in (line.refusal or "")
            assert line.released
        else:
            assert line.refusal is None
            assert line.build_options is not None
    unknown = {line.branch for line in matrix.releases if line.source == "unknown"}
    assert {"v2.13.0-26.2.0", "v2.14.0"} <= unknown


def test_components_decide_the_submodules(matrix: Matrix) -> None:
    line = line_of(matrix, "v2.5.1-7.1.0")
    assert line.submodules_for("op-plugin") == ("nlohmann-json",)
    full = line.submodules_for("full")
    assert full[0] == "nlohmann-json"
    assert {"torchair", "tensorpipe", "libnop", "libboundscheck"} <= set(full)


def test_submodules_by_release(matrix: Matrix) -> None:
    for line in matrix.releases:
        if line.channel == "release" and line.refusal is None and line.pytorch_key >= (2, 1):
            release = [int(part) if part.isdigit() else -1 for part in line.release.split(".")]
            required, full = set(line.submodules_for("op-plugin")), set(line.submodules_for("full"))
            assert ("nlohmann-json" in required) == (release >= [7, 1]), line.branch
            assert "fmt" in required or release < [7, 3], line.branch
            assert ("cann-ge" in required) == (release >= [26, 1]), line.branch
            assert ("libboundscheck" in full) == (release >= [7, 0, 0]), line.branch
            assert ("libnop" in full) == ("tensorpipe" in full), line.branch
        assert "torch-mlir" not in line.submodules_for("full")


def test_description_of_a_target(matrix: Matrix) -> None:
    target = next(t for t in matrix.targets() if t.id == "v2.5.1-7.1.0-py3.9-x86_64")
    described = target.describe()
    assert json.loads(json.dumps(described)) == described
    assert described.items() >= {
        "id": "v2.5.1-7.1.0-py3.9-x86_64", "release": "7.1.0", "branch": "v2.5.1-7.1.0", "pytorch": "2.5.1",
        "python": "3.9", "arch": "x86_64", "cann": "8.2.RC1", "gcc": "9.3.1", "manylinux": "manylinux_2_17",
        "base_image": "pytorch/manylinux-builder:cpu-2.1", "op_plugin": "7.1.0", "package_version": "2.5.1.post3",
        "cxx11_abi": 0, "status": "maintained", "status_since": "2025-07-25", "channel": "release",
        "torch": "torch==2.5.1+cpu", "torch_on_index": True, "buildable": True, "refusal": None,
    }.items()  # fmt: skip
    assert target.tag == "cp39"
    assert len({target, target}) == 1


def test_description_of_a_target_that_cannot_be_built(matrix: Matrix) -> None:
    described = next(t for t in matrix.targets() if t.id == "v1.5.0-3.0.0-py3.8-aarch64").describe()
    assert described["buildable"] is False
    assert "no ci/build.sh" in str(described["refusal"])
    assert described["torch_on_index"] is False


# That it agrees with itself


def test_requirements_exist_for_every_python(matrix: Matrix) -> None:
    pinned: set[str] = set()
    for target in matrix.targets():
        if target.release.refusal is None:
            pinned.update(target.requirements)
            assert {project_of(line) for line in target.requirements} == set(BUILD_REQUIREMENTS)
            minor = int(target.python.removeprefix("3."))
            missing = [line for line in target.requirements if minor not in PYTHONS_OF[line]]
            assert not missing, target.id
    assert pinned == set(PYTHONS_OF)


def test_one_python_may_have_its_own_pins(matrix: Matrix) -> None:
    line = line_of(matrix, "v2.5.1-7.1.0")
    assert "numpy==1.21.3" in line.requirements_for("3.10")
    assert "numpy==1.23.2" in line.requirements_for("3.11")
    assert len(line.requirements_for("3.11")) == len(line.requirements_for("3.10")) == 4


def test_setuptools_has_what_the_branches_import(matrix: Matrix) -> None:
    """torch up to 2.1 takes packaging from pkg_resources, which has it below setuptools 70."""
    for line in matrix.releases:
        for python in line.pythons if line.refusal is None and line.pytorch_key < (2, 2) else ():
            pinned = {project_of(text): Version(text.partition("==")[2]) for text in line.requirements_for(python)}
            assert pinned["setuptools"] < Version("70"), (line.branch, python)


def test_every_target_has_a_torch_wheel_on_an_index_or_says_so(matrix: Matrix) -> None:
    assert {line.pytorch for line in matrix.releases} == set(_torch_file()["torch"])
    for target in matrix.targets():
        wheels = target.release.torch.wheels.get(target.arch, {})
        assert target.torch_on_index == (target.python in wheels)
        assert bool(target.torch_hashes) == target.torch_on_index, target.id
        if target.release.refusal is None:
            # Every buildable line is of a PyTorch that has wheels for both architectures.
            assert target.torch_on_index, target.id
    assert any(not target.torch_on_index for target in matrix.targets())


def test_torch_is_the_version_of_the_line(matrix: Matrix) -> None:
    for line in matrix.releases:
        for arch, requirement in chain(line.torch.requirements.items(), line.torch_requirement.items()):
            assert requirement.startswith((f"torch=={line.pytorch}", "torch==<version>")), (line.branch, arch)
        assert set(line.torch.requirements) == set(line.architectures)


def test_no_torch_wheel_serves_two_targets() -> None:
    hashes = [
        (digest, pytorch, arch, python)
        for pytorch, entry in _torch_file()["torch"].items()
        for arch, wheels in entry.get("wheels", {}).items()
        for python, digests in wheels.items()
        for digest in digests
    ]
    assert len(hashes) > 100
    assert len({digest for digest, *_ in hashes}) == len(hashes)


def _torch_file() -> Any:
    return yaml.safe_load((MATRICES / "torch.yaml").read_text())


def test_a_released_version_is_of_one_line(matrix: Matrix) -> None:
    owners: dict[Version, str] = {}
    for line in matrix.releases:
        for version in line.released:
            assert owners.setdefault(Version(version), line.branch) == line.branch
    assert len(owners) > 70


def test_the_next_build_is_not_older_than_what_was_released(matrix: Matrix) -> None:
    for line in matrix.releases:
        for version in line.released:
            assert Version(line.package_version) >= Version(version), line.branch


def test_every_toolchain_is_used(matrix: Matrix) -> None:
    assert {id(chain) for line in matrix.releases for chain in line.toolchains.values()} == {
        id(chain) for chain in matrix.toolchains.values()
    }


def test_every_compiler_is_used_or_explained(matrix: Matrix) -> None:
    used = {toolchain.gcc_minor for toolchain in matrix.toolchains.values()}
    assert used <= set(matrix.compilers)
    for minor in set(matrix.compilers) - used:
        assert "no released wheel" in matrix.compilers[minor].source


def test_cmake_minimum_of_a_compiler_is_that_of_its_lines(matrix: Matrix) -> None:
    needed: dict[str, list[Version]] = {}
    for line in matrix.releases:
        for toolchain in line.toolchains.values() if line.refusal is None and line.cmake_minimum else ():
            needed.setdefault(toolchain.gcc_minor, []).append(Version(str(line.cmake_minimum)))
    assert len(needed) == 5
    newest = max(max(versions) for versions in needed.values())
    for minor, compiler in matrix.compilers.items():
        assert Version(compiler.cmake_minimum) == max(needed.get(minor, [newest])), minor


@pytest.mark.parametrize("name", sorted(yaml.safe_load((MATRICES / "toolchains.yaml").read_text())["toolchains"]))
def test_base_images_have_the_toolset_and_the_policy(matrix: Matrix, name: str) -> None:
    toolchain = matrix.toolchains[name]
    compiler = matrix.compilers[toolchain.gcc_minor]
    major = toolchain.gcc.partition(".")[0]
    old = re.search(r"manylinux2014|/manylinux-builder:cpu-", toolchain.base_image)
    new = re.search(r"manylinux_?2_28", toolchain.base_image)
    assert bool(old) != bool(new)
    family, policy, base = (
        ("devtoolset", "manylinux_2_17", "manylinux2014")
        if old
        else ("gcc-toolset", "manylinux_2_28", "manylinux-2-28")
    )
    assert toolchain.gcc_toolset == f"{family}-{major}"
    assert toolchain.manylinux == policy
    provider = next(provider for provider in compiler.providers if provider.name == base)
    assert provider.package == toolchain.gcc_toolset
    assert provider.version == toolchain.gcc
    assert compiler.version == toolchain.gcc
    assert gcc_minor(compiler.version) == toolchain.gcc_minor
    assert ("aarch64" in toolchain.base_image) == (toolchain.arch == "aarch64")
    assert name.startswith(f"gcc{major}-")
    assert name.endswith(f"-{toolchain.arch}")
    assert toolchain.cxx11_abi == (0 if policy == "manylinux_2_17" else 1)


# Its files


def test_schemas_on_disk_are_those_of_the_models() -> None:
    on_disk = {path.name: path.read_text() for path in (MATRICES / "schema").iterdir()}
    assert on_disk == schema_texts(), "run: python -m builder.matrix.schema"


def test_schemas_are_written(tmp_path: Path) -> None:
    assert sorted(path.name for path in write_schemas(tmp_path / "schema")) == sorted(SCHEMAS)


@pytest.mark.parametrize("path", sorted(MATRICES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_file_validates_against_the_schema_it_names(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    schema = json.loads((path.parent / first.partition("=")[2]).read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("releases", 0, "branch"), "--upload-pack=x"),
        (("releases", 0, "unknown"), 1),
        (("defaults", "unknown"), 1),
        (("defaults", "branch"), "v2.5.1-7.1.0"),
        (("defaults", "pythons"), [3.9]),
        (("releases", 0, "honours_max_jobs"), "yes"),
        (("unknown",), []),
    ],
)
def test_schema_refuses_what_the_loader_refuses(keys: tuple[Any, ...], value: object, tmp_path: Path) -> None:
    content = yaml.safe_load((MATRICES / "pytorch-2.5.yaml").read_text())
    assert not list(schema_errors("pytorch.schema.json", content))
    part = content
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    assert list(schema_errors("pytorch.schema.json", content))
    folder = tmp_path / "matrices"
    shutil.copytree(MATRICES, folder)
    (folder / "pytorch-2.5.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(RequestError, match=r"pytorch-2\.5\.yaml"):
        load_matrix(folder)


def test_schema_wants_what_a_row_cannot_take_from_the_defaults() -> None:
    content = yaml.safe_load((MATRICES / "pytorch-2.5.yaml").read_text())
    del content["releases"][0]["branch"]
    assert list(schema_errors("pytorch.schema.json", content)) == ["'branch' is a required property"]


def test_loading_costs_little_more_than_reading() -> None:
    texts = [path.read_text() for path in MATRICES.glob("*.yaml")]

    def read() -> None:
        for text in texts:
            for _ in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
                pass

    def seconds(work: Callable[[], object]) -> float:
        begin = time.process_time()
        work()
        return time.process_time() - begin

    load_matrix()
    assert min(seconds(load_matrix) for _ in range(3)) < 20 * min(seconds(read) for _ in range(3))

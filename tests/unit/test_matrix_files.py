"""The shipped matrix: what it says, that its schemas are current, and that it loads fast."""

from __future__ import annotations

import json
import time
from pathlib import Path

import jsonschema
import pytest
import yaml

from builder.matrix.loader import load_matrix
from builder.matrix.model import BUILD_REQUIREMENTS, project_of
from builder.matrix.schema import SCHEMAS, schema_texts, write_schemas
from builder.workspace import resource

MATRICES = resource("matrices")


def test_shipped_lines_are_those_of_op_plugin_7_1_0() -> None:
    matrix = load_matrix()
    assert [(line.branch, line.package_version, line.pythons) for line in matrix.releases] == [
        ("v2.1.0-7.1.0", "2.1.0.post16", ("3.8", "3.9", "3.10", "3.11")),
        ("v2.5.1-7.1.0", "2.5.1.post3", ("3.9", "3.10", "3.11")),
        ("v2.6.0-7.1.0", "2.6.0.post2", ("3.9", "3.10", "3.11")),
    ]
    assert {(line.cann, line.op_plugin) for line in matrix.releases} == {("8.2.RC1", "7.1.0")}
    assert len(matrix.targets()) == (4 + 3 + 3) * 2


@pytest.mark.parametrize(
    ("branch", "arch", "gcc", "platform", "abi"),
    [
        ("v2.1.0-7.1.0", "x86_64", "9.3", "manylinux_2_17_x86_64", 0),
        ("v2.1.0-7.1.0", "aarch64", "10.2", "manylinux_2_17_aarch64", 0),
        ("v2.5.1-7.1.0", "x86_64", "9.3", "manylinux_2_17_x86_64", 0),
        ("v2.5.1-7.1.0", "aarch64", "10.2", "manylinux_2_17_aarch64", 0),
        ("v2.6.0-7.1.0", "x86_64", "9.3", "manylinux_2_17_x86_64", 0),
        ("v2.6.0-7.1.0", "aarch64", "11.2", "manylinux_2_28_aarch64", 1),
    ],
)
def test_toolchains_are_those_of_the_released_wheels(branch: str, arch: str, gcc: str, platform: str, abi: int) -> None:
    line = load_matrix().release(branch)
    assert line is not None
    toolchain = {str(name): chain for name, chain in line.toolchains.items()}[arch]
    assert (toolchain.gcc_minor, toolchain.platform, toolchain.cxx11_abi) == (gcc, platform, abi)


def test_every_target_has_pinned_requirements_and_known_torch_wheels() -> None:
    for target in load_matrix().targets():
        assert {project_of(line) for line in target.requirements} == set(BUILD_REQUIREMENTS)
        assert len(target.torch_hashes) in (1, 2)
        assert "torch-mlir" not in target.release.submodules_for("full")


def test_one_python_may_have_its_own_pins() -> None:
    line = load_matrix().release("v2.5.1-7.1.0")
    assert line is not None
    assert "numpy==1.21.3" in line.requirements_for("3.10")
    assert "numpy==1.23.2" in line.requirements_for("3.11")
    assert len(line.requirements_for("3.11")) == len(line.requirements_for("3.10")) == 4


def test_components_decide_the_submodules() -> None:
    line = load_matrix().release("v2.5.1-7.1.0")
    assert line is not None
    assert line.submodules_for("op-plugin") == ("nlohmann-json",)
    full = line.submodules_for("full")
    assert full[0] == "nlohmann-json"
    assert {"torchair", "tensorpipe", "libboundscheck"} <= set(full)


def test_description_of_a_target() -> None:
    target = next(t for t in load_matrix().targets() if t.id == "v2.5.1-7.1.0-py3.9-x86_64")
    described = target.describe()
    assert json.loads(json.dumps(described)) == described
    assert described.items() >= {
        "id": "v2.5.1-7.1.0-py3.9-x86_64", "release": "7.1.0", "branch": "v2.5.1-7.1.0", "pytorch": "2.5.1",
        "python": "3.9", "arch": "x86_64", "cann": "8.2.RC1", "gcc": "9.3.1", "manylinux": "manylinux_2_17",
        "base_image": "pytorch/manylinux-builder:cpu-2.1", "op_plugin": "7.1.0", "package_version": "2.5.1.post3",
        "cxx11_abi": 0, "status": "maintained",
    }.items()  # fmt: skip
    assert target.tag == "cp39"
    assert len({target, target}) == 1


def test_schemas_on_disk_are_those_of_the_models() -> None:
    on_disk = {path.name: path.read_text() for path in (MATRICES / "schema").iterdir()}
    assert on_disk == schema_texts(), "run: python -m builder.matrix.schema"


def test_schemas_are_written(tmp_path: Path) -> None:
    assert sorted(path.name for path in write_schemas(tmp_path / "schema")) == sorted(SCHEMAS)


def test_every_file_validates_against_the_schema_it_names() -> None:
    files = sorted(MATRICES.glob("*.yaml"))
    assert {"pytorch-2.1.yaml", "pytorch-2.5.yaml", "pytorch-2.6.yaml", "sources.yaml", "toolchains.yaml"} <= {
        path.name for path in files
    }
    for path in files:
        first = path.read_text().splitlines()[0]
        assert first.startswith("# yaml-language-server: $schema="), path
        schema = json.loads((path.parent / first.partition("=")[2]).read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.Draft202012Validator(schema).validate(yaml.safe_load(path.read_text()))


def test_schema_refuses_what_the_loader_refuses() -> None:
    schema = json.loads(schema_texts()["pytorch.schema.json"])
    content = yaml.safe_load((MATRICES / "pytorch-2.5.yaml").read_text())
    content["releases"][0]["branch"] = "--upload-pack=x"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(content)


def test_loading_is_fast() -> None:
    load_matrix()
    times = []
    for _ in range(3):
        begin = time.process_time()
        load_matrix()
        times.append(time.process_time() - begin)
    assert min(times) < 0.1

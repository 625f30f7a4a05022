"""The miniature upstream's own code generation, with all its vices, through the cache."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from codegen_support import Place, state

from builder.workspace import resource


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path, version="2.5.1")
    examples = resource("examples")
    shutil.rmtree(place.source)
    shutil.copytree(examples / "torch_npu", place.source)
    for name in ("codegen", "op_plugin", "test", "gencode.sh"):
        copy = shutil.copytree if (examples / "op-plugin" / name).is_dir() else shutil.copyfile
        (place.source / "third_party" / "op-plugin").mkdir(parents=True, exist_ok=True)
        copy(examples / "op-plugin" / name, place.source / "third_party" / "op-plugin" / name)
    site = tmp_path / "site"
    shutil.copytree(examples / "torch" / "torchgen", site / "torchgen")
    (site / "torch").mkdir()
    (site / "torch" / "__init__.py").write_text("")
    (site / "torch" / "version.py").write_text("__version__ = '2.5.1'\n")
    place.variables.update(PYTHONPATH=str(site), RUNS="/dev/null", PYTHONDONTWRITEBYTECODE="1")
    return place


def fresh_site(place: Place) -> None:
    """An environment has its own PyTorch; generation writes into it."""
    name = "packaged/ATen/templates/DispatchKeyNativeFunctions.h"
    shutil.copyfile(
        resource("examples") / "torch" / "torchgen" / name, Path(place.variables["PYTHONPATH"]) / "torchgen" / name
    )


def build(place: Place) -> str:
    fresh_site(place)
    return place.build().result


def test_the_cache_gives_what_generation_gives(place: Place) -> None:
    assert build(place) == "miss"
    generated = state(place.tree)
    assert generated["torch_npu/utils/exposed_api.py"][1] == 0o550
    assert "Traceback" not in place.said
    assert build(place) == "hit"
    assert state(place.tree) == generated
    assert place.warning is None


def test_a_changed_source_needs_no_generation_and_a_changed_declaration_does(place: Place) -> None:
    build(place)
    plugin = place.source / "third_party" / "op-plugin" / "op_plugin"
    for name in ("ops/opapi/AddKernelNpuOpApi.cpp", "utils/OpUtils.h"):
        with open(plugin / name, "a", encoding="utf-8") as stream:
            stream.write("// edited\n")
    with open(place.source / "setup.py", "a", encoding="utf-8") as stream:
        stream.write("# edited\n")
    assert build(place) == "hit"
    functions = plugin / "config" / "op_plugin_functions.yaml"
    functions.write_text(functions.read_text().replace("custom:\n", "custom:\n  # edited\n", 1))
    fresh_site(place)
    outcome = place.build()
    assert outcome.result == "miss"
    assert outcome.because == ("third_party/op-plugin/op_plugin/config/op_plugin_functions.yaml",)


def test_another_order_of_sets_is_another_generation(place: Place) -> None:
    build(place)
    first = state(place.tree)
    place.variables["PYTHONHASHSEED"] = "1"
    assert build(place) == "miss"
    place.variables["PYTHONHASHSEED"] = "0"
    assert build(place) == "hit"
    assert state(place.tree) == first

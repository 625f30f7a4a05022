"""The miniature upstream's own code generation, with all its vices, through the cache."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import yaml
from codegen_support import LINE, Place, state

from builder.core.workspace import resource
from builder.environments.interpreters import find_interpreter
from builder.sources.ordering import order_is_fixed
from builder.sources.patches import apply, find_series

#: Those that the miniature's lines have.
PYTHONS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13")


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


def patched(place: Place) -> list[str]:
    """Apply the shipped series, as a build does; the names of the patches that were taken."""
    shipped = [resource("patches")]
    assert not order_is_fixed(place.source, LINE, shipped)
    applied = apply(find_series(shipped, LINE, "torch_npu", options=()), place.source)
    assert order_is_fixed(place.source, LINE, shipped)
    return [patch.path.name for patch in applied.taken]


def test_patched_it_writes_the_same_with_every_hash_seed(place: Place) -> None:
    assert patched(place) == ["sorted-exposed-api.patch"]
    place.order_is_fixed = True
    assert build(place) == "miss"
    first = state(place.tree)
    # The cache would give the first result to all of them.
    place.cached = False
    for seed in ("1", "2", "3"):
        place.variables["PYTHONHASHSEED"] = seed
        fresh_site(place)
        place.prepare()
        assert place.generate().returncode == 0
        assert state(place.tree) == first


def test_patched_all_pythons_write_the_same_and_share_it(place: Place) -> None:
    found = [each.path for python in PYTHONS if (each := find_interpreter(python)) is not None]
    if len(found) < 2:
        pytest.skip("there is one Python here")
    patched(place)
    place.order_is_fixed = True
    site = Path(place.variables["PYTHONPATH"])
    # Its part in C is of one Python; it does without.
    shutil.copytree(Path(yaml.__file__).parent, site / "yaml", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    # A ``python3`` on PATH belongs to the inputs unless it is the one that generates.
    (place.tools / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (place.tools / "python3").chmod(0o755)
    place.check = True
    trees = []
    for number, python in enumerate(found):
        place.python = str(python)
        # With checking, generation runs and is held against what the first Python left.
        assert build(place) == ("same" if number else "miss"), python
        trees.append(state(place.tree))
    assert all(tree == trees[0] for tree in trees)

"""The vices of the miniature upstream, shown by running its scripts as they are, without the builder.

If one of these fails, the miniature has become kinder than upstream, and the builder's own tests prove less.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.cli.demo_upstream import DEFAULT_LINE, Miniature, materialise

pytestmark = pytest.mark.slow

THIS_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class Upstream:
    """A miniature, and a Python that has all that its scripts want."""

    miniature: Miniature
    python: Path

    def environment(self, **more: str) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "BUILDER_"))}
        clean.pop("AUDITWHEEL_PLAT", None)
        path = f"{self.python.parent}{os.pathsep}{os.environ['PATH']}"
        return {**clean, "PATH": path, "CCACHE_DISABLE": "1", "MAX_JOBS": "2", "BUILD_WITHOUT_SHA": "1", **more}

    def tree(self, folder: Path) -> Path:
        """A checkout of the default line with its submodules, as `git submodule update` would leave it."""
        subprocess.run(
            ["git", "clone", "--quiet", "--branch", DEFAULT_LINE, self.miniature.torch_npu, folder],
            check=True,
            env=self.environment(),
        )
        for name in ("op-plugin", "nlohmann"):
            target = folder / "third_party" / name
            target.rmdir()
            shutil.copytree(self.miniature.root / name, target, ignore=shutil.ignore_patterns(".git"))
        return folder

    def generate(self, tree: Path, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", tree / "generate_code.sh", self.python, "2.5.1.post3"],
            env=self.environment(**more),
            capture_output=True,
            text=True,
            check=False,
        )

    def build(self, tree: Path, **more: str) -> subprocess.CompletedProcess[str]:
        script = (tree / "ci" / "build.sh").read_text()
        if THIS_PYTHON in re.findall(r"SUPPORTED_PY_VERSION=\((.*)\)", script)[0].split():
            command = ["bash", "ci/build.sh", f"--python={THIS_PYTHON}", "--disable_torchair", "--disable_rpc"]
        else:
            command = [str(self.python), "setup.py", "build", "bdist_wheel"]
        return subprocess.run(
            command, cwd=tree, env=self.environment(**more), capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Upstream:
    for program in ("git", "g++", "gcc", "cmake", "make"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: the miniature cannot be compiled here")
    folder = tmp_path_factory.mktemp("upstream")
    made = materialise(folder / "miniature")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    tools = subprocess.run([*pip, "setuptools", "wheel", "PyYAML"], capture_output=True, text=True, check=False)
    if tools.returncode != 0:
        pytest.skip(f"setuptools, wheel and PyYAML cannot be installed here: {tools.stderr.strip()[-300:]}")
    subprocess.run(
        [*pip, "--no-index", "--no-build-isolation", "--find-links", str(made.wheelhouse), "torch==2.5.1"], check=True
    )
    return Upstream(made, python)


@pytest.fixture(scope="module")
def built(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree that has been built once; the date that its compile was told is 1 February 2001."""
    tree = upstream.tree(tmp_path_factory.mktemp("built") / "pytorch")
    done = upstream.build(tree, SOURCE_DATE_EPOCH="980985600")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return tree


@pytest.fixture
def tree(upstream: Upstream, tmp_path: Path) -> Path:
    return upstream.tree(tmp_path / "pytorch")


def wheel_of(tree: Path) -> Path:
    [wheel] = (tree / "dist").glob("*.whl")
    return wheel


def generated(tree: Path) -> dict[str, str]:
    names = ("csrc/aten/RegisterNPU.cpp", "csrc/aten/CustomRegisterSchema.cpp", "utils/custom_ops.py")
    return {name: (tree / "torch_npu" / name).read_text() for name in names}


def change_yaml(tree: Path, change: Callable[[str], str]) -> None:
    path = tree / "third_party/op-plugin/op_plugin/config/op_plugin_functions.yaml"
    before = path.read_text()
    path.write_text(change(before))
    assert path.read_text() != before


def test_the_wheel_really_computes(upstream: Upstream, built: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    subprocess.run(
        [
            upstream.python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-index",
            "--no-deps",
            "--target",
            site,
            wheel_of(built),
        ],
        check=True,
    )
    program = """if True:
        import torch, torch_npu
        assert torch_npu.npu_add([1.0, 2.0], [3.0, 4.0]) == [4.0, 6.0]
        assert torch_npu.npu_clip([-5.0, 0.5], max=2.0) == [-1.0, 0.5]
        assert torch.ops.aten.add([1.0], [2.0], alpha=10) == [21.0]
        assert torch_npu.npu_dot([1.0, 2.0], [3.0, 4.0]) == 11.0
        assert torch_npu.npu.is_available()
        assert torch_npu._C._npu_build_date() == "Feb  1 2001", torch_npu._C._npu_build_date()  # __DATE__
        try:
            torch_npu.npu_add([1.0, 2.0], [1.0, 2.0, 3.0])
        except RuntimeError as error:
            assert "do not fit" in str(error)
        else:
            raise AssertionError("sizes that do not fit were accepted")
        """
    done = subprocess.run(
        [upstream.python, "-c", program],
        env=upstream.environment(PYTHONPATH=str(site)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_stub_libraries_serve_linking_only(upstream: Upstream, built: Path) -> None:
    done = subprocess.run(
        [upstream.python, "-c", "import torch_npu"],
        env=upstream.environment(
            PYTHONPATH=str(built / "build" / "packages"), LD_PRELOAD=str(built / "third_party/acl/libs/libascendcl.so")
        ),
        cwd=built.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "aclInit failed with error 500000" in done.stderr


def test_code_generation_fails_silently_and_leaves_the_old_files(upstream: Upstream, tree: Path) -> None:
    assert upstream.generate(tree).returncode == 0
    before = generated(tree)
    change_yaml(
        tree, lambda text: text.replace("npu_dot(Tensor self, Tensor other)", "npu_dot(Tensor self, Tensor other")
    )
    done = upstream.generate(tree)
    assert done.returncode == 0
    assert "Traceback" in done.stderr
    assert "failed to parse schema" in done.stderr
    assert generated(tree) == before, "the registrations are those of the earlier run"


def test_an_unknown_official_operator_makes_a_wheel_without_operators(upstream: Upstream, tree: Path) -> None:
    change_yaml(tree, lambda text: text.replace("func: abs(", "func: absolutely_unknown("))
    kernel = tree / "third_party/op-plugin/op_plugin/ops/aclops/AbsKernelNpu.cpp"
    kernel.write_text(kernel.read_text().replace("at::Tensor abs(", "at::Tensor absolutely_unknown("))
    done = upstream.build(tree)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Found an invalid operator name: absolutely_unknown" in done.stderr
    with zipfile.ZipFile(wheel_of(tree)) as archive:
        assert "torch_npu/lib/libtorch_npu.so" in archive.namelist()
        assert b"npu_add(Tensor self" not in archive.read("torch_npu/lib/libtorch_npu.so")
        assert "torch_npu/utils/custom_ops.py" not in archive.namelist()


def test_every_run_inserts_the_common_entries_again(upstream: Upstream, tree: Path) -> None:
    def count() -> int:
        return (tree / "torch_npu/testing/_npu_testing_utils.py").read_text().count("test_compare_cpu")

    upstream.generate(tree)
    assert count() == 1
    upstream.generate(tree)
    assert count() == 2


def test_a_shorter_result_keeps_the_end_of_the_longer_one(upstream: Upstream, tree: Path) -> None:
    result = tree / "third_party/op-plugin/op_plugin/config/v2r5/op_plugin_functions.yaml"
    upstream.generate(tree)
    longer = result.read_text()
    change_yaml(tree, lambda text: re.sub(r"  - func: npu_dot.*?\n\n", "", text, flags=re.S))
    upstream.generate(tree)
    left = result.read_text()
    assert len(left) == len(longer)
    result.unlink()
    upstream.generate(tree)
    assert left.startswith(result.read_text())
    assert len(result.read_text()) < len(left)


def test_a_declaration_without_a_kernel_kind_is_dropped(upstream: Upstream, tree: Path) -> None:
    declaration = (upstream.miniature.custom_ops / "op_plugin_functions.yaml").read_text()
    change_yaml(tree, lambda text: text.replace("custom:\n", "custom:\n" + declaration))
    done = upstream.generate(tree)
    assert done.returncode == 0
    assert "npu_add_custom" not in done.stdout + done.stderr
    assert not any("npu_add_custom" in text for text in generated(tree).values())
    change_yaml(tree, lambda text: text.replace(declaration, declaration + "    op_api: all_version\n"))
    upstream.generate(tree)
    assert (
        'm.def("npu_add_custom(Tensor x, Tensor y) -> Tensor");'
        in generated(tree)["csrc/aten/CustomRegisterSchema.cpp"]
    )


def test_order_depends_on_the_hash_seed(upstream: Upstream, tree: Path) -> None:
    seen = []
    for seed in ("1", "2", "3"):
        upstream.generate(tree, PYTHONHASHSEED=seed)
        seen.append(generated(tree))
    for name in seen[0]:
        assert len({texts[name] for texts in seen}) > 1, name
        assert len({tuple(sorted(texts[name].splitlines())) for texts in seen}) == 1, name


def test_generated_files_carry_the_path_of_the_tree(upstream: Upstream, tree: Path) -> None:
    upstream.generate(tree)
    for name in ("csrc/aten/RegisterNPU.cpp", "csrc/aten/CustomRegisterSchema.cpp"):
        assert str(tree.resolve()) in generated(tree)[name].splitlines()[0]


def test_the_installed_torch_is_edited(upstream: Upstream, tree: Path) -> None:
    [template] = upstream.python.parent.parent.glob(
        "lib/python*/site-packages/torchgen/packaged/ATen/templates/DispatchKeyNativeFunctions.h"
    )
    edited = "#include <ATen/Tensor.h>\n#include <ATen/ATen.h>\n"
    template.write_text(template.read_text().replace(edited, "#include <ATen/Tensor.h>\n"))
    upstream.generate(tree)
    assert edited in template.read_text()


def test_symbolic_links_are_refused_silently(upstream: Upstream, tree: Path) -> None:
    path = tree / "torch_npu/csrc/aten/npu_native_functions.yaml"
    path.rename(tree / "elsewhere.yaml")
    path.symlink_to(tree / "elsewhere.yaml")
    done = upstream.generate(tree)
    assert done.returncode == 0
    assert "is a soft chain" in done.stderr
    assert not (tree / "torch_npu/csrc/aten/RegisterNPU.cpp").exists()


@pytest.mark.parametrize("repository", [True, False])
def test_get_sha_swallows_errors(upstream: Upstream, tree: Path, repository: bool) -> None:
    if not repository:
        shutil.rmtree(tree / ".git")
    # Any command writes version.py; this one compiles nothing but the stubs.
    subprocess.run(
        [upstream.python, "setup.py", "--version"],
        cwd=tree,
        env=upstream.environment(GIT_CEILING_DIRECTORIES=str(tree.parent)),
        capture_output=True,
        check=True,
    )
    [sha] = re.findall(r"git_version = '(.*)'", (tree / "torch_npu/version.py").read_text())
    assert re.fullmatch("[0-9a-f]{40}" if repository else "Unknown", sha)


def test_what_was_deleted_stays_in_the_next_wheel(upstream: Upstream, built: Path, tmp_path: Path) -> None:
    tree = tmp_path / "pytorch"
    shutil.copytree(built, tree, symlinks=True)
    module = tree / "build" / "packages" / "torch_npu" / "deleted_long_ago.py"
    module.write_text("")
    shutil.rmtree(tree / "dist")
    # CMake's cache names the first tree, so the second build takes place where the first one did.
    shutil.rmtree(built)
    tree.rename(built)
    try:
        done = upstream.build(built, SOURCE_DATE_EPOCH="980985600")
        assert done.returncode == 0, done.stderr[-3000:]
        with zipfile.ZipFile(wheel_of(built)) as archive:
            assert "torch_npu/deleted_long_ago.py" in archive.namelist()
            testing = archive.read("torch_npu/testing/_npu_testing_utils.py").decode()
        assert testing.count("test_compare_cpu") == 2, "the second build's wheel differs from the first's"
    finally:
        (built / "build/packages/torch_npu/deleted_long_ago.py").unlink()


def test_the_first_wheel_in_sight_is_repaired_and_removed(upstream: Upstream, built: Path, tmp_path: Path) -> None:
    recorded = tmp_path / "arguments"
    program = tmp_path / "bin" / "auditwheel"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {recorded}\nexit 1\n')
    program.chmod(0o755)
    shutil.rmtree(built / "dist")
    (built / "dist").mkdir()
    # setup.py takes what glob gives first, which is the folder's own order; here that order is made definite.
    code = (
        "import glob, runpy, sys; real = glob.glob; "
        "glob.glob = lambda *a, **k: sorted(real(*a, **k), key=lambda n: 'another' not in n); "
        "sys.argv = ['setup.py', 'build', 'bdist_wheel']; runpy.run_path('setup.py', run_name='__main__')"
    )
    (built / "dist" / "another-1.0-cp39-cp39-linux_x86_64.whl").write_bytes(b"")
    environment = upstream.environment(AUDITWHEEL_PLAT="manylinux_2_28_x86_64", PYTHONPATH=str(built))
    environment["PATH"] = f"{program.parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        [upstream.python, "-c", code], cwd=built, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    arguments = recorded.read_text().split()
    assert "dist/another-1.0-cp39-cp39-linux_x86_64.whl" in arguments
    assert "libtorch_npu.so" in arguments
    left = [path.name for path in (built / "dist").iterdir()]
    assert len(left) == 1
    assert left[0].startswith("torch_npu-"), "the foreign wheel is gone although its repair failed"


def test_a_comma_is_missing_between_two_tags(upstream: Upstream) -> None:
    module = ast.parse((upstream.miniature.torch_npu / "setup.py").read_text())
    [tags] = [
        ast.literal_eval(node.value)
        for node in module.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "manylinux_tags"
    ]
    assert "manylinux_2_35_x86_64" not in tags
    assert "manylinux_2_35_x86_64manylinux_2_35_aarch64" in tags


def test_a_torch_that_cannot_be_imported_is_hidden(upstream: Upstream, tree: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    (broken / "torch").mkdir(parents=True)
    (broken / "torch" / "__init__.py").write_text("raise OSError('libmissing.so: cannot open shared object file')\n")
    done = upstream.build(tree, PYTHONPATH=str(broken))
    assert done.returncode != 0
    # Not the failed import ends the build but CMake, which was sent to the folder of the broken module.
    assert "TorchConfig.cmake" in done.stderr
    cache = (tree / "build" / "CMakeCache.txt").read_text()
    assert f"PYTORCH_INSTALL_DIR:UNINITIALIZED={broken / 'torch'}" in cache


def test_an_unsupported_python_is_refused(upstream: Upstream, tree: Path) -> None:
    done = subprocess.run(
        ["bash", "ci/build.sh", "--python=3.8"],
        cwd=tree,
        env=upstream.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "3.8 is an unsupported python version, we suggest 3.9 3.10 3.11" in done.stdout

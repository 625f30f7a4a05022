"""The miniature upstream: the same repositories every time, and upstream's own shape."""

from __future__ import annotations

import configparser
import io
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml

from builder.cli import demo_upstream
from builder.cli.demo_upstream import LINES, OP_PLUGIN_BRANCH, Miniature, materialise
from builder.core.errors import MachineError
from builder.core.workspace import resource


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Miniature:
    return materialise(tmp_path_factory.mktemp("miniature"))


def git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-c", f"safe.directory={repository}", *arguments],
        cwd=repository,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def heads(made: Miniature) -> dict[str, str]:
    repositories = (made.torch_npu, made.op_plugin, made.nlohmann)
    return {path.name: git(path, "for-each-ref", "--format=%(refname) %(objectname)") for path in repositories}


def archives(made: Miniature) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in made.wheelhouse.iterdir()}


def test_every_place_gets_the_same_commits_and_bytes(
    made: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What a machine could mix in: the user's configuration, identity and dates, a hook's variables, the umask.
    configuration = tmp_path / "gitconfig"
    configuration.write_text("[commit]\n\tgpgsign = true\n[core]\n\tautocrlf = true\n[init]\n\tdefaultBranch = other\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(configuration))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "somebody")
    monkeypatch.setenv("GIT_COMMITTER_DATE", "2001-01-01T00:00:00")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("TZ", "Asia/Shanghai")
    before = os.umask(0o077)
    try:
        again = materialise(tmp_path / "again")
    finally:
        os.umask(before)
    monkeypatch.undo()
    assert heads(again) == heads(made)
    assert archives(again) == archives(made)


def test_modes_of_the_installed_examples_do_not_matter(
    made: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "examples"
    shutil.copytree(resource("examples"), copy, copy_function=shutil.copyfile)
    (copy / "torch_npu" / "codegen" / "__pycache__").mkdir(exist_ok=True)
    (copy / "torch_npu" / "codegen" / "__pycache__" / "utils.cpython-311.pyc").write_bytes(b"compiled")
    monkeypatch.setattr(demo_upstream, "resource", lambda name: copy)
    assert heads(materialise(tmp_path / "made")) == heads(made)


def test_everybody_can_read_the_wheelhouse(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        wheelhouse = materialise(tmp_path).wheelhouse
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (wheelhouse, *wheelhouse.iterdir())} == {0o755, 0o644}


def test_second_call_changes_nothing(tmp_path: Path) -> None:
    first = materialise(tmp_path)
    added = first.op_plugin / "work-of-a-user.txt"
    added.write_text("keep me\n")
    times = {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    assert materialise(tmp_path) == first
    assert {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*")) if path.is_file()} == times


def test_call_after_an_interrupted_one_repairs(made: Miniature, tmp_path: Path) -> None:
    broken = materialise(tmp_path)
    shutil.rmtree(broken.torch_npu / ".git")
    (tmp_path / ".materialised").unlink()
    assert heads(materialise(tmp_path)) == heads(made)


def test_a_removed_part_is_made_again(tmp_path: Path) -> None:
    made = materialise(tmp_path)
    shutil.rmtree(made.wheelhouse)
    assert len(list(materialise(tmp_path).wheelhouse.iterdir())) == len(LINES)


def test_changed_examples_are_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "examples"
    shutil.copytree(resource("examples"), copy)
    monkeypatch.setattr(demo_upstream, "resource", lambda name: copy)
    before = heads(materialise(tmp_path / "made"))
    header = copy / "nlohmann" / "include" / "nlohmann" / "json.hpp"
    header.write_text(header.read_text() + "// one more line\n")
    after = heads(materialise(tmp_path / "made"))
    assert after["nlohmann"] != before["nlohmann"]
    assert after["torch_npu"] != before["torch_npu"], "torch_npu pins the commit of nlohmann"
    assert after["op-plugin"] == before["op-plugin"]


def test_lines_have_upstreams_pythons_versions_and_torch(made: Miniature) -> None:
    for line in LINES:
        script = git(made.torch_npu, "show", f"{line.branch}:ci/build.sh")
        assert re.findall(r"^SUPPORTED_PY_VERSION=\((.*)\)$", script, flags=re.M) == [line.pythons]
        setup = git(made.torch_npu, "show", f"{line.branch}:setup.py")
        compile(setup, "setup.py", "exec")
        assert re.findall(r'"torch==([\d.]+)"', setup) == [line.torch]
        files = git(made.torch_npu, "ls-tree", "--name-only", line.branch).splitlines()
        assert ("version.txt" in files) is not line.version_in_setup
        if line.version_in_setup:
            assert re.findall(r"^VERSION = '(.*)'$", setup, flags=re.M) == [line.version]
        else:
            assert git(made.torch_npu, "show", f"{line.branch}:version.txt") == line.version
        assert ("aarch64" in setup.split("def check_submodules")[0]) is line.new_abi_on_aarch64
    assert {line.branch: line.pythons.split()[0] for line in LINES} == {
        "v2.1.0-7.1.0": "3.8",
        "v2.5.1-7.1.0": "3.9",
        "v2.6.0-7.1.0": "3.9",
    }


def test_submodules_name_public_addresses_and_pin_local_commits(made: Miniature) -> None:
    for line in LINES:
        modules = configparser.ConfigParser()
        text = git(made.torch_npu, "show", f"{line.branch}:.gitmodules")
        modules.read_string(re.sub(r"^\s+", "", text, flags=re.M))
        named = {modules[section]["path"]: modules[section] for section in modules.sections()}
        pinned = {
            entry.split("\t")[1]: entry.split()[2]
            for entry in git(made.torch_npu, "ls-tree", "-r", line.branch).splitlines()
            if entry.startswith("160000 ")
        }
        assert set(named) == set(pinned)
        assert named["third_party/op-plugin"]["url"] == "https://gitee.com/ascend/op-plugin.git"
        assert named["third_party/op-plugin"]["branch"] == OP_PLUGIN_BRANCH
        assert named["third_party/nlohmann"]["url"] == "https://gitee.com/mirrors/nlohmann-json.git"
        assert named["third_party/torch-mlir"]["update"] == "none"
        assert pinned["third_party/nlohmann"] == git(made.nlohmann, "rev-parse", "master")
        # One commit behind the branch, as upstream's pin lies behind its branch.
        assert pinned["third_party/op-plugin"] == git(made.op_plugin, "rev-parse", f"{OP_PLUGIN_BRANCH}~1")


def test_head_of_op_plugin_has_one_more_operator(made: Miniature) -> None:
    def operators(revision: str) -> set[str]:
        text = git(made.op_plugin, "show", f"{revision}:op_plugin/config/op_plugin_functions.yaml")
        return {item["func"].split("(")[0] for item in yaml.safe_load(text)["custom"]}

    assert operators(OP_PLUGIN_BRANCH) - operators(f"{OP_PLUGIN_BRANCH}~1") == {"npu_scale"}
    changed = git(made.op_plugin, "diff", "--name-only", f"{OP_PLUGIN_BRANCH}~1", OP_PLUGIN_BRANCH).splitlines()
    assert changed == [
        "op_plugin/config/op_plugin_functions.yaml",
        "op_plugin/ops/opapi/ScaleKernelNpuOpApi.cpp",
    ]


def test_a_pinned_commit_can_be_fetched_alone(made: Miniature, tmp_path: Path) -> None:
    pinned = git(made.op_plugin, "rev-parse", f"{OP_PLUGIN_BRANCH}~1")
    git(tmp_path, "init", "--quiet", "--bare", "mirror.git")
    # Protocol 2 lets anybody ask for any commit; with the older one, which some hosts speak, the server must agree.
    old = ("-c", "protocol.version=0", "fetch", "--quiet", "--depth=1")
    git(tmp_path / "mirror.git", *old, f"file://{made.op_plugin}", pinned)
    assert git(tmp_path / "mirror.git", "rev-parse", "FETCH_HEAD") == pinned


def test_overlay_recipe_reads_as_upstreams_does(made: Miniature) -> None:
    script = git(made.op_plugin, "show", f"{OP_PLUGIN_BRANCH}:ci/build.sh")
    laid = re.findall(r"^\s*cp -rf \$\{CODE_ROOT_PATH\}/(\S+) \$\{PYTORCH_THIRD_PATH\}/$", script, flags=re.M)
    assert laid == ["op_plugin", "codegen", "*.sh", "test"]
    for name in ("op_plugin", "codegen", "gencode.sh", "test"):
        assert (made.op_plugin / name).exists()


def test_two_sources_include_python_h(made: Miniature) -> None:
    sources = [
        path
        for repository in (made.torch_npu / "torch_npu", made.op_plugin / "op_plugin")
        for path in repository.rglob("*.cpp")
    ]
    assert 12 <= len(sources) <= 16

    def includes_python(path: Path) -> bool:
        names = re.findall(r'^#include ["<](.*)[">]', path.read_text(), flags=re.M)
        return "Python.h" in names or any(
            includes_python(made.torch_npu / name) for name in names if (made.torch_npu / name).is_file()
        )

    assert sorted(path.name for path in sources if includes_python(path)) == ["InitNpuBindings.cpp", "Module.cpp"]


def test_source_distributions_are_torch_of_each_line(made: Miniature) -> None:
    assert sorted(archives(made)) == sorted(f"torch-{line.torch}.tar.gz" for line in LINES)
    for line in LINES:
        content = archives(made)[f"torch-{line.torch}.tar.gz"]
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            names = archive.getnames()
            version = archive.extractfile(f"torch-{line.torch}/version.txt")
            assert version is not None
            assert version.read().decode().strip() == line.torch
        assert all(name.startswith(f"torch-{line.torch}/") for name in names)
        for needed in (
            "PKG-INFO",
            "setup.py",
            "torch/include/ATen/Tensor.h",
            "torch/share/cmake/Torch/TorchConfig.cmake",
        ):
            assert f"torch-{line.torch}/{needed}" in names


def test_sources_file_leads_to_the_repositories(made: Miniature) -> None:
    repositories = yaml.safe_load(made.sources_file.read_text())["repositories"]
    assert set(repositories) == {"torch_npu", "op-plugin", "nlohmann-json"}
    for entry in repositories.values():
        [url] = entry["urls"]
        assert git(Path(url), "rev-parse", "HEAD")


def test_custom_operator_is_declared_as_the_sample_declares_it(made: Miniature) -> None:
    [declaration] = yaml.safe_load((made.custom_ops / "op_plugin_functions.yaml").read_text())
    assert declaration == {"func": "npu_add_custom(Tensor x, Tensor y) -> Tensor"}
    assert [path.name for path in made.custom_ops.glob("*.cpp")] == ["AddCustomKernelNpuApi.cpp"]


def test_without_git_the_machine_is_blamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachineError, match="git is not installed") as caught:
        materialise(tmp_path / "made")
    assert caught.value.exit_code == 3
    assert caught.value.hint
    assert not (tmp_path / "made").exists()


def test_failing_git_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'fatal: no space left' >&2\nexit 128\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    with pytest.raises(MachineError, match="git init failed") as caught:
        materialise(tmp_path / "made")
    assert caught.value.details == "fatal: no space left"


@pytest.mark.parametrize("damage", ["folder", "text"])
def test_damaged_examples_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    copy = tmp_path / "examples"
    shutil.copytree(resource("examples"), copy)
    if damage == "folder":
        shutil.rmtree(copy / "op-plugin")
    else:
        (copy / "op-plugin" / "op_plugin" / "config" / "op_plugin_functions.yaml").write_text("custom: []\n")
    monkeypatch.setattr(demo_upstream, "resource", lambda name: copy)
    with pytest.raises(MachineError, match=r"op-plugin|op_plugin_functions\.yaml"):
        materialise(tmp_path / "made")

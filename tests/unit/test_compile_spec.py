"""What is refused before anything is made, and how a compile is run: its command, its variables, its cache."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from builder.compilation import ccache as compile_cache
from builder.compilation import compile_manifest
from builder.core.build_options import BuildOptions
from builder.core.errors import FailureKind, RequestError
from builder.environments.image_inputs import torch_requirement
from builder.environments.interface import Limits, Outcome, Paths, Toolset
from builder.environments.probe import Probed
from builder.matrix.loader import Matrix, load_matrix
from builder.matrix.model import Target
from builder.matrix.selection import parse_target_id
from builder.target.compile_spec import (
    CompileSpec,
    gcc_advice,
    keep_manifest,
    prepared,
    toolchain_mismatches,
    wrong_toolchain,
)
from builder.target.inputs import environment_request
from builder.target.resolve_sources import check_request
from builder.wheels.repair import RepairPlan


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


DEBIAN = {release: f"Debian GNU/Linux {release}" for release in ("11", "12", "13")}
CENTOS = ("centos", "7", "CentOS Linux 7 (Core)")


@pytest.mark.parametrize(
    ("line", "system", "says"),
    [
        ("v2.5.1-7.1.0", ("debian", "11", DEBIAN["11"]), "gcc 9.3 is in gcc-9 on Debian GNU/Linux 11; "),
        ("v2.5.1-7.1.0", ("debian", "12", DEBIAN["12"]), "gcc 9.3 has to be built from source on Debian GNU/Linux 12"),
        ("v2.5.1-7.1.0", CENTOS, "gcc 9.3 is in devtoolset-9 on CentOS Linux 7"),
        ("v2.7.1-7.3.0", ("debian", "12", DEBIAN["12"]), "the nearest to gcc 11.2 on Debian GNU/Linux 12 is gcc-11"),
        ("v2.7.1-7.3.0", ("rocky", "8.9", "Rocky Linux 8.9"), "gcc 11.2 is in gcc-toolset-11 on Rocky Linux 8.9"),
        ("v2.8.0-7.3.0", ("debian", "13", DEBIAN["13"]), "gcc 13.3 is in gcc-13 on Debian GNU/Linux 13"),
        ("v2.8.0-7.3.0", CENTOS, "gcc 13.3 has to be built from source on CentOS Linux 7"),
        # The leading numbers of a version are no leading letters.
        ("v2.8.0-7.3.0", ("almalinux", "80", "Eighty"), "the matrix knows no package of gcc 13.3 for Eighty"),
        ("v2.5.1-7.1.0", ("slackware", "15", "Slackware 15"), "the matrix knows no package of gcc 9.3 for Slackware"),
        ("v2.5.1-7.1.0", (None, None, None), "the matrix knows no package of gcc 9.3 for this system"),
    ],
)
def test_another_gcc_comes_with_advice_for_the_base(
    matrix: Matrix, line: str, system: tuple[str | None, str | None, str | None], says: str
) -> None:
    wanted = target(matrix, line, "3.10")
    named = dict(zip(("os_id", "os_version", "system"), system, strict=True))
    facts = Probed(gcc="12.2.0", glibc="2.17", **named)
    error = wrong_toolchain(wanted, toolchain_mismatches(wanted, facts), facts, matrix.compilers)
    assert error.message == f"gcc is 12.2.0, the matrix wants {wanted.toolchain.gcc}"
    assert str(error.hint).startswith(says)
    assert f"the base image of the matrix has it ({wanted.toolchain.base_image})" in str(error.hint)
    assert str(error.hint).endswith("; or accept the difference with --allow-toolchain-mismatch")


@pytest.mark.parametrize(
    ("line", "python", "arch", "command", "version"),
    [
        ("v2.5.1-7.1.0", "3.9", "x86_64", "--suite bullseye --gcc 9", "9.3.0"),
        ("v2.7.1-7.3.0", "3.10", "x86_64", "--suite bookworm --gcc 11 --python 3.10=PREFIX", "11.3.0"),
        ("v2.5.1-7.1.0", "3.9", "aarch64", "--suite bullseye --gcc 10 --arch aarch64", "10.2.1"),
        ("v2.9.0-7.3.0", "3.11", "x86_64", "--suite trixie --gcc 13 --python 3.11=PREFIX", "13.3.0"),
        ("v1.8.1-5.0.rc1", "3.7", "x86_64", None, None),
    ],
)
def test_advice_names_the_command_that_makes_a_base_with_the_gcc(
    matrix: Matrix, monkeypatch: pytest.MonkeyPatch, line: str, python: str, arch: str, command: str, version: str
) -> None:
    monkeypatch.setattr("builder.target.compile_spec.os.uname", lambda: SimpleNamespace(machine="x86_64"))
    wanted = target(matrix, line, python, arch)
    advice = gcc_advice(wanted, Probed(gcc="4.8.5"), matrix.compilers)
    if command is None:
        assert advice.endswith("and docker/bases/debian.sh makes none that has it")
        return
    suite, major = command.split()[1], command.split()[3]
    base = f"torch-npu-builder/base:{suite}-gcc{major}-{arch}"
    assert advice.endswith(f"'docker/bases/debian.sh {command}' makes one with gcc {version} (--base-image {base})")


def test_no_advice_where_gcc_is_right_or_unknown(matrix: Matrix) -> None:
    wanted = target(matrix, "v2.5.1-7.1.0", "3.9")
    right = Probed(gcc="9.3.0", glibc="2.31")
    assert gcc_advice(wanted, right, matrix.compilers) == ""
    assert gcc_advice(wanted, Probed(gcc="10.2.1"), {}) == ""
    error = wrong_toolchain(wanted, toolchain_mismatches(wanted, right), right, matrix.compilers)
    assert (error.message, error.hint) == (
        "glibc is 2.31, too new for manylinux_2_17", FailureKind.TOOLCHAIN.advice
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "python", "packages"),
    [
        ("v2.5.1-7.1.0", "3.9", {("centos", "7"): "devtoolset-9", ("debian", "11"): "gcc-9"}),
        ("v2.7.1-7.3.0", "3.10", {("centos", "7"): "devtoolset-11", ("almalinux", "8"): "gcc-toolset-11",
                                  ("debian", "12"): "gcc-11"}),
        ("v2.8.0-7.3.0", "3.10", {("rocky", "8"): "gcc-toolset-13", ("debian", "13"): "gcc-13"}),
    ],
)  # fmt: skip
def test_a_request_says_which_package_gives_the_gcc_on_which_distribution(
    matrix: Matrix, line: str, python: str, packages: Mapping[tuple[str, str], str]
) -> None:
    asked = environment_request(target(matrix, line, python), BuildOptions()).toolsets
    held = {(toolset.os_id, toolset.os_version): toolset.package for toolset in asked}
    assert len(held) == len(asked)
    assert packages.items() <= held.items()
    assert {os_id for os_id, version in held if version == "8"} in (set(), {"almalinux", "rocky", "rhel", "centos"})
    assert all((os_id, version) in packages for os_id, version in held if os_id == "debian")


@pytest.mark.parametrize(
    ("os_id", "os_version", "fits"),
    [
        ("almalinux", "8", True),
        ("almalinux", "8.10", True),
        ("almalinux", "80", False),
        ("almalinux", "9.8", False),
        ("fedora", "8", False),
        ("almalinux", None, False),
        (None, None, False),
    ],
)
def test_a_toolset_is_for_a_release_of_a_distribution(os_id: str | None, os_version: str | None, fits: bool) -> None:
    assert Toolset("almalinux", "8", "gcc-toolset-11").is_for(os_id, os_version) is fits


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


def plan(**more: object) -> CompileSpec:
    """A compile of a release line's cache."""
    repair = RepairPlan(platform="manylinux_2_28_x86_64", by_upstream=False)
    fixed: dict[str, object] = {
        "arguments": ("--python=3.11",), "epoch": 1, "repair": repair, "jobs": 2, "slots": 0, "shared_slots": False,
        "limits": Limits(), "cann": False, "extra": {}, "store": "v1-x86_64-gcc12.2", "python": sys.executable,
        "python_include": "/usr/include/python3.11",
    }  # fmt: skip
    return CompileSpec(**{**fixed, **more})  # type: ignore[arg-type]


class Here:
    """An opened environment that is this machine as it is."""

    base_env: Mapping[str, str] = {}

    def __init__(self, folder: Path, launcher: str = Paths.launcher) -> None:
        for name in ("tree", "torch", "out", "cache"):
            (folder / name).mkdir(exist_ok=True)
        places = {name: str(folder / name) for name in ("tree", "torch", "out", "cache")}
        self.paths = Paths(launcher=launcher, **places)
        self.ran: list[tuple[str, ...]] = []

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str,
        on_line: Callable[[str], None],
        limits: Limits,
    ) -> Outcome:
        self.ran.append(tuple(argv))
        path = {"PATH": "/usr/bin:/bin"}
        done = subprocess.run(argv, env={**path, **env}, cwd=cwd, capture_output=True, text=True, check=False)
        for line in (done.stdout + done.stderr).splitlines():
            on_line(line)
        return Outcome(done.returncode, 0.0)

    def interactive(self, *, env: Mapping[str, str], cwd: str) -> int:
        raise AssertionError("a recipe opens no shell")


def test_all_pythons_of_a_line_get_one_cache_and_one_name_of_their_headers() -> None:
    told = plan().environment(Paths())
    assert told["CCACHE_DIR"] == "/cache"
    assert told["BUILDER_PYTHON_INCLUDE"] == "/usr/include/python3.11"
    assert told["BUILDER_PYTHON_INCLUDE_AS"] == "/out/python-include"
    # What prepared() finds out is not there before it has.
    assert {"BUILDER_VERSION_DEFINE", "CCACHE_EXTRAFILES", "CCACHE_READONLY", "BUILDER_CCACHE"}.isdisjoint(told)


def test_where_results_have_another_path_each_time_their_name_would_be_none() -> None:
    told = plan().environment(Paths(out="/home/me/build/runs/1/out"))
    assert "BUILDER_PYTHON_INCLUDE" not in told


@pytest.mark.parametrize(
    ("more", "headers", "known"),
    [
        ({}, None, None),
        ({"pch": True}, "/out/headers", "/cache/known-headers"),
        ({"pch": True, "cached": False}, "/out/headers", None),
        ({"pch": True, "read_only": True}, "/out/headers", None),
    ],
)
def test_headers_are_told_where_they_are_wanted(more: dict[str, bool], headers: str | None, known: str | None) -> None:
    told = plan(**more).environment(Paths())
    assert (told.get("BUILDER_HEADERS"), told.get("BUILDER_HEADERS_KNOWN")) == (headers, known)


@pytest.mark.parametrize("cached", [True, False])
def test_without_a_cache_the_command_finds_no_ccache(tmp_path: Path, cached: bool) -> None:
    (tmp_path / "ci").mkdir()
    (tmp_path / "ci" / "build.sh").write_text('echo "ccache=$BUILDER_CCACHE arguments=$* first=${PATH%%:*}"\n')
    (tmp_path / "bin").mkdir()
    ccache = tmp_path / "bin" / "ccache"
    ccache.write_text("#!/bin/sh\n")
    ccache.chmod(0o755)
    command = plan(cached=cached).command(Paths(launcher=str(compile_cache.LAUNCHER)))
    env = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
    found = str(ccache) if cached else ""
    assert done.stdout == f"ccache={found} arguments=--python=3.11 first=/opt/codegen\n"


def test_what_setuptools_compiles_goes_through_ccache(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {
        "python": "echo odd-gcc",
        "odd-gcc": 'echo "compiled $*"',
        "ccache": 'echo "asked $*"; exec "$@"',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    (tmp_path / "ci").mkdir()
    (tmp_path / "ci" / "build.sh").write_text("odd-gcc -pthread -c module.cpp\n")
    paths = Paths(out=str(tmp_path / "out"), launcher=str(compile_cache.LAUNCHER))
    env = {"PATH": f"{programs}:/usr/bin:/bin", "BUILDER_PYTHON": str(programs / "python")}

    def run(*, cached: bool) -> list[str]:
        command = plan(cached=cached).command(paths)
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    compiled = "compiled -pthread -c module.cpp"
    assert run(cached=True) == [f"asked {programs}/odd-gcc -pthread -c module.cpp", compiled]
    assert run(cached=False) == [compiled]
    # A ccache that fails costs the build nothing but speed.
    working = (programs / "ccache").read_text()
    (programs / "ccache").write_text("#!/bin/sh\nexit 1\n")
    assert run(cached=True) == [compiled]
    (programs / "ccache").write_text(working)
    # A name that says nothing of a compiler on PATH is left as it is.
    for name in ("", "/usr/bin/odd-gcc", "no-such-gcc", "env", "ccache"):
        (programs / "python").write_text(f"#!/bin/sh\necho {name}\n")
        assert run(cached=True) == [compiled]


def test_a_plan_learns_of_its_tree_and_its_cache(tmp_path: Path) -> None:
    here = Here(tmp_path, str(compile_cache.LAUNCHER))
    (tmp_path / "tree" / "CMakeLists.txt").write_text('add_definitions(-DA_NPU_VERSION="${TORCH_VERSION}")\n')
    (tmp_path / "tree" / "a.cpp").write_text("A_NPU_VERSION\n")
    warnings: list[str] = []
    ready = prepared(here, plan(), tree=tmp_path / "tree", out=tmp_path / "out", warn=warnings.append)
    assert (ready.cached, ready.read_only, ready.inputs, ready.version_define, warnings) == (
        True,
        False,
        True,
        True,
        [],
    )
    told = ready.environment(here.paths)
    assert Path(told["BUILDER_VERSION_DEFINE"]).read_text() == f"A_NPU_VERSION\n{tmp_path}/tree/a.cpp\n"
    assert Path(told["CCACHE_EXTRAFILES"]).is_file()
    assert Path(told["CCACHE_DIR"]).is_dir()
    assert list(Path(told["CCACHE_DIR"]).iterdir()) == []


def test_a_cache_in_whose_place_a_file_is_costs_one_warning(tmp_path: Path) -> None:
    here = Here(tmp_path, str(compile_cache.LAUNCHER))
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").write_text("")
    warnings: list[str] = []
    ready = prepared(here, plan(), tree=tmp_path / "tree", out=tmp_path / "out", warn=warnings.append)
    assert (ready.cached, ready.inputs) == (False, True)
    assert warnings == ["the compile cache v1-x86_64-gcc12.2 cannot be used: File exists; compiling without it"]
    assert ready.environment(here.paths)["BUILDER_CCACHE"] == ""
    # Asked for without a cache, there is nothing to be warned of.
    prepared(here, plan(cached=False), tree=tmp_path / "tree", out=tmp_path / "out", warn=warnings.append)
    assert len(warnings) == 1


def test_without_its_inputs_a_cache_is_not_used(tmp_path: Path) -> None:
    """Its keys would lack the compiler: what is found under them could be anything."""
    here = Here(tmp_path, "/nonexistent/launcher")
    warnings: list[str] = []
    ready = prepared(here, plan(), tree=tmp_path / "tree", out=tmp_path / "out", warn=warnings.append)
    assert (ready.cached, ready.inputs, ready.version_define) == (False, False, False)
    (warning,) = warnings
    assert warning.startswith("the compile cache v1-x86_64-gcc12.2 cannot be used: its inputs cannot be listed (")
    assert "can't open file" in warning


def test_what_compiles_took_in_is_kept_or_said_why_not(tmp_path: Path) -> None:
    here = Here(tmp_path, str(compile_cache.LAUNCHER))
    places = {"out": tmp_path / "out", "folder": tmp_path / "kept", "target": "t", "run": "r", "size": 1}
    # A build that came to no compile says nothing of the cache, and takes no other's place.
    assert keep_manifest(here, plan(), **places) is None  # type: ignore[arg-type]
    assert compile_manifest.kept(tmp_path / "kept") == []
    source = tmp_path / "tree" / "a.cpp"
    source.write_text("")
    (tmp_path / "out" / compile_cache.COMPILE_LOG).write_text(f"miss {source}\n")
    command = {"directory": str(tmp_path / "tree"), "file": "a.cpp", "command": "c++ -O2 -o a.o -c a.cpp"}
    (tmp_path / "tree" / "compile_commands.json").write_text(json.dumps([command]))
    (tmp_path / "tree" / "a.o.d").write_text("a.o: a.cpp\n")
    assert keep_manifest(here, plan(), **places) is None  # type: ignore[arg-type]
    (kept,) = compile_manifest.kept(tmp_path / "kept")
    (compiled,) = kept.read().objects
    assert (compiled.source, compiled.result, len(compiled.runs)) == (str(source), "miss", 1)
    broken = Here(tmp_path, "/nonexistent")
    assert "can't open file" in str(keep_manifest(broken, plan(), **places))  # type: ignore[arg-type]

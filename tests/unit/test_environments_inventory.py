"""What a base has, and what has to be added to it."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from builder.core.errors import FailureKind, TargetError
from builder.environments.interface import EnvironmentRequest, Toolset
from builder.environments.inventory import CCACHE, Inventory, additions, tools_needed

DOCKER = Path(__file__).resolve().parents[2] / "docker"

#: As on the images of CentOS 7 that the matrix names: everything is there, and no package server answers.
CENTOS = """\
os centos 7 CentOS Linux 7 (Core)
libc glibc 2.17
interpreter /opt/python/cp39-cp39 3.9.18
interpreter /opt/python/cp37-cp37m 3.7.17
manager yum
program bash - /usr/bin/bash
program make 3.82 /usr/bin/make
program git 1.8.3.1 /usr/bin/git
program cmake 3.27.6 /usr/local/bin/cmake
program patchelf 0.17.2 /usr/local/bin/patchelf
program auditwheel 5.4.0 /usr/local/bin/auditwheel
gcc 9.3.1 /opt/rh/devtoolset-9/root/usr/bin/g++
gcc 10.2.1 /opt/rh/devtoolset-10/root/usr/bin/g++
Warning: something that is no fact
"""
REQUEST = EnvironmentRequest(
    arch="x86_64",
    python="3.9",
    torch="2.5.1",
    torch_source="cpu-index",
    requirements=(),
    base_image="example/base:1",
    gcc="9.3.1",
    toolsets=(Toolset("centos", "7", "devtoolset-9"), Toolset("debian", "11", "gcc-9")),
)


def parsed(text: str = CENTOS, **more: object) -> Inventory:
    return replace(Inventory.parse(text.splitlines()), **more)  # type: ignore[arg-type]


def without(*programs: str, text: str = CENTOS) -> Inventory:
    return parsed("\n".join(line for line in text.splitlines() if not any(f"program {p} " in line for p in programs)))


def test_facts_are_read_and_other_lines_passed_over() -> None:
    found = parsed()
    assert (found.os_id, found.os_version, found.system) == ("centos", "7", "CentOS Linux 7 (Core)")
    assert (found.libc, found.libc_version, found.manager) == ("glibc", "2.17", "yum")
    assert found.interpreters == {"cp39-cp39": "3.9.18", "cp37-cp37m": "3.7.17"}
    assert found.programs["git"] == "1.8.3.1"
    assert found.compilers[0] == ("9.3.1", "/opt/rh/devtoolset-9/root/usr/bin/g++")


def test_a_base_that_has_all_is_asked_for_nothing_of_its_distribution() -> None:
    added = additions(parsed(), REQUEST, "the base image x")
    assert added.packages == ()
    assert added.compiler == "/opt/rh/devtoolset-9/root/usr/bin/g++"
    assert added.tools == (CCACHE, "ninja")
    assert added.eu_strip
    assert not added.warnings


def test_the_gcc_of_the_matrix_is_taken_wherever_it_is() -> None:
    # Not the one that stands first on PATH.
    assert additions(parsed(), replace(REQUEST, gcc="10.2.1"), "x").compiler.startswith("/opt/rh/devtoolset-10/")
    own = parsed("os debian 11 Debian\nmanager apt-get\ngcc 10.2.1 /usr/bin/g++\nprogram make 4.3 /m")
    # bullseye's own is 10.2: no package is added for it.
    needed = additions(own, replace(REQUEST, gcc="10.2.1", toolsets=(Toolset("debian", "11", "gcc-10"),)), "x")
    assert (needed.compiler, needed.packages) == ("/usr/bin/g++", ("bash", "git"))


@pytest.mark.parametrize(
    ("system", "manager", "toolset", "packages"),
    [
        ("debian 12.4", "apt-get", Toolset("debian", "12", "gcc-11"), ("gcc-11", "g++-11")),
        (
            "almalinux 8.10",
            "dnf",
            Toolset("almalinux", "8", "gcc-toolset-11"),
            ("gcc-toolset-11-gcc", "gcc-toolset-11-gcc-c++", "gcc-toolset-11-binutils"),
        ),
    ],
)
def test_a_gcc_that_only_the_distribution_has_comes_from_there(
    system: str, manager: str, toolset: Toolset, packages: tuple[str, ...]
) -> None:
    text = f"os {system} X\nmanager {manager}\ngcc 8.5.0 /usr/bin/g++\n" + "".join(
        f"program {name} 1.0 /usr/bin/{name}\n" for name in ("bash", "make", "git")
    )
    added = additions(parsed(text), replace(REQUEST, gcc="11.2.1", toolsets=(toolset,)), "x")
    assert added.packages == packages
    # Of another release of the distribution the table says nothing.
    elsewhere = additions(parsed(text.replace("12.4", "13").replace("8.10", "80")), replace(REQUEST, gcc="11.2.1"), "x")
    assert (elsewhere.packages, elsewhere.compiler) == ((), "")


def test_without_a_package_manager_the_own_gcc_compiles_and_that_is_told() -> None:
    text = CENTOS.replace("manager yum\n", "").replace("gcc 9.3.1 /opt/rh/devtoolset-9/root", "gcc 4.8.5 ")
    added = additions(parsed(text), replace(REQUEST, toolsets=(Toolset("centos", "7", "devtoolset-7"),)), "the base x")
    assert added.packages == ()
    assert "devtoolset-7 for gcc 9.3.1" in added.warnings[0]


def test_what_is_needed_and_cannot_be_had_is_named() -> None:
    with pytest.raises(TargetError, match=r"the base image x has no make and no git, and none of apt-get") as caught:
        additions(replace(without("make", "git"), manager=None), REQUEST, "the base image x")
    assert caught.value.kind is FailureKind.IMAGE
    assert "--base-image" in str(caught.value.hint)
    assert additions(without("make", "git"), REQUEST, "x").packages == ("make", "git")
    nothing = parsed("os alpine 3.20 Alpine\nlibc musl -\nmanager apt-get\n")
    assert additions(nothing, replace(REQUEST, toolsets=()), "x").packages == ("bash", "make", "git", "gcc", "g++")


@pytest.mark.parametrize(
    ("program", "version", "kept"),
    [
        ("cmake", "3.17.5", False),
        ("cmake", "3.18", True),
        ("cmake", "3.31.6", True),
        ("cmake", "4.0.0", False),  # no third-party part of lines up to 2.7.1 configures under it
        ("patchelf", "0.14.3", False),
        ("auditwheel", "6.0.0", True),
        ("ninja", "1.9.0", False),
        ("ninja", "-", False),
    ],
)
def test_own_tools_serve_within_their_bounds(program: str, version: str, kept: bool) -> None:
    needed = tools_needed(parsed(f"program {program} {version} /usr/bin/{program}"))
    assert (program not in needed) is kept


@pytest.mark.parametrize("version", ["3.7.12", "4.7.5", "4.99", "5.0"])
def test_ccache_is_the_same_everywhere_whatever_the_base_has(version: str) -> None:
    assert CCACHE in tools_needed(parsed(f"program ccache {version} /usr/bin/ccache"))


def shells() -> list[list[str]]:
    found = [["dash"], ["bash", "--posix"], ["busybox", "sh"]]
    return [shell for shell in found if shutil.which(shell[0])]


@pytest.mark.parametrize("shell", shells(), ids=" ".join)
def test_the_script_says_what_this_machine_has(shell: list[str], tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in {"cmake": "cmake version 3.30.1", "make": "GNU Make 4.9"}.items():
        (tools / name).write_text(f"#!/bin/sh\necho '{text}'\n")
        (tools / name).chmod(0o755)
    (tools / "g++").write_text('#!/bin/sh\n[ "$1" = -dumpfullversion ] && echo 9.3.1\n')
    (tools / "g++").chmod(0o755)
    done = subprocess.run(
        [*shell, str(DOCKER / "inventory.sh")],
        env={"PATH": f"{tools}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    found = Inventory.parse(done.stdout.splitlines())
    assert found.programs["cmake"] == "3.30.1"
    assert found.programs["make"] == "4.9"
    assert found.compilers[0] == ("9.3.1", str(tools / "g++"))
    assert found.libc == "glibc"
    assert done.stderr == ""

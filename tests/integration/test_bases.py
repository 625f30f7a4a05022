"""The base images that tests build on are what they stand for: Enterprise Linux, and what surprises a builder there."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
from bases_support import (
    GCC,
    MANAGER,
    PACKAGES,
    PYTHONS,
    REPOSITORY,
    TOOLSET,
    Release,
    Signature,
    Variant,
    enterprise_base,
    package_server,
    run_in,
    with_repository,
)

from builder.core.build_options import BuildOptions
from builder.environments.docker_engine import DockerEngine
from builder.environments.images import has_image
from builder.environments.interface import is_release
from builder.matrix.loader import load_matrix
from builder.matrix.selection import parse_target_id
from builder.target.inputs import environment_request

pytestmark = [pytest.mark.engine, pytest.mark.slow]

PROBE = Path(__file__).resolve().parents[2] / "builder" / "payload" / "probe.py"
LOAD = Path(__file__).resolve().parents[2] / "docker" / "bases" / "load.sh"
RELEASES: tuple[Release, ...] = ("7", "8")
VARIANTS: tuple[Variant, ...] = ("full", "bare", "nothing")
#: What the images of the matrix bring beside compiler and interpreters.
TOOLS = ("make", "git", "xz", "patch", "patchelf", "cmake", "auditwheel")
#: What they all lack, by any name that a script may look for.
NOWHERE = (
    *("apt-get", "apt", "dpkg", "python", "python2", "python3", "ccache", "eu-strip", "ninja", "curl", "wget"),
    *("gcc-9", "gcc-10", "gcc-11", "gcc-12", "g++-11", "x86_64-linux-gnu-gcc", "aarch64-linux-gnu-gcc"),
)


def found(engine: DockerEngine, image: str, *names: str) -> dict[str, str]:
    """Where PATH of the image's configuration leads to: of those programs that can be found."""
    script = "".join(f"printf '%s %s\\n' {name} \"$(command -v {name})\"; " for name in names)
    _, output = run_in(engine, image, script)
    return {line.split()[0]: line.split()[1] for line in output.splitlines() if len(line.split()) == 2}


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_only_what_belongs_there_can_be_found(engine: DockerEngine, release: Release, variant: Variant) -> None:
    image = enterprise_base(engine, release, variant)
    there = found(
        engine, image, *TOOLS, "rpm", "yum", "dnf", "flock", "sh", "bash", "tar", "gcc", "g++", "ld", *NOWHERE
    )
    managers = {"7": {"rpm", "yum"}, "8": {"rpm", "yum", "dnf"}}[release]
    expected = {"flock", "sh", "bash", "tar", "gcc", "g++", "ld"}
    expected |= set() if variant == "nothing" else managers
    expected |= set(TOOLS) if variant == "full" else set()
    assert set(there) == expected
    for name in ("gcc", "g++", "ld"):
        assert there[name] == f"/opt/rh/{TOOLSET[release]}/root/usr/bin/{name}"


@pytest.mark.parametrize("release", RELEASES)
def test_the_system_says_what_it_is(engine: DockerEngine, release: Release) -> None:
    _, output = run_in(
        engine, enterprise_base(engine, release, "bare"), "cat /etc/os-release; rpm -qa; ls -d /etc/debian*"
    )
    named = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
    named = {key: value.strip('"') for key, value in named.items()}
    os_id, package = {"7": ("centos", "centos-release-7"), "8": ("almalinux", "almalinux-release-8.10")}[release]
    assert is_release(os_id, release, named["ID"], named["VERSION_ID"])
    assert named["PRETTY_NAME"].startswith({"7": "CentOS Linux 7", "8": "AlmaLinux 8"}[release])
    assert package in output
    assert "/etc/debian_version" not in output


@pytest.mark.parametrize(("release", "line"), [("7", "v2.5.1-7.1.0-py3.9-x86_64"), ("8", "v2.7.1-7.3.0-py3.9-x86_64")])
def test_a_probe_tells_which_toolset_of_a_request_is_for_it(engine: DockerEngine, release: Release, line: str) -> None:
    script = f"/opt/python/cp39-cp39/bin/python - <<'TEXT'\n{PROBE.read_text()}\nTEXT"
    code, output = run_in(engine, enterprise_base(engine, release, "nothing"), script)
    assert code == 0, output
    facts = json.loads(output.rpartition("probe: ")[2])
    assert facts["system"].startswith(("CentOS Linux 7", "AlmaLinux 8"))
    assert facts["gcc"] == GCC[release]
    assert facts["make"] is None
    request = environment_request(parse_target_id(load_matrix(), line), BuildOptions())
    fitting = [set_.package for set_ in request.toolsets if set_.is_for(facts["os_id"], facts["os_version"])]
    assert fitting == [TOOLSET[release]]


@pytest.mark.parametrize("release", RELEASES)
def test_there_is_no_utf8_locale_that_needs_no_name_of_a_country(engine: DockerEngine, release: Release) -> None:
    image = enterprise_base(engine, release, "nothing")
    _, output = run_in(engine, image, "locale -a; LC_ALL=C.UTF-8 bash -c true; LC_ALL=en_US.UTF-8 bash -c 'echo fine'")
    assert "C.UTF-8" not in output.split("warning:")[0]
    assert "warning: setlocale: LC_ALL: cannot change locale (C.UTF-8)" in output
    assert output.endswith("fine\n")
    assert output.count("warning:") == 1


@pytest.mark.parametrize("release", RELEASES)
def test_the_compiler_finds_its_parts_by_its_own_place(engine: DockerEngine, release: Release) -> None:
    source = (
        '#include <stdexcept>\\n#include <iostream>\\nint main() { try { throw std::runtime_error("thrown"); } '
        "catch (std::exception &e) { std::cout << e.what() << std::endl; } }\\n"
    )
    script = f"""set -e
        gcc -dumpfullversion
        printf '{source}' >/tmp/a.cpp
        g++ -O2 -pthread -fopenmp -o /tmp/a /tmp/a.cpp && /tmp/a
        g++ -shared -fPIC -flto -o /tmp/a.so /tmp/a.cpp
        env -i /opt/rh/{TOOLSET[release]}/root/usr/bin/g++ -o /tmp/b /tmp/a.cpp && env -i /tmp/b"""
    code, output = run_in(engine, enterprise_base(engine, release, "nothing"), script)
    assert (code, output.split()) == (0, [GCC[release], "thrown", "thrown"])


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("python", PYTHONS)
def test_interpreters_are_links_and_build_extensions(engine: DockerEngine, release: Release, python: str) -> None:
    short = "cp" + python.replace(".", "")
    folder = f"/opt/python/{short}-{short}"
    setup = 'from setuptools import Extension, setup; setup(name="x", ext_modules=[Extension("x", ["x.c"])])'
    module = """#include <Python.h>
static struct PyModuleDef x = {PyModuleDef_HEAD_INIT, "x", 0, -1, 0};
PyMODINIT_FUNC PyInit_x(void) { return PyModule_Create(&x); }
"""
    script = f"""set -e
        readlink -f {folder}
        test -L {folder}
        {folder}/bin/python -c 'import ctypes, hashlib, lzma, sqlite3, ssl, zlib'
        {folder}/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'
        {folder}/bin/python{python} -m pip --version
        {folder}/bin/python -m venv /tmp/venv && /tmp/venv/bin/pip --version
        mkdir /tmp/x && cd /tmp/x
        cat >setup.py <<'TEXT'
{setup}
TEXT
        cat >x.c <<'TEXT'
{module}TEXT
        {folder}/bin/python setup.py -q build_ext --inplace
        {folder}/bin/python -c 'import x; print("built", x.__name__)'"""
    code, output = run_in(engine, enterprise_base(engine, release, "nothing"), script)
    assert code == 0, output
    lines = output.splitlines()
    assert lines[0].startswith(f"/opt/_internal/cpython-{python}.")
    assert lines[1] == python
    assert lines[-1] == "built x"


@pytest.mark.parametrize("release", RELEASES)
def test_the_package_servers_do_not_resolve(engine: DockerEngine, release: Release) -> None:
    image = enterprise_base(engine, release, "bare")
    started = time.monotonic()
    code, output = run_in(engine, image, f"{MANAGER[release]} install -y -q make", network="bridge")
    assert code != 0
    assert "mirrorlist.invalid" in output
    assert "resolve host" in output
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("release", RELEASES)
def test_a_package_server_of_this_machine_gives_what_is_missing(engine: DockerEngine, release: Release) -> None:
    manager = MANAGER[release]
    with (
        package_server(engine) as server,
        with_repository(engine, enterprise_base(engine, release, "bare"), server.configuration()) as image,
    ):
        script = (
            f"{manager} install -y -q {' '.join(PACKAGES)} && make --version && git init -q /tmp/x && rpm -q make git"
        )
        code, output = run_in(engine, image, script, network="bridge")
        assert code == 0, output
        assert "GNU Make 4" in output
        assert "git-2." in output
        assert any(path.endswith(".rpm") for path in server.requests)
        # A name that it does not have.
        code, output = run_in(engine, image, f"{manager} install -y -q devtoolset-99", network="bridge")
        assert code != 0
        assert "devtoolset-99" in output
    assert not has_image(engine, image)


@pytest.mark.parametrize(("signature", "says"), [("bad", "is not installed"), ("none", "is not signed")])
def test_packages_that_are_not_signed_by_the_key_are_refused(
    engine: DockerEngine, signature: Signature, says: str
) -> None:
    with (
        package_server(engine, signature, names=("make",)) as server,
        with_repository(engine, enterprise_base(engine, "8", "bare"), server.configuration()) as image,
    ):
        script = "dnf install -y -q make; echo code $?; command -v make || echo none"
        _, output = run_in(engine, image, script, network="bridge")
    assert says in output
    assert output.endswith("Error: GPG check FAILED\ncode 1\nnone\n")


def test_a_package_server_may_stall(engine: DockerEngine) -> None:
    with (
        package_server(engine, stalls=True) as server,
        with_repository(engine, enterprise_base(engine, "8", "bare"), server.configuration()) as image,
    ):
        code, _ = run_in(engine, image, "timeout 5 dnf install -y -q make", network="bridge")
        assert code == 124
        assert server.requests


def test_variants_share_their_layers(engine: DockerEngine) -> None:
    layers = {
        variant: engine.client.images.get(enterprise_base(engine, "8", variant)).attrs["RootFS"]["Layers"]
        for variant in VARIANTS
    }
    assert layers["full"][: len(layers["bare"])] == layers["bare"]
    assert layers["bare"][: len(layers["nothing"])] == layers["nothing"]
    other = engine.client.images.get(enterprise_base(engine, "7", "nothing")).attrs["RootFS"]["Layers"]
    assert other[0] == layers["nothing"][0]
    assert other != layers["nothing"]


def test_an_archive_says_what_it_was_made_for_and_nothing_of_when(engine: DockerEngine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content\n")
    archive = tmp_path / "layer.tar"
    tar = ["tar", "-C", str(tmp_path), "--mtime=@0", "--numeric-owner", "-cf", str(archive), "file"]
    names = [f"{REPOSITORY}:load-{number}" for number in (1, 2)]
    try:
        for name in names:
            subprocess.run(tar, check=True)
            options = ["--arch", "arm64", "--env", "PATH=/bin", "--label", "a=b c", "--entrypoint", "/file"]
            subprocess.run(["sh", str(LOAD), *options, str(archive), "--tag", name], check=True)
        first, second = (engine.client.images.get(name).attrs for name in names)
        assert first["Id"] == second["Id"]
        assert (first["Architecture"], first["Os"]) == ("arm64", "linux")
        config = first["Config"]
        assert (config["Env"], config["Labels"], config["Entrypoint"]) == (["PATH=/bin"], {"a": "b c"}, ["/file"])
    finally:
        for name in names:
            if has_image(engine, name):
                engine.client.images.remove(name)

"""The default path, on images like the matrix's own: no --base-image, no package server, the compile cache in force.

And what happens on such images where something is missing, or the package server is dead, stalls or lies.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bases_support import PACKAGES, enterprise_base, package_server, with_repository
from registry_support import registry
from support import CommandLine

from builder.core.errors import FailureKind, TargetError
from builder.core.workspace import resource
from builder.environments.docker import ready_docker
from builder.environments.docker_engine import DockerEngine
from builder.environments.images import has_image
from builder.environments.interface import EnvironmentRequest, Limits, Ready, Toolset
from builder.environments.network import NetworkSettings
from builder.matrix.loader import load_matrix
from builder.matrix.selection import parse_target_id
from builder.progress.reporter import Reporter

pytestmark = [pytest.mark.engine, pytest.mark.slow]

LINE = "v2.5.1-7.1.0"


@pytest.fixture(scope="module")
def mirrored(engine: DockerEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The matrix's base image of LINE as a company's registry has it: the image's name, and the registry."""
    arch = engine.arch
    name = parse_target_id(load_matrix(), f"{LINE}-py3.11-{arch}").toolchain.base_image
    base = enterprise_base(engine, "7", "full")
    with registry(tmp_path_factory.mktemp("registry")) as host:
        path = name if name.startswith("pytorch/") else name.partition("/")[2]
        there = f"{host}/mirrored/{path}"
        engine.client.images.get(base).tag(there)
        engine.client.images.push(there)
        engine.client.images.remove(there)
        try:
            yield name, f"{host}/mirrored"
        finally:
            shutil.rmtree(tmp_path_factory.getbasetemp() / "registry0" / "images", ignore_errors=True)
            if has_image(engine, there):
                engine.client.images.remove(there)


def test_the_matrix_s_own_image_for_two_pythons(
    mirrored: tuple[str, str], cli: CommandLine, miniature_options: Callable[..., list[str]]
) -> None:
    name, place = mirrored
    source = "docker.io" if name.startswith("pytorch/") else name.partition("/")[0]
    more = [f"--image-mirror={source}={place}", "--pytorch", LINE, "--python=3.9,3.11"]
    ran = cli("build", *miniature_options(*more), timeout=900)
    assert ran.code == 0, ran.text
    (result,) = (json.loads(path.read_text()) for path in cli.build.glob("runs/*/result.json"))
    first, second = result["targets"]
    assert (first["cache"]["hits"], second["cache"]["misses"]) == (0, 1)
    assert second["cache"]["hits"] == first["cache"]["misses"] - 1
    # gcc is the matrix's; only Debian's C library is newer than the policy.
    assert [warning.split(" ")[0] for warning in first["warnings"]] == ["glibc"]
    records = [json.loads(path.read_text()) for path in sorted((cli.folder / "dist").glob("*.whl.json"))]
    assert len(records) == 2
    for record in records:
        environment = record["environment"]
        assert environment["base_image"] == name
        assert environment["base_image_place"].startswith(f"{place}/")
        assert environment["base"]["system"].startswith("CentOS Linux 7")
    same = [{key: record["environment"][key] for key in ("base_image_id", "base")} for record in records]
    assert same[0] == same[1]
    # No package server was asked for anything: what a build lacked came from PyPI or from the builder.
    logs = [path.read_text() for path in cli.build.glob("runs/*/*.image.log")]
    assert not any("repositories" in log or "archive" in log for log in logs)
    for wheel in sorted((cli.folder / "dist").glob("*.whl")):
        assert_stripped(wheel, cli.folder / wheel.stem)


def assert_stripped(wheel: Path, folder: Path) -> None:
    """As released wheels are: no symbol table, a link to the debug file, and that file beside the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (library,) = (name for name in archive.namelist() if name.endswith("/libtorch_npu.so"))
        archive.extract(library, folder)
    listed = subprocess.run(
        ["readelf", "-SW", str(folder / library)], capture_output=True, text=True, check=True
    ).stdout
    assert ".gnu_debuglink" in listed
    assert ".symtab" not in listed
    assert wheel.with_name(f"{wheel.name}.debug.tar.gzip").is_file()


def request(image: str, **more: Any) -> EnvironmentRequest:
    return EnvironmentRequest(
        arch=os.uname().machine,
        python="3.11",
        torch="9.9.9",
        torch_source="find-links",
        requirements=(),
        base_image=image,
        **{"gcc": "11.3.0", **more},
    )


@pytest.fixture
def ready(tmp_path: Path) -> Callable[..., Ready]:
    """Makes an environment: the base it is for, and what differs from the usual settings and scripts."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    info = "torch-9.9.9.dist-info"
    files = {
        "torch/__init__.py": "__version__ = '9.9.9'\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: torch\nVersion: 9.9.9\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(wheels / "torch-9.9.9-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), text)
    resources = tmp_path / "docker"
    shutil.copytree(resource("docker"), resources)
    # Nobody reaches the real archives from a test; and who stalls need not be waited for so long here.
    (resources / "archives.txt").write_text("almalinux 8 any http://archive.invalid/almalinux\n")
    script = resources / "packages.sh"
    script.write_text(script.read_text().replace("timeout=20 --setopt=retries=2", "timeout=4 --setopt=retries=1"))

    def make(asked: EnvironmentRequest, env: dict[str, str] | None = None) -> Ready:
        settings = NetworkSettings.from_environment({**os.environ, **(env or {})}, find_links=(wheels,))
        log = tmp_path / "log"
        return ready_docker(asked, settings=settings, resources=resources, log=log, reporter=Reporter(quiet=True))

    return make


def has(ready: Ready, tmp_path: Path, *programs: str) -> list[str]:
    from builder.environments.interface import Folders

    folders = {name: tmp_path / "in" / name for name in ("tree", "mirrors", "cache", "out", "launcher", "codegen")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    lines: list[str] = []
    with ready.open(Folders(**folders)) as opened:
        script = "; ".join(f"command -v {name} >/dev/null && echo {name}" for name in programs)
        opened.run(["sh", "-c", script], env={}, cwd="/", on_line=lines.append, limits=Limits(timeout=60))
    return lines


def test_what_is_missing_comes_from_the_base_s_own_server(
    engine: DockerEngine, ready: Callable[..., Ready], tmp_path: Path
) -> None:
    bare = enterprise_base(engine, "8", "bare")
    with package_server(engine) as server, with_repository(engine, bare, server.configuration()) as base:
        made = ready(request(base))
        # Nothing "to be sure": xz and patch are offered, and no build needs them.
        log = (tmp_path / "log").read_text()
        assert "== make git from the base's own repositories" in log
        assert sorted(has(made, tmp_path, *PACKAGES, "ccache", "cmake", "ninja", "eu-strip")) == sorted(
            ["make", "git", "ccache", "cmake", "ninja", "eu-strip"]
        )
        engine.client.images.remove(str(made.facts["image"]), force=True)


def test_a_company_s_mirror_is_asked_first(engine: DockerEngine, ready: Callable[..., Ready], tmp_path: Path) -> None:
    bare = enterprise_base(engine, "8", "bare")
    layout = f"BaseOS/{os.uname().machine}/os"
    with package_server(engine, layout=layout) as server, with_repository(engine, bare, "", server.key) as base:
        made = ready(request(base), {"BUILDER_PACKAGE_MIRROR": server.url})
        assert "from the mirror that BUILDER_PACKAGE_MIRROR names" in (tmp_path / "log").read_text()
        assert has(made, tmp_path, "make", "git") == ["make", "git"]
        engine.client.images.remove(str(made.facts["image"]), force=True)


def test_a_dead_package_server_is_named_with_what_was_tried(engine: DockerEngine, ready: Callable[..., Ready]) -> None:
    with pytest.raises(TargetError) as raised:
        ready(request(enterprise_base(engine, "8", "bare")))
    assert raised.value.kind is FailureKind.NETWORK
    said = raised.value.message
    assert "lacks make, git" in said
    assert "cannot be installed from the base's own repositories, the distribution's archive" in said
    assert "BUILDER_PACKAGE_MIRROR" in str(raised.value.hint)


def test_a_package_server_that_stalls_is_given_up(engine: DockerEngine, ready: Callable[..., Ready]) -> None:
    bare = enterprise_base(engine, "8", "bare")
    with (
        package_server(engine, stalls=True) as server,
        # Without limits of its own, which would count before those that the builder gives.
        with_repository(engine, bare, re.sub("timeout=.*|retries=.*", "", server.configuration())) as base,
        pytest.raises(TargetError) as raised,
    ):
        ready(request(base))
    assert raised.value.kind is FailureKind.NETWORK


def test_a_package_with_a_wrong_signature_is_not_installed(engine: DockerEngine, ready: Callable[..., Ready]) -> None:
    bare = enterprise_base(engine, "8", "bare")
    with (
        package_server(engine, "bad") as server,
        with_repository(engine, bare, server.configuration()) as base,
        pytest.raises(TargetError, match="has no signature that this base trusts") as raised,
    ):
        ready(request(base))
    assert raised.value.kind is FailureKind.IMAGE
    # It is not looked for elsewhere: whoever answers there could be the same.
    assert "archive" not in raised.value.message


def test_a_base_with_neither_package_manager_nor_make_says_what_to_do(
    engine: DockerEngine, ready: Callable[..., Ready]
) -> None:
    with pytest.raises(TargetError, match=r"has no make and no git, and none of apt-get, dnf and yum") as raised:
        ready(request(enterprise_base(engine, "8", "nothing")))
    assert raised.value.kind is FailureKind.IMAGE
    assert "--base-image" in str(raised.value.hint)


def test_a_gcc_that_cannot_be_had_is_an_error_and_no_other_gcc(
    engine: DockerEngine, ready: Callable[..., Ready]
) -> None:
    base = enterprise_base(engine, "8", "full")
    toolset = Toolset("almalinux", "8", "gcc-toolset-13")
    with pytest.raises(TargetError, match="lacks gcc-toolset-13-gcc") as raised:
        ready(request(base, gcc="13.3.1", toolsets=(toolset,)))
    assert "docker/bases/debian.sh --gcc N" in str(raised.value.hint)

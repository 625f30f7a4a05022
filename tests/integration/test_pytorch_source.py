"""PyTorch from an index, by real pip in a container: hashes, one download for all, broken servers, full disks."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from index_site import Site, serving, torch_wheel
from support import base_image_for, bridge_address

from builder.core.errors import FailureKind, RequestError, TargetError
from builder.core.workspace import resource
from builder.environments.docker import ready_docker
from builder.environments.docker_engine import DockerEngine
from builder.environments.interface import EnvironmentRequest, Ready
from builder.environments.network import NetworkSettings
from builder.progress.reporter import Reporter

pytestmark = [pytest.mark.engine, pytest.mark.slow]

NAME = "torch-2.5.1+cpu-py3-none-any.whl"


WHEEL = torch_wheel("2.5.1+cpu")


@pytest.fixture
def site(engine: DockerEngine) -> Iterator[Site]:
    """PyTorch's CPU index, on the address at which containers reach this machine."""
    with serving(host=bridge_address(engine)) as found:
        found.add(NAME, WHEEL)
        yield found


@pytest.fixture
def request_(engine: DockerEngine) -> EnvironmentRequest:
    return EnvironmentRequest(
        arch=engine.arch,
        python="3.11",
        torch="2.5.1",
        torch_source="cpu-index",
        requirements=(),
        base_image=base_image_for(engine, engine.arch),
        torch_hashes=(hashlib.sha256(WHEEL).hexdigest(),),
        torch_local="+cpu",
    )


@pytest.fixture(autouse=True)
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BUILDER_PACKAGES", str(tmp_path / "packages"))
    return tmp_path / "packages"


def ready(request: EnvironmentRequest, site: Site, folder: Path, **more: object) -> Ready:
    folder.mkdir(exist_ok=True)
    config = folder / "pip.conf"
    config.write_text(f"[global]\ntrusted-host = {site.host}\n")
    found = NetworkSettings.from_environment({**os.environ, "PIP_DEFAULT_TIMEOUT": "4", "PIP_RETRIES": "0"})
    settings = replace(found, torch_index_url=site.url, pip_config=config, find_links=(), **more)  # type: ignore[arg-type]
    return ready_docker(
        request, settings=settings, resources=resource("docker"), log=folder / "log", reporter=Reporter(quiet=True)
    )


def downloads(site: Site) -> int:
    return sum(path == f"/files/{NAME}" for path, _ in site.asked)


def test_it_comes_by_hash_and_once_for_all_environments(
    site: Site, request_: EnvironmentRequest, tmp_path: Path
) -> None:
    first = ready(request_, site, tmp_path)
    assert first.facts["pytorch_wheels"] == {NAME: hashlib.sha256(WHEEL).hexdigest()}
    # Another Python and other build requirements: another image, another folder, the same download.
    ready(replace(request_, python="3.9"), site, tmp_path)
    ready(replace(request_, requirements=("wheel==0.41.2",)), site, tmp_path)
    assert downloads(site) == 1
    # And once it stands nobody is asked for anything.
    asked = len(site.asked)
    assert ready(request_, site, tmp_path, offline=True).facts["pytorch_wheels"] == first.facts["pytorch_wheels"]
    assert len(site.asked) == asked


def test_another_file_under_its_name_is_refused(
    site: Site, request_: EnvironmentRequest, tmp_path: Path, packages: Path
) -> None:
    with pytest.raises(TargetError, match=r"PyTorch 2\.5\.1\+cpu for Python 3\.11 cannot be fetched") as raised:
        ready(replace(request_, torch_hashes=("0" * 64,)), site, tmp_path)
    assert "HASHES" in (tmp_path / "log").read_text()
    assert raised.value.kind is FailureKind.IMAGE
    assert not list(packages.glob("wheels/*/*"))


def test_a_connection_that_breaks_off_once_costs_another_download(
    site: Site, request_: EnvironmentRequest, tmp_path: Path
) -> None:
    site.faults[f"/files/{NAME}"] = ["cut", 200]
    assert ready(request_, site, tmp_path).facts["pytorch_wheels"] == {NAME: hashlib.sha256(WHEEL).hexdigest()}
    assert downloads(site) == 2


@pytest.mark.parametrize("fault", ["stall", 503])
def test_a_server_that_breaks_off_is_a_matter_of_the_network(
    fault: str | int, site: Site, request_: EnvironmentRequest, tmp_path: Path, packages: Path
) -> None:
    site.faults[f"/files/{NAME}"] = [fault]
    with pytest.raises(TargetError) as raised:
        ready(request_, site, tmp_path)
    assert raised.value.kind is FailureKind.NETWORK
    assert not list((packages / "making").iterdir())
    # The next try gets it.
    site.faults.clear()
    assert ready(request_, site, tmp_path).facts["pytorch_wheels"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a small file system")
@pytest.mark.parametrize("size", ["5m", "11m"], ids=["download", "unpack"])
def test_a_full_disk_is_named_and_half_of_it_goes(
    size: str, site: Site, request_: EnvironmentRequest, tmp_path: Path, packages: Path
) -> None:
    packages.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(packages)], check=True)
    try:
        with pytest.raises(TargetError) as raised:
            ready(request_, site, tmp_path)
        assert raised.value.kind is FailureKind.DISK
        assert not list((packages / "making").iterdir())
        assert not list(packages.glob("pytorch/*"))
    finally:
        subprocess.run(["umount", str(packages)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="builds of other users run as these")
def test_what_only_root_may_read_reaches_the_user_of_builds(
    site: Site, request_: EnvironmentRequest, tmp_path: Path, packages: Path
) -> None:
    before = os.umask(0o077)
    try:
        # pip's configuration, without which pip does not ask this server, is readable for nobody else.
        assert ready(request_, site, tmp_path).facts["pytorch_wheels"]
        assert (tmp_path / "pip.conf").stat().st_mode & 0o077 == 0
        wheels = tmp_path / "wheels"
        wheels.mkdir()
        (wheels / NAME).write_bytes(WHEEL)
        links = replace(request_, torch_source="find-links", find_links=(wheels,), python="3.9")
        with pytest.raises(RequestError, match=f"{wheels} cannot be read by uid 61000") as raised:
            ready(links, site, tmp_path)
        assert f"chmod -R a+rX {wheels}" in str(raised.value.hint)
        subprocess.run(["chmod", "-R", "a+rX", str(wheels)], check=True)
        assert ready(links, site, tmp_path).facts["pytorch_wheels"]
    finally:
        os.umask(before)


def test_a_wheel_that_is_none_is_the_wheels_fault(
    site: Site, request_: EnvironmentRequest, tmp_path: Path, packages: Path
) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / NAME).write_bytes(WHEEL[: len(WHEEL) // 2])
    with pytest.raises(TargetError) as raised:
        ready(replace(request_, torch_source="find-links", torch_hashes=(), find_links=(wheels,)), site, tmp_path)
    assert raised.value.kind is FailureKind.IMAGE
    assert "is invalid" in str(raised.value.details)
    assert "--find-links" in str(raised.value.hint)
    assert not list((packages / "making").iterdir())

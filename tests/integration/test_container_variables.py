"""A container has the variables that the builder names and those of its image, whatever a client would add."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support import base_image_for

from builder.core.errors import FailureKind, TargetError
from builder.environments.base_images import ensure_base
from builder.environments.docker_engine import DockerEngine, labels
from builder.environments.image_inputs import Log
from builder.environments.images import Maker, _standing
from builder.environments.interface import EnvironmentRequest
from builder.environments.network import NetworkSettings, configured_proxies
from builder.environments.variables import check_variables
from builder.progress.reporter import Reporter

pytestmark = [pytest.mark.engine, pytest.mark.slow]

DOCKER = Path(__file__).resolve().parents[2] / "docker"
SECRET = "hush-config-4712"
PROXY = f"http://me:{SECRET}@proxy.example:3128"


@pytest.fixture
def configured(engine: DockerEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DockerEngine]:
    """The engine by a client that was made with proxies in Docker's configuration."""
    proxies = {"httpsProxy": PROXY, "httpProxy": PROXY, "noProxy": "internal.example"}
    (tmp_path / "config.json").write_text(json.dumps({"proxies": {"default": proxies}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert engine.place is not None
    client = engine.place.client(engine.api, 60.0, fixed=False)
    found = replace(engine, client=client, _patient={})
    yield found
    found.close()


@pytest.fixture
def request_(engine: DockerEngine) -> EnvironmentRequest:
    return EnvironmentRequest(
        arch=engine.arch, python="3.11", torch="9.9.9", torch_source="pypi", requirements=(),
        base_image=base_image_for(engine, engine.arch), find_links=(),
    )  # fmt: skip


def variables(image: object) -> list[str]:
    return sorted(image.attrs["Config"]["Env"] or ())  # type: ignore[attr-defined]


def test_an_image_has_the_variables_of_its_base_and_those_that_were_named(
    configured: DockerEngine, request_: EnvironmentRequest, tmp_path: Path
) -> None:
    settings = NetworkSettings().with_proxies(configured_proxies(configured.url))
    log = Log(tmp_path / "log", settings, lambda _: None)
    base = configured.client.images.get(request_.base_image)
    name = f"torch-npu-builder/test:{secrets.token_hex(8)}"
    try:
        with Maker(configured, request_, settings, DOCKER, (), log).workshop(request_.base_image) as shop:
            script = 'echo "https $https_proxy, HTTP $HTTP_PROXY, no $no_proxy"; tr "\\0" "\\n" < /proc/1/environ'
            assert shop.run(["sh", "-c", script]) == 0
            shop.commit(name, ["ENV PYTHONPATH=/opt/torch"])
        assert variables(configured.client.images.get(name)) == sorted([*variables(base), "PYTHONPATH=/opt/torch"])
    finally:
        configured.client.images.remove(name, force=True)
        log.close()
    written = (tmp_path / "log").read_text()
    assert "https http://***@proxy.example:3128, HTTP http://***@proxy.example:3128, no internal.example" in written
    # Only the script had them, not the container that it ran in.
    assert "_PROXY=" not in written
    assert SECRET not in written


def test_a_container_gets_no_proxies_however_it_is_made(configured: DockerEngine, request_: EnvironmentRequest) -> None:
    base = configured.client.images.get(request_.base_image)
    container = configured.client.containers.create(request_.base_image, ["true"], labels=labels())
    try:
        assert variables(container) == variables(base)
    finally:
        container.remove(force=True)
    said = configured.patient(60.0).containers.run(request_.base_image, ["env"], remove=True, labels=labels())
    assert SECRET not in said.decode()


def test_a_variable_that_nobody_named_is_told_without_its_value_and_nothing_is_committed(
    configured: DockerEngine, request_: EnvironmentRequest, tmp_path: Path
) -> None:
    # What an engine of its own accord would do.
    container = configured.client.containers.create(
        request_.base_image, ["true"], environment={"HTTPS_PROXY": PROXY, "TERM": "dumb"}, labels=labels()
    )
    try:
        check_variables(container, container.image, ["HTTPS_PROXY"])
        with pytest.raises(TargetError, match=r"variables that nobody named: HTTPS_PROXY$") as caught:
            check_variables(container, container.image)
        assert caught.value.kind is FailureKind.ENGINE
        assert SECRET not in f"{caught.value.message} {caught.value.hint}"
    finally:
        container.remove(force=True)


def test_an_image_with_proxies_of_an_earlier_version_does_not_stand(
    configured: DockerEngine, request_: EnvironmentRequest, tmp_path: Path
) -> None:
    base = ensure_base(configured, request_, Reporter(quiet=True), resources=DOCKER, offline=True)
    repository, tag = "torch-npu-builder/test", secrets.token_hex(8)
    container = configured.client.containers.create(request_.base_image, ["true"], labels=labels())
    try:
        container.commit(repository, tag)
        assert _standing(configured, f"{repository}:{tag}", base) is not None
        container.commit(repository, tag, changes=[f"ENV https_proxy={PROXY}"])
        assert _standing(configured, f"{repository}:{tag}", base) is None
    finally:
        container.remove(force=True)
        configured.client.images.remove(f"{repository}:{tag}", force=True)

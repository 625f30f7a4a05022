"""Base images from registries: the matrix's own names, mirrors, and every way in which a pull goes wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from registry_support import answering, registry, small_base
from support import MACHINE

from builder.core.errors import FailureKind, TargetError
from builder.core.workspace import resource
from builder.environments import base_images
from builder.environments.base_images import Base, ensure_base
from builder.environments.docker_engine import DockerEngine
from builder.environments.interface import EnvironmentRequest
from builder.matrix.repositories import SourceTable
from builder.progress.reporter import Reporter

pytestmark = [pytest.mark.engine, pytest.mark.slow]

#: One that the matrix names; nothing in these tests may reach its real registry.
NAME = "quay.io/pypa/manylinux_2_28_test:2025.04.26-0"
REQUEST = EnvironmentRequest(
    arch=MACHINE, python="3.11", torch="2.5.1", torch_source="pypi", requirements=(), base_image=NAME
)


@pytest.fixture(scope="module")
def harbor(engine: DockerEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A company's registry that has the image, for this machine's architecture only."""
    with registry(tmp_path_factory.mktemp("registry")) as host:
        name = f"{host}/quay/pypa/manylinux_2_28_test:2025.04.26-0"
        small_base(engine, name)
        engine.client.images.push(name)
        engine.client.images.remove(name)
        yield host


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, engine: DockerEngine) -> Iterator[None]:
    monkeypatch.setattr(base_images, "FIRST_WAIT", 0.2)
    yield
    # As the engine lists them: the SDK's own list asks for each image again, which another process may have removed.
    for image in engine.client.api.images():
        names = (*(image.get("RepoTags") or ()), *(image.get("RepoDigests") or ()))
        if any("manylinux_2_28_test" in name for name in names):
            engine.client.images.remove(str(image["Id"]), force=True)


def mirrored(*places: str) -> EnvironmentRequest:
    table = SourceTable(registries={"quay.io": places})
    return replace(REQUEST, image_mirrors=table.image_mirrors(NAME))


def ensure(engine: DockerEngine, request: EnvironmentRequest, *, offline: bool = False) -> Base:
    return ensure_base(engine, request, Reporter(), resources=resource("docker"), offline=offline)


def test_the_matrix_s_image_comes_from_a_mirror_of_its_registry(engine: DockerEngine, harbor: str) -> None:
    base = ensure(engine, mirrored(f"{harbor}/quay"))
    assert base.name == NAME
    assert base.place == f"{harbor}/quay/pypa/manylinux_2_28_test:2025.04.26-0"
    assert base.inventory.os_id == "almalinux"
    assert base.inventory.interpreters == {"cp311-cp311": "3.11.9"}
    # What the engine has is not pulled again, also where nothing answers any more.
    assert ensure(engine, mirrored(f"{harbor}/quay"), offline=True).identity == base.identity


def test_places_are_asked_in_their_order(engine: DockerEngine, harbor: str, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(lambda _: (404, {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]})) as (
        first,
        asked,
    ):
        base = ensure(engine, mirrored(f"{first}/q", f"{harbor}/quay"))
    assert any("/v2/q/pypa/" in path for path in asked)
    assert base.place.startswith(harbor)
    # Once: what is not there will not be there in four seconds.
    assert len([path for path in asked if "/manifests/" in path]) <= 2
    assert "trying again" not in capsys.readouterr().err


def test_by_digest_the_very_image_comes_and_no_other(engine: DockerEngine, harbor: str) -> None:
    base = ensure(engine, mirrored(f"{harbor}/quay"))
    (digest,) = {each.partition("@")[2] for each in base.digests}
    pinned = replace(mirrored(f"{harbor}/quay"), base_image_digest=digest)
    again = ensure(engine, pinned)
    assert again.place == f"{harbor}/quay/pypa/manylinux_2_28_test@{digest}"
    other = replace(mirrored(f"{harbor}/quay"), base_image="quay.io/pypa/x@sha256:" + "0" * 64, image_mirrors=())
    wrong = replace(other, image_mirrors=(f"{harbor}/quay/pypa/manylinux_2_28_test@sha256:{'0' * 64}",))
    with pytest.raises(TargetError) as raised, answering(lambda _: (404, {})) as (nowhere, _):
        ensure(engine, replace(wrong, base_image=f"{nowhere}/pypa/x@sha256:{'0' * 64}"))
    assert raised.value.kind is FailureKind.IMAGE


def test_a_mirror_that_serves_another_image_under_a_digest_is_refused(engine: DockerEngine, harbor: str) -> None:
    wanted = "sha256:" + "1" * 64
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "size": 2, "digest": wanted},
        "layers": [],
    }
    with answering(lambda path: (200, manifest if "/manifests/" in path else {})) as (liar, _):
        request = replace(mirrored(liar), base_image_digest=wanted, base_image=f"{liar}/pypa/manylinux_2_28_test:1")
        with pytest.raises(TargetError, match=r"cannot be pulled|none of the"):
            ensure(engine, request)


def test_an_image_of_another_architecture_is_none(engine: DockerEngine, harbor: str) -> None:
    other = {"x86_64": "aarch64", "aarch64": "x86_64"}[MACHINE]
    name = f"{harbor}/quay/pypa/manylinux_2_28_test:2025.04.26-0"
    request = replace(REQUEST, arch=other, base_image=name)
    with pytest.raises(TargetError, match=f"for {other}") as raised:
        ensure(engine, request)
    assert raised.value.kind is FailureKind.IMAGE


def test_a_registry_that_throttles_is_asked_again_and_then_advised_about(
    engine: DockerEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {"errors": [{"code": "TOOMANYREQUESTS", "message": "You have reached your pull rate limit"}]}
    throttling = answering(lambda path: (429, said) if "/manifests/" in path else (200, {}))
    with throttling as (host, _), pytest.raises(TargetError, match="allows no more pulls for now") as raised:
        ensure(engine, replace(REQUEST, base_image=f"{host}/pypa/manylinux_2_28_test:1"))
    assert raised.value.kind is FailureKind.NETWORK
    assert raised.value.kind.passing
    assert "docker login" in str(raised.value.hint)
    assert "--image-mirror" in str(raised.value.hint)
    assert capsys.readouterr().err.count("trying again in") == base_images.ATTEMPTS - 1


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_registry_that_fails_may_do_better_later(engine: DockerEngine, status: int) -> None:
    failing = answering(lambda path: (status, {}) if "/manifests/" in path else (200, {}))
    with failing as (host, asked), pytest.raises(TargetError) as raised:
        ensure(engine, replace(REQUEST, base_image=f"{host}/pypa/manylinux_2_28_test:1"))
    assert raised.value.kind is FailureKind.NETWORK
    assert len([path for path in asked if "/manifests/" in path]) >= base_images.ATTEMPTS


def test_a_registry_that_is_back_in_time_gives_it(
    engine: DockerEngine, harbor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []
    once = base_images._pull_once

    def failing_first(engine: DockerEngine, place: str, request: EnvironmentRequest, task: object) -> None:
        tries.append(place)
        if len(tries) == 1:
            raise base_images._refused(place, request, "dial tcp 127.0.0.1:1: connect: connection refused")
        once(engine, place, request, task)

    monkeypatch.setattr(base_images, "_pull_once", failing_first)
    assert ensure(engine, mirrored(f"{harbor}/quay")).place.startswith(harbor)
    assert len(tries) == 2


def test_nobody_listening_is_a_matter_of_the_network(engine: DockerEngine) -> None:
    with pytest.raises(TargetError) as raised:
        ensure(engine, replace(REQUEST, base_image="127.0.0.1:9/pypa/manylinux_2_28_test:1"))
    assert raised.value.kind is FailureKind.NETWORK
    assert "connection refused" in str(raised.value.details)


def test_a_credential_helper_that_is_missing_matters_to_pulls_alone(
    harbor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from builder.environments.docker_engine import engine as fresh_engine

    (tmp_path / "config.json").write_text(json.dumps({"credsStore": "desktop"}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    # The search for an engine remembers by these: another one, which reads the configuration anew.
    found = fresh_engine({"DOCKER_HOST": "unix:///var/run/../run/docker.sock"})
    name = f"{harbor}/quay/pypa/manylinux_2_28_test:2025.04.26-0"
    with pytest.raises(TargetError, match="docker-credential-desktop") as raised:
        ensure(found, replace(REQUEST, base_image=name))
    assert raised.value.kind is FailureKind.IMAGE
    assert re.search("install it, or remove credsStore", str(raised.value.hint))
    small_base(found, name)
    assert ensure(found, replace(REQUEST, base_image=name)).inventory.os_id == "almalinux"


def test_offline_says_what_is_missing_at_once(engine: DockerEngine, harbor: str) -> None:
    with pytest.raises(TargetError, match="--offline forbids pulling it"):
        ensure(engine, mirrored(f"{harbor}/quay"), offline=True)

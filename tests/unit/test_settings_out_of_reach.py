"""Settings of this machine that builds cannot follow are named before, or where, something fails for them."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import APIError
from mirrors_support import opened
from rich.console import Console

from builder.core.errors import MachineError, TargetError
from builder.environments import images, select
from builder.environments.docker_engine import NoEngine, engine_errors
from builder.environments.network import NetworkSettings
from builder.environments.select import Machine, why_unknown
from builder.planning.planner import Planner
from builder.progress.reporter import Reporter
from builder.sources import gitcli


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:3128", "localhost:3128", "http://[::1]:1", "http://proxy.localhost:1"]
)
def test_a_proxy_on_the_loopback_is_known_to_be_out_of_reach(url: str) -> None:
    settings = NetworkSettings(proxies={"HTTPS_PROXY": url, "NO_PROXY": "127.0.0.1,localhost"})
    assert settings.unreachable_proxies() == {"HTTPS_PROXY": url}


@pytest.mark.parametrize("url", ["http://172.17.0.1:3128", "http://proxy.example.org:3128", "http://127.example.org:1"])
def test_other_proxies_may_be_reached(url: str) -> None:
    assert NetworkSettings(proxies={"HTTPS_PROXY": url}).unreachable_proxies() == {}


class _MadeError(Exception):
    pass


@pytest.mark.parametrize("offline", [False, True])
def test_it_is_said_before_an_image_is_made(offline: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = io.StringIO()

    def made(*_: Any) -> None:
        raise _MadeError(said.getvalue())

    monkeypatch.setattr(images, "ensure_base", lambda *_, **__: SimpleNamespace(content="x", name="base"))
    monkeypatch.setattr(images, "image_digests", lambda *_: ("1" * 64, "2" * 64))
    monkeypatch.setattr(images, "_standing", lambda *_: None)
    monkeypatch.setattr(images, "absent_parts", lambda *_: [])
    monkeypatch.setattr(images, "folders_of_wheels", lambda *_: ())
    monkeypatch.setattr(images, "Log", made)
    settings = NetworkSettings(proxies={"HTTPS_PROXY": "http://me:secret@127.0.0.1:3128"}, offline=offline)
    request: Any = SimpleNamespace(python="3.11", arch="x86_64")
    with pytest.raises(_MadeError) as caught:
        images.ensure_image(
            None,  # type: ignore[arg-type]
            request,
            settings=settings,
            resources=tmp_path,
            log=tmp_path / "log",
            reporter=Reporter(Console(file=said, width=500)),
        )
    told = str(caught.value)
    assert ("HTTPS_PROXY is http://***@127.0.0.1:3128, which containers do not reach" in told) is not offline
    assert "secret" not in told


def test_settings_of_the_users_git_that_are_not_read_are_named_where_a_host_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert gitcli.passed_over() == []
    config = '[url "https://u:secret@mirror.example.org/"]\ninsteadOf = https://\n[credential]\nhelper = store\n'
    (tmp_path / ".gitconfig").write_text(config)
    assert sorted(gitcli.passed_over()) == ["credential.helper", "insteadOf"]
    with pytest.raises(TargetError, match="could not be fetched") as caught:
        opened(tmp_path, "http://127.0.0.1:9/x", retries=0).branch("main")
    assert "insteadOf, credential.helper of your git configuration is not read" in str(caught.value.hint)
    assert "secret" not in str(caught.value.hint)


def _refused(text: str) -> MachineError:
    with pytest.raises(MachineError) as caught, engine_errors("x"):
        raise APIError("no", explanation=text)
    return caught.value


def test_temporary_files_that_an_engine_does_not_see_need_another_place() -> None:
    temporary = tempfile.gettempdir()
    error = _refused(f'invalid mount config for type "bind": bind source path does not exist: {temporary}/x+1/stage')
    assert temporary in error.message
    assert str(error.hint).startswith("set TMPDIR")
    other = _refused(f"bind source path does not exist: /srv{temporary}/x")
    assert not str(other.hint).startswith("set TMPDIR")


def test_a_plan_names_the_engine_that_did_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "no container engine listens at unix:///var/run/docker.sock"
    monkeypatch.setattr(select, "find_engine", lambda: NoEngine(reason, "start it"))
    assert why_unknown("docker", Machine()) == f": {reason}"
    planner: Any = SimpleNamespace(_options=SimpleNamespace(environment="docker"), _machine=Machine())
    assert Planner._why_unknown(planner) == f"its environment is not known: {reason}"
    monkeypatch.setattr(select, "find_engine", lambda: object())
    assert Planner._why_unknown(planner) == "its environment is not known before its base image is here"

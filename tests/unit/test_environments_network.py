"""Settings for the making of environments: read from variables, secrets kept out of what is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.core.errors import RequestError
from builder.environments.network import NetworkSettings, configured_proxies


def test_the_builders_own_ca_bundle_comes_before_those_of_other_programs(tmp_path: Path) -> None:
    own, other = tmp_path / "own.pem", tmp_path / "other.pem"
    own.touch()
    other.touch()
    read = NetworkSettings.from_environment
    assert read({"PIP_CERT": str(other), "BUILDER_CA_BUNDLE": str(own)}).ca_bundle == own
    assert read({"SSL_CERT_FILE": str(other)}).ca_bundle == other
    # Another program's variable may be stale; the builder's may not.
    assert read({"PIP_CERT": str(tmp_path / "gone"), "REQUESTS_CA_BUNDLE": str(other)}).ca_bundle == other
    with pytest.raises(RequestError, match="BUILDER_CA_BUNDLE"):
        read({"BUILDER_CA_BUNDLE": str(tmp_path / "gone")})


def test_proxies_are_read_and_handed_on_in_both_spellings() -> None:
    settings = NetworkSettings.from_environment({"https_proxy": "proxy.example:3128", "NO_PROXY": "localhost"})
    assert settings.proxy_environment() == {
        "HTTPS_PROXY": "proxy.example:3128",
        "https_proxy": "proxy.example:3128",
        "NO_PROXY": "localhost",
        "no_proxy": "localhost",
    }


def test_offline_means_no_index_even_where_one_is_configured() -> None:
    settings = NetworkSettings.from_environment({"PIP_INDEX_URL": "https://index.example/simple"}, offline=True)
    env = settings.environment(ca_bundle=None, pip_config=None)
    assert env["PIP_NO_INDEX"] == "1"
    assert "PIP_INDEX_URL" not in env
    # The machine's own configuration is not read unless it was named.
    assert env["PIP_CONFIG_FILE"] == "/dev/null"


def test_a_missing_wheel_folder_is_an_error_only_in_the_builders_variable(tmp_path: Path) -> None:
    assert NetworkSettings.from_environment({"PIP_FIND_LINKS": str(tmp_path / "gone")}).find_links == ()
    assert NetworkSettings.from_environment({"BUILDER_FIND_LINKS": str(tmp_path)}).find_links == (tmp_path,)
    with pytest.raises(RequestError, match="gone"):
        NetworkSettings.from_environment({"BUILDER_FIND_LINKS": str(tmp_path / "gone")})


@pytest.mark.parametrize(
    ("variable", "value", "hidden"),
    [
        ("HTTPS_PROXY", "http://ann:pa%40ss@proxy.example:3128", ["pa%40ss", "pa@ss"]),
        ("HTTP_PROXY", "ann:secret1@proxy.example:3128", ["secret1"]),
        ("PIP_INDEX_URL", "https://token77@index.example/simple", ["token77"]),
        ("PIP_EXTRA_INDEX_URL", "https://a.example/simple https://bob:secret2@b.example/simple", ["secret2"]),
    ],
)
def test_secrets_in_urls_are_redacted(variable: str, value: str, hidden: list[str]) -> None:
    settings = NetworkSettings.from_environment({variable: value})
    shown = settings.redact(f"Looking in indexes: {value}; decoded {' '.join(hidden)}")
    for secret in hidden:
        assert secret not in shown
    assert "example" in shown


def test_secrets_in_a_pip_configuration_are_redacted(tmp_path: Path) -> None:
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nindex-url = https://bob:hush3@index.example/simple\n")
    settings = NetworkSettings.from_environment({"BUILDER_PIP_CONFIG": str(config)})
    assert settings.redact("https://bob:hush3@index.example/simple") == "https://***@index.example/simple"


def test_the_proxies_of_dockers_configuration_stand_in_where_no_variable_names_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    read = NetworkSettings.from_environment
    for text in ("", "[]", '{"proxies": []}', '{"proxies": {"default": {"httpProxy": 3}}}'):
        (tmp_path / "config.json").write_text(text)
        assert configured_proxies("unix:///x") == {}
    (tmp_path / "config.json").write_text(
        '{"proxies": {"default": {"httpProxy": "http://me:s3cr3t@p:1", "httpsProxy": "q:2", "noProxy": "in", '
        '"allProxy": "socks5://a:3"}, "tcp://far:2376": {"httpProxy": "far:4"}}}'
    )
    settings = read({"https_proxy": "own:9"}).with_proxies(configured_proxies("unix:///x"))
    assert settings.proxies == {
        "HTTP_PROXY": "http://me:s3cr3t@p:1", "HTTPS_PROXY": "own:9", "NO_PROXY": "in", "ALL_PROXY": "socks5://a:3",
    }  # fmt: skip
    assert settings.redact("by me:s3cr3t, s3cr3t") == "by ***, ***"
    assert configured_proxies("tcp://far:2376") == {"HTTP_PROXY": "far:4"}

"""How environments reach packages while they are made: CA bundle, proxies, index, wheel folders.

Only the making of an environment sees these; commands of a build run without any network.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from builder.core.errors import RequestError
from builder.core.redaction import without_values
from builder.core.workspace import expanded

#: Variables that name a CA bundle, the builder's own first.
CA_VARIABLES = ("BUILDER_CA_BUNDLE", "PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY")
#: pip's own variables: seconds without a byte, and how often it asks again.
PATIENCE_VARIABLES = ("PIP_DEFAULT_TIMEOUT", "PIP_RETRIES")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"]+", re.IGNORECASE)


@dataclass(frozen=True)
class NetworkSettings:
    """Settings for the making of environments.

    ``proxies`` maps upper-case variable names to URLs; ``torch_index_url`` is PyTorch's CPU index
    (needed for the torch source ``cpu-index``); ``find_links`` are folders of wheels on this machine;
    ``package_mirror`` is a company's copy of its distributions' packages; ``pip_patience`` holds pip's own variables
    of seconds and retries;
    ``offline`` means that only ``find_links`` may be used. Values may hold passwords: they are handed
    over as environment of one process, and :meth:`redact` takes them out of whatever is shown.
    """

    ca_bundle: Path | None = None
    proxies: Mapping[str, str] = field(default_factory=dict)
    pip_index_url: str | None = None
    pip_extra_index_urls: tuple[str, ...] = ()
    pip_config: Path | None = None
    find_links: tuple[Path, ...] = ()
    torch_index_url: str | None = None
    package_mirror: str | None = None
    pip_patience: Mapping[str, str] = field(default_factory=dict)
    offline: bool = False

    @classmethod
    def from_environment(
        cls,
        env: Mapping[str, str],
        *,
        torch_index_url: str | None = None,
        find_links: tuple[Path, ...] = (),
        offline: bool = False,
    ) -> NetworkSettings:
        """Read the settings from variables (docs/environments.md lists them).

        Raises RequestError when a variable of the builder names a file or folder that is not there.
        Variables of other programs that name a missing one are passed over.
        """
        bundle = None
        for name in CA_VARIABLES:
            if bundle is None and env.get(name):
                bundle = _file(env[name], name)
        config = None
        for name in ("BUILDER_PIP_CONFIG", "PIP_CONFIG_FILE"):
            if config is None and env.get(name):
                config = _file(env[name], name)
        folders = list(find_links)
        for name in ("BUILDER_FIND_LINKS", "PIP_FIND_LINKS"):
            # The builder's own variable separates folders by ":", as click does; pip's by spaces.
            for word in filter(None, env.get(name, "").split(":" if name.startswith("BUILDER_") else None)):
                folder = expanded(word)
                if folder.is_dir():
                    folders.append(folder.resolve())
                elif name.startswith("BUILDER_"):
                    raise RequestError(f"{name}: {word} is not a folder", hint="name folders that hold wheels")
        proxies = {}
        for name in PROXY_VARIABLES:
            value = env.get(name) or env.get(name.lower())
            if value:
                proxies[name] = value
        return cls(
            ca_bundle=bundle,
            proxies=proxies,
            pip_index_url=env.get("BUILDER_PIP_INDEX_URL") or env.get("PIP_INDEX_URL") or None,
            pip_extra_index_urls=tuple(
                (env.get("BUILDER_PIP_EXTRA_INDEX_URL") or env.get("PIP_EXTRA_INDEX_URL") or "").split()
            ),
            pip_config=config,
            find_links=tuple(dict.fromkeys(folders)),
            torch_index_url=torch_index_url,
            package_mirror=env.get("BUILDER_PACKAGE_MIRROR") or None,
            pip_patience={name: env[name] for name in PATIENCE_VARIABLES if env.get(name)},
            offline=offline,
        )

    def with_proxies(self, proxies: Mapping[str, str]) -> NetworkSettings:
        """The same with ``proxies`` where a variable of this process names none."""
        return replace(self, proxies={**proxies, **self.proxies})

    def unreachable_proxies(self) -> dict[str, str]:
        """Proxies on this machine's own loopback by variable, without passwords: a container's loopback is another."""
        found = {}
        for name, url in self.proxies.items():
            host = urlsplit(url if "://" in url else f"//{url}").hostname if name != "NO_PROXY" else None
            if host is not None and _is_loopback(host):
                found[name] = self.redact(url)
        return found

    def proxy_environment(self) -> dict[str, str]:
        """Proxy variables in both spellings: programs do not agree on one."""
        return {spelling: value for name, value in self.proxies.items() for spelling in (name, name.lower())}

    def environment(self, *, ca_bundle: str | None, pip_config: str | None) -> dict[str, str]:
        """Variables for a process that fetches packages; the arguments are the files' paths as it sees them."""
        env = self.proxy_environment()
        if ca_bundle is not None:
            for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO"):
                env[name] = ca_bundle
        env["PIP_CONFIG_FILE"] = pip_config if pip_config is not None else "/dev/null"
        if self.offline:
            env["PIP_NO_INDEX"] = "1"
        else:
            if self.pip_index_url:
                env["PIP_INDEX_URL"] = self.pip_index_url
            if self.pip_extra_index_urls:
                env["PIP_EXTRA_INDEX_URL"] = " ".join(self.pip_extra_index_urls)
        env.update(self.pip_patience)
        env.update(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1", PIP_ROOT_USER_ACTION="ignore")
        return env

    def secrets(self) -> frozenset[str]:
        """User names with passwords and passwords that stand in the URLs, as written and decoded."""
        urls = [*self.proxies.values(), *self.pip_extra_index_urls]
        urls += [url for url in (self.pip_index_url, self.torch_index_url, self.package_mirror) if url]
        if self.pip_config is not None:
            with suppress(OSError):
                urls += _URL.findall(self.pip_config.read_text(encoding="utf-8", errors="replace"))
        found = set()
        for url in urls:
            # A proxy may be written without its scheme.
            network = urlsplit(url if "://" in url else f"//{url}").netloc
            login, at, _ = network.rpartition("@")
            if at:
                user, colon, password = login.partition(":")
                # A lone user name is a token in some registries' URLs.
                secret = password if colon else user
                found |= {login, secret, unquote(secret), quote(unquote(secret), safe="")}
        return frozenset(text for text in found if text)

    def redact(self, text: str) -> str:
        """``text`` with every secret replaced; for logs and messages."""
        return without_values(text, self.secrets())


def configured_proxies(engine: str) -> dict[str, str]:
    """The proxies for containers of the engine at the URL ``engine`` in Docker's configuration, by variable.

    It is ``config.json`` in DOCKER_CONFIG or ``~/.docker`` (https://docs.docker.com/engine/cli/proxy/).
    """
    from docker.utils.config import load_general_config

    read: Any = load_general_config()
    configured = read.get("proxies") if isinstance(read, Mapping) else None
    if not isinstance(configured, Mapping):
        return {}
    chosen = configured.get(engine, configured.get("default"))
    if not isinstance(chosen, Mapping):
        return {}
    keys = {f"{name.removesuffix('_PROXY').lower()}Proxy": name for name in PROXY_VARIABLES}
    return {name: value for key, name in keys.items() if isinstance(value := chosen.get(key), str) and value}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        # https://www.rfc-editor.org/rfc/rfc6761#section-6.3
        return host == "localhost" or host.endswith(".localhost")


def _file(value: str, name: str) -> Path | None:
    path = expanded(value)
    if path.is_file():
        return path.resolve()
    if name.startswith("BUILDER_"):
        raise RequestError(f"{name}: {value} is not a file", hint=f"correct or unset {name}")
    return None

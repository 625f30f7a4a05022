"""Variables of a command and of a container: those that the builder names, and no others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from builder.core.errors import FailureKind, TargetError
from builder.environments.network import PROXY_VARIABLES

#: What podman gives each container besides (specgen's defaults); its values say nothing of this machine.
_ENGINES_OWN = frozenset({"PATH", "HOME", "HOSTNAME", "TERM", "container"})


def merged(base: Mapping[str, str], env: Mapping[str, str]) -> dict[str, str]:
    """``base`` overlaid with the caller's ``env``; the caller's git configuration is added to the base's."""
    result = {**base, **env}
    count = base.get("GIT_CONFIG_COUNT", "0")
    if "GIT_CONFIG_COUNT" in env and count.isdigit() and env["GIT_CONFIG_COUNT"].isdigit():
        first, more = int(count), int(env["GIT_CONFIG_COUNT"])
        for number in range(first):
            for part in ("KEY", "VALUE"):
                result[f"GIT_CONFIG_{part}_{number}"] = base[f"GIT_CONFIG_{part}_{number}"]
        for number in range(more):
            for part in ("KEY", "VALUE"):
                result[f"GIT_CONFIG_{part}_{first + number}"] = env[f"GIT_CONFIG_{part}_{number}"]
        result["GIT_CONFIG_COUNT"] = str(first + more)
    return result


def check_variables(container: Any, image: Any, named: Iterable[str] = ()) -> None:
    """Raise TargetError (ENGINE) where a created container has variables that neither its image has nor who made it
    named: what an engine or its client adds would enter the build, and the image that is made of the container.
    """
    known = _ENGINES_OWN.union(named)
    besides = [name for name, value in (_of(container) - _of(image)) if name not in known]
    if besides:
        raise TargetError(
            f"the engine gave a container variables that nobody named: {', '.join(sorted(besides))}",
            kind=FailureKind.ENGINE,
            hint="podman takes proxies from its service's environment: http_proxy = false below [containers] in "
            "containers.conf ends that; the builder itself takes them from HTTP_PROXY, HTTPS_PROXY and NO_PROXY",
        )


def holds_proxies(image: Any, base: Any) -> bool:
    """True for an image with proxies that its base has not. Earlier builders made such ones, passwords included."""
    names = {name.upper() for name, _ in _of(image) - _of(base)}
    return not names.isdisjoint(PROXY_VARIABLES)


def _of(thing: Any) -> set[tuple[str, str]]:
    """The variables of an image or a container, from what the engine says of it."""
    listed = (thing.attrs.get("Config") or {}).get("Env") or ()
    return {(name, value) for name, _, value in (item.partition("=") for item in listed)}

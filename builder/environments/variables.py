"""Variables of a command: those of its environment, with the caller's over them."""

from __future__ import annotations

from collections.abc import Mapping


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

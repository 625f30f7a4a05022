"""Hiding what must not be shown: credentials in URLs, signatures of links, values of secrets."""

from __future__ import annotations

import re
from collections.abc import Iterable

_USER_INFO = re.compile(r"(?<=//)[^/\s'\"]*@")
#: As people paste keys of object stores, with slashes in them.
_USER_INFO_WITH_SLASHES = re.compile(r"(?<=//)[^/\s@:]*:\S*@")
_SIGNED = re.compile(
    r"([?&](?:X-[A-Za-z]+-[A-Za-z-]+|[^=&\s]*(?:sig|key|token|secret)[^=&\s]*)=)[^&\s'\"]+", re.IGNORECASE
)
_PASSWORD = re.compile(r"[a-z][a-z0-9+.-]*://[^/@]*:[^/]*@", re.IGNORECASE)


def without_credentials(text: str) -> str:
    """Replace ``user:password@`` of every URL in ``text`` by ``***@``; a lone user name may be a token."""
    return _USER_INFO.sub("***@", text)


def without_secrets(text: str, secrets: Iterable[str] = ()) -> str:
    """Replace credentials of URLs, also with slashes in them, signatures of links, and every one of ``secrets``."""
    text = without_values(text, secrets)
    return _SIGNED.sub(r"\1***", without_credentials(_USER_INFO_WITH_SLASHES.sub("***@", text)))


def without_values(text: str, secrets: Iterable[str]) -> str:
    """Replace every one of ``secrets`` by ``***``, the longest first."""
    for value in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(value, "***")
    return text


def holds_password(url: str) -> bool:
    """Say whether ``url`` begins with a login that has a password."""
    return _PASSWORD.match(url) is not None

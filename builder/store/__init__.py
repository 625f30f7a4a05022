"""Where finished wheels go: a local folder, or any place that a URL names."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from builder.core.errors import RequestError
from builder.store.folder import FolderStore
from builder.store.interface import Entry, Store, check_name, check_part

__all__ = ["Entry", "Store", "check_name", "check_part", "open_store"]

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_ALMOST_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(?!/)")


def open_store(place: str) -> Store:
    """Return the store at a path or URL, without any access to it yet (``Store.check`` does that).

    Raises RequestError for a URL that holds a password or is malformed, MachineError when the package
    for its scheme is not installed.
    """
    if not place.strip() or any(ord(letter) < 32 or ord(letter) == 127 for letter in place):
        raise RequestError(
            f"{_shown(place)!r} is not a store", hint="give a folder or a URL such as s3://bucket/folder"
        )
    match = _URL.fullmatch(place)
    if match is None:
        if "://" in place or _ALMOST_URL.match(place):
            raise RequestError(
                f"{_shown(place)!r} is neither a folder nor a URL",
                hint="a URL is one scheme, two slashes and a place (s3://bucket/folder); "
                "a folder whose name looks like one is ./name:/...",
            )
        return FolderStore(Path(place))
    scheme, rest = match[1].lower(), match[2]
    _check_rest(scheme, rest)
    if scheme == "file":
        host, slash, path = rest.partition("/")
        if host not in ("", "localhost") or not slash:
            raise RequestError(f"{place!r} names no absolute path", hint="such a URL is file:///srv/wheels")
        # A folder gains nothing from fsspec, and has locks and links of its own.
        return FolderStore(Path("/" + unquote(path)))
    if not rest.strip("/") and scheme != "memory":
        raise RequestError(f"{place!r} names no bucket or host", hint=f"such a URL is {scheme}://bucket/folder")
    from builder.store.remote import RemoteStore

    return RemoteStore(f"{scheme}://{rest}")


def _check_rest(scheme: str, rest: str) -> None:
    """Refuse a URL that may hold a secret, and any syntax that fsspec would read as more than one place.

    Chains (``::``) and patterns: https://filesystem-spec.readthedocs.io/en/latest/features.html
    """
    # Not only before the first slash: secret keys may hold slashes, and people paste them as they are.
    before, at, _ = rest.rpartition("@")
    if at and ":" in before:
        raise RequestError(
            f"the URL {scheme}://***@... holds a password",
            hint="credentials come from the environment (for s3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY); "
            "whoever has seen this URL may have them now",
        )
    if "?" in rest or "#" in rest:
        raise RequestError(
            f"the URL {scheme}://{re.split('[?#]', rest)[0]} is followed by a query or fragment",
            hint="a store is a place only; options and credentials come from the environment",
        )
    if "::" in rest or any(letter in rest for letter in "*[]{}\\") or ".." in rest.split("/"):
        raise RequestError(
            f"{scheme}://{rest} cannot be the URL of a store",
            hint="it is one place: no chain (::), no pattern (* [ {), no ..",
        )


def _shown(place: str) -> str:
    return re.sub(r"[^/\s]*:[^\s]*@", "***@", place)

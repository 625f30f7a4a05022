"""Translate a store's failures into the builder's errors, without secrets."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Iterator
from typing import Any

from builder.core.errors import BuilderError, FailureKind, MachineError, RequestError, TargetError
from builder.core.redaction import without_secrets

INSTALL = "pip install 'fsspec>=2024.6'"

_SECRET_NAME = re.compile(
    r"key|secret|token|passw|credential|signature|connection_string|sas\b|auth(?!or|_sock)", re.IGNORECASE
)
#: Shorter values would blot out ordinary words.
_SHORTEST_SECRET = 4
_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR}
_PASSING = {
    errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ETIMEDOUT, errno.ENETUNREACH,
    errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.EBUSY, errno.EREMOTEIO, errno.ESTALE,
}  # fmt: skip
# Names of exception classes: the packages behind fsspec have their own, and importing all of them to ask is too much.
_NETWORK_CLASSES = {
    "ConnectionError", "TimeoutError", "gaierror", "HTTPClientError", "ClientConnectionError", "ServerTimeoutError",
    "SSHException", "NoValidConnectionsError", "FSTimeoutError", "ConnectionClosedError", "TransportError",
    "ServiceRequestError", "ServiceResponseError",
}  # fmt: skip
_CREDENTIAL_CLASSES = {
    "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError",
    "UnauthorizedSSOTokenError", "SSOTokenLoadError", "DefaultCredentialsError", "RefreshError",
    "AuthenticationException", "ClientAuthenticationError",
}  # fmt: skip
# Failures of these kinds are defects of a program, ours or the package's, and are shown as such.
_DEFECTS = (AttributeError, TypeError, NameError, AssertionError, LookupError, ArithmeticError, MemoryError)


def redact(text: str) -> str:
    """Return ``text`` without passwords in URLs, signatures, and values of variables that are named like secrets."""
    return without_secrets(text, _secrets())


def explain(error: Exception, url: str, what: str) -> BuilderError | None:
    """Return the error to show when the store at ``url`` failed at ``what``; None for a defect of a program."""
    if isinstance(error, ImportError):
        return lacks_package(error, url)
    if isinstance(error, _DEFECTS) and type(error).__module__ == "builtins":
        return None
    said = redact(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    said = " ".join(said.split())
    code = error.errno if isinstance(error, OSError) else None
    classes = {base.__name__ for base in type(error).__mro__}
    if code in _FULL:
        return TargetError(
            f"no space left in the store {url} ({what})",
            kind=FailureKind.DISK,
            hint="make room there, or keep fewer releases; what is published already stays",
        )
    if classes & _CREDENTIAL_CLASSES:
        return RequestError(
            f"the store {url} needs credentials and found none that serve ({what})",
            hint="set them in the environment, for s3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            details=said,
        )
    if isinstance(error, PermissionError) or code in _REFUSED:
        return RequestError(
            f"the store {url} does not allow {what}",
            hint="check the permissions there, and the credentials in the environment",
            details=said,
        )
    if code in _PASSING or classes & _NETWORK_CLASSES:
        return TargetError(
            f"the store {url} was not reached ({what})",
            kind=FailureKind.NETWORK,
            hint="check network, proxy and endpoint, then run the same command again: what is published already stays",
            details=said,
        )
    if isinstance(error, (FileNotFoundError, NotADirectoryError)) or code in _ABSENT:
        return RequestError(
            f"the store {url} has no place for this ({what})",
            hint="check the bucket or folder in its URL; the builder makes folders, never buckets",
            details=said,
        )
    if code == errno.EINVAL or "ParamValidationError" in classes:
        return RequestError(
            f"the store {url} does not accept this ({what})",
            hint="check the bucket's name, its region and endpoint, and the credentials in the environment",
            details=said,
        )
    if isinstance(error, NotImplementedError):
        return RequestError(
            f"{url} cannot serve as a store: it does not know the operation ({what})",
            hint="take a folder, or a URL of something that can be written, listed and copied in",
            details=said,
        )
    return MachineError(f"the store {url} failed ({what})", hint="read what it said above", details=said)


def lacks_package(error: ImportError, url: str) -> MachineError:
    """Return the error for a kind of store whose package is not installed."""
    return MachineError(
        f"the store {url} needs a package that is not installed: {redact(str(error))}",
        hint=f"{INSTALL}, or the package named above" if _names_package(error) else INSTALL,
    )


def _names_package(error: ImportError) -> bool:
    return error.name != "fsspec"


def _secrets() -> Iterator[str]:
    for name, value in os.environ.items():
        if name.startswith("FSSPEC_"):
            # fsspec takes whole sets of options from these, as JSON.
            with contextlib.suppress(ValueError):
                yield from _secret_leaves(json.loads(value))
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET:
            yield value
            # Connection strings are lists of names and values.
            pairs = (part.partition("=") for part in value.split(";") if ";" in value)
            yield from (secret for key, _, secret in pairs if _SECRET_NAME.search(key) and secret)


def _secret_leaves(value: Any, name: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _secret_leaves(below, str(key))
    elif isinstance(value, str) and _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET:
        yield value

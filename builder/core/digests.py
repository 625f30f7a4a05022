"""SHA-256 of files and streams, read in pieces."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

#: Bytes that are read at once.
_PIECE = 1 << 20


def sha256_of(path: Path) -> str:
    """Compute the SHA-256 of a file's content, in hexadecimal. Raises OSError where it cannot be read."""
    with open(path, "rb") as stream:
        return sha256_of_stream(stream)


def sha256_of_stream(stream: BinaryIO) -> str:
    """Compute the SHA-256 of what is left of ``stream``, in hexadecimal."""
    digest = hashlib.sha256()
    while piece := stream.read(_PIECE):
        digest.update(piece)
    return digest.hexdigest()

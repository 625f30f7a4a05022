"""The fingerprint of a target: one digest over everything that can change its wheel."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from pydantic import JsonValue

#: Raised whenever the builder's own steps change what comes out of the same inputs.
RECIPE_VERSION = 4


def fingerprint(inputs: Mapping[str, JsonValue]) -> str:
    """SHA-256 in hexadecimal over ``inputs`` in canonical JSON."""
    canonical = json.dumps(inputs, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()

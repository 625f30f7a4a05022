"""Releases in a store: transactions over the targets that a release expects."""

from __future__ import annotations

from builder.releases.channel import Found, Pruned, latest, next_name, prune, releases, verify
from builder.releases.manifest import Manifest, Target, read_manifest
from builder.releases.release import Release, fill_command

__all__ = [
    "Found",
    "Manifest",
    "Pruned",
    "Release",
    "Target",
    "fill_command",
    "latest",
    "next_name",
    "prune",
    "read_manifest",
    "releases",
    "verify",
]

"""Nightly builds: what changed since the last night is built, the rest is carried over, and the night is published."""

from __future__ import annotations

from builder.nightly.command import run_nightly

__all__ = ["run_nightly"]

"""The container engine: finding it, naming what it lacks, and turning its failures into messages.

The parts: ``engine_search`` finds it, ``engine_client`` is the connection, ``engine_calls`` the patience with it.
"""

from __future__ import annotations

from builder.environments.engine_calls import (
    GoneError,
    close_attached,
    commit,
    engine_errors,
    hang_up,
    is_own_fault,
    listening,
    patiently,
    remove_container,
    streamed,
    watched,
)
from builder.environments.engine_search import DockerEngine, NoEngine, ask_again, engine, find_engine
from builder.environments.ownership import LABEL, OWNER_LABEL, labels, owner, owner_lives

__all__ = [
    "ENGINE_ARCHITECTURES",
    "LABEL",
    "OWNER_LABEL",
    "PLATFORMS",
    "DockerEngine",
    "GoneError",
    "NoEngine",
    "ask_again",
    "close_attached",
    "commit",
    "engine",
    "engine_errors",
    "find_engine",
    "hang_up",
    "is_own_fault",
    "labels",
    "listening",
    "owner",
    "owner_lives",
    "patiently",
    "remove_container",
    "streamed",
    "watched",
]

#: Platforms of the engine by architecture of a target.
PLATFORMS = {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}
ENGINE_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

"""What has to be fetched before an environment stands: for builds without network, which say it before they begin."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from builder.environments.base_images import ensure_base, places, standing_base
from builder.environments.docker_engine import engine
from builder.environments.host import absent_parts as absent_parts_here
from builder.environments.host import environment_digest, look_around
from builder.environments.host_opened import HostView
from builder.environments.image_inputs import folders_of_wheels
from builder.environments.images import absent_parts
from builder.environments.interface import EnvironmentRequest
from builder.environments.interpreters import need_interpreter
from builder.environments.namespace import find_namespaces
from builder.environments.network import NetworkSettings
from builder.environments.pytorch import absent
from builder.progress.reporter import Reporter


def missing_docker(
    request: EnvironmentRequest,
    *,
    settings: NetworkSettings,
    resources: Path,
    reporter: Reporter,
    env: Mapping[str, str] | None = None,
) -> list[str]:
    """What ``ready_docker`` would have to fetch, in words; nothing is made. Raises as ``ready_docker`` does."""
    found = engine(env)
    folders = folders_of_wheels(request, settings)
    if standing_base(found, request) is None:
        torch = absent(request, resources, folders, None)
        lacking = [
            f"the base image {places(request)[-1]} for {request.arch}",
            f"the environment of Python {request.python} on {places(request)[-1]}",
        ]
        return [*lacking, *([] if torch is None else [torch])]
    base = ensure_base(found, request, reporter, resources=resources, offline=True)
    parts = absent_parts(found, request, base, resources, folders)
    torch = absent(request, resources, folders, f"{base.inventory.libc} {base.inventory.libc_version}")
    made_of = f"the environment of Python {request.python} on {base.name}, which is made of {', '.join(parts)}"
    return [*([made_of] if parts else []), *([] if torch is None else [torch])]


def missing_host(
    request: EnvironmentRequest,
    *,
    settings: NetworkSettings,
    workspace_environments: Path,
    resources: Path,
    env: Mapping[str, str] | None = None,
) -> list[str]:
    """What ``ready_host`` would have to fetch, in words; nothing is made. Raises MachineError as it does."""
    env = os.environ if env is None else env
    interpreter = need_interpreter(request.python, env)
    workspace = workspace_environments.resolve().parent
    found = look_around(resources, HostView(find_namespaces(), workspace, env.get("PATH") or os.defpath, env))
    folders = folders_of_wheels(request, settings)
    home = workspace_environments.resolve() / environment_digest(request, resources, interpreter)[:20]
    parts = absent_parts_here(request, found, folders, home)
    torch = absent(request, resources, folders, f"{found.libc} {found.libc_version}")
    made_of = f"the environment of Python {request.python} on this host, which is made of {', '.join(parts)}"
    return [*([made_of] if parts else []), *([] if torch is None else [torch])]

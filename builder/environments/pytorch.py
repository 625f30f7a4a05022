"""PyTorch, downloaded once and unpacked once for all base images, release lines and workspaces of this machine.

    <packages>/resolved/<inputs>.json      which wheels pip chose, by SHA-256
    <packages>/wheels/<source>/*.whl       those wheels, as they came
    <packages>/pytorch/<key>/site          the same wheels unpacked; the key is their digest
    <packages>/pytorch/<key>/manifest.json every file of it: a damaged one is made again
    <packages>/making/                     what is on its way

Builds see ``site`` read-only at /opt/torch. ``<packages>`` is ``BUILDER_PACKAGES``, else
``~/.cache/torch-npu-builder/packages``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from builder.core.errors import FailureKind, MachineError, TargetError
from builder.core.workspace import expanded, user_cache
from builder.environments.image_inputs import inputs_digest, offered_torch, pytorch_digest
from builder.environments.interface import EnvironmentRequest
from builder.environments.pytorch_store import VARIABLE, PyTorch, PyTorchStore
from builder.progress.reporter import Reporter

#: What upstream's code generation writes into; each build gets a copy of its own.
WRITTEN = "torchgen"


def packages_folder(env: Mapping[str, str] | None = None) -> Path:
    """The folder that all workspaces of this user share. Raises MachineError for a user without a home."""
    env = os.environ if env is None else env
    if named := env.get(VARIABLE):
        return expanded(named).absolute()
    cache = user_cache(env)
    if cache is None:
        raise MachineError(
            f"there is no place for PyTorch: HOME is not set, and user {os.getuid()} has no entry in /etc/passwd",
            hint=f"set {VARIABLE} to a folder of some GB for it, or HOME",
        )
    return cache / "packages"


def standing(request: EnvironmentRequest, resources: Path, folders: tuple[Path, ...], libc: str) -> bool:
    """Whether the PyTorch of ``request`` can be had without asking anybody."""
    store = PyTorchStore(packages_folder())
    resolved = store.resolved(_inputs(request, resources, folders, libc))
    return resolved is not None and (store.folder(resolved[0]).is_dir() or store.has_wheels(request, resolved[1]))


def offered(request: EnvironmentRequest, folders: tuple[Path, ...]) -> bool:
    """Whether one of the folders of wheels has the request's PyTorch; an archive is built for ``find-links`` only."""
    return bool(offered_torch(request, folders))


def absent(request: EnvironmentRequest, resources: Path, folders: tuple[Path, ...], libc: str | None) -> str | None:
    """What to say where PyTorch has to be fetched: neither made before, nor offered by a folder; None where not.

    Without ``libc`` (the place is not known yet) it counts as here if it was ever fetched for any place.
    """
    if offered(request, folders):
        return None
    if libc is None:
        kept = PyTorchStore(packages_folder()).wheels(request)
        here = kept.is_dir() and any(kept.glob(f"torch-{request.torch}[-+]*"))
    else:
        here = standing(request, resources, folders, libc)
    if here:
        return None
    return f"PyTorch {request.torch}{request.torch_local} for Python {request.python} on {request.arch}"


def ensure_pytorch(
    request: EnvironmentRequest,
    *,
    resources: Path,
    folders: tuple[Path, ...],
    libc: str,
    owner_of_files: tuple[int, int] | None,
    offline: bool,
    reporter: Reporter,
    run: Callable[[], Any],
) -> PyTorch:
    """The PyTorch of ``request`` for a place whose C library is ``libc`` (as ``glibc 2.17``), made where it is absent.

    ``run`` is a context manager that gives the :data:`Run` of that place; it is entered only where something has to be
    made. ``owner_of_files`` is who runs scripts there, where that is another user than this process's.
    Raises TargetError (IMAGE, NETWORK, DISK) where it cannot be made, MachineError where the folder cannot be written.
    """
    store = PyTorchStore(packages_folder())
    inputs = _inputs(request, resources, folders, libc)
    found = store.find(inputs, request, reporter)
    if found is not None:
        return found
    if offline and (lacking := absent(request, resources, folders, libc)) is not None:
        raise TargetError(
            f"{lacking} is not on this machine, and --offline forbids fetching it",
            kind=FailureKind.IMAGE,
            hint="fetch it beforehand with 'pull', or name folders of wheels with --find-links",
        )
    with store.making(inputs), reporter.task(f"PyTorch {request.torch} for Python {request.python}"):
        # Another target, or another builder, may have made it while this one waited for the lock.
        found = store.find(inputs, request, reporter)
        if found is None:
            with run() as step:
                found = store.make(inputs, request, resources, step, owner_of_files)
    return found


def _inputs(request: EnvironmentRequest, resources: Path, folders: tuple[Path, ...], libc: str) -> str:
    return inputs_digest([pytorch_digest(request, resources, folders), libc])

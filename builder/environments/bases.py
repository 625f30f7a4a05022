"""Base images: found in the engine or pulled, and looked into once before anything is built on them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from builder.console import Reporter
from builder.environments.base import EnvironmentRequest
from builder.environments.engine import ENGINE_ARCHITECTURES, PLATFORMS, DockerEngine, engine_errors, labels
from builder.errors import FailureKind, MachineError, TargetError


@dataclass(frozen=True)
class Base:
    """A base image as the engine has it, and what a look inside showed."""

    name: str
    identity: str
    digests: tuple[str, ...]
    pythons: tuple[str, ...]


def standing_base(engine: DockerEngine, request: EnvironmentRequest) -> str | None:
    """The identity of the base image of ``request`` where the engine has it; nothing is pulled or run."""
    from docker.errors import ImageNotFound

    name = _reference(request)
    with engine_errors(f"looking for the base image {name}"):
        try:
            image = engine.client.images.get(name)
        except ImageNotFound:
            return None
    return str(image.id) if image.attrs.get("Architecture") == ENGINE_ARCHITECTURES[request.arch] else None


def registry_digest(engine: DockerEngine, request: EnvironmentRequest) -> str | None:
    """The digest under which a registry has the base image that the engine has; None for one of no registry."""
    identity = standing_base(engine, request)
    if identity is None:
        return None
    with engine_errors(f"looking into the base image {request.base_image}"):
        digests = engine.client.images.get(identity).attrs.get("RepoDigests") or ()
    return next((digest.partition("@")[2] for digest in digests), None)


def _reference(request: EnvironmentRequest) -> str:
    if not request.base_image_digest or "@" in request.base_image:
        return request.base_image
    # With a digest the tag says nothing any more; a port's colon is not a tag's.
    return re.sub(r":[^/:]+$", "", request.base_image) + "@" + request.base_image_digest


def ensure_base(
    engine: DockerEngine, request: EnvironmentRequest, reporter: Reporter, *, offline: bool = False
) -> Base:
    """The base image in the engine, pulled only when absent, and checked by running it once.

    Raises TargetError (IMAGE) when it cannot be had, is of another architecture or lacks the wanted
    Python, and MachineError when this machine cannot run programs of its architecture.
    """
    from docker.errors import APIError, ImageNotFound

    name = _reference(request)
    wanted = ENGINE_ARCHITECTURES[request.arch]
    with engine_errors(f"looking for the base image {name}"):
        try:
            image = engine.client.images.get(name)
        except ImageNotFound:
            image = None
    if image is None or image.attrs.get("Architecture") != wanted:
        if offline:
            raise TargetError(
                f"the base image {name} for {request.arch} is not in the engine, and --offline forbids pulling it",
                kind=FailureKind.IMAGE,
                hint="pull it first, or name one that the engine has with --base-image",
            )
        reporter.message(f"pulling the base image {name} ({PLATFORMS[request.arch]})")
        try:
            with engine_errors(f"pulling {name}"):
                try:
                    engine.client.api.pull(name, platform=PLATFORMS[request.arch])
                    image = engine.client.images.get(name)
                except (APIError, ImageNotFound) as error:
                    there = f" (a local image of that name is for {image.attrs.get('Architecture')})" if image else ""
                    raise TargetError(
                        f"the base image {name} for {request.arch} is not in the engine and cannot be pulled{there}",
                        kind=FailureKind.IMAGE,
                        details=str(error.explanation if isinstance(error, APIError) else error),
                        hint="docker/bases/debian.sh makes one from Debian's packages alone; --base-image names it",
                    ) from error
        except TargetError as error:
            if error.kind is FailureKind.ENGINE and "refused" in error.message:
                error.kind = FailureKind.IMAGE
            raise
    if image.attrs.get("Architecture") != wanted:
        raise TargetError(
            f"the base image {name} is for {image.attrs.get('Architecture')}, the target for {request.arch}",
            kind=FailureKind.IMAGE,
            hint="name an image of that architecture with --base-image",
        )
    pythons = _look_inside(engine, request, name, str(image.id))
    short = interpreter_folder(request.python)
    if short not in pythons and f"{short}m" not in pythons:
        raise TargetError(
            f"the base image {name} has no Python {request.python} (/opt/python/{short}); "
            + (f"it has: {', '.join(pythons)}" if pythons else "it has no interpreters in /opt/python"),
            kind=FailureKind.IMAGE,
            hint="name a base that has it with --base-image, or another --python; docker/bases/debian.sh adds some",
        )
    return Base(name, str(image.id), tuple(image.attrs.get("RepoDigests") or ()), pythons)


def _look_inside(engine: DockerEngine, request: EnvironmentRequest, name: str, identity: str) -> tuple[str, ...]:
    """Run the base once: tells whether this machine can, and which interpreters it has."""
    from docker.errors import APIError, ContainerError

    foreign = MachineError(
        f"this machine cannot run {request.arch} programs, which the base image {name} holds",
        hint="apt-get install qemu-user-static binfmt-support (or: docker run --privileged --rm tonistiigi/binfmt "
        f"--install {ENGINE_ARCHITECTURES[request.arch]}; or docker/bases/binfmt.sh {request.arch})",
    )
    with engine_errors(f"starting the base image {name}", kind=FailureKind.IMAGE):
        try:
            output = engine.client.containers.run(
                identity,
                ["-c", "for p in /opt/python/cp*/bin/python; do [ -x $p ] && echo $p; done; exit 0"],
                entrypoint=["/bin/sh"],
                platform=PLATFORMS[request.arch],
                network_mode="none",
                labels=labels(),
                remove=True,
            )
        except ContainerError as error:
            if engine.arch != request.arch:
                raise foreign from error
            raise TargetError(
                f"the base image {name} cannot run a shell: {error.stderr!r}", kind=FailureKind.IMAGE
            ) from error
        except APIError as error:
            if engine.arch != request.arch and re.search(r"exec format error|no such file", str(error)):
                raise foreign from error
            raise
    lines = output.decode(errors="replace").split()
    return tuple(sorted(line.split("/")[3] for line in lines if line.count("/") == 5))


def interpreter_folder(python: str) -> str:
    """``3.9`` -> ``cp39-cp39``, the folder of that interpreter below /opt/python. Up to 3.7 the ABI ends in ``m``."""
    short = "cp" + python.replace(".", "")
    return f"{short}-{short}m" if python in ("3.6", "3.7") else f"{short}-{short}"

"""Base images: found in the engine or pulled, and looked into once before anything is built on them.

A registry may be down, slow or throttle: what fails because of the network is tried again, with pauses, in each place
that has the image (``EnvironmentRequest.image_mirrors``, then the registry that its name says).
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.core.cancellation import patience
from builder.core.errors import FailureKind, MachineError, TargetError
from builder.core.retry import retrying
from builder.core.workspace import debian_script
from builder.environments.docker_engine import (
    ENGINE_ARCHITECTURES,
    LABEL,
    PLATFORMS,
    DockerEngine,
    engine_errors,
    labels,
    listening,
    watched,
)
from builder.environments.image_inputs import inputs_digest
from builder.environments.interface import EnvironmentRequest
from builder.environments.inventory import Inventory
from builder.progress.reporter import Reporter

#: How often each place is asked for an image, the first time included, and the seconds before the second attempt;
#: each further wait is three times as long.
ATTEMPTS, FIRST_WAIT = 3, 4.0
#: Seconds that a look inside may take; under emulation the starts of some thirty programs take most of one.
INSIDE = 300.0

#: What registries and engines say of an image that is not there, not for everyone, or not for this architecture.
_FINAL = re.compile(
    r"manifest unknown|not found|denied|does not exist|no matching manifest|does not match the specified platform"
    r"|unauthorized|authentication required|invalid reference format|no basic auth credentials",
    re.IGNORECASE,
)
_THROTTLED = re.compile(r"toomanyrequests|\b429\b|too many requests", re.IGNORECASE)
#: What they say of a network or a server that may do better a little later.
_PASSING = re.compile(
    r"connection refused|connection reset|timeout|timed out|no such host|EOF|unexpected HTTP status: 5|HTTP 5\d\d"
    r"|\b50[0234]\b|server misbehaving|deadline exceeded|network is unreachable|temporary failure|no route to host",
    re.IGNORECASE,
)
_HELPER = re.compile(r"docker-credential-[\w.-]+")


@dataclass(frozen=True)
class Base:
    """A base image as the engine has it, and what a look inside showed. ``place`` is where it was found or pulled.

    ``identity`` is the engine's own, ``content`` says on every engine what is in it.
    """

    name: str
    place: str
    identity: str
    content: str
    digests: tuple[str, ...]
    inventory: Inventory


#: What was found inside images of this process's engines, by the engine's place and the image's identity.
_inventories: dict[tuple[str, str], Inventory] = {}
_looking = threading.Lock()


def get_image(engine: DockerEngine, name: str) -> Any | None:
    """The engine's image of that name or identity; None where it has none."""
    # Of a missing image podman speaks in other words than those that the SDK's ImageNotFound knows.
    from docker.errors import NotFound

    with engine_errors(f"looking for the image {name}", engine=engine):
        try:
            return engine.client.images.get(name)
        except NotFound:
            return None


def standing_base(engine: DockerEngine, request: EnvironmentRequest) -> str | None:
    """The content of the base image of ``request`` where the engine has it; nothing is pulled or run."""
    found = _standing(engine, request)
    return None if found is None else content_of(found[1])


def content_of(image: Any) -> str:
    """A digest over an image's layers and those settings that containers of it have, in hexadecimal.

    The engine's identity is the digest of a configuration on some engines, of a manifest on others (the containerd
    image store); layers are known everywhere by the digest of what they hold.
    """
    config = image.attrs.get("Config") or {}
    layers = (image.attrs.get("RootFS") or {}).get("Layers") or []
    settings = {name: config.get(name) or None for name in ("Env", "WorkingDir", "User", "Entrypoint")}
    return inputs_digest([image.attrs.get("Architecture"), layers, settings])


def registry_digest(engine: DockerEngine, request: EnvironmentRequest) -> str | None:
    """The digest under which a registry has the base image that the engine has; None for one of no registry."""
    found = _standing(engine, request)
    digests = () if found is None else found[1].attrs.get("RepoDigests") or ()
    # The containerd image store and podman give an image that was made here a digest under its own name, too.
    ours = re.compile(rf"(?:localhost/|docker\.io/)?{re.escape(LABEL)}/")
    return next((digest.partition("@")[2] for digest in digests if not ours.match(digest)), None)


def places(request: EnvironmentRequest) -> tuple[str, ...]:
    """The names under which the base image may be pulled, in the order in which they are asked."""
    return tuple(dict.fromkeys(_reference(name, request) for name in (*request.image_mirrors, request.base_image)))


def _reference(name: str, request: EnvironmentRequest) -> str:
    if not request.base_image_digest or "@" in name:
        return name
    # With a digest the tag says nothing any more; a port's colon is not a tag's.
    return re.sub(r":[^/:]+$", "", name) + "@" + request.base_image_digest


def _standing(engine: DockerEngine, request: EnvironmentRequest) -> tuple[str, Any] | None:
    """The first of the places whose image the engine has, for the right architecture: its own name first."""
    for name in reversed(places(request)):
        image = get_image(engine, name)
        if image is not None and image.attrs.get("Architecture") == ENGINE_ARCHITECTURES[request.arch]:
            return name, image
    return None


def ensure_base(
    engine: DockerEngine, request: EnvironmentRequest, reporter: Reporter, *, resources: Path, offline: bool = False
) -> Base:
    """The base image in the engine, pulled only when absent, and looked into by running it once.

    ``resources`` is the shipped folder ``docker``. Raises TargetError (IMAGE) when the image cannot be had, is of
    another architecture or lacks the wanted Python, (NETWORK) when no registry gives it now, and MachineError when this
    machine cannot run programs of its architecture.
    """
    name = _reference(request.base_image, request)
    found = _standing(engine, request)
    if found is None:
        if offline:
            raise TargetError(
                f"the base image {name} for {request.arch} is not in the engine, and --offline forbids pulling it",
                kind=FailureKind.IMAGE,
                hint="pull it first ('pull' does, or 'docker pull'), or name one that the engine has with --base-image",
            )
        _pull(engine, request, reporter)
        found = _standing(engine, request)
    if found is None:
        raise TargetError(
            f"{name} was pulled, but is not for {request.arch}",
            kind=FailureKind.IMAGE,
            hint="name an image of that architecture with --base-image",
        )
    place, image = found
    inventory = _look_inside(engine, request, name, str(image.id), resources)
    short = interpreter_folder(request.python)
    pythons = sorted(inventory.interpreters)
    if short not in pythons and f"{short}m" not in pythons:
        raise TargetError(
            f"the base image {name} has no Python {request.python} (/opt/python/{short}); "
            + (f"it has: {', '.join(pythons)}" if pythons else "it has no interpreters in /opt/python"),
            kind=FailureKind.IMAGE,
            hint="name a base that has it with --base-image, or another --python; "
            f"{debian_script()} adds some (--python)",
        )
    digests = tuple(image.attrs.get("RepoDigests") or ())
    return Base(name, place, str(image.id), content_of(image), digests, inventory)


def _pull(engine: DockerEngine, request: EnvironmentRequest, reporter: Reporter) -> None:
    """Pull the base image from the first of its places that gives it. Raises TargetError where none does."""
    errors = []
    for place in places(request):
        try:
            _pull_from(engine, place, request, reporter)
            return
        except TargetError as error:
            if error.kind is FailureKind.ENGINE or error.kind is FailureKind.DISK:
                raise
            errors.append((place, error))
    passing = [error for _, error in errors if error.kind is FailureKind.NETWORK]
    first = (passing or [error for _, error in errors])[0]
    # Each place was asked with pauses: the target is not worth another round at once.
    first.tried = True
    name = _reference(request.base_image, request)
    if len(errors) > 1:
        several = TargetError(
            f"none of the {len(errors)} places of the base image {name} gives it for {request.arch}",
            kind=first.kind,
            details="\n".join(f"{place}: {error.details or error.message}" for place, error in errors),
            hint=first.hint,
        )
        several.tried = True
        raise several from first
    raise first


def _pull_from(engine: DockerEngine, place: str, request: EnvironmentRequest, reporter: Reporter) -> None:
    def may_pass(error: BaseException) -> bool:
        return isinstance(error, TargetError) and error.kind is FailureKind.NETWORK

    with reporter.task(f"pulling {place}") as task, patience() as rest:
        reporter.message(f"pulling the base image {place} ({PLATFORMS[request.arch]})")

        def count_down(seconds: float) -> None:
            for left in range(round(seconds), 0, -1):
                task.update(detail=f"trying again in {left} s")
                rest(1.0)

        def tell(said: BaseException | None, _coming: int, wait: float) -> None:
            # The last words are the engine's own; those before repeat the name.
            text = getattr(said, "details", None) or said
            reporter.warning(f"pulling {place}: {text}; trying again in {wait:.0f} s")

        retrying(
            ATTEMPTS,
            may_pass=may_pass,
            tell=tell,
            first_wait=FIRST_WAIT,
            longest_wait=float("inf"),
            growth=3,
            apart=False,
            sleep=count_down,
        )(_pull_once, engine, place, request, task)


def _pull_once(engine: DockerEngine, place: str, request: EnvironmentRequest, task: Any) -> None:
    from docker.errors import APIError, DockerException

    try:
        with engine_errors(f"pulling {place}", engine=engine):
            try:
                # Layers take as long as they take; what ends this is the phase's limit, or an engine that is gone.
                api = engine.patient(None).api
                with warnings.catch_warnings():
                    # Of a credential helper that is missing the SDK also warns, in words for programmers.
                    warnings.simplefilter("ignore", UserWarning)
                    stream = api.pull(place, platform=PLATFORMS[request.arch], stream=True, decode=True)
                with listening() as stop, watched(engine, stop):
                    for event in stream:
                        if "error" in event:
                            raise _refused(place, request, str(event["error"]))
                        task.update(detail=" ".join(str(event.get(key, "")) for key in ("status", "progress")).strip())
            except APIError as error:
                raise _refused(place, request, str(error.explanation or error)) from error
            except DockerException as error:
                if helper := _HELPER.search(str(error)):
                    raise TargetError(
                        f"{place} cannot be pulled: the credential helper {helper[0]} that Docker's config.json names "
                        "cannot be run",
                        kind=FailureKind.IMAGE,
                        details=str(error),
                        hint="install it, or remove credsStore or credHelpers from config.json; --base-image takes an "
                        "image that the engine has",
                    ) from error
                raise
    except TargetError as error:
        if error.kind is FailureKind.ENGINE and "refused" in error.message:
            error.kind = FailureKind.IMAGE
        raise


def _refused(place: str, request: EnvironmentRequest, said: str) -> TargetError:
    """The error for what a registry, or the engine about one, said."""
    if "no space left on device" in said.lower():
        return TargetError(f"pulling {place}: the engine's disk is full", kind=FailureKind.DISK, details=said)
    what = f"the base image {place} for {request.arch} is not in the engine and cannot be pulled"
    if _THROTTLED.search(said):
        return TargetError(
            f"{what}: the registry allows no more pulls for now",
            kind=FailureKind.NETWORK,
            details=said,
            hint="wait, log in ('docker login'), or name a mirror of the registry with --image-mirror; "
            "docs/environments.md says how",
        )
    if _PASSING.search(said) and not _FINAL.search(said):
        return TargetError(
            what,
            kind=FailureKind.NETWORK,
            details=said,
            hint="check the network and the registry, or name a mirror of it with --image-mirror; "
            + _made_here(request),
        )
    return TargetError(
        what,
        kind=FailureKind.IMAGE,
        details=said,
        hint=f"check the name; {_made_here(request)}",
    )


def _made_here(request: EnvironmentRequest) -> str:
    """What helps where no registry can be reached."""
    if request.base_made_by:
        return f"without a registry: {request.base_made_by}"
    return f"without a registry: {debian_script()} makes one from Debian's packages (--help), --base-image names it"


def _look_inside(
    engine: DockerEngine, request: EnvironmentRequest, name: str, identity: str, resources: Path
) -> Inventory:
    """Run the base once for each process: tells whether this machine can, and what is in it."""
    with _looking:
        key = (engine.url, identity)
        if key not in _inventories:
            lines = _run_inventory(engine, request, name, identity, resources)
            _inventories[key] = Inventory.parse(lines)
        return _inventories[key]


def _run_inventory(
    engine: DockerEngine, request: EnvironmentRequest, name: str, identity: str, resources: Path
) -> Sequence[str]:
    from docker.errors import APIError, ContainerError

    foreign = MachineError(
        f"this machine cannot run {request.arch} programs, which the base image {name} holds",
        hint="apt-get install qemu-user-static binfmt-support (or: docker run --privileged --rm tonistiigi/binfmt "
        f"--install {ENGINE_ARCHITECTURES[request.arch]}; or docker/bases/binfmt.sh {request.arch})",
    )
    with engine_errors(f"starting the base image {name}", kind=FailureKind.IMAGE, engine=engine):
        try:
            output = engine.patient(INSIDE).containers.run(
                identity,
                ["-c", (resources / "inventory.sh").read_text(encoding="utf-8")],
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
    return output.decode(errors="replace").splitlines()


def interpreter_folder(python: str) -> str:
    """``3.9`` -> ``cp39-cp39``, the folder of that interpreter below /opt/python. Up to 3.7 the ABI ends in ``m``."""
    short = "cp" + python.replace(".", "")
    return f"{short}-{short}m" if python in ("3.6", "3.7") else f"{short}-{short}"

"""Build images: named by a digest of their inputs, made only when absent, whole or not there at all.

Two steps. The system part is an ordinary image build of ``docker/Dockerfile`` (packages of the base's
distribution). The Python part runs ``docker/install.sh`` in a container of it and commits the result:
credentials come as environment of that one process and files as mounts, so that neither a layer nor
the history ever holds them, and an image exists only after its PyTorch has been imported.
"""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.console import Reporter
from builder.environments.base import EnvironmentRequest
from builder.environments.bases import Base, ensure_base, interpreter_folder
from builder.environments.engine import (
    LABEL,
    OWNER_LABEL,
    PLATFORMS,
    DockerEngine,
    engine_errors,
    is_own_fault,
    labels,
    listening,
    owner,
    remove_container,
    streamed,
)
from builder.environments.lines import LineSplitter
from builder.environments.network import NetworkSettings
from builder.environments.recipe import (
    RECIPE,
    Log,
    files_digest,
    folders_of_wheels,
    inputs_digest,
    install_variables,
    python_inputs,
    stage_files,
)
from builder.environments.temporary import temporary
from builder.errors import FailureKind, TargetError
from builder.live import abandonable, file_lock, registered

#: PATH of the Dockerfile; the target's interpreter goes before it.
SYSTEM_PATH = "/opt/builder/toolset/bin:/opt/builder/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SYSTEM_FILES = ("Dockerfile", "system.sh")
REPOSITORY = "torch-npu-builder/env"
SYSTEM_REPOSITORY = "torch-npu-builder/system"
#: The folder that the Python part sees its files in; it exists in every distribution.
STAGE = "/mnt"
#: Exit code of install.sh for a base without the wanted interpreter.
NO_INTERPRETER = 64


@dataclass(frozen=True)
class Image:
    """A build image that stands in the engine. ``digest`` is of its inputs and agrees between machines."""

    name: str
    identity: str
    digest: str
    base: str
    base_identity: str
    base_digests: tuple[str, ...]
    path: str
    warnings: tuple[str, ...]
    created: bool


@contextmanager
def lock(name: str) -> Iterator[None]:
    """All builders of this user make images on one system part in turn, so that two never make the same."""
    folder = Path.home() / ".cache" / "torch-npu-builder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="torch-npu-builder."))
    with file_lock(folder / f"{name}.lock"):
        yield


def ensure_image(
    engine: DockerEngine,
    request: EnvironmentRequest,
    *,
    settings: NetworkSettings,
    resources: Path,
    log: Path,
    reporter: Reporter,
) -> Image:
    """The build image for ``request``, made when the engine does not have it.

    Raises TargetError (IMAGE) with the last lines of the log when it cannot be made.
    """
    folders = folders_of_wheels(request, settings)
    base = abandonable(lambda: ensure_base(engine, request, reporter, offline=settings.offline))
    system, digest = image_digests(request, base.identity, resources, folders)
    system_name, name = f"{SYSTEM_REPOSITORY}:{system[:20]}", f"{REPOSITORY}:{digest[:20]}"
    image, created = _get(engine, name), False
    if image is None:
        with lock(system[:20]), reporter.task(f"image for Python {request.python} on {request.arch}") as task:
            writer = Log(log, settings, lambda line: task.update(detail=line))
            try:
                # Another builder may have made it while this one waited for the lock.
                image = _get(engine, name)
                if image is None:
                    if _get(engine, system_name) is None:
                        abandonable(
                            lambda: build_system(engine, request, base, settings, resources, system_name, writer)
                        )
                    install_python(engine, request, settings, resources, folders, system_name, name, digest, writer)
                    image, created = _get(engine, name), True
            except TargetError as error:
                error.log = log
                raise
            finally:
                writer.close()
    if image is None:
        raise TargetError(f"the image {name} vanished from the engine", kind=FailureKind.ENGINE)
    config = image.attrs.get("Config") or {}
    env = dict(item.partition("=")[::2] for item in config.get("Env") or ())
    warnings = json.loads((config.get("Labels") or {}).get(f"{LABEL}.warnings", "[]"))
    path = env.get("PATH", "")
    return Image(name, str(image.id), digest, base.name, base.identity, base.digests, path, tuple(warnings), created)


def image_digests(
    request: EnvironmentRequest, base: str, resources: Path, folders: tuple[Path, ...]
) -> tuple[str, str]:
    """Digests of all that the system part and the whole image are made from; ``base`` is the base's identity."""
    system = inputs_digest([RECIPE, base, request.gcc_toolset, files_digest(resources, SYSTEM_FILES)])
    return system, inputs_digest([system, *python_inputs(request, resources, folders)])


def has_image(engine: DockerEngine, name: str) -> bool:
    """Whether the engine has an image of that name."""
    return _get(engine, name) is not None


def _get(engine: DockerEngine, name: str) -> Any | None:
    from docker.errors import ImageNotFound

    with engine_errors(f"looking for the image {name}"):
        try:
            return engine.client.images.get(name)
        except ImageNotFound:
            return None


def build_system(
    engine: DockerEngine,
    request: EnvironmentRequest,
    base: Base,
    settings: NetworkSettings,
    resources: Path,
    name: str,
    log: Log,
) -> None:
    """Build docker/Dockerfile on ``base`` and give the result its name."""
    log.line(f"== system part {name} on {base.name} ({base.identity})")
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        entries = {file: (resources / file).read_bytes() for file in SYSTEM_FILES}
        if settings.ca_bundle is not None:
            entries["ca-bundle.crt"] = settings.ca_bundle.read_bytes()
        for entry, data in entries.items():
            info = tarfile.TarInfo(entry)
            info.size, info.mode = len(data), 0o644
            tar.addfile(info, io.BytesIO(data))
    context.seek(0)
    arguments = {"BASE": base.identity, "OWNER": owner(), "GCC_TOOLSET": request.gcc_toolset or ""}
    with engine_errors(f"building {name}", kind=FailureKind.IMAGE):
        stream = engine.client.api.build(
            fileobj=context,
            custom_context=True,
            tag=name,
            buildargs={**arguments, **settings.proxy_environment()},
            platform=PLATFORMS[request.arch],
            rm=True,
            forcerm=True,
            decode=True,
        )
        splitter = LineSplitter(log.line)
        failed = f"the system part of the image cannot be built on {base.name}"
        with listening():
            for event in stream:
                if "error" in event:
                    splitter.close()
                    raise _failed(failed, str(event["error"]), log)
                splitter.feed(str(event.get("stream", "")).encode())
        splitter.close()


def install_python(
    engine: DockerEngine,
    request: EnvironmentRequest,
    settings: NetworkSettings,
    resources: Path,
    folders: tuple[Path, ...],
    system_name: str,
    name: str,
    digest: str,
    log: Log,
) -> None:
    """Run docker/install.sh on the system part and commit what it left as ``name``."""
    from docker.types import Mount

    log.line(f"== Python part {name} on {system_name}")
    with temporary() as stage:
        stage.chmod(0o755)
        mounts = [Mount(STAGE, str(stage), type="bind", read_only=True)]
        stage_files(stage, request, resources)
        inside = []
        for number, folder in enumerate(folders):
            # The mount points exist in the stage, so that the image gets none.
            (stage / f"wheels{number}").mkdir()
            inside.append(f"{STAGE}/wheels{number}")
            mounts.append(Mount(inside[-1], str(folder), type="bind", read_only=True))
        files = {"ca-bundle.crt": settings.ca_bundle, "pip.conf": settings.pip_config}
        for file, source in files.items():
            if source is not None:
                (stage / file).touch()
                mounts.append(Mount(f"{STAGE}/{file}", str(source), type="bind", read_only=True))
        env = settings.environment(
            ca_bundle=f"{STAGE}/ca-bundle.crt" if settings.ca_bundle else None,
            pip_config=f"{STAGE}/pip.conf" if settings.pip_config else None,
        )
        env.update(install_variables(request, settings, inside))
        env["HOME"] = "/tmp"  # noqa: S108 - inside the container, which only this process uses
        with engine_errors(f"making {name}", kind=FailureKind.IMAGE):
            container = engine.client.containers.create(
                system_name,
                ["/bin/sh", "-c", "while :; do sleep 3600; done"],
                # Committed with the rest: a base's entry point would wrap every command of a build.
                entrypoint=[],
                platform=PLATFORMS[request.arch],
                labels=labels(),
                mounts=mounts,
                user="0:0",
                security_opt=["no-new-privileges"],
            )

            def stop() -> None:
                remove_container(container)

            try:
                with registered(stop):
                    container.start()
                    code = _execute(engine, container, ["sh", f"{STAGE}/install.sh"], env, log)
                if code == NO_INTERPRETER:
                    raise _failed(f"the base image {request.base_image} has no Python {request.python}", "", log)
                if code != 0:
                    raise _failed(f"PyTorch {request.torch} for Python {request.python} cannot be installed", "", log)
                _commit(container, request, name, digest, log)
            finally:
                stop()
    log.line(f"== {name} is ready")


def _execute(engine: DockerEngine, container: Any, argv: list[str], env: dict[str, str], log: Log) -> int:
    # Environment of an exec enters neither the container's configuration nor what is committed.
    api = engine.client.api
    identity = api.exec_create(container.id, argv, environment=env, user="0:0")["Id"]
    splitter = LineSplitter(log.line)
    with streamed(api.exec_start(identity, socket=True)) as output:
        for chunk in output:
            splitter.feed(chunk)
    splitter.close()
    code = api.exec_inspect(identity)["ExitCode"]
    return int(code) if code is not None else 1


def _commit(container: Any, request: EnvironmentRequest, name: str, digest: str, log: Log) -> None:
    repository, _, tag = name.partition(":")
    folder = f"/opt/python/{interpreter_folder(request.python)}/bin"
    warnings = json.dumps(log.warnings).replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    container.commit(
        repository,
        tag,
        pause=False,
        changes=[
            f"ENV PATH={folder}:{SYSTEM_PATH}",
            "ENV PYTHONPATH=/opt/torch",
            'CMD ["/bin/sh"]',
            f'LABEL {LABEL}=1 {OWNER_LABEL}="" {LABEL}.digest={digest} {LABEL}.warnings="{warnings}"',
        ],
    )


def _failed(message: str, detail: str, log: Log) -> TargetError:
    if detail:
        log.line(detail)
    kind = FailureKind.IMAGE
    if any("No space left on device" in line for line in log.tail):
        kind = FailureKind.DISK
    elif is_own_fault(detail):
        kind = FailureKind.ENGINE
    return TargetError(message, kind=kind, details="\n".join(log.tail))

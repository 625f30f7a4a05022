"""Build images: named by a digest of their inputs, made only when absent, whole or not there at all.

Two images, both made in one way: a container of the one before, scripts of ``docker/`` run in it, and what they left
committed. The system part holds what the base lacks and is shared by all Pythons; the Python part adds the build
requirements of one interpreter. PyTorch is in neither (see ``pytorch``). Credentials come as environment of one process
and files as mounts, so that neither a layer nor the history ever holds them.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.core.cancellation import abandonable, file_lock, registered
from builder.core.errors import FailureKind, RequestError, TargetError
from builder.environments.base_images import Base, ensure_base, get_image, interpreter_folder
from builder.environments.docker_engine import (
    LABEL,
    OWNER_LABEL,
    PLATFORMS,
    DockerEngine,
    commit,
    engine_errors,
    labels,
    remove_container,
    streamed,
)
from builder.environments.image_inputs import (
    Log,
    folders_of_wheels,
    inputs_digest,
    not_offered,
    python_inputs,
    script_failure,
    script_variables,
    stage_files,
    system_inputs,
)
from builder.environments.interface import EnvironmentRequest
from builder.environments.inventory import additions, without_ccache
from builder.environments.line_splitter import LineSplitter
from builder.environments.network import NetworkSettings
from builder.environments.temporary import lock_folder, temporary
from builder.environments.variables import check_variables, holds_proxies
from builder.progress.reporter import Reporter

#: PATH of every build, after the target's interpreter. Set in the image and not in a shell's profile, which upstream's
#: scripts would not read.
SYSTEM_PATH = "/opt/builder/toolset/bin:/opt/builder/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
REPOSITORY = "torch-npu-builder/env"
SYSTEM_REPOSITORY = "torch-npu-builder/system"
#: The folder that scripts see their files in; it exists in every distribution.
STAGE = "/mnt"
_WARNINGS = f"{LABEL}.warnings"
#: Exit codes: of requirements.sh for a base without the wanted interpreter; of packages.sh for packages that nobody
#: has or gives.
NO_INTERPRETER, NO_PACKAGES = 64, 66


@dataclass(frozen=True)
class Image:
    """A build image that stands in the engine. ``digest`` is of its inputs and agrees between machines."""

    name: str
    identity: str
    digest: str
    base: Base
    path: str
    warnings: tuple[str, ...]
    created: bool


@contextmanager
def lock(name: str) -> Iterator[None]:
    """All builders of this user make images on one system part in turn, so that two never make the same."""
    with file_lock(lock_folder() / f"{name}.lock"):
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

    Raises TargetError (IMAGE, NETWORK, DISK) with the last lines of the log when it cannot be made.
    """
    folders = folders_of_wheels(request, settings)
    base = abandonable(lambda: ensure_base(engine, request, reporter, resources=resources, offline=settings.offline))
    system, digest = image_digests(request, base.content, resources)
    system_name, name = f"{SYSTEM_REPOSITORY}:{system[:20]}", f"{REPOSITORY}:{digest[:20]}"
    image, created = _standing(engine, name, base), False
    if image is None and settings.offline and (parts := absent_parts(engine, request, base, resources, folders)):
        raise TargetError(
            f"the environment of Python {request.python} on {base.name} is not in the engine, and --offline forbids "
            f"fetching what it is made of: {', '.join(parts)}",
            kind=FailureKind.IMAGE,
            hint="make it beforehand with 'pull', or name folders of wheels that have these with --find-links",
        )
    if image is None:
        for variable, url in () if settings.offline else settings.unreachable_proxies().items():
            reporter.warning(
                f"{variable} is {url}, which containers do not reach: their loopback is not this machine's; have the "
                f"proxy listen where they do, such as the address of the bridge ('ip address show docker0')"
            )
        with lock(system[:20]), reporter.task(f"image for Python {request.python} on {request.arch}") as task:
            writer = Log(log, settings, lambda line: task.update(detail=line))
            maker = Maker(engine, request, settings, resources, folders, writer)
            try:
                # Another builder may have made it while this one waited for the lock.
                image = _standing(engine, name, base)
                if image is None:
                    if _standing(engine, system_name, base) is None:
                        maker.make_system(base, system_name, system)
                    maker.make_python(system_name, name, digest)
                    image, created = get_image(engine, name), True
            except TargetError as error:
                error.log = log
                raise
            finally:
                writer.close()
    if image is None:
        raise TargetError(f"the image {name} vanished from the engine", kind=FailureKind.ENGINE)
    config = image.attrs.get("Config") or {}
    env = dict(item.partition("=")[::2] for item in config.get("Env") or ())
    return Image(name, str(image.id), digest, base, env.get("PATH", ""), tuple(_warnings_of(image)), created)


def _standing(engine: DockerEngine, name: str, base: Base) -> Any | None:
    """Return the image ``name``; None where it is absent, or holds proxies that its ``base`` has not."""
    image = get_image(engine, name)
    return None if image is None or holds_proxies(image, get_image(engine, base.identity) or image) else image


def absent_parts(
    engine: DockerEngine, request: EnvironmentRequest, base: Base, resources: Path, folders: tuple[Path, ...]
) -> list[str]:
    """What the build image for ``request`` is made of that has to be fetched; nothing where it stands."""
    system, digest = image_digests(request, base.content, resources)
    if has_image(engine, f"{REPOSITORY}:{digest[:20]}"):
        return []
    wanted = list(request.requirements)
    packages: tuple[str, ...] = ()
    if not has_image(engine, f"{SYSTEM_REPOSITORY}:{system[:20]}"):
        added = additions(base.inventory, request, f"the base image {base.name}")
        packages = added.packages
        wanted += without_ccache(added.tools)
    return [*packages, *not_offered(wanted, folders)]


def image_size(engine: DockerEngine, name: str) -> int | None:
    """Bytes of an image, what it shares with others included; None where the engine has none of that name."""
    image = get_image(engine, name)
    return None if image is None else int(image.attrs.get("Size") or 0)


def image_digests(request: EnvironmentRequest, content: str, resources: Path) -> tuple[str, str]:
    """Digests of all that the system part and the whole image are made from; ``content`` is the base's."""
    system = inputs_digest([content, system_inputs(request, resources)])
    return system, inputs_digest([system, python_inputs(request, resources)])


def has_image(engine: DockerEngine, name: str) -> bool:
    """Whether the engine has an image of that name."""
    return get_image(engine, name) is not None


@dataclass(frozen=True)
class Maker:
    """Makes images for one request."""

    engine: DockerEngine
    request: EnvironmentRequest
    settings: NetworkSettings
    resources: Path
    folders: tuple[Path, ...]
    log: Log

    def make_system(self, base: Base, name: str, digest: str) -> None:
        """Add to ``base`` what it lacks, and call the result ``name``."""
        added = additions(base.inventory, self.request, f"the base image {base.name}")
        for warning in added.warnings:
            self.log.warnings.append(warning)
        self.log.line(f"== system part {name} on {base.name} ({base.identity})")
        with self.workshop(base.identity) as shop:
            if added.packages:
                code = shop.run(["sh", f"{STAGE}/packages.sh", *added.packages])
                if code != 0:
                    raise script_failure(
                        f"{base.name} lacks {', '.join(added.packages)}",
                        self.log,
                        hint="use a base that has them (--base-image; docker/bases/debian.sh --gcc N adds a compiler), "
                        "or name a server of its distribution's packages with the variable BUILDER_PACKAGE_MIRROR; "
                        "docs/environments.md says how",
                        network=code == NO_PACKAGES,
                    )
            variables = {"COMPILER": added.compiler, "EU_STRIP": "1" if added.eu_strip else ""}
            if shop.run(["sh", f"{STAGE}/tools.sh", *added.tools], variables) != 0:
                raise script_failure(f"the tools that {base.name} lacks cannot be installed", self.log)
            shop.commit(name, self._changes(digest, SYSTEM_PATH))

    def make_python(self, system_name: str, name: str, digest: str) -> None:
        """Add the build requirements of the request's interpreter to the system part, and call the result ``name``."""
        self.log.line(f"== Python part {name} on {system_name}")
        system = get_image(self.engine, system_name)
        if system is not None:
            self.log.warnings.extend(text for text in _warnings_of(system) if text not in self.log.warnings)
        with self.workshop(system_name) as shop:
            code = shop.run(["sh", f"{STAGE}/requirements.sh"])
            if code == NO_INTERPRETER:
                raise script_failure(
                    f"the base image {self.request.base_image} has no Python {self.request.python}", self.log
                )
            if code != 0:
                raise script_failure(
                    f"the build requirements of Python {self.request.python} cannot be installed", self.log
                )
            path = f"/opt/python/{interpreter_folder(self.request.python)}/bin:{SYSTEM_PATH}"
            shop.commit(name, self._changes(digest, path))
        self.log.line(f"== {name} is ready")

    @contextmanager
    def pytorch_run(self, image: str, user: tuple[int, int]) -> Iterator[Callable[[str, Path, Path], None]]:
        """What runs ``docker/pytorch.sh`` in containers of ``image``, as ``user`` (see ``pytorch.Run``)."""

        def run(step: str, place: Path, kept: Path) -> None:
            mounts = [(place, "/packages", False), (kept, "/media", True)]
            with self.workshop(image, mounts=mounts, user=user) as shop:
                variables = {"PLACE": "/packages", "KEPT": "/media"}
                if shop.run(["sh", f"{STAGE}/pytorch.sh", step], variables) != 0:
                    what = f"PyTorch {self.request.torch}{self.request.torch_local} for Python {self.request.python}"
                    failure = script_failure(
                        f"{what} cannot be {'fetched' if step == 'collect' else 'unpacked'}", self.log
                    )
                    if failure.kind is FailureKind.IMAGE:
                        failure.hint = "read the log named above; --torch-source and --find-links say where it is from"
                    raise failure

        self._check_readable(user)
        try:
            yield run
        except TargetError as error:
            error.log = self.log.path
            raise

    def _check_readable(self, user: tuple[int, int]) -> None:
        """Raise RequestError where ``user``, as whom this root has PyTorch chosen, cannot read a folder of wheels."""
        if os.getuid() != 0 or user[0] == 0:
            return
        for folder in self.folders:
            inside = [path for path in folder.glob("torch-*") if not path.stat().st_mode & stat.S_IROTH]
            if inside or folder.stat().st_mode & 0o005 != 0o005:
                raise RequestError(
                    f"--find-links: {folder} cannot be read by uid {user[0]}, as which PyTorch is unpacked",
                    hint=f"chmod -R a+rX {shlex.quote(str(folder))}",
                )

    @contextmanager
    def workshop(
        self, image: str, *, mounts: Sequence[tuple[Path, str, bool]] = (), user: tuple[int, int] = (0, 0)
    ) -> Iterator[Workshop]:
        """A container of ``image`` that waits for scripts, with the staged files at STAGE and a network."""
        from docker.types import Mount

        with temporary() as stage:
            stage.chmod(0o755)
            stage_files(stage, self.request, self.resources)
            # Whatever this process's umask is, scripts of another user read them.
            for path in stage.iterdir():
                path.chmod(0o644)
            bound = [(stage, STAGE, True), *mounts]
            inside = []
            for number, folder in enumerate(self.folders):
                # The mount points exist in the stage, so that the image gets none.
                (stage / f"wheels{number}").mkdir()
                inside.append(f"{STAGE}/wheels{number}")
                bound.append((folder, inside[-1], True))
            files = {"ca-bundle.crt": self.settings.ca_bundle, "pip.conf": self.settings.pip_config}
            for file, source in files.items():
                if source is None:
                    continue
                (stage / file).touch(mode=0o600)
                if os.getuid() == 0 and user[0] != 0 and not source.stat().st_mode & stat.S_IROTH:
                    # The user of builds gets a copy that nobody else may read, as long as the container lives.
                    shutil.copyfile(source, stage / file)
                    os.chown(stage / file, *user)
                else:
                    bound.append((source, f"{STAGE}/{file}", True))
            env = self.settings.environment(
                ca_bundle=f"{STAGE}/ca-bundle.crt" if self.settings.ca_bundle else None,
                pip_config=f"{STAGE}/pip.conf" if self.settings.pip_config else None,
            )
            env.update(script_variables(self.request, self.settings, inside))
            env["HOME"] = "/tmp"  # noqa: S108 - inside the container, which only this process uses
            with engine_errors("making an environment", kind=FailureKind.IMAGE, engine=self.engine):
                container = self.engine.client.containers.create(
                    image,
                    ["/bin/sh", "-c", "while :; do sleep 3600; done"],
                    # Committed with the rest: a base's entry point would wrap every command of a build.
                    entrypoint=[],
                    platform=PLATFORMS[self.request.arch],
                    labels=labels(),
                    mounts=[Mount(to, str(here), type="bind", read_only=fixed) for here, to, fixed in bound],
                    user="0:0",
                    security_opt=["no-new-privileges"],
                )

            def stop() -> None:
                remove_container(container)

            try:
                with (
                    registered(stop),
                    engine_errors("making an environment", kind=FailureKind.IMAGE, engine=self.engine),
                ):
                    container.start()
                    yield Workshop(self.engine, container, env, user, self.log)
            finally:
                stop()

    def _changes(self, digest: str, path: str) -> list[str]:
        # One label a line, and none with quotes in it: podman reads them in its own way.
        warnings = base64.b64encode(json.dumps(self.log.warnings).encode()).decode()
        return [
            f"ENV PATH={path}",
            "ENV PYTHONPATH=/opt/torch",
            'CMD ["/bin/sh"]',
            f"LABEL {LABEL}=1",
            f'LABEL {OWNER_LABEL}=""',
            f"LABEL {LABEL}.digest={digest}",
            f"LABEL {_WARNINGS}={warnings}",
        ]


def _warnings_of(image: Any) -> list[str]:
    """What was said when an image was made."""
    labels_ = (image.attrs.get("Config") or {}).get("Labels") or {}
    try:
        return [str(text) for text in json.loads(base64.b64decode(labels_.get(_WARNINGS, "")) or "[]")]
    except ValueError:
        return []


@dataclass(frozen=True)
class Workshop:
    """A container in which scripts run one after another, and which can be made an image."""

    engine: DockerEngine
    container: Any
    env: Mapping[str, str]
    user: tuple[int, int]
    log: Log

    def run(self, argv: list[str], variables: Mapping[str, str] | None = None) -> int:
        """Run one script; its lines go to the log. Returns its exit code."""
        # Environment of an exec enters neither the container's configuration nor what is committed.
        api = self.engine.client.api
        self.log.error = ""
        identity = api.exec_create(
            self.container.id,
            argv,
            environment={**self.env, **(variables or {})},
            user=f"{self.user[0]}:{self.user[1]}",
            workdir="/",
        )["Id"]
        splitter = LineSplitter(self.log.line)
        with streamed(api.exec_start(identity, socket=True), self.engine) as output:
            for chunk in output:
                splitter.feed(chunk)
        splitter.close()
        code = api.exec_inspect(identity)["ExitCode"]
        return int(code) if code is not None else 1

    def commit(self, name: str, changes: list[str]) -> None:
        """Make what the container holds the image ``name``."""
        repository, _, tag = name.partition(":")
        with engine_errors("making an environment", kind=FailureKind.IMAGE, engine=self.engine):
            self.container.reload()
            check_variables(self.container, self.container.image)
        # The limit of the phase ends this thread's waiting.
        commit(self.engine, self.container, repository, tag, changes, None)

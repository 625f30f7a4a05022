"""Builds in containers: one container for each command, without network, privileges or root.

What a container sees of this machine is the list of mounts in :meth:`Container.mounts`, nothing else.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from builder.core.cancellation import registered
from builder.core.errors import FailureKind, TargetError
from builder.environments.base_images import standing_base
from builder.environments.disk_watch import DiskWatch
from builder.environments.docker_engine import (
    PLATFORMS,
    DockerEngine,
    ask_again,
    engine,
    engine_errors,
    labels,
    patiently,
    remove_container,
    streamed,
)
from builder.environments.image_inputs import Log, folders_of_wheels, pytorch_digest
from builder.environments.images import Image, Maker, ensure_image, image_digests
from builder.environments.interface import EnvironmentRequest, Folders, Limits, Opened, Outcome, Ready
from builder.environments.line_splitter import LineSplitter
from builder.environments.network import NetworkSettings, configured_proxies
from builder.environments.orphans import remove_leftovers as remove_leftovers
from builder.environments.ownership import UNPRIVILEGED, make_and_give
from builder.environments.pytorch import WRITTEN, ensure_pytorch
from builder.environments.pytorch_store import PyTorch
from builder.environments.temporary import temporary
from builder.environments.toolkit import HOME, in_containers
from builder.environments.variables import check_variables, merged
from builder.payload import FOLDER
from builder.progress.reporter import Reporter

#: Exit codes of a container whose command did not end by itself: killed, asked to end, cut off.
_ENDED_FROM_OUTSIDE = (137, 143, 0)

#: Runs a command in a container, and says what it took.
_WRAPPER = (FOLDER / "run_measured.sh").read_text(encoding="utf-8")


def ready_docker(
    request: EnvironmentRequest,
    *,
    settings: NetworkSettings,
    resources: Path,
    log: Path,
    reporter: Reporter,
    env: Mapping[str, str] | None = None,
) -> Ready:
    """The environment of ``request`` as a build image of the container engine, made when absent.

    ``resources`` is the shipped folder ``docker``; the image build's output goes to ``log``; ``env`` is
    where DOCKER_HOST and DOCKER_CONTEXT are read (by default this process's).
    Raises MachineError without an engine, TargetError (IMAGE) when the image cannot be made.
    """
    found = engine(env)
    settings = settings.with_proxies(configured_proxies(found.url))
    image = ensure_image(found, request, settings=settings, resources=resources, log=log, reporter=reporter)
    user = build_user(found)
    folders_ = folders_of_wheels(request, settings)

    @contextmanager
    def run() -> Iterator[Any]:
        writer = Log(log, settings, lambda _: None)
        try:
            maker = Maker(found, request, settings, resources, folders_, writer)
            with maker.pytorch_run(image.name, user) as step:
                yield step
        finally:
            writer.close()

    inventory = image.base.inventory
    pytorch = ensure_pytorch(
        request,
        resources=resources,
        folders=folders_,
        libc=f"{inventory.libc} {inventory.libc_version}",
        owner_of_files=owner_of_files(found),
        offline=settings.offline,
        reporter=reporter,
        run=run,
    )

    @contextmanager
    def open_docker(folders: Folders) -> Iterator[Opened]:
        with temporary() as scratch, pytorch.used():
            yield Container(found, image, request, folders, user, scratch, pytorch)

    facts: dict[str, JsonValue] = {
        "environment": "docker",
        "image": image.name,
        "image_id": image.identity,
        "image_digest": image.digest,
        "base_image": image.base.name,
        "base_image_place": image.base.place,
        "base_image_id": image.base.identity,
        "base_image_digests": list(image.base.digests),
        "base": inventory.describe(),
        "torch_source": request.torch_source,
        "pytorch": pytorch_digest(request, resources, folders_),
        "pytorch_wheels": dict(sorted(pytorch.wheels.items())),
        "requirements": list(request.requirements),
        "engine": found.version,
        "emulated": found.arch != request.arch,
    }
    return Ready(
        "docker",
        facts,
        open_docker,
        fixed_paths=True,
        build_user=user,
        # The digests cover the base image, the requirements and the scripts; and what decides PyTorch.
        identity=("environment", "image_digest", "pytorch"),
        warnings=image.warnings,
        held=(
            ("base image", image.base.place),
            ("environment", image.name),
            ("PyTorch", str(pytorch.site.parent)),
        ),
        pytorch=pytorch.site,
    )


def docker_identity(
    request: EnvironmentRequest, *, settings: NetworkSettings, resources: Path, env: Mapping[str, str] | None = None
) -> dict[str, JsonValue] | None:
    """The identity that ``ready_docker`` would give, without making anything; None where the base has to be pulled."""
    base = standing_base(engine(env), request)
    if base is None:
        return None
    _, digest = image_digests(request, base, resources)
    pytorch = pytorch_digest(request, resources, folders_of_wheels(request, settings))
    return {"environment": "docker", "image_digest": digest, "pytorch": pytorch}


def build_user(found: DockerEngine) -> tuple[int, int]:
    """The uid and gid that commands run as: never root of this machine."""
    if found.rootless:
        return (0, 0)
    return (os.getuid(), os.getgid()) if os.getuid() != 0 else UNPRIVILEGED


def owner_of_files(found: DockerEngine) -> tuple[int, int] | None:
    """To whom what commands write has to be given beforehand; None where they run as the builder itself."""
    return build_user(found) if os.getuid() == 0 and not found.rootless else None


class Container:
    """An opened environment in the engine (see ``base.Opened``)."""

    def __init__(
        self,
        found: DockerEngine,
        image: Image,
        request: EnvironmentRequest,
        folders: Folders,
        user: tuple[int, int],
        scratch: Path,
        pytorch: PyTorch,
    ) -> None:
        self.paths = folders.paths
        self._toolkit, self.warnings = in_containers(folders.cann, self.paths)
        self.base_env: Mapping[str, str] = {
            "PATH": image.path,
            "PYTHONPATH": self.paths.torch,
            "HOME": HOME,
            "USER": "builder",
            "LOGNAME": "builder",
            # Whoever owns the tree and the mirror: their ownership was settled outside.
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
        }
        self._engine = found
        self._image = image
        self._request = request
        self._folders = folders
        self._user = user
        self._owner = owner_of_files(found)
        uid, gid = user
        accounts = {
            "passwd": f"root:x:0:0:root:/root:/bin/sh\nbuilder:x:{uid}:{gid}:builder:{HOME}:/bin/sh\n",
            "group": f"root:x:0:\nbuilder:x:{gid}:\n",
        }
        scratch.chmod(0o755)
        for name, text in accounts.items():
            (scratch / name).write_text(text)
            (scratch / name).chmod(0o644)
        self._scratch = scratch
        self._pytorch = pytorch
        # Upstream's code generation changes a file inside torchgen: each build gets a copy of its own.
        if (pytorch.site / WRITTEN).is_dir():
            shutil.copytree(pytorch.site / WRITTEN, scratch / WRITTEN, symlinks=True)
            make_and_give([scratch / WRITTEN], self._owner)
        make_and_give(folders.written, self._owner)

    def mounts(self) -> list[tuple[Path, str, bool]]:
        """All that a container sees of this machine: (folder here, path inside, read-only)."""
        mounts = [
            *self._folders.shown(self.paths),
            *self._toolkit,
            (self._pytorch.site, self.paths.torch, True),
            (self._scratch / "passwd", "/etc/passwd", True),
            (self._scratch / "group", "/etc/group", True),
        ]
        if (self._scratch / WRITTEN).is_dir():
            mounts.append((self._scratch / WRITTEN, f"{self.paths.torch}/{WRITTEN}", False))
        return mounts

    def show_cache(self, folder: Path) -> None:
        """See ``base.Opened.show_cache``."""
        make_and_give([folder], self._owner)
        self._folders = replace(self._folders, cache=folder)

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str,
        on_line: Callable[[str], None],
        limits: Limits,
    ) -> Outcome:
        """Run ``argv`` in a new container (see ``base.Opened.run``)."""
        word = secrets.token_hex(16)
        used: list[str] = []
        # The wrapper's line needs an empty one before it, because the command may end without a newline.
        held: list[str] = []

        def take(line: str) -> None:
            if line.startswith(word):
                used.extend(line.split()[1:])
                held.clear()
                return
            if held:
                on_line(held.pop())
            if line:
                on_line(line)
            else:
                held.append(line)

        doing = f"running {argv[0]} in a container"
        with engine_errors(doing, engine=self._engine):
            container = self._create(["/bin/sh", "-c", _WRAPPER, "run", word, *argv], env, cwd, limits, terminal=False)
        timed_out = threading.Event()

        def expire() -> None:
            timed_out.set()
            remove_container(container)

        timer = threading.Timer(limits.timeout, expire) if limits.timeout is not None else None
        removed = threading.Event()

        def stop() -> None:
            removed.set()
            remove_container(container)

        started = time.monotonic()
        watch = DiskWatch(self._folders.written, limits.disk, lambda: remove_container(container))
        try:
            with registered(stop, f"{argv[0]} in a container"), watch:
                try:
                    with engine_errors(doing, engine=self._engine):
                        # Attached before it starts, so that no line is lost.
                        attached = self._engine.client.api.attach_socket(
                            container.id, params={"stdout": 1, "stderr": 1, "stream": 1}
                        )
                        with streamed(attached, self._engine) as output:
                            container.start()
                            if timer is not None:
                                timer.daemon = True
                                timer.start()
                            splitter = LineSplitter(take)
                            for chunk in output:
                                splitter.feed(chunk)
                            splitter.close()
                        if held and not used:
                            on_line(held.pop())
                        ended = patiently(self._engine, "the wait for its end", container.wait, None)
                        code = int(ended["StatusCode"])
                        container.reload()
                        killed = bool((container.attrs.get("State") or {}).get("OOMKilled"))
                except Exception:
                    if timed_out.is_set() or watch.excess is not None:
                        return Outcome(
                            137, time.monotonic() - started, timed_out=timed_out.is_set(), excess=watch.excess
                        )
                    if removed.is_set():
                        raise KeyboardInterrupt from None
                    raise
                if timed_out.is_set():
                    return Outcome(137, time.monotonic() - started, timed_out=True)
                if removed.is_set():
                    raise KeyboardInterrupt
        finally:
            if timer is not None:
                timer.cancel()
            remove_container(container)
        if not used and not killed and watch.excess is None and code in _ENDED_FROM_OUTSIDE:
            # Somebody killed it, or the engine ends: no fault of what it ran.
            ask_again()
            raise TargetError(f"{doing}: it was ended from outside (exit code {code})", kind=FailureKind.ENGINE)
        cpu, peak = _counters(used)
        return Outcome(
            code,
            time.monotonic() - started,
            cpu,
            peak,
            out_of_memory=killed,
            disk_growth=watch.grown,
            excess=watch.excess,
        )

    def interactive(self, *, env: Mapping[str, str], cwd: str) -> int:
        """Open a shell in a new container on the user's terminal; return its exit code."""
        from builder.environments.terminal import attach

        with engine_errors("opening a shell in a container"):
            script = "command -v bash >/dev/null && exec bash -i; exec sh -i"
            container = self._create(["/bin/sh", "-c", script], env, cwd, Limits(), terminal=True)
            try:
                with registered(lambda: remove_container(container)):
                    return attach(self._engine, container)
            finally:
                remove_container(container)

    def _create(self, argv: Sequence[str], env: Mapping[str, str], cwd: str, limits: Limits, *, terminal: bool) -> Any:
        from docker.types import LogConfig, Mount

        uid, gid = self._user
        memory: dict[str, Any] = (
            {} if limits.memory is None else {"mem_limit": limits.memory, "memswap_limit": limits.memory}
        )
        named = merged({**self.base_env, "TERM": os.environ.get("TERM", "dumb") if terminal else "dumb"}, env)
        container = self._engine.client.containers.create(
            self._image.name,
            list(argv),
            entrypoint=[],
            platform=PLATFORMS[self._request.arch],
            environment=named,
            working_dir=cwd,
            user=f"{uid}:{gid}",
            network_mode="none",
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            pids_limit=limits.processes,
            mounts=[Mount(to, str(here.resolve()), type="bind", read_only=fixed) for here, to, fixed in self.mounts()],
            tmpfs={HOME: "mode=1777,exec"},
            # The lines go to the builder's own log; the engine need not keep them too.
            log_config=LogConfig(type="none"),
            labels=labels(target=re.sub(r"[^A-Za-z0-9_.-]", "_", self._folders.tree.name)),
            hostname="builder",
            tty=terminal,
            stdin_open=terminal,
            init=False,
            **memory,
        )
        try:
            check_variables(container, self._engine.client.images.get(self._image.name), named)
        except BaseException:
            remove_container(container)
            raise
        return container


def _counters(used: Sequence[str]) -> tuple[float | None, int | None]:
    """CPU seconds and peak bytes from the wrapper's words (nanoseconds, microseconds, bytes; ``-``: none)."""
    if len(used) != 3:
        return None, None
    nano, micro, peak = used
    cpu = int(nano) / 1e9 if nano.isdigit() else int(micro) / 1e6 if micro.isdigit() else None
    return cpu, int(peak) if peak.isdigit() else None

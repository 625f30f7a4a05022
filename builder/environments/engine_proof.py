"""One short container that proves what a build needs of the engine: a network, and folders that both sides share."""

from __future__ import annotations

import io
import json
import os
import re
import secrets
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.core.errors import BuilderError, MachineError, TargetError
from builder.environments.docker_engine import (
    LABEL,
    DockerEngine,
    engine_errors,
    is_own_fault,
    labels,
    patiently,
    remove_container,
    streamed,
)
from builder.environments.temporary import temporary
from builder.payload import FOLDER

REPOSITORY = f"{LABEL}/doctor"
#: Seconds for which the container is waited for: it runs a few lines of shell.
LIMIT = 30.0
SELINUX = Path("/sys/fs/selinux/enforce")


@dataclass(frozen=True)
class Finding:
    """What the container showed of one thing: ``fault`` is None where it is as a build needs it."""

    name: str
    text: str
    fault: str | None = None
    advice: str | None = None


@dataclass
class _Place:
    """The folders of a proof: one of the workspace, one of temporary files, as builds and images have them."""

    tree: Path
    stage: Path
    user: tuple[int, int]
    token: str = field(default_factory=lambda: secrets.token_hex(8))


def prove(engine: DockerEngine, workspace: Path, user: tuple[int, int]) -> list[Finding]:
    """Run the container, as ``user`` (uid, gid), with a folder of ``workspace``; return one finding for its network and
    one for its folders. Everything that was made is removed.

    An engine that cannot do it at all is a finding too; nothing is raised but KeyboardInterrupt.
    """
    name, on = "container network", "container folders"
    try:
        with _folders(workspace, user) as place, _image(engine) as image:
            network = Finding(name, "a container gets a network with a way out")
            try:
                lines = _run(engine, image, place, network="default")
            except TargetError as error:
                if not is_own_fault(error.message):
                    raise
                network = Finding(
                    name,
                    "",
                    f"the engine cannot give a container its network: {_short(error.message)}",
                    "restart it (systemctl restart docker): it makes its bridge anew; "
                    "'ip link show docker0' shows whether the bridge is there",
                )
                lines = _run(engine, image, place, network="none")
            if network.fault is None and not any(line.startswith("route ") for line in lines):
                network = Finding(
                    name,
                    "",
                    "a container's network has no way out: it has no default route",
                    "images cannot be made, unless everything is at hand; check the engine's default network "
                    "('docker network inspect bridge': not internal)",
                )
            return [network, _folders_finding(engine, on, lines, place)]
    except BuilderError as error:
        return [_refused(engine, error, workspace)]
    except OSError as error:
        return [
            Finding(
                on,
                "",
                f"no folder for a container can be made: {error}",
                "name a --workspace and a TMPDIR that this user may write",
            )
        ]


def _folders_finding(engine: DockerEngine, name: str, lines: list[str], place: _Place) -> Finding:
    for word, folder, option in (("tree", place.tree, "--workspace"), ("stage", place.stage, "TMPDIR")):
        if f"{word} {place.token}" in lines:
            continue
        if _denied(lines, word):
            return _denial(engine, name, folder, lines)
        return _not_seen(engine, folder.parent, option, "what stands in it is not there for a container")
    if "written" not in lines:
        return _denial(engine, name, place.tree, lines)
    state = (place.tree / "written").stat()
    wanted = (os.getuid(), os.getgid()) if engine.rootless else place.user
    if (state.st_uid, state.st_gid) != wanted:
        return Finding(
            name,
            "",
            f"what a container writes as {place.user[0]}:{place.user[1]} belongs to {state.st_uid}:{state.st_gid} here",
            _ownership_advice(engine),
        )
    return Finding(name, f"seen, written and owned as they must be ({place.tree.parent}, {place.stage.parent})")


def _denied(lines: list[str], word: str) -> bool:
    path = {"tree": "/work/token", "stage": "/mnt/token"}[word]
    return any(path in line and "ermission denied" in line for line in lines)


def _denial(engine: DockerEngine, name: str, folder: Path, lines: list[str]) -> Finding:
    said = next((line for line in lines if "denied" in line or "ead-only" in line), "it said nothing")
    if _first(SELINUX) == "1" and not _remapped(engine):
        why = "SELinux keeps containers from it"
        advice = f"give the folder a container's label: chcon -Rt container_file_t {folder.parent}"
    else:
        why, advice = "its users are others than this machine's", _ownership_advice(engine)
    return Finding(name, "", f"a container may not use {folder.parent} ({said.strip()}): {why}", advice)


def _ownership_advice(engine: DockerEngine) -> str:
    if _remapped(engine):
        return (
            "the engine shifts user numbers (userns-remap): use one without it, or a rootless engine, "
            "so that builds own what they write"
        )
    if engine.rootless:
        return "run the builder as the user whose rootless engine it is, or use this user's own engine"
    return "use an engine whose containers have this machine's user numbers, or a rootless one of this user"


def _remapped(engine: DockerEngine) -> bool:
    return any("name=userns" in str(option) for option in engine.info.get("SecurityOptions") or ())


def _not_seen(engine: DockerEngine, folder: Path, option: str, said: str) -> Finding:
    """An engine whose view of this machine's folders is another one than this process's."""
    if engine.remote:
        return Finding(
            "container folders",
            "",
            f"the engine at {engine.url} is on another machine: its containers do not see this machine's folders",
            "builds mount the workspace: run the builder on that machine, or use an engine of this one",
        )
    return Finding(
        "container folders",
        "",
        f"the engine does not see {folder} as it is ({said})",
        "it has a view of its own (a snap, PrivateTmp of its service, a virtual machine): "
        f"name a folder that it sees, as below /home, with {option}",
    )


def _refused(engine: DockerEngine, error: BuilderError, workspace: Path) -> Finding:
    text = error.message
    if isinstance(error, MachineError):
        temporary_files = tempfile.gettempdir()
        if f"{temporary_files}/{LABEL}" in text:
            return _not_seen(engine, Path(temporary_files), "TMPDIR", _short(text))
        return _not_seen(engine, workspace, "--workspace", _short(text))
    if re.search(r"exec format error", text, re.IGNORECASE):
        return Finding(
            "containers", "", f"the engine runs no programs of this machine ({os.uname().machine})",
            "it is of another architecture: use an engine of this machine",
        )  # fmt: skip
    return Finding(
        "containers",
        "",
        f"the engine cannot run a container as builds need it: {_short(text)}",
        "look into its log (journalctl -u docker)",
    )


def _short(text: str) -> str:
    return text.removeprefix("proving the engine: ").removeprefix("the container engine refused: ")


@contextmanager
def _folders(workspace: Path, user: tuple[int, int]) -> Iterator[_Place]:
    parent = next(folder for folder in (workspace, *workspace.parents) if folder.is_dir())
    with temporary() as stage:
        tree = Path(tempfile.mkdtemp(prefix=".doctor-", dir=parent))
        try:
            place = _Place(tree, stage, user)
            stage.chmod(0o755)
            for folder in (tree, stage):
                (folder / "token").write_text(f"{place.token}\n")
                (folder / "token").chmod(0o644)
            if os.getuid() == 0:
                for path in (tree, tree / "token"):
                    os.chown(path, *user)
            yield place
        finally:
            shutil.rmtree(tree, ignore_errors=True)


@contextmanager
def _image(engine: DockerEngine) -> Iterator[str]:
    """An image that holds this machine's shell and the libraries that it needs: no registry is asked for it."""
    from docker.errors import APIError

    with engine_errors("proving the engine", engine=engine):
        said = engine.client.api.import_image_from_data(
            archive_of(), REPOSITORY, "shell", changes=[f"LABEL {name}={value}" for name, value in labels().items()]
        )
        # By its identity: podman gives it a name of its own.
        identity = str(json.loads(said.strip().splitlines()[-1])["status"])
    try:
        yield identity
    finally:
        # Another doctor has the same name for another image.
        with suppress(APIError, TargetError), engine_errors("removing the proof's image", engine=engine):
            engine.client.images.remove(identity, force=True)


def archive_of(programs: Sequence[str] = ("/bin/sh",)) -> bytes:
    """A tar archive of programs of this machine (absolute paths), their libraries and loader, at their places."""
    said = subprocess.run(
        ["ldd", *programs], capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
    ).stdout
    files = list(dict.fromkeys([*programs, *re.findall(r"(/\S+) \(0x", said)]))
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        # Named, because engines give folders that are not modes of their own, some of which shut everybody out.
        for folder in sorted({str(parent) for file in files for parent in Path(file).parents} - {"/"}):
            info = tarfile.TarInfo(folder.lstrip("/"))
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        for file in files:
            data = Path(file).read_bytes()
            info = tarfile.TarInfo(file.lstrip("/"))
            info.size, info.mode = len(data), 0o755
            tar.addfile(info, io.BytesIO(data))
    return archive.getvalue()


def _run(engine: DockerEngine, image: str, place: _Place, *, network: str) -> list[str]:
    """The lines that the container said, run like a build and with the network of the making of images."""
    from docker.types import LogConfig, Mount

    (place.tree / "written").unlink(missing_ok=True)
    uid, gid = place.user
    more: dict[str, Any] = {} if network == "default" else {"network_mode": network}
    with engine_errors("proving the engine", engine=engine):
        container = engine.client.containers.create(
            image,
            ["/bin/sh", "-c", (FOLDER / "prove_engine.sh").read_text(encoding="utf-8"), "doctor", place.token],
            user=f"{uid}:{gid}",
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            pids_limit=64,
            mounts=[
                Mount("/work", str(place.tree.resolve()), type="bind"),
                Mount("/mnt", str(place.stage.resolve()), type="bind", read_only=True),
            ],
            log_config=LogConfig(type="none"),
            labels=labels(),
            **more,
        )
        try:
            attached = engine.client.api.attach_socket(
                str(container.id), params={"stdout": 1, "stderr": 1, "stream": 1}
            )
            with streamed(attached, engine) as output:
                container.start()
                said = b"".join(output)
            patiently(engine, "the wait for its end", container.wait, LIMIT)
        finally:
            remove_container(container)
    return said.decode(errors="replace").splitlines()


def _first(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""

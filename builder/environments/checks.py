"""What this machine has for builds, and what to do about what it lacks: the ``doctor`` command's own part."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from builder.core.machine_limits import cores
from builder.core.workspace import free_bytes
from builder.environments.docker_engine import ENGINE_ARCHITECTURES, DockerEngine, NoEngine, find_engine

GIB = 1 << 30
#: One PyTorch image, one tree and its build take about this much with the CPU build of PyTorch.
DISK_NEEDED = 10 * GIB
DISK_WANTED = 40 * GIB
#: One C++ file of torch_npu takes up to 1.5 GB.
MEMORY_NEEDED = 4 * GIB
#: The oldest git whose partial fetches of single commits the builder relies on.
GIT_NEEDED = (2, 25)
BINFMT = Path("/proc/sys/fs/binfmt_misc")


@dataclass(frozen=True)
class Check:
    """One finding. ``status`` is ``ok``, ``warn`` or ``fail``; ``advice`` is what to do, None when nothing."""

    name: str
    status: str
    text: str
    advice: str | None = None


def check_machine(workspace: Path) -> list[Check]:
    """All checks, in the order in which a build would meet them."""
    found = find_engine()
    return [
        check_engine(found),
        *check_containers(found, workspace),
        *check_architectures(found),
        check_disk(workspace),
        check_memory(),
        check_git(),
        check_namespaces(),
    ]


def check_engine(found: DockerEngine | NoEngine | None = None) -> Check:
    """Whether a container engine answers. Where none is a build on this host is still possible; one that is there and
    cannot be used fails every build that does not ask for the host.
    """
    found = find_engine() if found is None else found
    if isinstance(found, NoEngine):
        status = "warn" if found.absent else "fail"
        return Check("container engine", status, found.reason, f"{found.hint}; or build with --environment host")
    rootless = ", rootless" if found.rootless else ""
    return Check(
        "container engine", "ok", f"{found.version} at {found.url} ({found.arch}{rootless}, API {found.api or '?'})"
    )


def check_containers(found: DockerEngine | NoEngine, workspace: Path) -> list[Check]:
    """What one short container proves: it gets a network, and shares the workspace's folders as a build needs it."""
    if isinstance(found, NoEngine):
        return []
    from builder.environments.docker import build_user
    from builder.environments.engine_proof import prove

    return [
        Check(finding.name, "ok", finding.text)
        if finding.fault is None
        else Check(finding.name, "fail", finding.fault, f"{finding.advice}; or build with --environment host")
        for finding in prove(found, workspace, build_user(found))
    ]


def check_architectures(found: DockerEngine | NoEngine | None = None, binfmt: Path = BINFMT) -> list[Check]:
    """Which targets' architectures this machine can run: its own, others through binfmt_misc."""
    own = found.arch if isinstance(found, DockerEngine) else os.uname().machine
    checks = []
    for arch in ENGINE_ARCHITECTURES:
        name = f"architecture {arch}"
        entry = binfmt / f"qemu-{arch}"
        if arch == own:
            checks.append(Check(name, "ok", "native"))
        elif _first_line(entry) == "enabled":
            # Only with F does the kernel keep the interpreter open, which containers need.
            fixed = any(line.startswith("flags:") and "F" in line.split(":", 1)[1] for line in _lines(entry))
            if fixed:
                checks.append(Check(name, "ok", "emulated (binfmt_misc); compiles take about ten times as long"))
            else:
                checks.append(
                    Check(
                        name,
                        "warn",
                        "binfmt_misc has it without the flag F: containers cannot use it",
                        f"docker run --privileged --rm tonistiigi/binfmt --install {ENGINE_ARCHITECTURES[arch]}",
                    )
                )
        else:
            checks.append(
                Check(
                    name,
                    "warn",
                    "programs of this architecture do not run here",
                    "for such targets: apt-get install qemu-user-static binfmt-support, or docker run --privileged "
                    f"--rm tonistiigi/binfmt --install {ENGINE_ARCHITECTURES[arch]}",
                )
            )
    return checks


def check_disk(workspace: Path) -> Check:
    """Free space where the workspace is."""
    free = free_bytes(workspace)
    text = f"{free / GIB:.1f} GiB free for {workspace}"
    if free < DISK_NEEDED:
        return Check("disk", "fail", text, f"free {DISK_NEEDED // GIB} GiB (see 'clean'), or name another --workspace")
    if free < DISK_WANTED:
        return Check("disk", "warn", text, f"several targets take {DISK_WANTED // GIB} GiB and more")
    return Check("disk", "ok", text)


def check_memory(meminfo: Path = Path("/proc/meminfo")) -> Check:
    """Memory of this machine, against what one compiler takes."""
    total = next((int(line.split()[1]) << 10 for line in _lines(meminfo) if line.startswith("MemTotal:")), 0)
    count = cores()
    text = f"{total / GIB:.1f} GiB for {count} cores"
    if total < MEMORY_NEEDED:
        return Check("memory", "fail", text, "one compile takes up to 1.5 GiB: use a machine with 4 GiB or more")
    if total < count * 3 * GIB // 2:
        return Check("memory", "warn", text, "fewer compilers than cores will run; --jobs sets how many")
    return Check("memory", "ok", text)


def check_git() -> Check:
    """git and its version."""
    if shutil.which("git") is None:
        return Check("git", "fail", "git is missing", "apt-get install git, or dnf install git")
    said = subprocess.run(["git", "--version"], capture_output=True, text=True, check=False).stdout.strip()
    words = said.split()
    numbers = words[2].split(".")[:2] if len(words) > 2 else []
    version = tuple(int(number) for number in numbers if number.isdigit())
    if version < GIT_NEEDED:
        return Check("git", "fail", said, "install git {}.{} or later".format(*GIT_NEEDED))
    return Check("git", "ok", said)


def check_namespaces() -> Check:
    """How far builds on this host are contained, and whether their paths let Pythons share compiled objects."""
    from builder.environments.host import exposure
    from builder.environments.namespace import find_namespaces

    found = find_namespaces()
    text = "; ".join(exposure(found))
    if found is None:
        text += ". Compile commands hold real paths, so Pythons share little"
        return Check("builds on the host", "warn", text, "build in containers, or allow unprivileged user namespaces")
    if text:
        return Check("builds on the host", "warn", f"{found.describe()}; {text}", "containers keep a build from that")
    return Check("builds on the host", "ok", found.describe())


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _first_line(path: Path) -> str:
    return next(iter(_lines(path)), "")

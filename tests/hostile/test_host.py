"""Builds on this host that attack it: from inside of an opened environment, of a builder that is root and of one that
is not. What is attacked are folders, files and processes made for it.
"""

from __future__ import annotations

import json
import os
import pwd
import resource
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import as_builder

import builder
from builder.core.untrusted import remove_tree
from builder.environments.host import exposure
from builder.environments.host_opened import Host, HostEnvironment, HostView
from builder.environments.interface import Folders, Limits
from builder.environments.interpreters import Interpreter
from builder.environments.namespace import Namespaces, find_namespaces
from builder.environments.ownership import UNPRIVILEGED

#: A user whom this machine does not have, and who builds.
USER = 61001
SECRET = "the password of the user"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
#: os.wait4 imports it, which a process cannot that may not read this interpreter's own folder.
assert resource
#: Every user can run it; pythons of pyenv stand in homes.
PYTHON = Path("/usr/bin/python3")


class Place:
    """Folders of one builder below ``root``, and what its builds must not reach."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "user's home"
        self.workspace = root / "workspace"
        self.secrets = [self.home / ".netrc", self.workspace / "ledger.sqlite", root / "other workspace" / "wheel"]
        self.path = PATH
        self.env = {"HOME": str(self.home), "TOKEN": SECRET}

    def make(self) -> Folders:
        """Make all of it."""
        for path in self.secrets:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(SECRET)
        environment = self.workspace / "environments" / "one"
        for folder in (environment / "venv" / "bin", environment / "tools" / "bin", self.root / "torch" / "torchgen"):
            folder.mkdir(parents=True)
        (environment / "venv" / "bin" / "python").symlink_to(PYTHON)
        names = ("tree", "mirrors", "out", "launcher", "codegen", "cache", "slots")
        folders = {name: self.workspace / name for name in names}
        for folder in folders.values():
            folder.mkdir()
            (folder / "kept").write_text("as it was")
        return Folders(**folders)

    def open(self, folders: Folders, namespaces: Namespaces | None) -> Host:
        """The environment, as a build of a target has it."""
        view = HostView(namespaces, self.workspace, self.path, self.env, (self.workspace / "environments" / "one",))
        interpreter = Interpreter(PYTHON, "3", "a test")
        scratch = self.root / "scratch"
        scratch.mkdir()
        environment = HostEnvironment(view.shown[0], interpreter, "3.11", self.root / "torch", view)
        return Host(environment, folders, scratch)


def said(opened: Host, script: str) -> list[str]:
    """What ``script`` prints to both streams."""
    lines: list[str] = []
    limits = Limits(timeout=60)
    outcome = opened.run(["bash", "-c", script], env={}, cwd=opened.paths.tree, on_line=lines.append, limits=limits)
    assert outcome.exit_code == 0, lines
    return lines


@contextmanager
def own_folder(uid: int, parent: str | None = None) -> Iterator[Path]:
    """A folder of the user ``uid`` that others may see: not below pytest's own, into which nobody else may look."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        folder.chmod(0o755)
        if os.getuid() == 0:
            os.chown(folder, uid, uid)
        yield folder
    finally:
        remove_tree(folder)


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def as_user(uid: int, work: Callable[[], Any]) -> Any:
    """What ``work`` returns in a process of the user ``uid``."""
    with own_folder(uid) as folder:
        answer = folder / "answer"
        assert as_builder(lambda: _write(answer, work()), uid) == 0
        return json.loads(answer.read_text())


@pytest.fixture(params=["root", "user"])
def uid(request: pytest.FixtureRequest) -> int:
    """Who runs the builder."""
    if request.param == "root" and os.getuid() != 0:
        pytest.skip("what a builder does that is root takes root to be seen")
    return 0 if request.param == "root" else USER if os.getuid() == 0 else os.getuid()


@pytest.fixture
def place(uid: int) -> Iterator[Place]:
    with own_folder(uid) as root:
        yield Place(root)


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder outside of homes and temporary folders, in which everybody may write."""
    if os.getuid() != 0:
        pytest.skip("only root can make a folder there")
    with own_folder(0, "/opt") as folder:
        folder.chmod(0o777)
        yield folder


def attacked(uid: int, place: Place, *scripts: str, before: Callable[[Folders], None] | None = None) -> list[list[str]]:
    """What each of ``scripts`` prints in a contained build of the builder ``uid``."""

    def work() -> list[list[str]] | None:
        find_namespaces.cache_clear()
        namespaces = find_namespaces()
        if not allowed(uid):
            return None
        assert namespaces is not None
        assert exposure(namespaces) == expected(uid)
        folders = place.make()
        if before is not None:
            before(folders)
        opened = place.open(folders, namespaces)
        return [said(opened, script) for script in scripts]

    found = as_user(uid, work)
    if found is None:
        pytest.skip("this machine does not allow all of the namespaces")
    return found


def allowed(uid: int) -> bool:
    """Whether this machine has all of which a build's walls are made."""
    user = ["--user", "--map-root-user"] if uid else []
    mount = ["mount", "-t", "tmpfs", "tried", "/mnt"]
    options = ["--mount", "--net", "--ipc", "--pid", "--fork"]
    tried = subprocess.run(["unshare", *user, *options, *mount], capture_output=True, check=False)
    return tried.returncode == 0 and shutil.which("setpriv", path=PATH) is not None


def expected(uid: int) -> tuple[str, ...]:
    """What a contained build can reach all the same."""
    if uid == 0:
        return ()
    name = f"user {uid}" if uid == USER else pwd.getpwuid(uid).pw_name
    less = "a build on this host is contained less than one in a container: it can"
    return (f"{less} read what {name} may read outside of homes and temporary folders",)


def test_a_build_has_no_capability_and_no_way_to_one(uid: int, place: Place) -> None:
    ((*lines,),) = attacked(uid, place, "touch made; cat /proc/self/status")
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert (place.workspace / "tree" / "made").stat().st_uid == (uid or UNPRIVILEGED[0])


def test_setuid_programs_give_nothing(uid: int, place: Place, elsewhere: Path) -> None:
    for name in ("touch", "cat"):
        shutil.copy(f"/usr/bin/{name}", elsewhere)
        (elsewhere / name).chmod(0o4755)
    secret = elsewhere / "of root"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    script = f"{elsewhere}/touch made; {elsewhere}/cat '{secret}' || true; {elsewhere}/cat /proc/self/status"
    ((*lines,),) = attacked(uid, place, script)
    assert SECRET not in lines
    assert "CapEff:\t" + "0" * 16 in lines
    assert (place.workspace / "tree" / "made").stat().st_uid == (uid or UNPRIVILEGED[0])


MOUNTS = (
    "mount -o remount,bind,rw /mirrors",
    "mount -o remount,rw /",
    "mount -t tmpfs more /mirrors",
    "umount -l /root",
    "umount -l /run",
    "unshare --user --map-root-user true",
    "unshare --mount true",
    "unshare --net true",
    "nsenter --target 1 --mount true",
    "chroot / true",
    "mknod /tmp/disk b 254 0",
    "ls /proc/1/root/",
    "cat /proc/1/environ",
)


def test_what_is_mounted_stays_so(uid: int, place: Place) -> None:
    script = "\n".join(f"{command} >/dev/null 2>&1 && echo 'went: {command}'" for command in MOUNTS)
    assert attacked(uid, place, f"{script}\necho spoiled >/mirrors/kept; true")[0][:-1] == []
    assert (place.workspace / "mirrors" / "kept").read_text() == "as it was"


def test_only_the_builds_own_folders_can_be_written(uid: int, place: Place, elsewhere: Path) -> None:
    source = Path(builder.__file__).parent
    (elsewhere / "file").write_text("as it was")
    (elsewhere / "file").chmod(0o666)
    kept = ["/", "/etc", "/usr/bin", "/var/lib", "/mirrors", "/opt", "/opt/torch", "/opt/launcher", "/opt/codegen"]
    kept += ["/opt/python/cp311-cp311/bin", "/run", "/root", "/dev", str(source), str(elsewhere)]
    written = [
        "/work/pytorch",
        "/out",
        "/cache",
        "/slots",
        "/opt/torch/torchgen",
        "/tmp",
        "/var/tmp",
        "/dev/shm",
        "$HOME",
    ]
    name = f"of-{place.root.name}"
    script = [f'touch {folder}/{name} 2>/dev/null && echo "{folder}"' for folder in [*kept, *written]]
    changed = f"echo spoiled >{elsewhere}/file; chmod 777 {elsewhere}/file; rm -f {elsewhere}/file; true"
    # What this user cannot look at may be mounted as it likes to be.
    mounts = 'while read -r _ _ _ _ at how _; do [ "${how%%,*}" = ro ] || [ ! -e "$at" ] || echo "$at"; done'
    touched, refused, writable = attacked(
        uid, place, "\n".join([*script, "true"]), f"({changed}) 2>&1", f"{mounts} </proc/self/mountinfo; true"
    )
    assert touched == [folder.replace("$HOME", "/tmp/home") for folder in written]
    assert (elsewhere / "file").read_text() == "as it was"
    assert len([line for line in refused if "Read-only file system" in line]) == 3
    allowed = {folder for folder in written if folder != "$HOME"} | {"/proc", "/dev/pts"}
    assert set(writable) <= allowed
    assert not any(Path(folder, name).exists() for folder in kept if folder != str(elsewhere))
    for folder in ("tree", "out", "cache", "slots"):
        assert (place.workspace / folder / name).exists()


def test_homes_workspaces_and_sockets_are_not_there(uid: int, place: Place) -> None:
    reads = f"cat {shlex.join(map(str, place.secrets))} 2>/dev/null"
    lists = f"ls -A {shlex.join(map(str, [place.home, place.workspace]))} /home /root /run /var/run/ 2>/dev/null"
    read, listed, variables = attacked(uid, place, f"{reads}; true", f"{lists}; true", "env; cat /proc/*/environ; true")
    assert read == []
    assert [line for line in listed if line and not line.endswith(":")] == ["environments"]
    assert not [line for line in variables if SECRET in line]


def test_sockets_of_services_elsewhere_cannot_be_reached(uid: int, place: Place, elsewhere: Path) -> None:
    with socket.socket(socket.AF_UNIX) as service:
        service.bind(str(elsewhere / "unix.socket"))
        (elsewhere / "unix.socket").chmod(0o777)
        service.listen()
        connect = f"import socket; socket.socket(socket.AF_UNIX).connect('{elsewhere}/unix.socket')"
        (lines,) = attacked(uid, place, f'{PYTHON} -c "{connect}" && echo connected; true')
        service.setblocking(False)
        with pytest.raises(BlockingIOError):
            service.accept()
    assert "connected" not in lines


def test_processes_of_the_machine_cannot_be_seen_or_ended(uid: int, place: Place) -> None:
    def work() -> list[object] | None:
        find_namespaces.cache_clear()
        opened = place.open(place.make(), find_namespaces() if allowed(uid) else None)
        if opened.paths.tree != "/work/pytorch":
            return None
        with subprocess.Popen(["sleep", "60"]) as victim:
            try:
                lines = said(opened, "for n in /proc/[0-9]*; do echo $n; done")
                for ends in (f"kill -9 {victim.pid}", f"kill -9 {os.getpid()}", "kill -9 1", "kill -9 -1"):
                    argv = ["bash", "-c", ends]
                    opened.run(argv, env={}, cwd="/", on_line=lambda _: None, limits=Limits(timeout=60))
                return [len(lines), victim.poll() is None]
            finally:
                victim.kill()

    found = as_user(uid, work)
    if found is None:
        pytest.skip("this machine does not allow all of the namespaces")
    number, alive = found
    assert alive
    # The shell that is first there, and the build's.
    assert number == 2


def test_there_is_no_network(uid: int, place: Place) -> None:
    with socket.socket() as service, socket.socket(socket.AF_UNIX) as abstract:
        service.bind(("127.0.0.1", 0))
        service.listen()
        abstract.bind(f"\0{place.root.name}")
        abstract.listen()
        connect = f"import socket; socket.socket(socket.AF_UNIX).connect('\\0{place.root.name}')"
        script = f"""
        (exec 3<>/dev/tcp/127.0.0.1/{service.getsockname()[1]}) && echo connected
        {PYTHON} -c "{connect}" && echo connected
        grep -c : /proc/net/dev"""
        (lines,) = attacked(uid, place, script)
    assert "connected" not in lines
    assert lines[-1] == "1"


def test_nothing_of_a_command_outlives_it(uid: int, place: Place) -> None:
    number = f"600.{os.getpid()}{uid}"
    started = f"for i in 1 2 3; do setsid --fork sleep {number} >/dev/null 2>&1 </dev/null; done"
    # Each becomes sleep some time after setsid has returned.
    script = f"{started}; until [ $(pgrep -c sleep) = 3 ]; do :; done; pgrep -c sleep"
    (lines,) = attacked(uid, place, script)
    assert lines == ["3"]
    assert subprocess.run(["pgrep", "-f", f"sleep {number}"], check=False).returncode == 1


def test_what_is_left_in_temporary_folders_leads_nowhere(uid: int, place: Place) -> None:
    parts = place.root.relative_to("/tmp").parts if place.root.is_relative_to("/tmp") else ("x",)
    deep = "mkdir -p " + "/".join(["d"] * 500)
    nested = f"for i in 1 2 3; do {deep} && cd {'/'.join(['d'] * 500)} || exit; done"
    # Where the next command would have the environment's folder.
    script = f"(cd /tmp; {nested}); cd /tmp && rm -rf {parts[0]} && ln -s /etc {parts[0]}; ls -d d"
    first, second = attacked(uid, place, f"{script}; true", "ls -A /tmp /var/tmp $HOME; python -c 'print(1)'")
    assert first[-1] == "d"
    assert second[-1] == "1"
    assert "d" not in second
    assert list((place.root / "scratch").iterdir()) != []
    assert not [path for path in (place.root / "scratch").iterdir() if path.name not in ("home", "modules")]


def without(folder: Path, program: str) -> str:
    """A PATH without ``program``."""
    folder.mkdir()
    for source in ("/usr/sbin", "/usr/bin", "/sbin", "/bin"):
        for path in Path(source).iterdir():
            if path.name != program and not (folder / path.name).is_symlink():
                (folder / path.name).symlink_to(path)
    return str(folder)


def refusing(folder: Path, word: str) -> str:
    """A PATH on which unshare refuses to be called with ``word``, as kernels and container engines do."""
    folder.mkdir()
    stub = f'case " $* " in *" {word} "*) exit 1;; esac\nexec {shutil.which("unshare", path=PATH)} "$@"\n'
    (folder / "unshare").write_text(f"#!/bin/sh\n{stub}")
    (folder / "unshare").chmod(0o755)
    return f"{folder}:{PATH}"


@pytest.mark.parametrize(
    ("lacking", "told"),
    [
        ("setpriv", "undo whatever it is kept from, with the capabilities that it has here"),
        ("--net", "reach the network"),
        ("--pid", "see the processes of this machine, and end those of "),
        ("--mount", "this machine allows no namespaces: a build here runs as "),
    ],
)
def test_a_machine_that_allows_less_builds_and_says_what_a_build_can_reach(
    uid: int, place: Place, lacking: str, told: str
) -> None:
    def work() -> list[object]:
        find_namespaces.cache_clear()
        os.environ["PATH"] = (refusing if lacking.startswith("-") else without)(place.root / "programs", lacking)
        folders = place.make()
        found = find_namespaces()
        opened = place.open(folders, found)
        lines = said(opened, "touch made; pwd; cat /proc/net/dev | grep -c :")
        return [
            list(exposure(found)),
            lines,
            (folders.tree / "made").exists(),
            None if found is None else found.options,
        ]

    (warning,), lines, made, fixed = as_user(uid, work)
    assert told in warning
    assert made
    assert lines[0] == ("/work/pytorch" if fixed else str(place.workspace / "tree"))
    if lacking == "--net":
        assert int(lines[1]) >= 1


def test_a_tool_in_a_home_is_there_alone(uid: int, place: Place) -> None:
    def before(_: Folders) -> None:
        for folder in ("bin", "share/keyrings", "lib"):
            (place.home / ".local" / folder).mkdir(parents=True)
        (place.home / ".local" / "share" / "keyrings" / "login").write_text(SECRET)
        tool = place.home / ".local" / "bin" / "tool"
        tool.write_text("#!/bin/sh\necho found\n")
        tool.chmod(0o755)
        for folder in (place.home, place.home / ".local"):
            folder.chmod(0o700)

    folder = place.home / ".local" / "bin"
    place.path += f":{folder}"
    (lines,) = attacked(
        uid, place, f"tool; cd {shlex.quote(str(place.home))}; find .; touch .local/bin/more || true", before=before
    )
    assert lines[0] == "found"
    assert sorted(lines[1:-1]) == [".", "./.local", "./.local/bin", "./.local/bin/tool", "./.local/lib"]
    assert "Read-only file system" in lines[-1]

"""What a build can reach while it runs."""

from __future__ import annotations

import os
import re

import pytest
from hostile_support import SECRET, Scene, Told, unharmed

#: Host builds are contained as far as namespaces allow: test_host.py.
pytestmark = pytest.mark.parametrize("place", [pytest.param("container", marks=pytest.mark.engine)])

#: Each line tries something and says "yes" where it worked; the names are those of ATTACKS.
SCRIPT = r"""
try() { name=$1; shift; if ("$@") >/dev/null 2>&1; then echo "attack $name: yes"; else echo "attack $name: no"; fi; }
connect() { timeout 5 python3.11 -c "import socket; socket.create_connection(('$1', $2), 3)"; }
engine() { test -S /var/run/docker.sock || test -S /run/docker.sock || test -S /run/podman/podman.sock; }
kill_others() { kill -9 1 && sleep 1 && ! kill -0 1; }
capable() { ! grep -q '^CapEff:[[:space:]]*0*$' /proc/self/status; }
privileged() { ! grep -q '^NoNewPrivs:[[:space:]]*1' /proc/self/status; }
others() { ls /cache/.. /cache/../*-gcc* && ls -d /cache/../release; }
swap() { printf x > /dev/mem || printf x > /dev/sda || mknod /out/disk b 8 0; }
sysctl() { echo 1 > /proc/sys/kernel/core_pattern; }

try network connect 1.1.1.1 53
try loopback connect 127.0.0.1 PORT
try engine engine
try victim cat VICTIM/secret
try root test -e /root/.ssh
try capabilities capable
try privileges privileged
try remount mount -o remount,rw /mirrors
try mirrors touch /mirrors/x
try generated touch /generated/0/x
try launcher touch /opt/launcher/x
try codegen touch /opt/codegen/bash
try torch touch /opt/torch/x
try passwd sh -c 'echo x >> /etc/passwd'
try others others
try devices swap
try sysctl sysctl
try secrets sh -c 'cat /proc/*/environ | tr "\0" "\n" | grep -q of-the-machine-alone'
echo "attack done: yes"
"""
ATTACKS = {
    "network": "a connection to the internet",
    "loopback": "a connection to a server on this machine's loopback",
    "engine": "the container engine's socket",
    "victim": "reading a file of this machine",
    "root": "looking into the home of root",
    "capabilities": "any capability",
    "privileges": "gaining privileges by setuid programs",
    "remount": "mounting the mirrors writable",
    "mirrors": "writing into the mirrors",
    "generated": "writing into the store of generated code",
    "launcher": "changing the compiler launcher",
    "codegen": "changing what stands before bash",
    "torch": "changing PyTorch",
    "passwd": "changing the accounts",
    "others": "looking at the caches of other lines or levels of trust",
    "devices": "reaching memory and disks by device files",
    "sysctl": "changing the kernel's settings",
    "secrets": "a secret of the builder's environment",
}


def test_a_build_reaches_nothing_of_the_machine(
    scene: Scene, held: Told, monkeypatch: pytest.MonkeyPatch, web_port: int
) -> None:
    for name in ("BUILDER_REMOTE_CACHE_PASSWORD", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "SSH_AUTH_SOCK"):
        monkeypatch.setenv(name, SECRET)
    script = SCRIPT.replace("VICTIM", str(scene.victim.folder)).replace("PORT", str(web_port))
    scene.plant(script)
    scene.warm()
    ran = scene.build()
    unharmed(ran)
    assert ran.code == 0, ran.text
    said = dict(re.findall(r"^attack (\S+): (yes|no)$", scene.log, re.MULTILINE))
    assert said.pop("done") == "yes"
    assert {name for name, worked in said.items() if worked == "yes"} == set()
    assert set(said) == set(ATTACKS)
    assert SECRET not in ran.text + scene.log
    for name in ATTACKS:
        held(ATTACKS[name], "refused")


def test_a_fork_bomb_ends_with_its_build(scene: Scene, held: Told) -> None:
    scene.plant("bomb() { bomb | bomb & }; bomb 2>/dev/null; sleep 5; echo 'attack: still here'; exit 1")
    before = len(os.listdir("/proc"))
    ran = scene.build()
    unharmed(ran)
    assert ran.code == 1
    assert len(os.listdir("/proc")) < before + 500
    held("a fork bomb", "bounded by the container's limit of processes; that build failed")

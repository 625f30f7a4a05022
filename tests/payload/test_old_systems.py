"""What runs inside environments, by the shells and the Python that old systems have: real jobs, not only syntax.

The launcher's own tests (test_launcher) run under each of these shells as well.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from codegen_support import Place
from shells import ROOT, SHELLS, oldest_python, programs, shell_scripts, under

from builder.compilation import ccache, codegen_cache, compile_manifest
from builder.environments import namespace
from builder.environments.interface import Paths
from builder.environments.namespace import Bind, find_namespaces

#: Old and new Pythons of release lines; those that this machine lacks are passed over.
PYTHONS = ("3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13")


def test_every_script_is_found() -> None:
    found = {str(path.relative_to(ROOT)) for path in shell_scripts()}
    assert {
        ".ci/bootstrap",
        "builder/payload/codegen/bash",
        "builder/payload/launcher/ccache",
        "builder/payload/launcher/compile",
        "builder/payload/launcher/run_build.sh",
        "builder/payload/compose_namespace.sh",
        "docker/bases/debian.sh",
    } <= found
    # A script that says of itself that it is none of bash is named so, too.
    assert not [name for name in found if name.startswith("examples/")]
    texts = [path for path in (ROOT / "builder").rglob("*.sh") if path not in shell_scripts()]
    assert texts == []


@pytest.mark.parametrize("shell", SHELLS)
def test_every_script_of_sh_can_be_read_by_it(tmp_path: Path, shell: str) -> None:
    sh = programs(shell, tmp_path / "programs") / "sh"
    for script in shell_scripts():
        if "bash" not in script.read_text().partition("\n")[0]:
            subprocess.run([sh, "-n", script], check=True)


@pytest.mark.parametrize("shell", [*SHELLS, "bash"])
def test_a_command_becomes_one_of_a_build(tmp_path: Path, shell: str) -> None:
    folder = programs(shell, tmp_path / "programs")
    tools = tmp_path / "it's" / "tools"
    tools.mkdir(parents=True)
    for name, text in {"python": "echo odd-gcc", "odd-gcc": 'echo "compiled $*"', "ccache": "exit 1"}.items():
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    (tmp_path / "set_env.sh").write_text("export TOOLKIT=found\n")
    script = str(ccache.LAUNCHER / "run_build.sh")
    show = 'echo "$TOOLKIT $BUILDER_CCACHE $(umask) $*"; odd-gcc -c "a b.cpp"; echo "${PATH%%:*}"; exit 7'

    def run(path: Path, *, cached: str) -> list[str]:
        env = {"PATH": f"{path}:{folder}:/usr/bin:/bin", "BUILDER_PYTHON": str(path / "python")}
        argv = [str(folder / "sh"), script, str(tmp_path / "set_env.sh"), "/first", cached, str(tmp_path / "out")]
        done = subprocess.run(
            [*argv, "sh", "-c", show, "sh", "a  b"], env=env, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (7, "")
        return done.stdout.splitlines()

    assert run(tools, cached="")[0] == "found  0022 a  b"
    # A quote in a path ends the attempt to stand before the compiler, not the build.
    assert run(tools, cached="cached") == [f"found {tools}/ccache 0022 a  b", "compiled -c a b.cpp", "/first"]
    assert not list(tmp_path.glob("out/*"))
    plain = tools.rename(tmp_path / "tools")
    assert run(plain, cached="cached") == [f"found {plain}/ccache 0022 a  b", "compiled -c a b.cpp", "/first"]
    assert [path.name for path in tmp_path.glob("out/*")] == ["odd-gcc"]
    # A test at the end that is false is no failure; a toolkit that cannot be set up is the end, and told.
    set_env = tmp_path / "set_env.sh"
    argv = [str(folder / "sh"), script, str(set_env), "/first", "", str(tmp_path / "out"), "echo", "went on"]
    for text, code, said in (
        ("[ -d /nonexistent ] && A=1\n", 0, [f"builder: the toolkit's {set_env} ended with status 1", "went on"]),
        ("return 3\n", 3, [f"builder: the toolkit's {set_env} ended with status 3"]),
    ):
        set_env.write_text(text)
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout.splitlines()) == (code, said)
    set_env.unlink()
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, f"builder: {set_env} cannot be read\n")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("python", ["/nonexistent", "broken", "oldest"])
def test_a_compile_without_an_interpreter_is_the_compile(tmp_path: Path, shell: str, python: str) -> None:
    launcher, path = under(shell, ccache.LAUNCHER, tmp_path / "shell")
    if python == "broken":
        (tmp_path / "python").write_text("#!/nonexistent\n")
        (tmp_path / "python").chmod(0o755)
    interpreter = {"broken": str(tmp_path / "python"), "oldest": oldest_python()}.get(python, python)
    env = {"PATH": path, "BUILDER_PYTHON": interpreter, "BUILDER_HEADERS": str(tmp_path / "headers")}
    for status in (0, 3):
        argv = [launcher / "compile", "sh", "-c", f'echo "$*"; exit {status}', "sh", "a  b"]
        done = subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (status, "a  b\n")


@pytest.mark.parametrize("shell", SHELLS)
def test_code_generation_is_taken_from_the_cache(tmp_path: Path, shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, path = under(shell, codegen_cache.INSIDE, tmp_path / "shell")
    monkeypatch.setattr(codegen_cache, "INSIDE", inside)
    (tmp_path / "place").mkdir()
    place = Place(tmp_path / "place")
    # The shell's own programs come before the machine's.
    monkeypatch.setenv("PATH", path)
    place.python = oldest_python()
    assert [place.build().result for _ in range(2)] == ["miss", "hit"]
    assert place.runs == 1


@pytest.mark.parametrize("version", PYTHONS)
def test_generators_read_and_write_more_than_ascii(tmp_path: Path, version: str) -> None:
    """Under LC_ALL=C, as in a build: they open files without saying how these are encoded."""
    if version == "3.7":
        python = oldest_python()
    else:
        installed = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
        python = str(installed[-1]) if installed else shutil.which(f"python{version}") or ""
        if not python:
            pytest.skip(f"there is no Python {version} on this machine")
    place = Place(tmp_path, python=python)
    (place.source / "config" / "functions.yaml").write_bytes("加法 größe\n".encode())
    first, second = place.build(), place.build()
    assert (first.result, second.result) == ("miss", "hit"), place.said
    assert (place.tree / "made" / "generated.cpp").read_bytes() == "// v2r5\n// 加法\n// größe\n".encode()


@pytest.mark.parametrize("shell", SHELLS)
def test_folders_stand_at_their_places(tmp_path: Path, shell: str) -> None:
    namespaces = find_namespaces()
    if namespaces is None or not namespaces.read_only:
        pytest.skip("this machine does not allow all of the namespaces")
    folder = programs(shell, tmp_path / "programs")
    names = ("shown it", "out", "root", "tmp", "hid\\den é", "hid\\den é/tools 1", "hid\\den é/secrets")
    shown, out, root, temporary, hidden, tools, _ = (tmp_path / name for name in names)
    for name in names:
        (tmp_path / name).mkdir()
    (shown / "proof").write_text("shown")
    (tools / "tool").write_text("tool")
    for path in (out, temporary):
        path.chmod(0o777)
    home = tmp_path.parents[-2] / "home 1"
    lines = [
        *(("hide", "-", place) for place in ("/home", "/root", "/run")),
        *(("use", str(temporary), place) for place in ("/tmp", "/var/tmp")),
        ("see", str(tools), str(tools)),
        ("see", str(tools / "tool"), f"{home}/one"),
        ("link", "one", f"{home}/other"),
        ("mask", "-", "/nonexistent"),
    ]
    binds = [Bind(shown, "/work/pytorch", read_only=True), Bind(out, "/out")]
    show = """pwd; cat proof; touch /out/written /tmp/written
    test -e /proc/self/stat && test -e /usr/bin/env && echo "$*"
    ls "$1" "$1/tools 1"; cat "$2/other"; echo; ls -A /root /home
    touch /work/pytorch/more "$1/tools 1/more" /etc/more 2>&1 | grep -c 'Read-only'; exit 5"""
    argv = ["/bin/sh", "-c", show, "sh", str(hidden), str(home)]
    command = namespaces.command(root, "/work/pytorch", binds, argv, lines)
    # `sh` is looked up on PATH, and so is what the script runs.
    env = {"PATH": f"{folder}:/usr/bin:/bin:/usr/sbin:/sbin"}
    unshare = shutil.which("unshare")
    assert unshare is not None
    done = subprocess.run([unshare, *command[1:]], env=env, capture_output=True, text=True, check=False)
    heading = [f"{hidden}:", "tools 1", "", f"{hidden}/tools 1:", "tool"]
    expected = ["/work/pytorch", f"shown{hidden} {home}", *heading, "tool", "/home:", "", "/root:", "3"]
    assert (done.returncode, done.stdout.splitlines()) == (5, expected), done.stderr
    assert (out / "written").exists()
    assert (temporary / "written").exists()
    assert namespace._SCRIPT in shell_scripts()


def test_a_build_is_witnessed_the_same(tmp_path: Path) -> None:
    """Both steps, by the oldest Python and by this one."""
    tree, build = tmp_path / "tree", tmp_path / "tree" / "build"
    build.mkdir(parents=True)
    (tree / "größe.h").write_text("#define SIZE 1\n")
    (tree / "a.cpp").write_text('#include "größe.h"\n#if __has_include("größe.h")\nint a() { return SIZE; }\n#endif\n')
    command = f"c++ -o a.o -MD -MT a.o -MF a.o.d -c {tree}/a.cpp"
    (build / "compile_commands.json").write_text(
        json.dumps([{"directory": str(build), "file": f"{tree}/a.cpp", "command": command}])
    )
    (build / "a.o.d").write_text(f"a.o: {tree}/a.cpp {tree}/größe.h\n")
    found = []
    for python in (oldest_python(), sys.executable):
        out = tmp_path / f"out{len(found)}"
        out.mkdir()
        (out / "compile.log").write_text(f"miss {tree}/a.cpp\n")
        places = {"tree": str(tree), "out": str(out)}
        env = {"PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONUTF8": "1"}
        before = compile_manifest.before_command(
            python, str(ccache.LAUNCHER), torch=str(tmp_path / "torch"), cache=str(tmp_path / "cache"), **places
        )
        done = subprocess.run(before, env=env, capture_output=True, text=True, check=True)
        assert compile_manifest.parse_before(done.stdout.splitlines()) == ("writable", "")
        after = compile_manifest.after_command(python, str(ccache.LAUNCHER), log=str(out / "compile.log"), **places)
        subprocess.run(after, env=env, capture_output=True, check=True)
        found.append(compile_manifest._unpacked(out, compile_manifest.MANIFEST))
    assert found[0] == found[1]
    assert "include größe.h größe.h" in found[0]["inputs"]
    assert len(found[0]["objects"]) == 1


def test_an_environment_is_asked_by_the_oldest_python() -> None:
    script = (ROOT / "builder" / "payload" / "probe.py").read_text(encoding="utf-8")
    done = subprocess.run(
        [oldest_python(), "-c", script],
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        capture_output=True,
        check=True,
    )
    (line,) = (line for line in done.stdout.decode().splitlines() if line.startswith("probe: "))
    facts = json.loads(line.removeprefix("probe: "))
    assert facts["python"].startswith("3.7.")
    assert facts["torch"] is None
    assert {"gcc", "cmake", "ccache", "system"} <= facts.keys()


def test_paths_inside_are_plain() -> None:
    """compose_namespace.sh takes them for words without spaces."""
    assert all(" " not in value for value in vars(Paths()).values() if isinstance(value, str))

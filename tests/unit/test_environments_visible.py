"""What of this machine a build on it sees: what is hidden, and what of that it needs all the same."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from builder.environments.namespace import Namespaces
from builder.environments.select import Machine
from builder.environments.visible import Visible, visible


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home that is hidden, with programs in it."""
    home = tmp_path / "home"
    for name in ("tools/gcc/bin", "tools/gcc/lib64", "tools/gcc/x86_64-linux-gnu", "tools/gcc/keys", "bin", "lib"):
        (home / name).mkdir(parents=True)
    for name in (".local/bin", ".local/share/keyrings", ".local/lib"):
        (home / name).mkdir(parents=True)
    return home


def shown(home: Path, path: str, *programs: Path, env: dict[str, str] | None = None) -> list[tuple[str, ...]]:
    """What is shown below ``home`` with ``path`` as PATH, relative to it."""
    seen = Visible((home,), (), home)
    lines = seen.lines([], seen.needed(path, env or {}, programs), [])
    assert lines[0] == ("hide", "-", str(home))
    found: list[tuple[str, ...]] = []
    for kind, source, place in lines[1:]:
        inside = place.removeprefix(f"{home}/")
        if kind == "see":
            assert source == place
            found.append((kind, inside))
        elif kind == "link":
            found.append((kind, inside, source))
    return found


def test_nothing_is_shown_that_is_not_needed(home: Path) -> None:
    assert shown(home, "/usr/bin:/bin") == []
    assert shown(home, f"{home}:{home.parent}:relative::{home}/absent") == []


def test_an_installation_is_shown_without_what_is_a_persons(home: Path) -> None:
    parts = ["tools/gcc/bin", "tools/gcc/lib64", "tools/gcc/x86_64-linux-gnu"]
    assert shown(home, f"{home}/tools/gcc/bin") == [("see", part) for part in parts]
    assert shown(home, "/bin", env={"LD_LIBRARY_PATH": f"{home}/tools/gcc/lib64"}) == [("see", part) for part in parts]
    assert shown(home, f"{home}/bin") == [("see", "bin")], "a home is no installation"
    assert shown(home, f"{home}/.local/bin") == [("see", ".local/bin"), ("see", ".local/lib")]


def test_links_lead_where_they_do_outside(home: Path) -> None:
    (home / "current").symlink_to("tools")
    (home / "tools" / "gcc" / "bin" / "gcc").write_text("")
    (home / "tools" / "gcc" / "bin" / "gcc").chmod(0o755)
    (home / "bin" / "gcc").symlink_to("../current/gcc/bin/gcc")
    parts = ["bin", "tools/gcc/bin", "tools/gcc/lib64", "tools/gcc/x86_64-linux-gnu"]
    found = shown(home, f"{home}/bin")
    assert found == [*(("see", part) for part in parts), ("link", "current", "tools")]
    # One that leads out of what is hidden, and one that leads nowhere.
    (home / "python").symlink_to("/usr/bin/env")
    (home / "round").symlink_to("round")
    assert shown(home, "/bin", home / "python", home / "round") == [("link", "python", "/usr/bin/env")]


def test_homes_temporary_folders_and_the_workspace_are_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.environments.visible._TEMPORARY", ())
    names = ("a home", "cache", "work", "a home/below")
    home, cache, workspace, below = (tmp_path / name for name in names)
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(workspace)
    seen = visible(tmp_path / "link", {"HOME": str(home), "XDG_CACHE_HOME": str(cache), "DOCKER_CONFIG": str(below)})
    assert {home, cache, workspace} <= set(seen.hidden)
    assert below not in seen.hidden
    assert all(path.is_dir() for path in seen.hidden)


@pytest.mark.parametrize("home", ["/", "/usr", "/var", "/etc", "/opt", "/nonexistent", "relative", ""])
def test_no_home_hides_a_system(home: str) -> None:
    hidden = {str(path) for path in visible(Path("/"), {"HOME": home}).hidden}
    assert not {"/", "/usr", "/var", "/etc", "/opt", "/nonexistent"} & hidden


def test_a_fixed_path_does_not_show_what_is_hidden(home: Path) -> None:
    (home.parent / "work").symlink_to(home / "bin")
    seen = Visible((home,), (), home)
    assert ("hide", "-", str(home.parent / "work")) in seen.lines([], [], [f"{home.parent}/work/pytorch"])


def test_sockets_are_masked_that_are_not_hidden(home: Path) -> None:
    paths = [home.parent / "service one", home / "agent"]
    masked = [("mask", "-", str(paths[0]))]
    with socket.socket(socket.AF_UNIX) as service, socket.socket(socket.AF_UNIX) as agent:
        service.bind(str(paths[0]))
        agent.bind(str(paths[1]))
        lines = Visible((home,), (), home).lines([], [], [])
    assert [line for line in lines if line[0] == "mask" and line[2].startswith(str(home.parent))] == masked


def test_what_a_build_can_reach_is_told_once_a_run() -> None:
    machine = Machine()
    found: list[bool] = []
    threads = [threading.Thread(target=lambda: found.append(machine.is_new("it can reach"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [False] * 7 + [True]
    assert machine.is_new("something else")


def test_each_degree_is_told() -> None:
    unshare = ("--mount", "--net", "--pid")
    whole = Namespaces(unshare, ("setpriv", "--reuid=61000"))
    assert (whole.reach(), whole.user) == ([], (61000, 61000))
    mine = Namespaces(unshare, ("setpriv",))
    assert [text.split()[0] for text in mine.reach()] == ["read"]
    assert mine.user == (os.getuid(), os.getgid())
    least = Namespaces(("--mount",), (), read_only=False)
    assert [text.split()[0] for text in least.reach()] == ["undo", "read", "write", "reach", "see"]
    assert least.describe() == "namespaces: mount, capabilities kept"

"""Mirrors against real git repositories: local paths, and HTTP servers on loopback that refuse, fail and stall."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from mirrors_support import Upstream, opened, said, served

from builder.core.errors import FailureKind, RequestError, TargetError
from builder.sources import fetch, gitcli, submodules
from builder.sources.mirrors import Submodule


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    made = Upstream(tmp_path / "upstream")
    made.commit(file="1")
    return made


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(fetch, "LONGEST_WAIT", 0.02)


# -- a local path as host -------------------------------------------------------------------------------------


def test_a_branch_is_fetched_once_and_refreshed_on_demand(tmp_path: Path, upstream: Upstream) -> None:
    first = upstream.git("rev-parse", "main")
    mirror = opened(tmp_path, upstream.path)
    assert mirror.branch("main") == first
    second = upstream.commit()
    assert mirror.branch("main") == first
    assert mirror.branch("main", refresh=True) == second
    assert mirror.describe(first, second) == 1


def test_a_rewritten_branch_is_followed(tmp_path: Path, upstream: Upstream) -> None:
    mirror = opened(tmp_path, upstream.path)
    old = mirror.branch("main")
    upstream.git("commit", "--quiet", "--amend", "--message=other")
    new = mirror.branch("main", refresh=True)
    assert new == upstream.git("rev-parse", "main") != old
    assert mirror.read(old, "file") == b"1"


def test_another_fork_is_asked_when_the_url_changes(tmp_path: Path, upstream: Upstream) -> None:
    assert opened(tmp_path, upstream.path).branch("main")
    fork = Upstream(tmp_path / "fork")
    commit = fork.commit(file="fork")
    assert opened(tmp_path, fork.path).branch("main") == commit


def test_commits_by_id_short_id_branch_and_tag(tmp_path: Path, upstream: Upstream) -> None:
    first = upstream.git("rev-parse", "main")
    upstream.git("tag", "--annotate", "--message=t", "v1.0", first)
    second = upstream.commit()
    upstream.git("reset", "--quiet", "--hard", first)  # no branch holds it any more
    mirror = opened(tmp_path, upstream.path)
    assert mirror.commit(second) == second
    assert (mirror.commit("v1.0"), mirror.commit("main"), mirror.commit(first[:9])) == (first, first, first)
    with pytest.raises(TargetError, match=r"no branch, tag or commit 'v1\.1'") as caught:
        mirror.commit("v1.1")
    assert "v1.0" in (caught.value.details or "")


def test_offline_uses_what_is_there_and_says_what_is_missing(tmp_path: Path, upstream: Upstream) -> None:
    with pytest.raises(TargetError, match=r"branch main of x is not in .*--offline forbids"):
        opened(tmp_path, upstream.path, offline=True).branch("main")
    commit = opened(tmp_path, upstream.path).branch("main")
    # The host itself may be gone, as long as it is still the one that is asked for.
    upstream.path.rename(tmp_path / "gone")
    offline = opened(tmp_path, upstream.path, offline=True)
    assert (offline.branch("main", refresh=True), offline.commit(commit), offline.commit("main")) == (commit,) * 3
    with pytest.raises(TargetError, match=rf"commit {'1' * 40} of x is not in .*--offline forbids"):
        offline.commit("1" * 40)
    other = opened(tmp_path, "/nowhere", offline=True)
    assert other.commit(commit) == commit, "a commit is the same commit wherever it comes from"
    for wanted in (other.branch, other.commit):
        with pytest.raises(TargetError, match="which is not among its hosts now"):
            wanted("main")


def test_a_bad_name_reaches_no_host(tmp_path: Path, upstream: Upstream) -> None:
    mirror = opened(tmp_path, upstream.path)
    for name in ("--upload-pack=touch x", "../../etc", "a b"):
        with pytest.raises(RequestError):
            mirror.branch(name)
        with pytest.raises(RequestError):
            mirror.commit(name)


def test_the_users_and_the_machines_git_settings_have_no_say(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "home" / ".gitconfig"
    config.parent.mkdir()
    config.write_text(f'[url "/nowhere/"]\n insteadOf = {upstream.path}\n[core]\n autocrlf = true\n')
    monkeypatch.setenv("HOME", str(config.parent))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    mirror = opened(tmp_path, upstream.path)
    commit = mirror.branch("main")
    mirror.export(commit, tmp_path / "out")
    assert (tmp_path / "out" / "file").read_bytes() == b"1"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_a_repository_of_another_user_is_a_host(tmp_path: Path, upstream: Upstream) -> None:
    for path in (upstream.path, *upstream.path.rglob("*")):
        os.lchown(path, 12345, 12345)
    mirror = opened(tmp_path, upstream.path)
    assert mirror.commit(mirror.branch("main"))


def test_a_host_that_lacks_old_objects_still_gives_what_is_whole(tmp_path: Path, upstream: Upstream) -> None:
    lost = upstream.commit(file="lost", other="kept")
    blob = upstream.git("rev-parse", f"{lost}:file")
    commit = upstream.commit(file="2")
    upstream.git("branch", "whole", upstream.git("commit-tree", f"{commit}^{{tree}}", "-m", "no parent"))
    (upstream.path / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    mirror = opened(tmp_path, upstream.path)
    assert mirror.commit(commit) == commit
    assert mirror.read(commit, "file") == b"2"
    assert mirror.branch("whole") == upstream.git("rev-parse", "whole")


# -- hosts that fail ------------------------------------------------------------------------------------------


def test_each_failed_host_is_named_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    with served(tmp_path / "served") as (url, asked):
        mirror = opened(tmp_path, tmp_path / "nowhere", f"{url}/missing", f"http://me:secret@{url[7:]}/other")
        with pytest.raises(TargetError, match="could not be fetched from any of its 3 hosts") as caught:
            mirror.commit("1" * 40)
    details = (caught.value.details or "").splitlines()
    assert details[0] == f"{tmp_path / 'nowhere'}: there is no such folder"
    assert details[1].startswith(f"{url}/missing: ")
    assert "not found" in details[1]
    assert "secret" not in str(details) + said(mirror)
    assert caught.value.kind is FailureKind.SOURCE
    assert len([path for path in asked if path.startswith("/missing")]) <= 2, "a host that answers is not asked again"


def test_the_next_host_serves_when_the_first_fails(tmp_path: Path, upstream: Upstream) -> None:
    mirror = opened(tmp_path, tmp_path / "nowhere", upstream.path)
    assert mirror.branch("main") == upstream.git("rev-parse", "main")
    assert "nowhere: there is no such folder" in said(mirror)


def test_failures_of_the_network_are_tried_again(tmp_path: Path, upstream: Upstream) -> None:
    upstream.git("update-server-info")
    left = [503, 502]
    with served(upstream.path / ".git", lambda path: left.pop() if left else None) as (url, _):
        mirror = opened(tmp_path, url)
        assert mirror.branch("main") == upstream.git("rev-parse", "main")
    assert said(mirror).count("asking") == 2


def test_tries_end_and_the_failure_is_the_networks(tmp_path: Path) -> None:
    with served(tmp_path, lambda path: 503) as (url, asked):
        mirror = opened(tmp_path, url, retries=2)
        with pytest.raises(TargetError, match="branch main of x could not be fetched") as caught:
            mirror.branch("main")
    assert caught.value.kind is FailureKind.NETWORK
    assert len(asked) == 3


def test_a_host_that_gives_no_commit_by_id_is_asked_for_its_branches(tmp_path: Path, upstream: Upstream) -> None:
    first = upstream.git("rev-parse", "main")
    upstream.commit()
    upstream.git("update-server-info")
    with served(upstream.path / ".git") as (url, _):  # plain files: git calls them a dumb host
        mirror = opened(tmp_path, url)
        assert mirror.commit(first) == first
        with pytest.raises(TargetError, match=f"commit {'1' * 40} of x could not be fetched"):
            mirror.commit("1" * 40)
    assert mirror.read(first, "file") == b"1"


def test_a_killed_fetch_leaves_no_ref_and_the_next_one_works(tmp_path: Path, upstream: Upstream) -> None:
    upstream.commit(big=os.urandom(300_000).hex())
    upstream.git("gc", "--quiet")
    upstream.git("update-server-info")
    stalled, go_on = threading.Event(), threading.Event()

    def stall(path: str) -> int | None:
        if path.endswith(".pack") and not go_on.is_set():
            stalled.set()
            go_on.wait(60)
            return 500
        return None

    script = (
        "import sys; from pathlib import Path; from builder.progress.reporter import Reporter\n"
        "from builder.sources.mirrors import Mirrors, Repository\n"
        "Mirrors(Path(sys.argv[1]), Reporter()).open(Repository('x', (sys.argv[2],))).branch('main')\n"
    )
    with served(upstream.path / ".git", stall) as (url, _):
        builder = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "mirrors"), url], stderr=subprocess.DEVNULL
        )
        try:
            assert stalled.wait(60)
        finally:
            builder.send_signal(signal.SIGKILL)
            builder.wait()
            go_on.set()
        path = tmp_path / "mirrors" / "x.git"
        (path / "packed-refs.lock").touch()  # what a git killed at another instant leaves
        (path / "objects" / "pack").mkdir(parents=True, exist_ok=True)
        (path / "objects" / "pack" / "tmp_pack_abc").touch()
        mirror = opened(tmp_path, url)
        assert mirror.branch("main") == upstream.git("rev-parse", "main")
    assert not (path / "objects" / "pack" / "tmp_pack_abc").exists()
    gitcli.run(["fsck", "--strict", "--connectivity-only"], git_dir=path)


def test_no_commit_that_was_given_is_ever_pruned(tmp_path: Path, upstream: Upstream) -> None:
    mirror = opened(tmp_path, upstream.path)
    given = [mirror.branch("main")]
    # Commits without ancestors: none keeps another one alive.
    upstream.git("checkout", "--quiet", "--orphan", "other")
    given.append(mirror.commit(upstream.commit()))
    upstream.git("commit", "--quiet", "--amend", "--message=y")
    upstream.git("branch", "--force", "main", "other")
    assert mirror.branch("main", refresh=True) not in given
    subprocess.run(["git", "--git-dir", str(mirror.path), "gc", "--quiet", "--prune=now"], check=True)
    assert [opened(tmp_path, offline=True).commit(commit) for commit in given] == given


# -- what a commit holds --------------------------------------------------------------------------------------


def test_submodules_are_those_that_are_pinned(tmp_path: Path, upstream: Upstream) -> None:
    pinned = "1" * 40
    text = """[submodule "third_party/a b"]
\tpath = third_party/a
\turl = https://host/a.git
\tbranch = 7.1.0
\tupdate = none
[submodule "gone"]
\tpath = third_party/gone
\turl = https://host/gone.git
[submodule "near"]
\tpath = near
\turl = ../near.git
"""
    for path in ("third_party/a", "near"):
        upstream.git("update-index", "--add", "--cacheinfo", f"160000,{pinned},{path}")
    (upstream.path / ".gitmodules").write_text(text)
    upstream.git("add", ".gitmodules")
    upstream.git("commit", "--quiet", "--message=modules")
    mirror = opened(tmp_path, upstream.path)
    assert mirror.submodules(mirror.branch("main")) == (
        Submodule("near", str(tmp_path / "near.git"), pinned),
        Submodule("third_party/a", "https://host/a.git", pinned, "7.1.0", "none"),
    )


def test_submodules_of_a_commit_are_read_once(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},sub")
    (upstream.path / ".gitmodules").write_text('[submodule "sub"]\n\tpath = sub\n\turl = https://host/sub.git\n')
    upstream.git("add", ".gitmodules")
    upstream.git("commit", "--quiet", "--message=modules")
    mirror = opened(tmp_path, upstream.path)
    commit = mirror.branch("main")
    first = mirror.submodules(commit)
    monkeypatch.setattr(submodules.git, "run", lambda *_, **__: pytest.fail("git is asked again"))
    assert mirror.submodules(commit) == first == (Submodule("sub", "https://host/sub.git", "1" * 40),)


def test_a_commit_that_is_not_there_has_no_submodules_to_read(tmp_path: Path, upstream: Upstream) -> None:
    with pytest.raises(TargetError, match=f"x at {'1' * 12} cannot be read") as caught:
        opened(tmp_path, upstream.path).submodules("1" * 40)
    assert caught.value.kind is FailureKind.SOURCE


def test_a_submodule_cannot_leave_the_tree_or_lack_its_url(tmp_path: Path, upstream: Upstream) -> None:
    upstream.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},sub")
    (upstream.path / ".gitmodules").write_text('[submodule "sub"]\n\tpath = sub\n')
    upstream.git("add", ".gitmodules")
    upstream.git("commit", "--quiet", "--message=modules")
    mirror = opened(tmp_path, upstream.path)
    with pytest.raises(TargetError, match="gives no url for sub"):
        mirror.submodules(mirror.branch("main"))


def test_an_export_holds_every_file_whatever_the_attributes_say(tmp_path: Path, upstream: Upstream) -> None:
    (upstream.path / "run.sh").write_text("#!/bin/sh\n")
    (upstream.path / "run.sh").chmod(0o755)
    (upstream.path / "link").symlink_to("file")
    commit = upstream.commit(**{".gitattributes": "file export-ignore\nid export-subst\n", "id": "$Format:%H$"})
    mirror = opened(tmp_path, upstream.path)
    mirror.export(mirror.commit(commit), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".gitattributes",
        "file",
        "id",
        "link",
        "run.sh",
    ]
    assert (tmp_path / "out" / "id").read_text() == "$Format:%H$"
    assert os.access(tmp_path / "out" / "run.sh", os.X_OK)
    assert (tmp_path / "out" / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mirrors", "out", "upstream"]


@pytest.mark.parametrize("target", ["/etc/passwd", "../x", "folder/../../x"])
def test_an_export_refuses_symlinks_that_lead_out(tmp_path: Path, upstream: Upstream, target: str) -> None:
    (upstream.path / "evil").symlink_to(target)
    commit = upstream.commit()
    mirror = opened(tmp_path, upstream.path)
    with pytest.raises(TargetError, match="the symlink evil leads out of the tree"):
        mirror.export(mirror.commit(commit), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_reading_files(tmp_path: Path, upstream: Upstream) -> None:
    mirror = opened(tmp_path, upstream.path)
    commit = mirror.branch("main")
    assert mirror.read(commit, "file") == b"1"
    assert (mirror.exists(commit, "file"), mirror.exists(commit, "nosuch")) == (True, False)
    with pytest.raises(TargetError, match="has no file 'nosuch'"):
        mirror.read(commit, "nosuch")
    with pytest.raises(RequestError, match="not a full commit id"):
        mirror.read("--help", "file")

"""What mirrors are told in a run holds for all of it, for all threads, and no longer."""

from __future__ import annotations

import concurrent.futures
import threading
from pathlib import Path

import pytest
from mirrors_support import Upstream, opened, served

from builder.core.errors import FailureKind, TargetError
from builder.progress.reporter import Reporter
from builder.sources import fetch, gitcli, mirrors, refs
from builder.sources.mirrors import Mirrors, Repository


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    made = Upstream(tmp_path / "upstream")
    made.commit(file="1")
    return made


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(fetch, "LONGEST_WAIT", 0.02)


@pytest.fixture
def fetches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The refspecs of each fetch."""
    made: list[tuple[str, ...]] = []
    plain = mirrors.fetch

    def counted(mirror: Path, url: str, refspecs: tuple[str, ...], **rest: object) -> object:
        made.append(refspecs)
        return plain(mirror, url, refspecs, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(mirrors, "fetch", counted)
    return made


def test_a_run_refreshes_a_repository_once(tmp_path: Path, upstream: Upstream, fetches: list[tuple[str, ...]]) -> None:
    upstream.git("branch", "other")
    mirror = opened(tmp_path, upstream.path)
    before = {name: mirror.branch(name, refresh=True) for name in ("main", "other")}
    upstream.commit()
    assert {name: mirror.branch(name, refresh=True) for name in ("main", "other")} == before
    assert mirror.commit("main", refresh=True) == before["main"]
    assert len(fetches) == 1
    assert opened(tmp_path, upstream.path).branch("main", refresh=True) == upstream.git("rev-parse", "main")
    assert len(fetches) == 2, "the next run asks again"


def test_threads_that_want_a_refresh_share_it(
    tmp_path: Path, upstream: Upstream, fetches: list[tuple[str, ...]]
) -> None:
    shared = opened(tmp_path, upstream.path)
    names = [f"branch{number}" for number in range(8)]
    for name in names:
        upstream.git("branch", name)
    with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
        found = set(pool.map(lambda name: shared.branch(name, refresh=True), names))
    assert found == {upstream.git("rev-parse", "main")}
    assert len(fetches) == 1


def test_branches_that_are_on_no_host_are_looked_for_once(
    tmp_path: Path, upstream: Upstream, fetches: list[tuple[str, ...]]
) -> None:
    mirror = opened(tmp_path, upstream.path)
    for name in ("mian", "maine", "mian"):
        with pytest.raises(TargetError, match=f"has no branch '{name}'"):
            mirror.branch(name)
    assert len(fetches) == 1
    upstream.git("branch", "maine")
    assert opened(tmp_path, upstream.path).branch("maine") == upstream.git("rev-parse", "main")


def test_a_host_that_cannot_give_everything_is_asked_for_it_once(
    tmp_path: Path, upstream: Upstream, fetches: list[tuple[str, ...]]
) -> None:
    blob = upstream.git("rev-parse", f"{upstream.commit(file='lost')}:file")
    upstream.commit(file="2")
    whole = upstream.git("commit-tree", "main^{tree}", "-m", "no parent")
    for name in ("one", "two"):
        upstream.git("branch", name, whole)
    (upstream.path / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
    mirror = opened(tmp_path, upstream.path)
    for name in ("one", "two", "one"):
        assert mirror.branch(name, refresh=True) == whole
    assert [len(refspecs) for refspecs in fetches] == [2, 1, 1], "all, and then each branch alone and once"


def test_a_host_that_is_not_reached_is_left_alone_until_asked_again(tmp_path: Path) -> None:
    with served(tmp_path, lambda path: 503) as (url, asked):
        mirror = opened(tmp_path, url, retries=1)
        for wanted in ("main", "other"):
            with pytest.raises(TargetError, match=f"branch {wanted} of x could not be fetched") as caught:
                mirror.branch(wanted)
            assert caught.value.kind is FailureKind.NETWORK
            assert url in (caught.value.details or "")
        with pytest.raises(TargetError) as caught:
            mirror.commit("1" * 40)
        assert caught.value.kind is FailureKind.NETWORK
        assert len(asked) == 2
        mirror._mirrors.ask_again()
        with pytest.raises(TargetError):
            mirror.branch("main")
        assert len(asked) == 4


def test_what_mirrors_open_is_opened_once(tmp_path: Path, upstream: Upstream) -> None:
    all_of_them = Mirrors(tmp_path / "mirrors", Reporter(quiet=True))
    first, again, other_host = (
        all_of_them.open(Repository("x", (url,))) for url in (str(upstream.path), str(upstream.path), "/nowhere")
    )
    assert first is again
    assert other_host is not first


def test_refs_that_are_read_while_they_are_moved_are_read_again(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = opened(tmp_path, upstream.path)
    old = mirror.branch("main")
    known = refs.Refs(mirror.path)
    begun, go_on = threading.Event(), threading.Event()
    plain = refs._commits

    def slow(path: Path) -> dict[str, str]:
        found = plain(path)
        begun.set()
        assert go_on.wait(60)
        return found

    monkeypatch.setattr(refs, "_commits", slow)
    reader = threading.Thread(target=known.branch, args=("main",))
    reader.start()
    assert begun.wait(60)
    new = upstream.commit()
    gitcli.run(["fetch", "--quiet", str(upstream.path), "+refs/heads/main:refs/heads/main"], git_dir=mirror.path)
    mover = threading.Thread(target=known.forget)
    mover.start()
    mover.join(0.2)
    go_on.set()
    for thread in (mover, reader):
        thread.join()
    assert old != known.branch("main") == new


def test_a_branch_whose_commit_is_lost_is_not_there(tmp_path: Path, upstream: Upstream) -> None:
    opened(tmp_path, upstream.path).branch("main")
    for pack in (tmp_path / "mirrors" / "x.git" / "objects" / "pack").iterdir():
        pack.unlink()
    with pytest.raises(TargetError, match=r"branch main of x is not in .*--offline forbids"):
        opened(tmp_path, upstream.path, offline=True).branch("main")

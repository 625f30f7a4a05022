"""Nights through the command line: one after the other, by this machine and by a cluster, and each thing that can be
wrong with a channel, a store or the ledger."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from nightly_support import FIRST, OTHER_BRANCH, SECOND, Nights, git, write_channel
from store_support import serve_s3
from support import CommandLine, Ran, copy_cache

SECRET = "a-secret-of-the-tests-0123456789"


def clear(ran: Ran, code: int, *says: str) -> None:
    """One error, in words, without a traceback."""
    assert ran.code == code, ran.text
    assert "Traceback" not in ran.text
    assert len(re.findall(r"^(?:[\d:]{8} )?[Ee]rror: ", ran.text, flags=re.MULTILINE)) == 1, ran.text
    for words in says:
        assert words in " ".join(ran.text.split()), ran.text


def files(folder: Path) -> dict[str, bytes]:
    """Everything below a folder; what a running SQLite keeps beside its file is not counted."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(("-shm", "-wal")))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


# -- nights, one after the other ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_nights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the nights of one engine have compiled, for those of the next: they are about nights."""
    return tmp_path_factory.mktemp("compiled") / "cache"


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize("by", [(), ("--engine=dask",)], ids=["local", "dask"])
def test_nights_one_after_the_other(
    cli: CommandLine, base_image: str, compiled: Callable[[str, Path], None], by_nights: Path, by: tuple[str, ...]
) -> None:
    nights = Nights(cli, "--environment=docker", f"--base-image={base_image}", *by)
    for workspace in [cli.build / "workers" / number for number in ("0", "1")] if by else [cli.build]:
        compiled("container", workspace)
        copy_cache(by_nights, workspace / "cache")
    before = git(nights.upstream.op_plugin, "rev-parse", OTHER_BRANCH)[:7]

    ran = nights("2026-11-20", "--dry-run")
    assert ran.code == 0, ran.text
    assert ran.out.count("no night has a wheel of it") == 2
    assert ran.out.endswith("2 to build\n")
    assert not nights.store.exists()

    ran = nights("2026-11-20")
    assert ran.code == 0, ran.text
    copy_cache(cli.build / "cache", by_nights)
    named = re.findall(r"wheel: (\S+)", ran.text)
    assert [Path(path).parent for path in named] == [nights.store / "2026-11-20"] * 2
    assert all(Path(path).is_file() for path in named)
    assert not (cli.build / "nightly" / "mini" / "wheels").exists()
    assert nights.latest == "2026-11-20"
    assert [nights.step.read_text().count(f"| {target} |") for target in (FIRST, SECOND)] == [1, 1]

    begun = time.monotonic()
    ran = nights("2026-11-21")
    assert ran.code == 0, ran.text
    assert time.monotonic() - begun < 30
    assert "mini: nothing new since the night 2026-11-20" in ran.text
    assert "compile" not in ran.text
    assert not (nights.store / "2026-11-21").exists()

    broken = nights.change("int broken = ;")[:7]
    ran = nights("2026-11-21", "--dry-run")
    assert ran.code == 0, ran.text
    assert re.search(rf"{FIRST} +carry over +built in the night 2026-11-20\n", ran.out)
    assert re.search(rf"{SECOND} +build +op-plugin {before} -> {broken}, 1 commit\n", ran.out)
    ran = nights("2026-11-21")
    assert ran.code == 1, ran.text
    assert f"{SECOND}: op-plugin {before} -> {broken}, 1 commit" in ran.text
    assert "latest stays at 2026-11-20: 1 required target is missing" in ran.text
    assert nights.latest == "2026-11-20"
    entries = nights.manifest("2026-11-21")
    assert {target: entry["status"] for target, entry in entries.items()} == {FIRST: "skipped", SECOND: "failed"}
    assert "broken" in nights.step.read_text()
    ((failed,),) = ([one for one in result["targets"] if one["id"] == SECOND] for result in [newest_result(cli)])
    assert failed["fingerprint"] == entries[SECOND]["fingerprint"] is not None

    mended = nights.change("int mended = 1;")[:7]
    ran = nights("2026-11-22")
    assert ran.code == 0, ran.text
    assert f"{SECOND}: op-plugin {before} -> {mended}, 2 commits" in ran.text
    assert f"{FIRST}: " not in ran.text
    assert "mini: latest is 2026-11-22" in ran.text
    assert nights.latest == "2026-11-22"
    entries = nights.manifest("2026-11-22")
    assert entries[FIRST]["reason"] == "built in the night 2026-11-20"
    assert re.search(rf"\.dev20261122\+git[0-9a-f]{{7}}\.op{mended}-cp311-", entries[SECOND]["wheel"])


def newest_result(cli: CommandLine) -> dict[str, Any]:
    """``result.json`` of the newest run."""
    newest = max((cli.build / "runs").glob("*/result.json"), key=lambda path: path.stat().st_mtime_ns)
    found: dict[str, Any] = json.loads(newest.read_text())
    return found


# -- wrong channels, stores that refuse -----------------------------------------------------------------------


@pytest.fixture
def published(cli: CommandLine) -> Callable[[], None]:
    """A night that stands in the default store. What is given checks that a command has touched nothing of it."""
    night = cli.folder / "dist" / "nightly" / "mini" / "2026-11-20"
    night.mkdir(parents=True)
    (night / "manifest.json").write_text('{"schema": 1, "stands": "for a night"}')
    before = files(cli.folder / "dist")

    def untouched() -> None:
        assert files(cli.folder / "dist") == before
        assert not (cli.build / "pytorch").exists()
        assert not (cli.build / "runs").exists(), "nothing was begun"

    return untouched


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nightly", "mimi"], ["nightly.yaml has no channel 'mimi'", "did you mean mini?"]),
        (["nightly", "mini", "--night=2026-11-31"], ["'2026-11-31' is no day", "YYYY-MM-DD"]),
        (["nightly", "mini", "--waive=v9"], ["no target of mini is called 'v9'"]),
        (["nightly", "mini", f"--waive={FIRST}"], ["without a reason", f"--waive '{FIRST}=because'"]),
        (["nightly", "mini", "--store=s3://bucket"], ["--store is for --engine dask", "nightly.yaml"]),
        (["nightly", "mini", "--scheduler=tcp://a:1"], ["--scheduler is for --engine dask", "add --engine dask"]),
        (["build", f"--target={FIRST}", "--store=x"], ["--store is for --engine dask"]),
    ],
)
def test_wrong_requests(cli: CommandLine, published: Callable[[], None], arguments: list[str], says: list[str]) -> None:
    clear(cli(*arguments, f"--matrix={write_channel(cli.folder)}", env={"COLUMNS": "200"}), 2, *says)
    published()


@pytest.mark.parametrize("keep", [0, -3, "none"])
def test_retention_that_would_keep_nothing(cli: CommandLine, published: Callable[[], None], keep: object) -> None:
    matrix = write_channel(cli.folder, keep=keep)
    number = next(n for n, line in enumerate((matrix / "nightly.yaml").read_text().splitlines(), 1) if "keep" in line)
    clear(cli("nightly", "mini", f"--matrix={matrix}"), 2, f"nightly.yaml:{number}:", "channels.mini.keep", str(keep))
    published()


@contextmanager
def without_privileges() -> Iterator[list[str]]:
    """What a command begins with so that permissions of files hold for it, also where root runs the tests."""
    if os.geteuid() != 0:
        yield []
        return
    if shutil.which("setpriv") is None:
        pytest.skip("there is no setpriv, and root may write anywhere")
    yield ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner", "--inh-caps=-all"]


def test_a_store_that_this_user_may_not_write(cli: CommandLine, published: Callable[[], None]) -> None:
    place = cli.folder / "shared"
    (place / "mini").mkdir(parents=True)
    (place / "mini" / "latest.json").write_text("{}")
    place.chmod(0o555)
    matrix = write_channel(cli.folder, store=str(place))
    with without_privileges() as prefix:
        done = subprocess.run(
            [*prefix, sys.executable, "-m", "builder", "nightly", "mini", f"--matrix={matrix}"],
            cwd=cli.folder,
            capture_output=True,
            text=True,
            check=False,
        )
    clear(Ran(done.returncode, done.stdout, done.stderr), 2, f"the store {place} does not allow", "permissions there")
    assert files(place) == {"mini/latest.json": b"{}"}
    published()


def test_a_store_that_refuses_these_credentials(
    cli: CommandLine, published: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("s3fs")
    matrix = write_channel(cli.folder, store="s3://bucket/nights")
    for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
        monkeypatch.delenv(name)
    credentials = {"AWS_ACCESS_KEY_ID": "AKIAOFTHETESTS", "AWS_SECRET_ACCESS_KEY": SECRET}
    with serve_s3(INITIAL_NO_AUTH_ACTION_COUNT="0") as server:
        place = {
            "AWS_ENDPOINT_URL": server.url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "HOME": str(cli.folder),
            "NO_PROXY": "127.0.0.1",
        }
        refused = cli("nightly", "mini", f"--matrix={matrix}", env={**place, **credentials})
        clear(refused, 2, "the store s3://bucket/nights does not allow", "credentials in the environment")
        for secret in credentials.values():
            assert secret not in refused.text
        published()
        none = cli("nightly", "mini", f"--matrix={matrix}", env=place)
        clear(none, 2, "the store s3://bucket/nights needs credentials", "AWS_ACCESS_KEY_ID")
    published()


# -- the ledger -----------------------------------------------------------------------------------------------


def corrupt(path: Path) -> str:
    path.write_bytes(b"no ledger " * 1000)
    return "is damaged: file is not a database"


def newer(path: Path) -> str:
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.commit()
    database.close()
    return "is of version 99, this builder knows versions up to"


@pytest.mark.parametrize("spoil", [corrupt, newer])
def test_a_ledger_that_cannot_be_used_is_neither_lost_nor_in_the_way(
    cli: CommandLine, spoil: Callable[[Path], str], miniature_options: Callable[..., list[str]]
) -> None:
    made = cli("ledger", "rebuild")
    assert made.code == 0, made.text
    assert "there is no such folder" in made.text
    path = cli.build / "ledger.sqlite"
    why = spoil(path)
    before = path.read_bytes()
    clear(cli("history"), 3, str(path), why, "next step")
    clear(cli("history", "--json"), 3, str(path), why)
    # A build does without it, and says so once.
    ran = cli("build", f"--target={FIRST}", *miniature_options("--environment=host", "--offline"))
    assert ran.code == 1, ran.text
    assert ran.text.count(why) == 1
    assert "no history is kept" in ran.text
    assert newest_result(cli)["targets"][0]["id"] == FIRST
    assert path.read_bytes() == before
    # What stands in its place is moved aside on request only, and whole.
    ran = cli("ledger", "rebuild")
    assert ran.code == 0, ran.text
    (aside,) = cli.build.glob("ledger-*.sqlite")
    assert aside.read_bytes() == before
    assert str(aside) in ran.text
    ran = cli("history")
    assert (ran.code, ran.out.splitlines()[0][:16]) == (0, "nothing was buil"), ran.text


def test_a_folder_of_wheels_that_was_named_has_to_be_there(cli: CommandLine) -> None:
    clear(cli("ledger", "rebuild", "--output=dits"), 2, "there is no folder of wheels", "dits", "--output")
    clear(cli("ledger", "rebuild", env={"BUILDER_OUTPUT": "dits"}), 2, "there is no folder of wheels")
    assert files(cli.folder) == {}
    for lines in (cli("history").out.splitlines(), cli("ledger", "rebuild").text.splitlines()):
        assert lines
        assert all(line == line.rstrip() for line in lines)

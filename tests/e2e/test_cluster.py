"""More than one machine through the command line: a whole build, and each thing that can be wrong with a cluster."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_support import Machines
from support import MACHINE, CommandLine, Ran

from builder.cli.demo_upstream import Miniature
from builder.ledger import Ledger

Options = Callable[..., list[str]]
Arguments = Callable[..., list[str]]
TARGET = f"v2.5.1-7.1.0-py3.11-{MACHINE}"
OTHER = {"x86_64": "aarch64", "aarch64": "x86_64"}[MACHINE]


def clear(ran: Ran, code: int, *says: str) -> None:
    """One error, in words, without a traceback."""
    assert ran.code == code, ran.text
    assert "Traceback" not in ran.text
    assert ran.text.count("error: ") == 1, ran.text
    for words in says:
        assert words in " ".join(ran.text.split()), ran.text


def results(cli: CommandLine) -> list[list[dict[str, Any]]]:
    """The targets of every result.json, the oldest run first; a run without one is a failure."""
    runs = sorted((cli.build / "runs").iterdir()) if (cli.build / "runs").exists() else []
    return [json.loads((run / "result.json").read_text())["targets"] for run in runs]


def files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


@pytest.fixture(scope="module")
def machines(
    tmp_path_factory: pytest.TempPathFactory, environments: Path, compiled: Callable[[str, Path], None]
) -> Iterator[Machines]:
    """A scheduler with a worker for this machine's architecture."""
    made = Machines(tmp_path_factory.mktemp("cluster"))
    made.workspace("near").mkdir(parents=True)
    (made.workspace("near") / "environments").symlink_to(environments)
    compiled("host", made.workspace("near"))
    try:
        yield made.add("near", f"{MACHINE}=1").ready("near")
    finally:
        made.close()


@pytest.fixture
def arguments(miniature_options: Options) -> Arguments:
    """A build on a cluster; the workers build on their own hosts."""

    def given(scheduler: str, store: str | Path, *more: str) -> list[str]:
        return [
            "build",
            f"--target={TARGET}",
            "--engine=dask",
            f"--scheduler={scheduler}",
            f"--store={store}",
            *miniature_options("--environment=host", *more),
        ]

    return given


@pytest.mark.slow
def test_a_build_by_a_worker(cli: CommandLine, machines: Machines, arguments: Arguments) -> None:
    store = cli.folder / "store"
    ran = cli(*arguments(machines.address, store))
    assert ran.code == 0, ran.text
    assert "building on the worker near" in ran.text
    (wheel,) = [name for name in cli.dist if name.endswith(".whl")]
    assert f"wheel: {cli.folder}/dist/{wheel}" in ran.text
    assert f"{wheel}.json" in cli.dist
    ((entry,),) = results(cli)
    assert (entry["id"], entry["status"], entry["wheel"]) == (TARGET, "built", wheel)
    assert [phase["name"] for phase in entry["phases"]][-3:] == ["publish", "upload", "download"]
    assert "Building CXX object" in Path(entry["log"]).read_text()
    assert files(store) == [], "what was on its way has arrived"
    # The client compiled nothing itself.
    assert not (cli.build / "compile").exists()
    assert not (cli.build / "cache").exists()

    again = cli(*arguments(machines.address, store))
    assert again.code == 0, again.text
    assert [entry["status"] for (entry,) in results(cli)] == ["built", "skipped"]
    shown = cli("history", "--json")
    assert [(entry["id"], entry["status"]) for entry in json.loads(shown.out)] == [
        (TARGET, "skipped"), (TARGET, "built"),
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_store_that_fills_up_costs_no_build(
    cli: CommandLine, machines: Machines, arguments: Arguments, upstream: Miniature
) -> None:
    store = cli.folder / "store"
    store.mkdir()
    # Room for what a run writes at its start, and for no wheel.
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(store)], check=True)
    # The wheel that the worker has from another test is none of this one's.
    command = arguments(machines.address, store, f"--custom-ops={upstream.custom_ops}")
    try:
        ran = cli(*command)
        assert ran.code in {1, 3}, ran.text
        assert "not put into the store" in ran.text
        assert "Traceback" not in ran.text
        assert cli.dist == []
    finally:
        subprocess.run(["umount", str(store)], check=True)
    ((entry,),) = results(cli)
    assert entry["status"] == "failed"
    assert entry["failure"]["phase"] == "upload"
    again = cli(*command)
    assert again.code == 0, again.text
    assert "stands (the worker near)" in again.text
    assert [name for name in cli.dist if name.endswith(".whl")]


def test_wrong_clusters_are_refused(cli: CommandLine, machines: Machines, arguments: Arguments) -> None:
    store = cli.folder / "store"
    standing = cli.folder / "dist" / "standing.whl"
    standing.parent.mkdir()
    standing.write_text("whole")
    for wrong in ("nonsense", "http://127.0.0.1:8786", "tcp://"):
        clear(cli(*arguments(wrong, store)), 2, wrong, "dask scheduler")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        clear(cli(*arguments(address, store)), 3, f"the scheduler {address} does not answer", "next step:")
    no_store = [argument for argument in arguments(machines.address, store) if not argument.startswith("--store")]
    clear(cli(*no_store), 2, "--store")
    file = cli.folder / "file"
    file.write_text("no folder")
    for refusing in (file, file / "below", "nonsense://bucket"):
        ran = cli(*arguments(machines.address, refusing))
        clear(ran, ran.code, str(refusing))
        assert ran.code in {2, 3}
    assert file.read_text() == "no folder"
    clear(cli(*arguments(machines.address, store, "--keep-changes")), 2, "--keep-changes")
    assert results(cli) == [], "nothing of these was a run"
    assert cli.dist == ["standing.whl"]
    assert not store.exists() or files(store) == []


def test_no_worker_for_the_architecture(cli: CommandLine, machines: Machines, arguments: Arguments) -> None:
    store = cli.folder / "store"
    command = [argument.replace(MACHINE, OTHER) for argument in arguments(machines.address, store)]
    ran = cli(*command)
    clear(ran, 3, f"builds for {OTHER}", f"its workers offer {MACHINE}", f"--resources '{OTHER}=1'")
    ((entry,),) = results(cli)
    assert entry["status"] == "skipped"
    assert f"builds for {OTHER}" in entry["reason"]
    assert cli.dist == []
    assert files(store) == []
    with Ledger.open(cli.build / "ledger.sqlite") as ledger:
        assert ledger.interrupted() == [], "the run is over, also for whoever looks at it later"

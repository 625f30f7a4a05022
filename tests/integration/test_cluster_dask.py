"""The cluster engine with a real scheduler and real workers, in processes of their own."""

from __future__ import annotations

import gc
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from difflib import unified_diff
from pathlib import Path
from typing import Any

import pytest
from cluster_support import Machines, wait_until
from rich.table import Table
from support import MACHINE, copy_cache

from builder.cli.demo_upstream import Miniature, materialise
from builder.cluster import dask_client, worker_pool
from builder.cluster.executor import run_on_cluster
from builder.core.build_options import BuildOptions
from builder.core.errors import EXIT_INTERRUPTED, BuilderError, FailureKind, MachineError, RequestError
from builder.core.results import Run, TargetResult
from builder.core.workspace import Workspace
from builder.environments.docker_engine import LABEL, DockerEngine
from builder.executors.local import Policy, run_targets
from builder.ledger import Ledger, ledger_path
from builder.matrix.loader import Matrix, load_matrix
from builder.matrix.model import Target
from builder.matrix.selection import parse_target_id
from builder.progress.reporter import Reporter
from builder.progress.state import Event, State
from builder.target.resolve_sources import Gatherer

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")

pytestmark = pytest.mark.engine

LINE = "v2.5.1-7.1.0"
OTHER = {"x86_64": "aarch64", "aarch64": "x86_64"}[MACHINE]
#: Long enough to be interrupted, short enough to be built again.
PAUSE = 6

#: A client in a process of its own: it gets signals.
CLIENT = """
import json, sys
from pathlib import Path
from builder.__main__ import _terminate
from builder.progress.reporter import Reporter
from builder.cluster.executor import run_on_cluster
from builder.executors.local import Policy, exit_code
from builder.matrix.loader import load_matrix
from builder.matrix.selection import parse_target_id
from builder.core.build_options import BuildOptions
from builder.core.workspace import Workspace

def main():
    given = json.loads(sys.argv[1])
    matrix = load_matrix(sources_file=Path(given["sources"]))
    try:
        run = run_on_cluster(
            [parse_target_id(matrix, name) for name in given["targets"]], matrix,
            Workspace(Path(given["root"], "build"), Path(given["root"], "dist")),
            BuildOptions.from_json(given["options"]), Reporter(), Policy(given["parallel"]),
            scheduler=given["scheduler"], store_url=given["store"],
        )
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(exit_code(run.targets))

if __name__ == "__main__":
    main()
"""


class Recorder:
    """Keeps events, and lets a test wait for one."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._new = threading.Condition()

    def handle(self, event: Event, state: State) -> None:
        with self._new:
            self.events.append(event)
            self._new.notify_all()

    def table(self, table: Table) -> None: ...

    def close(self) -> None: ...

    def texts(self, name: str) -> list[str]:
        with self._new:
            return [str(event["text"]) for event in self.events if event.name == name]

    def wait_for(self, found: Callable[[Event], bool], *, after: int = 0, seconds: float = 120) -> int:
        """Wait for an event beyond the first ``after``; returns its number, counted from one."""
        until = time.monotonic() + seconds
        with self._new:
            while True:
                for number, event in enumerate(self.events[after:], after + 1):
                    if found(event):
                        return number
                if not self._new.wait(until - time.monotonic()):
                    raise AssertionError([(each.name, dict(each.fields)) for each in self.events])


def says(name: str, text: str) -> Callable[[Event], bool]:
    return lambda event: event.name == name and text in str(event["text"])


def enters(phase: str) -> Callable[[Event], bool]:
    return lambda event: event.name == "phase-started" and event["phase"] == phase


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory, engine: DockerEngine) -> Iterator[Machines]:
    """Two workers for this machine's architecture, one of them for two targets at once, and one for the other."""
    made = Machines(tmp_path_factory.mktemp("cluster"))
    try:
        made.add("one", f"{MACHINE}=1").add("two", f"{MACHINE}=2 GPU=1", threads=2).add("far", f"{OTHER}=1")
        yield made.ready("one", "two", "far")
    finally:
        made.close()


@pytest.fixture
def warmed(machines: Machines) -> Callable[[Path], None]:
    """Gives a workspace what a worker has compiled, for tests of who builds what, which need no cold compile."""

    def copy(workspace: Path) -> None:
        for name in ("one", "two"):
            copy_cache(machines.workspace(name) / "cache", workspace / "cache")

    return copy


@pytest.fixture(scope="session")
def matrix(upstream: Miniature) -> Matrix:
    return load_matrix(sources_file=upstream.sources_file)


@pytest.fixture(scope="session")
def options(upstream: Miniature, base_image: str) -> BuildOptions:
    return BuildOptions(
        environment="docker",
        base_image=base_image,
        torch_source="find-links",
        find_links=(upstream.wheelhouse,),
        allow_toolchain_mismatch=True,
    )


def target(matrix: Matrix, python: str = "3.11", arch: str = MACHINE) -> Target:
    return parse_target_id(matrix, f"{LINE}-py{python}-{arch}")


@pytest.fixture
def patches(tmp_path: Path, upstream: Miniature) -> Callable[..., Path]:
    """A patch series that has the build run shell lines first."""

    def write(*lines: str) -> Path:
        show = ["git", "-C", str(upstream.torch_npu), "show", f"{LINE}:generate_code.sh"]
        before = subprocess.run(show, capture_output=True, text=True, check=True).stdout.splitlines(keepends=True)
        after = [before[0], *(f"{line}\n" for line in lines), *before[1:]]
        place = tmp_path / "patches" / LINE / "torch_npu"
        place.mkdir(parents=True, exist_ok=True)
        (place / "series").write_text("edit.patch\n")
        (place / "edit.patch").write_text(
            "".join(unified_diff(before, after, "a/generate_code.sh", "b/generate_code.sh"))
        )
        return tmp_path / "patches"

    return write


class Client:
    """Runs on a cluster from a workspace of its own."""

    def __init__(self, folder: Path, matrix: Matrix, options: BuildOptions, scheduler: str | None) -> None:
        self.workspace = Workspace(folder / "build", folder / "dist")
        self.store = folder / "store"
        self.matrix = matrix
        self.options = options
        self.scheduler = scheduler
        self.recorder = Recorder()

    def run(self, *targets: Target, parallel: int = 1, store: str | None = None, **more: Any) -> Run:
        options = BuildOptions(**{**vars(self.options), **more})
        place = store or (None if self.scheduler is None else str(self.store))
        return run_on_cluster(
            targets, self.matrix, self.workspace, options, Reporter(sink=self.recorder), Policy(parallel),
            scheduler=self.scheduler, store_url=place,
        )  # fmt: skip

    def start(self, *targets: Target, **more: Any) -> Callable[[], Run]:
        """Run in a thread; what is returned waits for the run."""
        ended: queue.SimpleQueue[Run | BaseException] = queue.SimpleQueue()

        def work() -> None:
            try:
                ended.put(self.run(*targets, **more))
            except BaseException as error:
                ended.put(error)

        threading.Thread(target=work, daemon=True).start()

        def wait() -> Run:
            found = ended.get(timeout=300)
            if isinstance(found, BaseException):
                raise found
            return found

        return wait

    def result(self) -> dict[str, Any]:
        """The newest result.json."""
        newest = max(self.workspace.runs.iterdir(), key=lambda run: run.stat().st_mtime)
        return dict(json.loads((newest / "result.json").read_text()))

    @property
    def dist(self) -> list[str]:
        return sorted(file.name for file in self.workspace.output.iterdir())

    def wheel(self, result: TargetResult) -> bytes:
        assert result.wheel is not None
        return result.wheel.read_bytes()


NewClient = Callable[..., Client]


@pytest.fixture
def new_client(tmp_path: Path, matrix: Matrix, options: BuildOptions, request: pytest.FixtureRequest) -> NewClient:
    def make(name: str = "client", scheduler: str | None = "machines") -> Client:
        address = request.getfixturevalue("machines").address if scheduler == "machines" else scheduler
        return Client(tmp_path / name, matrix, options, address)

    return make


def record_of(result: TargetResult) -> dict[str, Any]:
    assert result.wheel is not None
    return dict(json.loads(result.wheel.with_name(result.wheel.name + ".json").read_text()))


def containers(engine: DockerEngine, *places: Path) -> list[str]:
    """Containers that have a folder of ``places`` mounted."""
    found = engine.client.containers.list(all=True, filters={"label": f"{LABEL}=1"}, ignore_removed=True)
    return [
        str(container.name)
        for container in found
        for mount in container.attrs.get("Mounts") or ()
        if any(mount.get("Source", "").startswith(str(place)) for place in places)
    ]


def test_the_same_wheels_as_on_one_machine(
    new_client: NewClient, machines: Machines, matrix: Matrix, options: BuildOptions, tmp_path: Path
) -> None:
    client = new_client()
    wanted = [target(matrix, "3.9"), target(matrix, "3.11")]
    run = client.run(*wanted)
    assert [result.status for result in run.targets] == ["built", "built"], client.recorder.texts("error")

    place = tmp_path / "local"
    local = run_targets(
        wanted, matrix, Workspace(place / "build", place / "dist"), options, Reporter(sink=Recorder()), Policy()
    )
    assert client.dist == sorted(file.name for file in (place / "dist").iterdir())
    for there, here in zip(run.targets, local.targets, strict=True):
        assert client.wheel(there) == client.wheel(here)
        assert (there.id, there.fingerprint, there.sha256, there.files_compiled) == (
            here.id, here.fingerprint, here.sha256, here.files_compiled,
        )  # fmt: skip
        record = record_of(there)
        assert record["run"] == run.id
        assert record["sha256"] == there.sha256
        assert {**record_of(here), "files_compiled": 0}.keys() == record.keys()
        names = [phase.name for phase in there.phases]
        assert names == [*(phase.name for phase in here.phases), "upload", "download"]
        assert all(phase.started is not None and phase.seconds > 0 for phase in there.phases)
        log = there.log.read_text()
        assert "Building CXX object" in log or "[100%]" in log, log[-2000:]
    # The same files, the same history, and nothing left on the way.
    result = client.result()
    assert set(result) == {"schema", "run", "purpose", "started", "seconds", "targets", "schedule"}
    assert [entry["status"] for entry in result["targets"]] == ["built", "built"]
    assert {file.name for file in run.folder.iterdir()} >= {"result.json", "summary.md", "junit.xml"}
    with Ledger.open(ledger_path(client.workspace)) as ledger:
        entries = ledger.history()
        assert {entry.id for entry in entries} == {each.id for each in wanted}
        assert not ledger.interrupted()
    assert [file for file in client.store.rglob("*") if file.is_file()] == []
    # Progress came through, from where it was made.
    for each in wanted:
        seen = {
            event["phase"]
            for event in client.recorder.events
            if event.target == each.id and event.name == "phase-started"
        }
        assert seen >= {"prepare", "image", "toolchain", "compile", "repair", "verify", "publish", "upload", "download"}
    progress = [event for event in client.recorder.events if event.name == "progress" and event["completed"]]
    assert progress, "nothing was heard of how far the compile is"
    used = {text.rpartition(" ")[2] for text in client.recorder.texts("message") if text.startswith("building on")}
    assert used <= {"one", "two"}
    assert not machines.workspace("far").exists()


def test_what_stands_is_not_built_again(new_client: NewClient, machines: Machines, matrix: Matrix) -> None:
    first = new_client("first")
    assert first.run(target(matrix)).targets[0].status in {"built", "skipped"}
    again = first.run(target(matrix)).targets[0]
    assert (again.status, again.phases) == ("skipped", [])

    # Another client gets the wheel that a worker kept, and builds nothing; without mirrors it asks the hosts itself.
    second = new_client("second")
    while second.run(target(matrix)).targets[0].status == "built":
        # The other worker, whose turn it was: it has one now, too.
        shutil.rmtree(second.workspace.output)
    assert second.dist == first.dist
    (result,) = second.result()["targets"]
    assert result["status"] == "skipped"
    assert "stands (the worker " in result["reason"]
    wheel = next(name for name in second.dist if name.endswith(".whl"))
    assert (second.workspace.output / wheel).read_bytes() == (first.workspace.output / wheel).read_bytes()


def test_all_machines_build_the_commits_that_the_client_found(
    tmp_path: Path, machines: Machines, options: BuildOptions
) -> None:
    upstream = materialise(tmp_path / "upstream")
    matrix = load_matrix(sources_file=upstream.sources_file)
    client = Client(tmp_path / "client", matrix, options, machines.address)
    git = ["git", "-C", str(upstream.torch_npu), "-c", "user.name=n", "-c", "user.email=e@example.org"]
    head = subprocess.run([*git, "rev-parse", LINE], capture_output=True, text=True, check=True).stdout.strip()
    assert client.run(target(matrix, "3.9"), parallel=1).targets[0].status in {"built", "skipped"}
    # The branch moves on; the client's mirror does not know it, and no worker may build anything else.
    subprocess.run([*git, "checkout", "-q", LINE], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "later"], check=True)
    result = client.run(target(matrix, "3.11"), rebuild=True).targets[0]
    assert result.status == "built"
    assert record_of(result)["git_version"] == head


def test_a_worker_that_is_killed_is_replaced_by_another(
    new_client: NewClient, machines: Machines, matrix: Matrix, patches: Callable[..., Path], engine: DockerEngine
) -> None:
    client = new_client()
    wait = client.start(target(matrix), patches=(patches(f"sleep {PAUSE}"),))
    client.recorder.wait_for(enters("compile"))
    name = next(text.rpartition(" ")[2] for text in client.recorder.texts("message") if text.startswith("building on"))
    wait_until(lambda: containers(engine, machines.workspace(name)) != [])
    os.kill(machines.pid(name), signal.SIGKILL)
    result = wait().targets[0]
    assert result.status == "built", result.reason
    assert any(f"the worker {name} was lost" in text for text in client.recorder.texts("warning"))
    assert f"the worker {name} was lost" in result.log.read_text()
    starts = [text for text in client.recorder.texts("message") if text.startswith("building on the worker")]
    assert len(starts) == 2
    # Nobody cleared up after the killed one: its build noticed by itself.
    wait_until(lambda: containers(engine, machines.workspace(name)) == [], 10)
    machines.ready("one", "two", "far")


def test_a_target_that_kills_its_workers_is_given_up(
    new_client: NewClient, machines: Machines, matrix: Matrix, patches: Callable[..., Path]
) -> None:
    client = new_client()
    wait = client.start(target(matrix), patches=(patches("sleep 60"),))
    seen, lost = 0, []
    for _ in range(3):
        seen = client.recorder.wait_for(says("message", "building on the worker"), after=seen)
        lost.append(str(client.recorder.events[seen - 1]["text"]).rpartition(" ")[2])
        os.kill(machines.pid(lost[-1]), signal.SIGKILL)
    result = wait().targets[0]
    assert result.status == "failed"
    entry = client.result()["targets"][0]
    assert entry["failure"]["kind"] == "engine"
    assert entry["failure"]["message"] == f"3 workers were lost while they built it: {', '.join(lost)}"
    machines.ready("one", "two", "far")


def test_a_cluster_that_gives_up_sooner_is_believed(
    tmp_path: Path, matrix: Matrix, options: BuildOptions, patches: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "0")
    machines = Machines(tmp_path / "cluster")
    try:
        machines.add("first", f"{MACHINE}=1").ready("first")
        client = Client(tmp_path / "client", matrix, options, machines.address)
        wait = client.start(target(matrix), patches=(patches("sleep 60"),))
        client.recorder.wait_for(says("message", "building on the worker"))
        os.kill(machines.pid("first"), signal.SIGKILL)
        result = wait().targets[0]
    finally:
        machines.close()
    assert getattr(result.error, "kind", None) is FailureKind.ENGINE
    assert "it was lost with its worker again and again, the last one first" in result.reason
    assert result.attempts == 1


def test_certificates_keep_others_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cryptography")
    security = distributed.Security.temporary()
    (tmp_path / "cert.pem").write_text(security.tls_ca_file)
    (tmp_path / "key.pem").write_text(security.tls_client_key)
    (tmp_path / "cert.pem").write_text(security.tls_client_cert)
    certificates = [
        f"--tls-ca-file={tmp_path}/cert.pem",
        f"--tls-cert={tmp_path}/cert.pem",
        f"--tls-key={tmp_path}/key.pem",
    ]
    machines = Machines(tmp_path / "cluster", *certificates)
    try:
        assert machines.address.startswith("tls://")
        machines.add("safe", f"{MACHINE}=1")
        monkeypatch.setattr(dask_client, "TIMEOUT", 2)
        with pytest.raises(MachineError, match="does not answer"), dask_client.connected(machines.address):
            pytest.fail("it let somebody in without a certificate")
        # Nothing half-made is left to be collected while the next one starts, which would then wait for itself.
        assert not [each for each in gc.get_objects() if isinstance(each, distributed.Client)]
        settings = {
            "distributed.comm.tls.ca-file": f"{tmp_path}/cert.pem",
            "distributed.comm.tls.client.cert": f"{tmp_path}/cert.pem",
            "distributed.comm.tls.client.key": f"{tmp_path}/key.pem",
        }
        monkeypatch.setattr(dask_client, "TIMEOUT", 10)
        with dask.config.set(settings), dask_client.connected(machines.address) as cluster:
            wait_until(lambda: [each.name for each in (cluster.machines() or {}).values()] == ["safe"])
    finally:
        machines.close()


def test_a_machine_that_dies_with_its_nanny(
    tmp_path: Path, matrix: Matrix, options: BuildOptions, patches: Callable[..., Path], engine: DockerEngine,
    warmed: Callable[[Path], None],
) -> None:  # fmt: skip
    machines = Machines(tmp_path / "cluster")
    warmed(machines.workspace("second"))
    try:
        machines.add("first", f"{MACHINE}=1").ready("first")
        client = Client(tmp_path / "client", matrix, options, machines.address)
        wait = client.start(target(matrix), patches=(patches(f"sleep {PAUSE}"),))
        client.recorder.wait_for(enters("compile"))
        machines.kill("first")
        client.recorder.wait_for(says("warning", "the worker first was lost"))
        wait_until(lambda: containers(engine, machines.workspace("first")) == [], 15)
        # Nobody builds for this architecture now; the run waits for the next one.
        machines.add("second", f"{MACHINE}=1")
        result = wait().targets[0]
        assert result.status == "built", result.reason
        assert client.recorder.texts("message").count("building on the worker second") == 1
    finally:
        machines.close()


def test_a_machine_without_an_engine_gets_no_more_targets(
    tmp_path: Path, matrix: Matrix, options: BuildOptions, warmed: Callable[[Path], None]
) -> None:
    machines = Machines(tmp_path / "cluster")
    warmed(machines.workspace("sound"))
    try:
        machines.add("broken", f"{MACHINE}=1", DOCKER_HOST=f"unix://{tmp_path}/nothing.sock").ready("broken")
        client = Client(tmp_path / "client", matrix, options, machines.address)
        alone = client.run(target(matrix)).targets[0]
        assert isinstance(alone.error, MachineError)
        assert "the worker broken: no container engine listens" in alone.reason

        machines.add("sound", f"{MACHINE}=1").ready("broken", "sound")
        run = client.run(target(matrix, "3.9"), target(matrix, "3.11"))
        assert [result.status for result in run.targets] == ["built", "built"], client.recorder.texts("error")
        assert max(result.attempts for result in run.targets) == 2
        again = [text for text in client.recorder.texts("warning") if "trying again on another worker" in text]
        assert 1 <= len(again) <= 2, "it was given more than it could have before it failed"
    finally:
        machines.close()


def test_failures_come_back_with_their_log_and_end_no_other_target(
    new_client: NewClient, matrix: Matrix, patches: Callable[..., Path]
) -> None:
    client = new_client()
    lines = 'case $PYTHON_VERSION$(python3 -V) in *3.9*) echo "ValueError: no such operator"; exit 1;; esac'
    bad, good = client.run(target(matrix, "3.9"), target(matrix, "3.11"), patches=(patches(lines),)).targets
    assert (bad.status, good.status) == ("failed", "built"), (bad.reason, good.reason)
    entry = client.result()["targets"][0]
    assert entry["failure"]["phase"] == "compile"
    assert "no such operator" in Path(entry["log"]).read_text()
    assert client.recorder.texts("error") == [bad.reason]
    # It is told once, with the log that is here.
    assert [text for text in client.recorder.texts("message") if text.startswith("log:")] == [f"log: {bad.log}"]
    assert all("cp311" in name for name in client.dist)


def test_fail_fast_starts_no_more(tmp_path: Path, matrix: Matrix, options: BuildOptions) -> None:
    wanted = [target(matrix, python) for python in ("3.9", "3.11")]
    lone = Machines(tmp_path / "cluster")
    try:
        client = Client(tmp_path / "client", matrix, options, lone.address)
        lone.add("lone", f"{MACHINE}=1").ready("lone")
        strict = BuildOptions(**{**vars(options), "allow_toolchain_mismatch": False})
        run = run_on_cluster(
            wanted, matrix, client.workspace, strict, Reporter(sink=client.recorder), Policy(fail_fast=True),
            scheduler=lone.address, store_url=str(client.store),
        )  # fmt: skip
    finally:
        lone.close()
    assert [result.status for result in run.targets].count("failed") == 1
    assert [result.status for result in run.targets].count("skipped") == 1
    assert any("--fail-fast" in result.reason for result in run.targets)


def test_a_tree_changed_by_hand_is_not_left_out_in_silence(new_client: NewClient, matrix: Matrix) -> None:
    client = new_client()
    client.workspace.create()
    tree = Gatherer(matrix, client.workspace, client.options, Reporter(sink=Recorder())).gather(target(matrix))
    with open(tree.path / "setup.py", "a") as stream:
        stream.write("# by hand\n")
    result = client.run(target(matrix)).targets[0]
    assert getattr(result.error, "kind", None) is FailureKind.CHANGED_TREE
    assert f"{tree.path} was changed by hand (1 path)" in result.reason
    with pytest.raises(RequestError, match="worker machines have others"):
        client.run(target(matrix), keep_changes=True)


def test_no_worker_for_an_architecture(
    new_client: NewClient, machines: Machines, matrix: Matrix, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(worker_pool, "GATHERING", 1.0)
    lone = Machines(tmp_path / "cluster")
    try:
        client = new_client(scheduler=lone.address)
        with pytest.raises(MachineError, match="no worker is connected to it"):
            client.run(target(matrix))
        lone.add("far", f"{OTHER}=1").ready("far")
        with pytest.raises(MachineError) as caught:
            client.run(target(matrix))
    finally:
        lone.close()
    assert f"no worker of the cluster {lone.address} builds for {MACHINE}" in caught.value.message
    assert f"its workers offer {OTHER}" in caught.value.message
    assert "far (tcp://127.0.0.1" in str(caught.value.details)
    (entry,) = client.result()["targets"]
    assert entry["status"] == "skipped"
    assert entry["reason"].startswith("not started: no worker of the cluster")


def test_workers_that_vanish_are_missed(
    tmp_path: Path, matrix: Matrix, options: BuildOptions, patches: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_pool, "WARN_AFTER", 1.0)
    machines = Machines(tmp_path / "cluster")
    try:
        machines.add("only", f"{MACHINE}=1").ready("only")
        client = Client(tmp_path / "client", matrix, options, machines.address)
        wait = client.start(target(matrix), patches=(patches("sleep 60"),))
        client.recorder.wait_for(enters("prepare"))
        machines.kill("only")
        client.recorder.wait_for(says("warning", f"no worker builds for {MACHINE} any more (no worker is connected"))
        # And then the scheduler too.
        machines.kill("scheduler")
        with pytest.raises(MachineError, match="went away"):
            wait()
        (entry,) = client.result()["targets"]
        assert (entry["status"], entry["failure"]["kind"]) == ("failed", "engine")
        assert "went away" in entry["reason"]
    finally:
        machines.close()


def test_a_scheduler_that_does_not_answer(
    new_client: NewClient, matrix: Matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_client, "TIMEOUT", 2)
    with socket.socket() as taken:
        # Bound, but nobody listens.
        taken.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        client = new_client(scheduler=address)
        started = time.monotonic()
        with pytest.raises(MachineError, match=f"the scheduler {address} does not answer"):
            client.run(target(matrix))
        assert time.monotonic() - started < 12
    for wrong in ("nonsense", "127.0.0.1:1", "tcp://", "http://x:1"):
        with pytest.raises((RequestError, MachineError), match="scheduler"):
            new_client(scheduler=wrong).run(target(matrix))
    assert list(client.workspace.runs.glob("*")) == []


def test_a_store_that_does_not_serve(new_client: NewClient, matrix: Matrix, tmp_path: Path) -> None:
    client = new_client()
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(BuilderError, match="store"):
        client.run(target(matrix), store=str(tmp_path / "file"))
    with pytest.raises(RequestError, match="through a store, and none is given"):
        run_on_cluster(
            [target(matrix)], matrix, client.workspace, client.options, Reporter(sink=Recorder()),
            scheduler=client.scheduler,
        )  # fmt: skip
    assert list(client.workspace.runs.glob("*")) == []
    # A store that only the client sees, as a folder that is not shared.
    pytest.importorskip("fsspec")
    result = client.run(target(matrix), store="memory://only-here").targets[0]
    assert isinstance(result.error, MachineError)
    assert "sees another place at memory://only-here than the client" in result.reason
    assert result.attempts > 1, "another worker may see it"


def arguments(client: Client, upstream: Miniature, *targets: Target, **more: Any) -> list[str]:
    """The command of a client in a process of its own."""
    given = {
        "sources": str(upstream.sources_file),
        "targets": [each.id for each in targets],
        "root": str(client.workspace.root.parent),
        "options": BuildOptions(**{**vars(client.options), **more}).to_json(),
        "parallel": 1,
        "scheduler": client.scheduler,
        "store": None if client.scheduler is None else str(client.store),
    }
    return [sys.executable, "-c", CLIENT, json.dumps(given)]


@pytest.mark.parametrize("local", [False, True], ids=["remote", "local"])
def test_interruption_stops_the_workers(
    local: bool, new_client: NewClient, matrix: Matrix, upstream: Miniature, patches: Callable[..., Path],
    engine: DockerEngine, request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    client = new_client(scheduler=None if local else "machines")
    if local:
        places = [client.workspace.root / "workers" / "0"]
    else:
        machines = request.getfixturevalue("machines")
        places = [machines.workspace(name) for name in ("one", "two")]
    process = subprocess.Popen(
        arguments(client, upstream, target(matrix, "3.9"), target(matrix), patches=(patches("sleep 300"),)),
        stderr=subprocess.PIPE,
        text=True,
        # A terminal sends Ctrl-C to all processes of its group.
        start_new_session=True,
    )
    try:
        wait_until(lambda: process.poll() is not None or containers(engine, *places) != [], 120)
        time.sleep(1)
        sent = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
        took = time.monotonic() - sent
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode == EXIT_INTERRUPTED, said
    assert took < 25
    assert "Traceback" not in said
    wait_until(lambda: containers(engine, *places) == [], 5)
    assert "run 2" in said, "there is no summary"
    entries = client.result()["targets"]
    stopped = [entry for entry in entries if entry.get("failure", {}).get("kind") == "interrupted"]
    assert stopped, entries
    assert all(entry["status"] in {"failed", "skipped"} for entry in entries)
    assert all("by torch-npu-builder" in Path(entry["log"]).read_text() for entry in stopped), "their logs are not here"


def test_a_client_that_is_killed_leaves_nobody_at_work(
    new_client: NewClient, machines: Machines, matrix: Matrix, upstream: Miniature, patches: Callable[..., Path],
    engine: DockerEngine,
) -> None:  # fmt: skip
    client = new_client()
    places = [machines.workspace(name) for name in ("one", "two")]
    slow = patches(f"sleep {PAUSE} # until the client is killed")
    process = subprocess.Popen(arguments(client, upstream, target(matrix), patches=(slow,)), stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: containers(engine, *places) != [], 120)
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: containers(engine, *places) == [], 20)
    # The same command again finds the workers free.
    assert client.run(target(matrix), patches=(slow,)).targets[0].status == "built"


def test_a_cluster_of_this_machine(new_client: NewClient, matrix: Matrix, warmed: Callable[[Path], None]) -> None:
    client = new_client(scheduler=None)
    for number in range(2):
        warmed(client.workspace.root / "workers" / str(number))
    run = client.run(target(matrix, "3.9"), target(matrix, "3.11"), parallel=2)
    assert [result.status for result in run.targets] == ["built", "built"], client.recorder.texts("error")
    assert sum(name.endswith(".whl") for name in client.dist) == 2
    assert {place.name for place in (client.workspace.root / "workers").iterdir()} == {"0", "1"}
    with pytest.raises(MachineError, match=f"builds for {OTHER}"):
        client.run(target(matrix, "3.11", OTHER))

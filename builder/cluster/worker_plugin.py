"""What runs inside a Dask worker: it starts the process that builds a target, passes on what that says, and stops it
when the client says so, or when nobody waits for the result any more.
"""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import IO, Any

from distributed import Worker, WorkerPlugin, get_worker
from pydantic import JsonValue

from builder.cluster.messages import Outcome, WorkerEvent
from builder.cluster.worker_process import LENGTH, STOP
from builder.core.errors import BuilderError, FailureKind, TargetError
from builder.core.process_start import begin

#: The topic of all events; a scheduler keeps the last ones of each topic, so that one for each run would add up.
TOPIC = "torch-npu-builder"
#: Seconds that a build gets to stop its commands before it is killed.
PATIENCE = 30.0
#: Starts ``builder.cluster.worker_process`` with this process's import path, wherever the builder is installed.
_START = (
    "import json, sys; paths = json.loads(sys.argv.pop(1)); sys.path[:] = paths; "
    "from builder.cluster.worker_process import main; main()"
)
_SHOWN = 15

_lock = threading.Lock()
#: Builds at work in this worker by the key of their Dask task, and runs that were stopped.
_running: dict[str, Build] = {}
_stopped: set[str] = set()


def build(packed: bytes, target: str, run: str) -> dict[str, JsonValue]:
    """The Dask task: build one target here and return its outcome. Events go to TOPIC."""
    worker = get_worker()
    key = str(worker.get_current_task())
    attempt = secrets.token_hex(4)

    def tell(event: str, fields: Mapping[str, JsonValue]) -> None:
        told = WorkerEvent(run, target, attempt, worker.address, str(worker.name), event, fields)
        worker.log_event(TOPIC, told.to_json())

    tell("started", {})
    with Build(packed, target, run, attempt) as work:
        with _lock:
            _running[key] = work
            stopped = run in _stopped
        try:
            if stopped:
                work.stop()
            for event, fields in work.events():
                tell(event, fields)
        finally:
            with _lock:
                _running.pop(key, None)
        return {**work.outcome(), "worker": worker.address, "name": str(worker.name)}


def stop(run: str) -> int:
    """Stop what this worker builds for ``run``, and what it would start for it; how many builds there were."""
    with _lock:
        _stopped.add(run)
        found = [work for work in _running.values() if work.run == run]
    for work in found:
        work.stop()
    return len(found)


class Watch(WorkerPlugin):
    """Notices that nobody waits for a task any more: its client is gone, or this worker closes."""

    name = "torch-npu-builder"
    # One for all clients: a second one must not take the first away.
    idempotent = True

    def __init__(self, *, ignore_interrupt: bool = False) -> None:
        self._ignore_interrupt = ignore_interrupt

    def setup(self, worker: Worker) -> None:
        """Called in the worker when it starts, or when the first client comes."""
        begin()
        if self._ignore_interrupt and threading.current_thread() is threading.main_thread():
            # Ctrl-C reaches all processes of a terminal; here the client decides what ends when.
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    def teardown(self, worker: Worker) -> None:
        """The worker closes."""
        with _lock:
            left = list(_running.values())
        for work in left:
            work.abandon()

    def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
        """A task of this worker changed its state."""
        if finish in {"cancelled", "released", "forgotten"}:
            with _lock:
                work = _running.get(str(key))
            if work is not None:
                work.abandon()


class Build:
    """The process that builds a target."""

    def __init__(self, packed: bytes, target: str, run: str, attempt: str) -> None:
        self.run = run
        self._target = target
        self._outcome: dict[str, JsonValue] | None = None
        self._stopping = False
        self._ended = threading.Event()
        self._writing = threading.Lock()
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed by __exit__)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(sys.path), target, attempt],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            start_new_session=True,
        )
        self._write(LENGTH.pack(len(packed)) + packed)

    def __enter__(self) -> Build:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with suppress(OSError):
            self._input.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()
        self._said.close()

    def events(self) -> Iterator[tuple[str, dict[str, JsonValue]]]:
        """What the process tells, as it comes, until it has ended."""
        for line in self._output:
            try:
                said = json.loads(line)
            except ValueError:
                continue  # cut off by a kill
            if "outcome" in said:
                self._outcome = said["outcome"]
            else:
                yield said["event"], said["fields"]

    def outcome(self) -> dict[str, JsonValue]:
        """What became of the target, as it is sent."""
        if self._outcome is not None:
            return self._outcome
        try:
            code = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            code = None
        return Outcome.failed(self._target, self._died(code)).to_json()

    def stop(self) -> None:
        """Let the process stop its commands and say how far it came; kill it when it does not."""
        if not self._stopping:
            self._write(STOP)
        self._kill_later()

    def abandon(self) -> None:
        """Nobody waits any more: let the process stop its commands and end."""
        with self._writing, suppress(OSError):
            self._input.close()
        self._kill_later()

    def _kill_later(self) -> None:
        if self._stopping:
            return
        self._stopping = True

        def kill() -> None:
            if not self._ended.wait(PATIENCE):
                self._process.kill()

        threading.Thread(target=kill, name=f"stop {self._target}", daemon=True).start()

    def _write(self, data: bytes) -> None:
        # A process that has ended already tells more by how it ended.
        with self._writing, suppress(OSError, ValueError):
            self._input.write(data)
            self._input.flush()

    def _died(self, code: int | None) -> BuilderError:
        if self._stopping:
            return TargetError("interrupted", kind=FailureKind.INTERRUPTED)
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").splitlines()[-_SHOWN:]
        how = "hangs" if code is None else f"was killed by signal {-code}" if code < 0 else f"ended with {code}"
        killed = code is None or code < 0
        return TargetError(
            f"the builder on the worker {how}",
            # A kill comes from outside (too little memory, a reboot); an end of its own is a defect.
            kind=FailureKind.ENGINE if killed else FailureKind.INTERNAL,
            details="\n".join(lines) or None,
        )

    @property
    def _input(self) -> IO[bytes]:
        assert self._process.stdin is not None  # noqa: S101  (a pipe was asked for)
        return self._process.stdin

    @property
    def _output(self) -> IO[bytes]:
        assert self._process.stdout is not None  # noqa: S101  (a pipe was asked for)
        return self._process.stdout

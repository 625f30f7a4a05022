"""A scheduler and workers for tests, as machines of a cluster have them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

distributed = pytest.importorskip("distributed")


class Machines:
    """A scheduler and workers, each in a process group of its own."""

    def __init__(self, folder: Path, *certificates: str) -> None:
        self.folder = folder
        self.certificates = certificates
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        place = folder / "scheduler.json"
        self._start(
            "scheduler", "scheduler", "--host=127.0.0.1", "--port=0", "--no-dashboard", f"--scheduler-file={place}"
        )
        wait_until(place.exists)
        wait_until(lambda: place.read_text().endswith("}"))
        self.address = str(json.loads(place.read_text())["address"])

    def add(self, name: str, resources: str, *, threads: int = 1, **env: str) -> Machines:
        """Start a worker; give no resources for one that offers nothing."""
        self._start(
            name, "worker", self.address, f"--name={name}", f"--resources={resources}", f"--nthreads={threads}",
            "--no-dashboard", "--memory-limit=0", f"--local-directory={self.folder / name}", **env,
        )  # fmt: skip
        return self

    def ready(self, *names: str) -> Machines:
        """Wait until these workers, and no others, are there."""
        with distributed.Client(self.address, set_as_default=False) as client:
            wait_until(lambda: {w["name"] for w in self._workers(client).values()} == set(names))
        return self

    def pid(self, name: str) -> int:
        """The process that runs tasks for a worker; its nanny starts another one when it dies."""
        with distributed.Client(self.address, set_as_default=False) as client:
            address = next(address for address, w in self._workers(client).items() if w["name"] == name)
            return int(client.run(os.getpid, workers=[address])[address])

    def kill(self, name: str) -> None:
        """Kill a worker with its nanny, as when a machine dies."""
        worker = self.pid(name) if name != "scheduler" else None
        process = self.processes.pop(name)
        process.kill()
        if worker is not None:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        for process in reversed(self.processes.values()):
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def workspace(self, name: str) -> Path:
        return self.folder / name / "build"

    def _workers(self, client: Any) -> dict[str, Any]:
        return dict(client.scheduler_info(n_workers=-1)["workers"])

    def _start(self, name: str, *arguments: str, **env: str) -> None:
        place = self.folder / name
        place.mkdir(parents=True, exist_ok=True)
        with open(self.folder / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "dask", *arguments, *self.certificates],
                cwd=place,
                env={**os.environ, "BUILDER_WORKSPACE": str(self.workspace(name)), **env},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.1)

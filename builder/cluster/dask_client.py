"""The Dask cluster as a run uses it: connecting, who is there, sending targets out, hearing of them, stopping them."""

from __future__ import annotations

import gc
import ipaddress
import logging
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from builder.cluster.messages import Outcome, WorkerEvent
from builder.core.errors import BuilderError, FailureKind, MachineError, RequestError, TargetError

#: Seconds in which a scheduler must answer.
TIMEOUT = 10
INSTALL = "pip install 'distributed>=2025.4.1' 'cryptography>=42'"
#: Hears of an event of a worker.
Listener = Callable[[WorkerEvent], None]


@dataclass(frozen=True)
class Machine:
    """A worker: ``offers`` are the targets at once that it takes, by architecture."""

    address: str
    name: str
    offers: Mapping[str, int]

    def __str__(self) -> str:
        what = ", ".join(f"{arch}={count}" for arch, count in sorted(self.offers.items()))
        named = f"{self.name} ({self.address})" if self.name != self.address else self.address
        return f"{named}: {what or 'no architecture'}"


class WorkersLostError(TargetError):
    """Dask gave a target up, because worker after worker was lost over it."""


class Ticket:
    """A target that was given to the cluster. Dask's own classes are hardly typed; they stay in this module."""

    def __init__(self, future: Any) -> None:
        self._future = future

    def when_done(self, call: Callable[[], object]) -> None:
        """Have ``call`` called, in a thread of the connection's own, when it ended somehow."""
        self._future.add_done_callback(lambda _future: call())

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._future.cancel()

    def outcome(self) -> Outcome:
        """What the worker returned. Raises BuilderError where it returned nothing."""
        return _outcome(self._future)


class Cluster:
    """A connection to a scheduler."""

    def __init__(self, client: Any, place: str, *, ignore_interrupt: bool = False) -> None:
        self.place = place
        self._client = client
        self._ignore_interrupt = ignore_interrupt
        self._listener: Listener | None = None
        self._attached = True

    @property
    def lost(self) -> bool:
        """True when the scheduler went away and did not come back."""
        return bool(self._client.status == "closed")

    def listen(self, listener: Listener) -> None:
        """Hand all events of workers to ``listener``, in a thread of the connection's own; it may not wait for long."""
        self._listener = listener
        self._attach()

    def machines(self) -> dict[str, Machine] | None:
        """The workers that are there, by address; None while the scheduler cannot be asked."""
        if self._client.status != "running":
            self._attached = False
            return None
        try:
            if not self._attached:
                self._attach()
            workers = self._client.scheduler_info(n_workers=-1)["workers"]
        except (OSError, TimeoutError):
            return None
        return {address: _machine(address, values) for address, values in workers.items()}

    def send(
        self, packed: bytes, *, run: str, target: str, arch: str, key: str, priority: int, only: Sequence[str] | None
    ) -> Ticket:
        """Give a target to a worker that offers ``arch``; ``only`` these addresses may have it."""
        from builder.cluster import worker_plugin

        future = self._client.submit(
            worker_plugin.build,
            packed,
            target,
            run,
            key=key,
            resources={arch: 1},
            workers=None if only is None else list(only),
            priority=priority,
            pure=False,
        )
        return Ticket(future)

    def stop(self, run: str) -> None:
        """Have every worker stop what it builds for ``run``."""
        from builder.cluster import worker_plugin

        with suppress(Exception):  # a worker that is gone builds nothing
            self._client.run(worker_plugin.stop, run, on_error="ignore")

    def _attach(self) -> None:
        from builder.cluster import worker_plugin

        assert self._listener is not None  # noqa: S101  (listen has been called)
        listener = self._listener
        self._client.register_plugin(worker_plugin.Watch(ignore_interrupt=self._ignore_interrupt))
        self._client.subscribe_topic(worker_plugin.TOPIC, lambda event: _hear(event[1], listener))
        self._attached = True


def _hear(told: object, listener: Listener) -> None:
    # The scheduler keeps what builders of other versions told their clients.
    with suppress(ValueError):
        listener(WorkerEvent.from_json(told))


def _outcome(future: Any) -> Outcome:
    from distributed import CancelledError, KilledWorker

    try:
        return Outcome.from_json(future.result())
    except KilledWorker as error:
        raise WorkersLostError(
            f"it was lost with its worker again and again, the last one {error.last_worker.name}",
            kind=FailureKind.ENGINE,
            hint="see on those machines why their workers end (memory, a reboot); other targets are not affected",
        ) from None
    except CancelledError:
        raise TargetError("the scheduler lost it", kind=FailureKind.ENGINE) from None
    except BuilderError:
        raise
    except (ImportError, AttributeError) as error:
        raise MachineError(
            f"the worker cannot run the builder: {error}",
            hint="install the same version of the builder and of its packages on all machines (docs/cluster.md)",
        ) from None
    except Exception as error:
        raise TargetError(f"the worker failed: {type(error).__name__}: {error}", kind=FailureKind.INTERNAL) from error


@contextmanager
def connected(scheduler: str) -> Iterator[Cluster]:
    """The cluster whose scheduler listens at ``scheduler`` (``tcp://host:8786``; ``tls://`` by Dask's configuration).

    Raises RequestError for what is no address, MachineError when nothing answers there within TIMEOUT seconds.
    """
    distributed = _distributed()
    _check_address(scheduler)
    with _quiet():
        client, reason = None, ""
        try:
            client = distributed.Client(scheduler, timeout=TIMEOUT, name="torch-npu-builder", set_as_default=False)
        except (OSError, TimeoutError, ValueError, TypeError, RuntimeError, ImportError) as error:
            # Dask begins with "in <the connector's class at its address>".
            reason = re.sub(r"in <[^>]*>: ", "", " ".join(str(error.__cause__ or error).split()))
        if client is None:
            # Half-made clients end in a finaliser, which takes the lock under which a next one starts its thread:
            # collected in that thread, the two wait for each other. So it is collected here, and no traceback holds it.
            gc.collect()
            raise MachineError(
                f"the scheduler {scheduler} does not answer: {reason}",
                hint="start it ('dask scheduler'), or correct the address, the firewall or (tls://) the certificates",
            )
        with client:
            yield Cluster(client, scheduler)


def without_tls(scheduler: str) -> bool:
    """True for the address of a scheduler on another machine that is spoken to in plain text."""
    from distributed.comm.addressing import parse_address, parse_host_port

    scheme, place = parse_address(scheduler)
    host, _ = parse_host_port(place)
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:
        found = set()
    here = bool(found) and all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)
    return scheme in ("tcp", "ws") and not here


def _check_address(scheduler: str) -> None:
    from distributed.comm.addressing import parse_address, parse_host_port
    from distributed.comm.registry import get_backend

    try:
        scheme, place = parse_address(scheduler, strict=True)
        get_backend(scheme)
        host, _ = parse_host_port(place)
    except ValueError:
        host = ""
    if not host:
        raise RequestError(
            f"--scheduler: {scheduler!r} is not the address of a scheduler",
            hint="it is what 'dask scheduler' prints, such as tcp://10.0.0.1:8786",
        )


@contextmanager
def local_cluster(folder: Path, arch: str, workers: int) -> Iterator[Cluster]:
    """A cluster of ``workers`` processes on this machine, each with a workspace of its own below ``folder``."""
    distributed = _distributed()
    from builder.cluster.worker_process import OUTPUT_VARIABLE, OWN_OUTPUT, WORKSPACE_VARIABLE

    try:
        # Whoever reaches a scheduler may run anything as its user: certificates of this run keep other users out.
        security = distributed.Security.temporary()
    except ImportError as error:
        raise MachineError(
            f"--engine dask on one machine needs a package that cannot be imported: {error}", hint=INSTALL
        ) from error
    shared = {
        "host": "127.0.0.1",
        "protocol": "tls://",
        "security": security,
        "dashboard": False,
        # Without an address of its own, each would offer its status to everybody.
        "dashboard_address": "127.0.0.1:0",
    }

    def options(number: int) -> dict[str, Any]:
        place = folder / str(number)
        place.mkdir(parents=True, exist_ok=True)
        return {
            "name": f"local-{number}",
            "nthreads": 1,
            "resources": {arch: 1},
            "memory_limit": 0,
            **shared,
            "local_directory": str(place),
            "silence_logs": logging.CRITICAL,
            "env": {WORKSPACE_VARIABLE: str(place), OUTPUT_VARIABLE: str(place / OWN_OUTPUT)},
        }

    with (
        _quiet(),
        distributed.SpecCluster(
            scheduler={"cls": distributed.Scheduler, "options": {**shared, "port": 0}},
            workers={number: {"cls": distributed.Nanny, "options": options(number)} for number in range(workers)},
            silence_logs=logging.CRITICAL,
            security=security,
        ) as processes,
        distributed.Client(processes, timeout=TIMEOUT, set_as_default=False) as client,
    ):
        yield Cluster(client, "on this machine", ignore_interrupt=True)


def _machine(address: str, values: Mapping[str, Any]) -> Machine:
    threads = int(values["nthreads"])
    offers = {str(name): min(int(count), threads) for name, count in values["resources"].items()}
    return Machine(address, str(values["name"]), offers)


def _distributed() -> Any:
    """The package. It is optional, and hardly typed."""
    try:
        return import_module("distributed")
    except ImportError as error:
        raise MachineError(
            f"--engine dask needs the package distributed, which cannot be imported: {error}", hint=INSTALL
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's own log off the terminal; what a person should know, the builder says."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)

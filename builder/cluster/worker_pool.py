"""The workers of a run: who is there, who gets targets, and what a person is told of those who are missing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from builder.cluster.dask_client import Cluster, Machine
from builder.core.errors import MachineError
from builder.progress.reporter import Reporter

#: Seconds in which workers may still join a cluster that is being started.
GATHERING = 10.0
#: Seconds without a worker of an architecture after which a person is told.
WARN_AFTER = 30.0
#: Seconds for which a worker that lacks something gets no more targets, where others can take them.
REST = 600.0


class WorkerPool:
    """The workers as last seen. One thread asks and looks."""

    def __init__(self, cluster: Cluster, reporter: Reporter) -> None:
        self._cluster = cluster
        self._reporter = reporter
        self._machines: Mapping[str, Machine] = {}
        self._resting: dict[str, float] = {}
        self._missing: dict[str, float] = {}
        self._warned: set[str] = set()

    def gather(self, architectures: Sequence[str]) -> None:
        """Wait a little until every architecture has a worker. Raises MachineError where one has none."""
        until = time.monotonic() + GATHERING
        while True:
            self._machines = self._cluster.machines() or {}
            missing = [arch for arch in architectures if not self._able(arch)]
            if not missing or time.monotonic() >= until:
                break
            time.sleep(0.2)
        if missing:
            raise MachineError(
                f"no worker of the cluster {self._cluster.place} builds for {' or '.join(missing)}; {self._offered()}",
                hint=f"start one: dask worker SCHEDULER --resources '{missing[0]}=1'",
                details="\n".join(str(machine) for machine in self._machines.values()) or None,
            )

    def look(self, architectures: Sequence[str]) -> bool:
        """See who is there; False where that cannot be found out now.

        Raises MachineError when the scheduler went away for good.
        """
        machines = self._cluster.machines()
        if machines is None:
            if self._cluster.lost:
                raise MachineError(
                    f"the scheduler {self._cluster.place} went away",
                    hint="start it and its workers again, then run the same command: what is finished stands",
                )
            return False
        self._machines = machines
        now = time.monotonic()
        for arch in architectures:
            if self._able(arch):
                self._missing.pop(arch, None)
                self._warned.discard(arch)
            elif now - self._missing.setdefault(arch, now) > WARN_AFTER and arch not in self._warned:
                self._warned.add(arch)
                self._reporter.warning(
                    f"no worker builds for {arch} any more ({self._offered()}); waiting for one, Ctrl-C ends the run"
                )
        return True

    def has(self, address: str) -> bool:
        """True where this worker is there."""
        return address in self._machines

    def capacity(self, arch: str) -> int:
        """How many targets of an architecture are built at once."""
        return sum(machine.offers[arch] for machine in self._good(arch))

    def choice(self, arch: str) -> tuple[str, ...] | None:
        """The workers that may have the next target; None for any that offers the architecture."""
        good = self._good(arch)
        return None if len(good) == len(self._able(arch)) else tuple(machine.address for machine in good)

    def let_rest(self, address: str, arch: str) -> bool:
        """Give a worker that lacks something no more targets for a while; False where there is no other one."""
        self._resting[address] = time.monotonic() + REST
        return any(self._rested(machine) for machine in self._able(arch))

    def _able(self, arch: str) -> list[Machine]:
        return [machine for machine in self._machines.values() if machine.offers.get(arch, 0) > 0]

    def _good(self, arch: str) -> list[Machine]:
        """Those that do not rest; all where all do."""
        able = self._able(arch)
        return [machine for machine in able if self._rested(machine)] or able

    def _rested(self, machine: Machine) -> bool:
        return self._resting.get(machine.address, 0.0) < time.monotonic()

    def _offered(self) -> str:
        if not self._machines:
            return "no worker is connected to it"
        offered = sorted({arch for machine in self._machines.values() for arch in machine.offers})
        return f"its workers offer {', '.join(offered) or 'no architecture'}"

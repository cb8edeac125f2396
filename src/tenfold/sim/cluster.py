"""Replicas behind a router, and traffic that comes to them, in the order of their times."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from heapq import heappop, heappush
from itertools import islice
from math import inf

from tenfold.core.config import SchedulerConfig
from tenfold.core.errors import ConfigError
from tenfold.core.memory import no_collection
from tenfold.core.slo import NO_SLO, Slo
from tenfold.cost.machine import Machine
from tenfold.sim.call import Call
from tenfold.sim.outcome import Outcome
from tenfold.sim.replica import Replica
from tenfold.sim.routing import make_router
from tenfold.traffic.row import Row

_TOLD_EVERY = 1000  # requests between reports of progress


class Cluster:
    """``count`` equal replicas. Rows come at their times, or, with ``users``, each when one before it has ended.

    ``since``: see :class:`~tenfold.sim.replica.Replica`.
    """

    def __init__(
        self,
        machine: Machine,
        config: SchedulerConfig,
        *,
        count: int = 1,
        router: str = "least-work",
        slo: Slo = NO_SLO,
        seed: int = 0,
        coasting: bool = True,
        since: float | None = None,
    ) -> None:
        if count < 1:
            raise ConfigError(f"a cluster has at least one replica, not {count}")
        self.replicas = [
            Replica(machine, config, self._ended, seed=seed * 1009 + at, coasting=coasting, since=since)
            for at in range(count)
        ]
        self._router = make_router(router, self.replicas, slo)
        self._outcome = Outcome(slo)
        self._pending: list[tuple[float, int]] = []  # a heap of when replicas go on; some are out of date
        self._users: Iterator[Row] | None = None
        self._asked: list[Row] = []  # what users ask next
        self._now = 0.0
        self._calls = 0

    def run(
        self,
        rows: Iterable[Row],
        *,
        users: int | None = None,
        progress: Callable[[int, float], None] | None = None,
    ) -> Outcome:
        """All of the rows; their times must not fall. ``progress`` is told requests ended, and simulated seconds."""
        coming = iter(rows)
        if users is not None:
            self._users = coming
            coming = iter([replace(row, at=0.0) for row in islice(self._users, users)])
        with no_collection():  # nothing here refers to itself in a circle
            self._play(coming, progress)
        self._outcome.close(self._now, sum(replica.scheduler.busy_seconds for replica in self.replicas))
        self._outcome.steps = sum(replica.steps for replica in self.replicas)
        return self._outcome

    def _play(self, coming: Iterator[Row], progress: Callable[[int, float], None] | None) -> None:
        replicas, pending, told = self.replicas, self._pending, 0
        row = next(coming, None)
        while True:
            while pending and replicas[pending[0][1]].next != pending[0][0]:
                heappop(pending)
            arrives = row.at if row is not None else inf
            if not pending and row is None:
                break
            if pending and pending[0][0] <= arrives:
                self._now, at = heappop(pending)
                replicas[at].advance()
                if replicas[at].next < inf:
                    heappush(pending, (replicas[at].next, at))
            else:
                assert row is not None
                self._now = max(self._now, arrives)
                self._submit(row)
                row = next(coming, None)
            while self._asked:  # by users whose answer has just ended
                self._submit(self._asked.pop())
            if progress is not None and self._outcome.count - told >= _TOLD_EVERY:
                told = self._outcome.count
                progress(told, self._now)
        if progress is not None:
            progress(self._outcome.count, self._now)

    def _submit(self, row: Row) -> None:
        call = Call(self._calls, row, self._now)
        self._calls += 1
        call.replica = self._router.choose(call)
        replica = self.replicas[call.replica]
        before = replica.next
        replica.submit(call, self._now)
        if replica.next != before:
            heappush(self._pending, (replica.next, call.replica))

    def _ended(self, call: Call) -> None:
        self._router.ended(call)
        self._outcome.add(call)
        if self._users is not None and (row := next(self._users, None)) is not None:
            self._asked.append(row)

"""Putting a workload on a target: a closed loop of users, or arrivals that wait for nobody."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from tenfold.bench.record import Record
from tenfold.bench.target import Target
from tenfold.bench.workload import WARM_UP_OUTPUT, Work, from_rows, make_workload, warm_up
from tenfold.core.clock import Clock, WallClock
from tenfold.core.errors import ConfigError, EngineUnavailable
from tenfold.traffic.arrivals import gamma
from tenfold.traffic.row import Row

Ask = Callable[[Work], Coroutine[Any, Any, None]]

_LOST = 8  # requests in a row that reached nobody: the target is gone


@dataclass(frozen=True, slots=True)
class Load:
    """Requests of a workload or a trace: by ``users`` at a time, or at ``times`` (seconds from the start) where those
    are given. ``told`` says how it was made, for the report."""

    workload: str
    work: tuple[Work, ...]
    warm: tuple[Work, ...]
    seed: int
    users: int | None = None
    times: tuple[float, ...] | None = None
    told: Mapping[str, Any] = field(default_factory=dict)

    def rows(self) -> list[Row]:
        """The requests without their text."""
        return [one.row(at) for one, at in zip(self.work, self.times or (0.0,) * len(self.work), strict=True)]

    @property
    def rate(self) -> float | None:
        """Requests per second that arrive, on average; None for a closed loop, and where all come at once."""
        return len(self.times) / self.times[-1] if self.times is not None and self.times[-1] > 0 else None


def closed(workload: str, count: int = 64, users: int = 16, seed: int = 7) -> Load:
    """``count`` requests by ``users``, each of whom asks again when answered. Raises ConfigError."""
    if count < 1 or users < 1:
        raise ConfigError("a load needs at least one request and one user")
    work = make_workload(workload, count, seed)
    return Load(workload, tuple(work), tuple(warm_up(workload, seed)), seed, users=users)


def at_random(workload: str, count: int, rate: float, seed: int = 7, *, burstiness: float = 1.0) -> Load:
    """``count`` requests, ``rate`` per second: at random (``burstiness`` 1), in bursts (more), like a clock (0).

    Times are stretched so that just this rate comes. Raises ConfigError.
    """
    if count < 1:
        raise ConfigError("a load needs at least one request")
    if not 0 < rate < float("inf"):
        raise ConfigError(f"--rate must be above 0 requests per second, got {rate:g}")
    if not 0 <= burstiness < float("inf"):
        raise ConfigError(f"--burstiness must be 0 or more, got {burstiness:g}")
    drawn = list(islice(gamma(rate, burstiness, seed), count))
    times = tuple(at * count / rate / drawn[-1] for at in drawn)
    told = {"rate": rate, "burstiness": burstiness}
    work = make_workload(workload, count, seed)
    return Load(workload, tuple(work), tuple(warm_up(workload, seed)), seed, times=times, told=told)


def among_classes(load: Load, text: str) -> Load:
    """The same with its requests shared out at random among SLO classes. Raises ConfigError."""
    shares = shares_of(text)
    drawn = random.Random(load.seed).choices(list(shares), list(shares.values()), k=len(load.work))
    work = tuple(replace(one, slo_class=name) for one, name in zip(load.work, drawn, strict=True))
    return replace(load, work=work, told={**load.told, "classes": shares})


def shares_of(text: str) -> dict[str, float]:
    """``interactive=2,batch=1`` as numbers. Raises ConfigError."""
    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = (piece.strip() for piece in part.partition("="))
        try:
            shares[name] = float(share or 1)
        except ValueError:
            shares[name] = 0.0
        if not name or not 0 < shares[name] < float("inf"):
            raise ConfigError(f"--classes: {part!r} is not understood; write it as interactive=2,batch=1")
    return shares


def replayed(name: str, rows: Sequence[Row], seed: int = 7, told: Mapping[str, Any] | None = None) -> Load:
    """The requests of a trace, at its times."""
    work = from_rows(rows, "trace", seed)
    warm = tuple(Work(one.kind, one.prompt[: 200 + i], WARM_UP_OUTPUT, bare=True) for i, one in enumerate(work[:2]))
    times = tuple(row.at for row in rows)
    return Load(name, tuple(work), warm, seed, times=times, told=told or {})


@dataclass(frozen=True, slots=True)
class Outcome:
    """All records in order of their end, and the seconds from the first start to the last end.

    ``partial`` says why not all requests were made.
    """

    load: Load
    records: tuple[Record, ...]
    wall: float
    partial: str | None = None


class _Run:
    """One load on its way."""

    def __init__(self, target: Target, on_record: Callable[[Record], None] | None) -> None:
        self._target = target
        self._on_record = on_record
        self._lost = 0
        self.records: list[Record] = []
        self.gone: str | None = None  # why, once nobody answers any more

    async def ask(self, item: Work) -> None:
        record = await self._target.ask(item)
        self._lost = self._lost + 1 if record.unreached else 0
        self.records.append(record)
        if self._lost == _LOST and self.gone is None:
            self.gone = record.error
        if self._on_record is not None:
            self._on_record(record)


async def run_load(
    target: Target, load: Load, *, on_record: Callable[[Record], None] | None = None, clock: Clock | None = None
) -> Outcome:
    """Warm up, then put the load on a started target. Raises EngineUnavailable when the warm-up already fails."""
    clock = clock or WallClock()
    for record in await asyncio.gather(*(target.ask(one) for one in load.warm)):
        if record.error is not None:
            raise EngineUnavailable(f"the first request failed: {record.error}")
    run = _Run(target, on_record)
    began = clock.now()
    if load.times is None:
        await _closed(load.work, load.users or 1, run)
    else:
        await _open(load.work, load.times, run, clock)
    partial = None
    if run.gone is not None:
        partial = f"nobody answered after {len(run.records)} of {len(load.work)} requests: {run.gone}"
    return Outcome(load, tuple(run.records), clock.now() - began, partial)


async def _closed(work: Sequence[Work], users: int, run: _Run) -> None:
    waiting = iter(work)

    async def user() -> None:
        for item in waiting:
            if run.gone is not None:
                return
            await run.ask(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(users, len(work))):
            group.create_task(user())


async def _open(work: Sequence[Work], times: Sequence[float], run: _Run, clock: Clock) -> None:
    began = clock.now()
    async with asyncio.TaskGroup() as group:
        for item, at in zip(work, times, strict=True):
            await asyncio.sleep(max(0.0, began + at - clock.now()))
            if run.gone is not None:
                return
            group.create_task(run.ask(item))

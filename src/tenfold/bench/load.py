"""Putting a workload on a target: a closed loop of users, or arrivals that wait for nobody."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from tenfold.bench.record import Record
from tenfold.bench.target import Target
from tenfold.bench.workload import Work, arrivals, make_workload, warm_up
from tenfold.core.clock import Clock, WallClock
from tenfold.core.errors import ConfigError, EngineUnavailable

Ask = Callable[[Work], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Load:
    """``count`` requests of a workload: by ``users`` at a time, or at ``rate`` per second where that is given."""

    workload: str = "mixed"
    count: int = 64
    users: int = 16
    rate: float | None = None
    seed: int = 7

    def __post_init__(self) -> None:
        if self.count < 1 or self.users < 1:
            raise ConfigError("a load needs at least one request and one user")
        if self.rate is not None and not 0 < self.rate < float("inf"):
            raise ConfigError(f"--rate must be above 0 requests per second, got {self.rate:g}")


@dataclass(frozen=True, slots=True)
class Outcome:
    """All records in order of their end, and the seconds from the first start to the last end."""

    load: Load
    records: tuple[Record, ...]
    wall: float


async def run_load(
    target: Target, load: Load, *, on_record: Callable[[Record], None] | None = None, clock: Clock | None = None
) -> Outcome:
    """Warm up, then put the load on a started target. Raises EngineUnavailable when the warm-up already fails."""
    clock = clock or WallClock()
    work = make_workload(load.workload, load.count, load.seed)
    for record in await asyncio.gather(*(target.ask(one) for one in warm_up(load.workload, load.seed))):
        if record.error is not None:
            raise EngineUnavailable(f"the first request failed: {record.error}")
    records: list[Record] = []

    async def one(item: Work) -> None:
        record = await target.ask(item)
        records.append(record)
        if on_record is not None:
            on_record(record)

    began = clock.now()
    if load.rate is None:
        await _closed(work, load.users, one)
    else:
        await _open(work, load.rate, load.seed, one, clock)
    return Outcome(load, tuple(records), clock.now() - began)


async def _closed(work: Sequence[Work], users: int, one: Ask) -> None:
    waiting = iter(work)

    async def user() -> None:
        for item in waiting:
            await one(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(users, len(work))):
            group.create_task(user())


async def _open(work: Sequence[Work], rate: float, seed: int, one: Ask, clock: Clock) -> None:
    began = clock.now()
    async with asyncio.TaskGroup() as group:
        for item, at in zip(work, arrivals(rate, seed), strict=False):
            await asyncio.sleep(max(0.0, began + at - clock.now()))
            group.create_task(one(item))

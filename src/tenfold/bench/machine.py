"""Measuring a machine for simulations: an engine is started, calibrates itself, and serves a short load."""

import asyncio
from collections.abc import Callable

from tenfold.bench.engine_target import EngineTarget
from tenfold.bench.load import closed, run_load
from tenfold.core.errors import EngineUnavailable
from tenfold.cost.machine import Machine
from tenfold.engine.client import EngineClient
from tenfold.engine.inspection import KEPT

# Both phases, few and many at a time: workload, requests, users.
_LOADS = (("mixed", 16, 4), ("chat", 64, 16))
_PATIENCE = 60.0  # seconds for the calibration
_LOOKS = 0.25  # seconds between looks at it


async def measure_machine(
    engine: EngineClient, target: EngineTarget, advance: Callable[[str], None], seed: int = 7
) -> Machine:
    """What a simulation must know of a started engine; ``advance`` is told of each request. Takes half a minute.

    Raises EngineUnavailable where it does not come to an end.
    """
    await until_calibrated(engine)
    for workload, count, users in _LOADS:
        outcome = await run_load(target, closed(workload, count, users, seed), on_record=lambda _: advance("measuring"))
        failed = next((record.error for record in outcome.records if record.error is not None), None)
        if failed is not None:
            raise EngineUnavailable(f"a request failed while the machine was measured: {failed}")
    return (await engine.inspect(KEPT)).learned()


async def until_calibrated(engine: EngineClient) -> None:
    """Wait for a started engine to know its step times. Raises EngineUnavailable where it does not come to that."""
    for _ in range(int(_PATIENCE / _LOOKS)):
        if (await engine.inspect()).calibrated:
            return
        await asyncio.sleep(_LOOKS)
    raise EngineUnavailable("the engine has not measured its steps: is the machine busy with other work?")


REQUESTS = sum(count for _, count, _ in _LOADS)

"""Laps, and Python's share of a decode step of a running engine. Nothing here is timed against a bound."""

import asyncio
from pathlib import Path

import pytest

from tenfold.core.clock import VirtualClock
from tenfold.core.config import EngineConfig, SchedulerConfig
from tenfold.core.errors import ConfigError
from tenfold.core.laps import NO_LAPS, ClockedLaps
from tenfold.core.plan import SequenceSlice, StepPlan
from tenfold.engine.local import LocalEngine
from tenfold.engine.process import EngineProcess
from tenfold.profile.engine import PARTS, EngineShare, engine_share
from tenfold.profile.engine_report import as_json, table
from tests.model.tiny import write_byte_level


def plan(*counts: int) -> StepPlan:
    return StepPlan(tuple(SequenceSlice(str(i), 0, (1,) * n, (0,), True) for i, n in enumerate(counts)))


def test_laps_leave_no_gap() -> None:
    clock = VirtualClock()
    laps = ClockedLaps(clock)
    clock.advance(5)
    laps.skip()  # idle
    clock.advance(1)
    laps.lap("commands")  # outside of any step
    for counts, seconds in (((3, 1), 2), ((1, 1), 4), ((1, 1), 8)):
        clock.advance(seconds)
        laps.step(plan(*counts))
        laps.lap("schedule")
        clock.advance(16)
        laps.lap("forward")
    clock.advance(32)
    laps.lap("commands")
    clock.advance(64)
    laps.skip()
    laps.lap("commands")
    assert laps.totals() == {
        "prefill": {"steps": 1, "schedule": 2, "forward": 16},
        "decode 2": {"steps": 2, "schedule": 12, "forward": 32, "commands": 32},
    }


def test_nothing_is_recorded_unless_asked_for() -> None:
    NO_LAPS.step(plan(1))
    NO_LAPS.lap("forward")
    NO_LAPS.skip()
    assert NO_LAPS.totals() == {}


def check(share: EngineShare, batch: int) -> None:
    assert share.batch == batch
    assert share.steps > 0
    assert tuple(share.parts) == PARTS
    assert all(seconds > 0 for seconds in share.parts.values())
    assert 0 < share.python < 1
    assert share.client > 0


def config(path: Path, **changes: object) -> EngineConfig:
    return EngineConfig(model=str(path), threads=1, kv_tokens=2048, **changes)  # type: ignore[arg-type]


def test_the_engine_in_its_own_process(tmp_path: Path) -> None:
    async def scenario() -> list[EngineShare]:
        engine = EngineProcess(config(write_byte_level(tmp_path / "tiny.gguf"), profile=True))
        try:
            info = await engine.start()
            return [await engine_share(engine, info, batch, repeats=2) for batch in (1, 5)]
        finally:
            await engine.stop()

    shares = asyncio.run(scenario())
    check(shares[0], 1)
    check(shares[1], 5)
    report = as_json(shares, "tiny")
    for found in report["decode"]:
        assert sum(part["share"] for part in found["parts"].values()) == pytest.approx(1)
    assert [column.header for column in table(shares, "tiny").columns][:2] == ["part", "batch 1, µs"]


def test_batches_that_never_run_together(tmp_path: Path) -> None:
    async def scenario(settings: EngineConfig) -> None:
        engine = LocalEngine(settings)
        try:
            await engine_share(engine, await engine.start(), 3, repeats=1)
        finally:
            await engine.stop()

    path = write_byte_level(tmp_path / "tiny.gguf")
    with pytest.raises(ConfigError, match="no step decoded 3 sequences at once"):
        asyncio.run(scenario(config(path, profile=True, scheduler=SchedulerConfig(max_running=2))))

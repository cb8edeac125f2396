"""Calibration: steps measured while the engine is idle, over the fake model and a clock that moves as told."""

import random
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import pytest

from tenfold.cache.manager import CacheManager
from tenfold.core.clock import VirtualClock
from tenfold.core.config import CacheConfig, SchedulerConfig
from tenfold.core.plan import StepPlan, StepResult
from tenfold.core.request import EngineRequest, RequestOutput
from tenfold.core.sampling import SamplingParams
from tenfold.cost.estimate import StepCost
from tenfold.cost.record import CostRecord
from tenfold.cost.shape import Attention, StepShape, shape_of
from tenfold.engine import loop
from tenfold.engine.calibration import Calibration
from tenfold.engine.core import EngineCore
from tenfold.engine.wire import Command, Look, Outputs, Report, Stop
from tenfold.sched.scheduler import Scheduler
from tests.cost.test_cost import cpu, traffic, worst
from tests.helpers.engines import VOCAB, ChainExecutor, LetterVocabulary

LIMITS = SchedulerConfig(max_step_tokens=512, max_running=64)
ATTENTION = Attention((0,))


class Bench:
    """A core over the fake model whose steps take as long as ``machine`` says."""

    def __init__(
        self,
        machine: Callable[[StepShape], float],
        blocks: int = 400,
        record: CostRecord | None = None,
        known: StepCost | None = None,
    ) -> None:
        self.clock = VirtualClock()
        self.cache = CacheManager(CacheConfig(blocks, 16))
        self.inner = ChainExecutor(blocks, 16)
        self.machine = machine
        self.steps: list[float] = []
        self.cost = known or StepCost()
        self.core = EngineCore(
            Scheduler(LIMITS, self.cache, self.cost, ATTENTION),
            self.cache,
            self,
            LetterVocabulary(),
            self.clock,
            2048,
            VOCAB,
            calibration=Calibration(
                self.cache, self, self.cost, ATTENTION, self.clock, LIMITS, 2048, brief=known is not None
            ),
            record=record,
        )

    def execute(self, plan: StepPlan) -> StepResult:
        if plan.slices:
            self.steps.append(self.machine(shape_of(plan, ATTENTION)))
            self.clock.advance(self.steps[-1])
        return self.inner.execute(plan)

    def calibrate(self, most: int = 1000) -> None:
        while self.core.calibrating and most:
            self.core.calibrate()
            self.core.check()
            most -= 1

    def submit(self, name: str) -> None:
        params = SamplingParams(max_tokens=9, seed=5)
        self.core.submit(EngineRequest(id=name, prompt_ids=(3,) * 40, params=params, arrival=self.clock.now()))

    def run(self) -> list[RequestOutput]:
        outputs = []
        while not self.core.idle:
            outputs += self.core.step()
            self.core.check()
        return outputs


def test_gives_a_cost_model_and_leaves_no_trace() -> None:
    bench = Bench(cpu)
    bench.calibrate()
    assert not bench.core.calibrating
    assert worst(bench.cost, cpu, traffic(random.Random(1), 300)) < 0.15
    assert sum(bench.steps) < 5.0
    assert bench.cache.pool.free == bench.cache.pool.blocks
    assert not bench.inner.seeds


@pytest.mark.parametrize("after", [0, 1, 5, 20])
def test_a_request_comes_first(after: int) -> None:
    alone, bench = Bench(cpu), Bench(cpu)
    alone.submit("r")
    expected = alone.run()
    bench.calibrate(after)
    bench.submit("r")
    assert bench.cache.pool.held == 0
    assert [o.tokens for o in bench.run()] == [o.tokens for o in expected]
    assert bench.core.calibrating
    bench.calibrate()
    assert worst(bench.cost, cpu, traffic(random.Random(2), 300)) < 0.15
    assert bench.cache.pool.held == 0


@pytest.mark.parametrize("blocks", [1, 2, 5, 40])
def test_small_pools_do(blocks: int) -> None:
    bench = Bench(cpu, blocks)
    bench.calibrate()
    assert not bench.core.calibrating
    assert bench.cache.pool.free == blocks


def test_a_slow_machine_is_not_kept_busy() -> None:
    bench = Bench(lambda shape: 50 * cpu(shape))
    bench.calibrate()
    assert not bench.core.calibrating
    assert sum(bench.steps) < 2.0
    assert max(bench.steps) < 0.5


def test_closing_midway_leaves_no_trace() -> None:
    bench = Bench(cpu)
    bench.calibrate(7)
    bench.core.close()
    assert bench.cache.pool.held == 0


def test_only_what_a_calibration_stands_behind_is_kept(tmp_path: Path) -> None:
    """Else the next start would not calibrate, and know one kind of step alone."""
    record = CostRecord(tmp_path, ("model",))
    bench = Bench(cpu, record=record)
    for i in range(40):
        bench.submit(f"r{i}")
        bench.run()
    assert bench.cost.observed > 300
    bench.core.close()
    assert record.load() is None
    bench.calibrate()
    kept = record.load()
    assert kept is not None
    for i in range(40):
        bench.submit(f"s{i}")
        bench.run()
    bench.core.close()
    assert record.load() not in (None, kept)


def test_the_loop_calibrates_once_it_has_been_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "HEARTBEAT", 0.001)
    bench, inbox = Bench(cpu), SimpleQueue[Command]()
    begun: list[float] = []

    class Ticking:
        def now(self) -> float:
            bench.clock.advance(0.1)
            if bench.steps and not begun:
                begun.append(bench.clock.now())
            return bench.clock.now()

    def report(_: Report) -> None:
        if not bench.core.calibrating:
            inbox.put(Stop())

    loop.run_loop(bench.core, inbox, report, Ticking())
    assert begun[0] >= loop.QUIET
    assert not bench.core.calibrating
    assert worst(bench.cost, cpu, traffic(random.Random(1), 300)) < 0.15


def test_who_looks_at_it_all_the_time_does_not_keep_it_from_calibrating(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dashboard that is open, say."""
    monkeypatch.setattr(loop, "HEARTBEAT", 0.001)
    bench, inbox, looks = Bench(cpu), SimpleQueue[Command | None](), 0

    class Ticking:
        def now(self) -> float:
            bench.clock.advance(0.1)
            return bench.clock.now()

    def report(message: Report) -> None:
        nonlocal looks
        if not isinstance(message, Outputs):
            looks += 1
            inbox.put(Stop() if looks == 1000 or not bench.core.calibrating else Look(str(looks)))

    inbox.put(Look("first"))
    loop.run_loop(bench.core, inbox, report, Ticking())
    assert not bench.core.calibrating


def test_what_is_known_is_only_adjusted_to_the_machine_of_today() -> None:
    before = Bench(cpu)
    before.calibrate()
    today = Bench(lambda shape: 0.5 * cpu(shape), known=StepCost(before.cost.fit))
    today.calibrate()
    assert not today.core.calibrating
    assert sum(today.steps) < 0.5
    assert today.cost.drift == pytest.approx(0.5, rel=0.1)
    assert worst(today.cost, lambda shape: 0.5 * cpu(shape), traffic(random.Random(1), 300)) < 0.2
    assert today.cache.pool.free == today.cache.pool.blocks

"""A scheduler over a machine that is a formula: hours of traffic in seconds, no model."""

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from tenfold.cache.manager import CacheManager
from tenfold.core.config import CacheConfig, Policy, SchedulerConfig
from tenfold.core.plan import SampledToken, SequenceSlice, SequenceStart, StepPlan, StepResult
from tenfold.core.request import EngineRequest, Timeline
from tenfold.core.sampling import SamplingParams
from tenfold.core.slo import DEFAULT_CLASSES, NO_SLO, Slo, SloClass, with_slo
from tenfold.cost.estimate import StepCost
from tenfold.cost.shape import Attention, StepShape, shape_of
from tenfold.sched.scheduler import Scheduler
from tenfold.sched.sequence import FailEvent, Submission, TokenEvent
from tenfold.sched.terms import TermsOf
from tenfold.spec.proposer import Proposer
from tests.cost.test_cost import cpu, traffic

ATTENTION = Attention((0,))
BALANCED = Policy()
Machine = Callable[[StepShape], float]


def calibrated(machine: Machine) -> StepCost:
    cost = StepCost()
    cost.settle([(s, machine(s)) for s in traffic(random.Random(7), 80)])
    return cost


class Server:
    """A scheduler whose steps take as long as ``machine`` says. ``slo`` is that of the class ``standard``. With
    ``overlap`` a step is planned as soon as the one before begins, if it can be."""

    def __init__(
        self,
        slo: Slo = NO_SLO,
        machine: Machine = cpu,
        blocks: int = 4000,
        *,
        classes: tuple[SloClass, ...] = DEFAULT_CLASSES,
        policy: Policy = BALANCED,
        max_step_tokens: int = 512,
        max_running: int = 64,
        max_waiting: int = 10_000,
        proposers: Sequence[Proposer] = (),
        draft_model: bool = False,
        accepts: Callable[[SequenceSlice], int] = lambda part: 0,
        overlap: bool = False,
        **limits: object,
    ) -> None:
        self.overlap = overlap
        self.under_way: deque[tuple[StepPlan, StepShape]] = deque()
        self.ahead = 0  # steps that were planned before the one before them had ended
        self.now = 0.0
        self.machine = machine
        self.cost = calibrated(machine)
        self.config = config = SchedulerConfig(
            max_step_tokens,
            max_running,
            max_waiting,
            classes=with_slo(classes, "standard", slo) if slo.bounded else classes,
            policy=policy,
            **limits,  # type: ignore[arg-type]
        )
        self.terms_of = TermsOf(config)
        self.cache = CacheManager(CacheConfig(blocks, 16))
        self.scheduler = Scheduler(config, self.cache, self.cost, ATTENTION, proposers, draft_model=draft_model)
        self.accepts = accepts  # how many of a slice's drafted tokens are right
        self.times: dict[str, list[float]] = {}
        self.arrived: dict[str, float] = {}
        self.timelines: dict[str, Timeline] = {}
        self.failed: dict[str, FailEvent] = {}
        self.steps: list[tuple[StepShape, float]] = []

    def configure(self, **changes: object) -> None:
        self.config = replace(self.config, **changes)  # type: ignore[arg-type]
        self.terms_of = TermsOf(self.config)
        self.scheduler.configure(self.config)

    def add(
        self,
        name: str,
        prompt: int | Sequence[int],
        outputs: int,
        *,
        salt: str | None = None,
        after: str | None = None,
        **terms: object,
    ) -> None:
        ids = tuple(range(prompt)) if isinstance(prompt, int) else tuple(prompt)
        params = SamplingParams(max_tokens=outputs)
        request = EngineRequest(id=name, prompt_ids=ids, params=params, arrival=self.now, **terms)  # type: ignore[arg-type]
        submission = Submission(
            SequenceStart(name, ids, params, 0, ()),
            self.now,
            len(ids) + outputs,
            frozenset(),
            salt=name if salt is None else salt,
            after=after,
            terms=self.terms_of(request),
        )
        self.scheduler.add(submission, self.now)
        self.arrived[name] = self.now

    def step(self) -> StepPlan | None:
        for event in self.scheduler.expire(self.now):
            self.failed[event.id] = event
        if not self.under_way:
            self.plan(self.scheduler.schedule)
        if not self.under_way:
            return None
        if self.overlap:
            self.plan(self.scheduler.schedule_ahead)
            self.ahead += len(self.under_way) == 2
        plan, shape = self.under_way.popleft()
        self.steps.append((shape, self.machine(shape)))
        self.now += self.steps[-1][1]
        samples = tuple(
            SampledToken(part.id, 1)
            for part in plan.slices
            if part.sample
            for _ in range(1 + min(self.accepts(part), part.drafted + part.asked))
        )
        for event in self.scheduler.apply(plan, StepResult(samples), self.now):
            assert isinstance(event, TokenEvent)
            self.times.setdefault(event.id, []).extend([self.now] * len(event.samples))
            if event.finish:
                assert event.timeline is not None
                self.timelines[event.id] = event.timeline
        self.scheduler.check()
        return plan

    def plan(self, schedule: Callable[[float], StepPlan | None]) -> None:
        plan = schedule(self.now)
        if plan is None:
            return
        shape, seen = shape_of(plan, ATTENTION), self.scheduler.shape
        assert (shape.rows, shape.sequences, shape.sampled) == (seen.rows, seen.sequences, seen.sampled)
        keys = shape.decode_keys, shape.prefill_keys, shape.draft_keys
        assert keys == pytest.approx((seen.decode_keys, seen.prefill_keys, seen.draft_keys))
        self.under_way.append((plan, shape))

    def run(self, until: float = float("inf")) -> None:
        while self.now < until and self.step() is not None:
            pass

    def ttft(self, name: str) -> float:
        return self.times[name][0] - self.arrived[name]

    def tpot(self, name: str) -> float:
        times = self.times[name]
        return (times[-1] - times[0]) / (len(times) - 1)

"""One engine, simulated: its scheduler and cache; a step takes what the cost model says, times a ratio drawn from those
that were seen on the machine, times how slow it was in that second of the record. The scheduler's own cost model
follows that as it follows real steps.

Where nothing is to be decided for a while, because all that runs is in decode, many steps are made at once
(``sched.coasting``): what comes of them is the same.
"""

import random
from bisect import bisect_right
from collections.abc import Callable
from functools import cache, partial
from math import floor, inf

from tenfold.cache.manager import CacheManager
from tenfold.cache.worth import LeastWorth
from tenfold.core.config import CacheConfig, SchedulerConfig
from tenfold.core.errors import TenfoldError
from tenfold.core.plan import SampledToken, SequenceStart, StepPlan, StepResult
from tenfold.core.request import EngineRequest
from tenfold.core.sampling import SamplingParams
from tenfold.cost.machine import KINDS, Machine, kind_of
from tenfold.sched.forecast import Forecast
from tenfold.sched.scheduler import Scheduler
from tenfold.sched.sequence import Event, FailEvent, Submission, TokenEvent
from tenfold.sched.terms import TermsOf
from tenfold.sim.call import Call
from tenfold.sim.drafts import SimulatedDrafts

_TOKEN = 0  # that every step gives every sequence: what is generated is not simulated
_MOST = 128  # steps made at once
_NEVER = inf

Report = Callable[[Call], None]


class Replica:
    """``report`` is told of each call once it has ended. ``coasting`` False makes every step by itself. The machine's
    spells begin ``since`` seconds after the first; at a random one where that is left out."""

    def __init__(
        self,
        machine: Machine,
        config: SchedulerConfig,
        report: Report,
        *,
        seed: int = 0,
        coasting: bool = True,
        since: float | None = None,
    ) -> None:
        self.machine = machine
        self.cost = machine.cost()
        attention = machine.attention
        self._forecast = Forecast(self.cost, attention, config.max_step_tokens)
        self.cache = CacheManager(
            CacheConfig(machine.blocks, machine.block_size),
            partial(LeastWorth, cost=self._forecast.again),
        )
        self._drafts: SimulatedDrafts | None = None
        if machine.drafts is not None and config.speculation.mode != "off":
            self._drafts = SimulatedDrafts(machine.drafts, seed)
        proposers = () if self._drafts is None else (self._drafts,)
        self.scheduler = Scheduler(config, self.cache, self.cost, attention, proposers)
        self.next = _NEVER  # when the step in work, or the last of several, ends
        self.steps = 0
        self.held = 0.0  # of the KV blocks, at most
        self._terms_of = TermsOf(config)
        self._report = report
        self._ratios = [machine.ratios_of(kind) for kind in range(KINDS)]
        self._random = random.Random(seed)
        self._paces = [machine.drift * spell for spell in machine.spells or (1.0,)]  # by second, over and over
        self._since = self._random.randrange(len(self._paces)) if since is None else since
        self._coasting = coasting and self._drafts is None
        self._calls: dict[str, Call] = {}
        self.prefill = 0.0  # seconds of prompts whose first token has not come
        self._plan: StepPlan | None = None
        self._began = 0.0
        self._ends: list[float] = []  # of steps that are made at once,
        self._fitted = 0.0  # what the step in work, or the first of those, takes by the fit,
        self._slope = 0.0  # and each of those more than the one before

    @property
    def calls(self) -> int:
        """Those that have not ended."""
        return len(self._calls)

    def submit(self, call: Call, now: float) -> None:
        """A request comes. It is reported at once where it is refused."""
        if self._ends:
            self._stop_coasting(now)
        row = call.row
        params = _params(row.outputs)
        ids = call.prompt_ids()
        request = EngineRequest(
            id=call.name, prompt_ids=ids, params=params, arrival=now, tenant=row.tenant, slo_class=row.slo_class or None
        )
        try:
            terms = self._terms_of(request)
            call.slo_class = terms.slo_class.name
            submission = Submission(
                SequenceStart(call.name, ids, params, 0, ()),
                now,
                len(ids) + row.outputs,
                frozenset(),
                salt=row.tenant,
                terms=terms,
            )
            if len(ids) + row.outputs > self.machine.max_context:
                call.refuse("context")
            else:
                self.scheduler.add(submission, now)
                self._calls[call.name] = call
                call.work = self._forecast.prefill(0, len(ids))
                self.prefill += call.work
        except TenfoldError as error:
            call.refuse(str(error))
        if call.error is not None:
            self._report(call)
        elif self._plan is None and not self._ends:
            self._begin(now)

    def advance(self) -> None:
        """What was to happen at ``next`` happens."""
        now = self.next
        if self._ends:
            for ended in self._coast(len(self._ends)):
                self._take(ended, now)
        else:
            assert self._plan is not None
            samples = tuple([SampledToken(part.id, _TOKEN) for part in self._plan.slices if part.sample])
            if self._drafts is not None:
                samples = tuple(
                    [
                        SampledToken(part.id, _TOKEN)
                        for part in self._plan.slices
                        if part.sample
                        for _ in range(1 + self._drafts.accepted(part.id, part.drafted))
                    ]
                )
            self.steps += 1
            self.cost.follow(self._fitted, now - self._began)
            for event in self.scheduler.apply(self._plan, StepResult(samples), now):
                self._take(event, now)
        self._begin(now)

    def _begin(self, now: float) -> None:
        """The next step begins, or several, if there is anything to do."""
        scheduler = self.scheduler
        for event in scheduler.expire(now):
            self._take(event, now)
        if self._coasting and (steps := min(scheduler.coasting.steps(now), _MOST)) > 0:
            self._began, self._plan = now, None
            self._foresee(now, steps)
            if self._ends:
                self.next = self._ends[-1]
                return
        self._plan = scheduler.schedule(now)
        self._hold(self.cache.pool.held)
        scheduler.preempted.clear()
        self.next = _NEVER
        if self._plan is not None:
            fitted = self.cost.fitted(scheduler.shape)
            ratios = self._ratios[kind_of(scheduler.shape)]
            seconds = fitted * self._pace(now) * ratios[int(self._random.random() * len(ratios))]
            self.next, self._began, self._fitted = now + seconds, now, fitted

    def _foresee(self, now: float, steps: int) -> None:
        """When so many steady steps end; none that begins after a request is given up, or in a second when the machine
        is as fast as it is not now."""
        shape, more = self.scheduler.coasting.shape()
        fitted, until, pace = self.cost.fitted(shape), self.scheduler.coasting.until(now), self._pace(now)
        if len(self._paces) > 1:
            until = min(until, floor(now + self._since) + 1 - self._since)
        self._fitted, self._slope = fitted, self.cost.fitted(shape.with_keys(more)) - fitted
        seconds, slope = pace * fitted, pace * self._slope
        ends, ratios, draw = [], self._ratios[kind_of(shape)], self._random.random
        count = len(ratios)
        for _ in range(steps):
            if now >= until:
                break
            now += seconds * ratios[int(draw() * count)]
            ends.append(now)
            seconds += slope
        self._ends = ends

    def _pace(self, now: float) -> float:
        """How many times as long as the fit says steps take now, but for their ratio."""
        return self._paces[floor(now + self._since) % len(self._paces)]

    def _coast(self, steps: int) -> list[TokenEvent]:
        """So many of those steps have ended. Returns what is to be told of calls that ended with the last."""
        ends, began = self._ends[:steps], self._began
        self.cost.follow(self._fitted + self._slope * (steps - 1) / 2, (ends[-1] - began) / steps, steps)
        self.steps += steps
        self._ends, self._began = self._ends[steps:], ends[-1]
        self._fitted += self._slope * steps
        events = self.scheduler.coasting.make(ends, began, _TOKEN)
        self._hold(self.scheduler.coasting.held)
        return events

    def _hold(self, blocks: int) -> None:
        self.held = max(self.held, blocks / self.cache.pool.blocks)

    def _stop_coasting(self, now: float) -> None:
        """Somebody comes in: of the steps that are made at once, the one of this moment is the last."""
        done = min(bisect_right(self._ends, now), len(self._ends) - 1)
        if done:
            self._coast(done)
        self._ends = self._ends[:1]
        self.next = self._ends[0]
        self.scheduler.coasting.interrupt(self._began)

    def _take(self, event: Event, now: float) -> None:
        if isinstance(event, FailEvent):
            call = self._calls.pop(event.id)
            self.prefill -= call.work
            call.refuse(event.error)
        else:
            call = self._calls[event.id]
            if call.first is None:
                call.first = now
                self.prefill -= call.work
            if event.finish is None:
                return
            del self._calls[event.id]
            call.end(now, event.timeline)
        self._report(call)


@cache
def _params(outputs: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=outputs, ignore_eos=True)

"""Steps under way, and what is learned of each when it has ended."""

from collections import deque
from dataclasses import dataclass

from tenfold.cache.manager import CacheManager
from tenfold.core.clock import Clock
from tenfold.core.plan import StepPlan, StepResult
from tenfold.engine.inspection import Step, StepLog
from tenfold.exec.executor import Executor, Launched, OneByOne, Overlapping
from tenfold.sched.scheduler import Scheduler

_IDLE = 0.05  # seconds without a step that are no gap between two: there was nothing to do


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A step that was launched."""

    plan: StepPlan
    step: Step
    launched: Launched


class Steps:
    """Owner of the steps under way: one, or with an executor that ``overlaps`` also the next, in their order.

    Of one that computes while it is waited for, a step lasts until the next one begins: what it gave has to be sent,
    and nothing is computed meanwhile. Otherwise from its launch, or the end of the step before if that came later, to
    its own end: what the host does meanwhile takes nobody's time.
    """

    def __init__(self, executor: Executor, scheduler: Scheduler, cache: CacheManager, clock: Clock) -> None:
        self.overlaps = isinstance(executor, Overlapping)
        self._executor = executor if isinstance(executor, Overlapping) else OneByOne(executor)
        self._scheduler = scheduler
        self._cache = cache
        self._clock = clock
        self._flights: deque[UnderWay] = deque()
        self._last: Step | None = None  # that has ended, but lasts until the next one begins
        self._ended = 0.0  # when it had
        self.log = StepLog()
        self.count = 0
        self.seconds = 0.0  # of all, without what was between them

    def __bool__(self) -> bool:
        return bool(self._flights)

    @property
    def first(self) -> UnderWay:
        """The one that is waited for next."""
        return self._flights[0]

    def planned(self, plan: StepPlan, now: float) -> Step:
        """What is to be known of the plan that was made last; it was begun ``now``."""
        shape = self._scheduler.shape
        prefill = plan.prefill_tokens if shape.prefill_keys else 0
        return Step(shape, now, self._scheduler.cost.predict(shape), prefill, plan.drafted_tokens)

    def launch(self, plan: StepPlan, step: Step) -> None:
        """Hand it to the executor."""
        if self.overlaps:
            step.began = self._clock.now()
            gap = step.began - self._ended
            if not self._flights and gap < _IDLE and (speculation := self._scheduler.speculation) is not None:
                speculation.waited(gap)
        self._flights.append(UnderWay(plan, step, self._executor.launch(plan)))

    def wait(self) -> StepResult:
        """What the first one gives, once it does."""
        began = self._clock.now()
        result = self.first.launched.result()
        now, step = self._clock.now(), self.first.step
        if self.overlaps:
            step.began, self._ended = max(step.began, self._ended), now
            began = step.began
        step.computing = now - began
        step.accepted = self.first.plan.accepted(result) if step.drafted else 0
        return result

    def close(self, now: float) -> None:
        """The first one is applied, and its outputs are made."""
        step = self._flights.popleft().step
        self.count += 1
        if self.overlaps:
            self.seconds += step.computing
            self._learn(step, step.computing)
            return
        self.seconds += now - step.began
        self._last = step
        if self._scheduler.idle:  # else it lasts until the next one begins
            self.begin(now)

    def begin(self, now: float) -> None:
        """The next step begins now, if there is one: so long the last one has lasted."""
        if self._last is not None:
            self._learn(self._last, now - self._last.began)
            self._last = None

    def _learn(self, step: Step, seconds: float) -> None:
        scheduler, step.seconds = self._scheduler, seconds
        step.running, step.waiting, step.held = scheduler.running, scheduler.waiting, self._cache.pool.held
        scheduler.cost.observe(step.shape, seconds)
        self.log.add(step)

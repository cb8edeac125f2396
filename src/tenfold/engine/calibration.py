"""Steps that are made to be measured, one at a time, while the engine has nothing else to do."""

from collections.abc import Iterable, Iterator

from tenfold.cache.manager import CacheManager
from tenfold.core.clock import Clock
from tenfold.core.config import SchedulerConfig
from tenfold.core.plan import SequenceSlice, SequenceStart, StepPlan
from tenfold.core.sampling import SamplingParams
from tenfold.cost.estimate import StepCost
from tenfold.cost.shape import Attention, StepShape, shape_of
from tenfold.exec.executor import Executor

_LONGEST = 0.25  # seconds: a step expected to take longer is not made, for a request may come in meanwhile
_BUDGET = 4.0  # seconds of all measured steps
_CHUNKS = (16, 32, 64, 128, 256)  # that the first, long sequence is computed in
_SHORT = 32  # tokens that all others begin with
_MOST = 64  # sequences
_REPEATS = 3  # steps of each kind
_DRAFTS = (1, 3, 7, 15)  # tokens drafted for each sequence
_ASKED = (1, 4)  # likewise, by a draft model
_GREEDY = SamplingParams(temperature=0.0, max_tokens=1)


class Calibration:
    """Owner of a few sequences of its own while it lasts; their blocks come from the cache, as all others'.

    ``brief``: step times are known from an earlier start, and only how fast the machine is today is measured.
    """

    def __init__(
        self,
        cache: CacheManager,
        executor: Executor,
        cost: StepCost,
        attention: Attention,
        clock: Clock,
        limits: SchedulerConfig,
        max_context: int,
        *,
        brief: bool = False,
        draft_model: bool = False,
    ) -> None:
        self._cache = cache
        self._executor = executor
        self._cost = cost
        self._attention = attention
        self._clock = clock
        self._limits = limits
        self._max_context = max_context
        self.brief = brief
        self._draft_model = draft_model
        self._lengths: dict[str, int] = {}  # tokens computed, by sequence
        self._started: set[str] = set()  # those that the executor knows
        self._measured: list[tuple[StepShape, float]] = []
        self._trial = StepCost()  # what is known so far, of which the engine's knows nothing until all is measured
        self._plans: Iterator[StepPlan] | None = None
        self._counts = True  # whether the step that is made next is measured
        self.done = False

    @property
    def running(self) -> bool:
        """Whether it has begun, and so may hold blocks."""
        return self._plans is not None

    def step(self) -> None:
        """Make and measure the next step; after the last one it is done, and its blocks are free."""
        if self._plans is None:
            self._plans = self._all()
        plan = next(self._plans, None)
        if plan is None:
            if self.brief:
                self._cost.rebase(self._measured)
            else:
                self._cost.settle(self._measured)
            self.done = True
            self.stop()
            return
        began = self._clock.now()
        self._executor.execute(plan)
        seconds = self._clock.now() - began
        if self._counts:
            self._measured.append((shape_of(plan, self._attention), seconds))
        self._started.update(start.id for start in plan.started)
        for part in plan.slices:
            self._lengths[part.id] += len(part.tokens) - part.drafted

    def stop(self) -> None:
        """Free the blocks. If it was not done, the next step begins anew."""
        if self._plans is None:
            return
        self._plans, self._counts = None, True
        self._measured.clear()
        self._trial = StepCost()
        self._executor.execute(StepPlan((), (), tuple(self._started)))
        for sequence in self._lengths:
            self._cache.close(sequence)
        self._lengths.clear()
        self._started.clear()

    def _all(self) -> Iterator[StepPlan]:
        """Prefill of one sequence, chunk by chunk; then decode of ever more, with drafts, and beside a chunk."""
        long = self._open(1)
        for chunk in _CHUNKS:
            yield from self._plan((sequence, chunk) for sequence in long)
            self._trial.settle(self._measured)
        sequences = long
        while sequences:
            for _ in range(_REPEATS):
                yield from self._plan((sequence, 1) for sequence in sequences)
            self._trial.settle(self._measured)
            if self.brief:
                return
            for drafted in _DRAFTS:
                for self._counts in (False, True):  # the first one of its size waits for memory
                    yield from self._plan(((sequence, 1) for sequence in sequences), drafted)
            if self._draft_model:
                for asked in _ASKED:
                    for self._counts in (False, True):
                        yield from self._plan(((sequence, 1) for sequence in sequences), asked=asked)
            more = self._open(min(len(sequences), min(self._limits.max_running, _MOST) - len(sequences)))
            if not more or sum(seconds for _, seconds in self._measured) > _BUDGET:
                return
            together = max(1, self._limits.max_step_tokens // _SHORT)
            for first in range(0, len(more), together):
                yield from self._plan((sequence, _SHORT) for sequence in more[first : first + together])
            sequences = [*sequences, *more]
            yield from self._plan([(more[-1], _SHORT), *((sequence, 1) for sequence in sequences[:-1])])

    def _open(self, count: int) -> list[str]:
        """New sequences, fewer where the pool has no block for them."""
        opened = []
        for _ in range(count):
            sequence = f"calibration {len(self._lengths)}"
            self._cache.open(sequence, (), salt="calibration")
            self._lengths[sequence] = 0
            if not self._cache.reserve(sequence, _SHORT):
                break
            opened.append(sequence)
        return opened

    def _plan(self, wanted: Iterable[tuple[str, int]], drafted: int = 0, asked: int = 0) -> Iterator[StepPlan]:
        """A step of so many new tokens of each sequence, and ``drafted`` or ``asked`` ones, unless there is no room for
        it or it would take too long."""
        slices = [part for sequence, new in wanted if (part := self._slice(sequence, new, drafted, asked)) is not None]
        started = [part.id for part in slices if part.id not in self._started]
        plan = StepPlan(tuple(slices), tuple(SequenceStart(id, (0,), _GREEDY, 0, ()) for id in started))
        if not slices or plan.tokens > self._limits.max_step_tokens:
            return
        if self._measured and self._trial.predict(shape_of(plan, self._attention)) > _LONGEST:
            return
        yield plan

    def _slice(self, sequence: str, new: int, drafted: int, asked: int) -> SequenceSlice | None:
        start, end = self._lengths[sequence], self._lengths[sequence] + new + drafted + asked
        if end > self._max_context or not self._cache.reserve(sequence, end):
            return None
        blocks = self._cache.blocks(sequence)
        tokens = (0,) * (new + drafted)
        return SequenceSlice(sequence, start, tokens, blocks, sample=True, drafted=drafted, asked=asked)

"""Many steps at once, for simulation: while all that runs is in decode, and nobody who waits could get a place, a step
decides nothing. The scheduler is then as it would be had each been planned and applied by itself."""

import math
from collections.abc import Callable
from collections.abc import Sequence as Many

from tenfold.cache.manager import CacheManager
from tenfold.core.plan import SampledToken
from tenfold.core.request import Timeline
from tenfold.cost.estimate import StepCost
from tenfold.cost.shape import Attention, StepShape
from tenfold.sched.bill import Bill
from tenfold.sched.expiries import Expiries
from tenfold.sched.forecast import Forecast, Load
from tenfold.sched.places import Places
from tenfold.sched.queue import WaitingQueue
from tenfold.sched.sequence import Sequence, TokenEvent
from tenfold.sched.siblings import Siblings
from tenfold.sched.tenants import OUTPUT_CHARGE, Tenants


class Coasting:
    """Looks at the scheduler's parts, and moves them on."""

    def __init__(
        self,
        places: Places,
        queue: WaitingQueue,
        siblings: Siblings,
        tenants: Tenants,
        cache: CacheManager,
        cost: StepCost,
        attention: Attention,
        load: Load,
        forecast: Forecast,
        bill: Bill,
        expiries: Expiries,
        end: Callable[[Sequence, float], Timeline | None],
    ) -> None:
        self._places = places
        self._running = places.running
        self._queue = queue
        self._siblings = siblings
        self._tenants = tenants
        self._cache = cache
        self._cost = cost
        self._attention = attention
        self._load = load
        self._forecast = forecast
        self._bill = bill
        self._expiries = expiries
        self._end = end
        self.held = 0  # blocks, before those that ended in the last of the steps made let go of theirs
        self._backlog: bool | None = None  # whether timely ones wait, and waited when the step under way began

    def until(self, now: float) -> float:
        """Until when steady steps may begin: no later than when one that waits is given up, or takes another's
        place."""
        until = self._places.closed_until(now) if self._queue else math.inf
        return min(until, self._expiries.first)

    def steps(self, now: float) -> int:
        """How many steps from ``now`` on would only give each running sequence its next token, the last one perhaps the
        last of some: there is nothing to decide, blocks for all, and each step has as many keys more."""
        if not self._running or self._siblings or (self._queue and self._places.closed_until(now) <= now):
            return 0
        steps: float = 1 << 30
        for s in self._running:
            left = s.longest - len(s.tokens)
            if left < steps:
                steps = left
            if len(s.tokens) - s.computed != 1 or s.first_token is None or s.computed < s.reached:
                return 0
            if not self._attention.plain:
                steps = min(steps, self._attention.until_bend(len(s.tokens)))
        cache, blocks = self._cache, self._cache.pool.available
        many = int(steps)
        while sum(cache.missing(s.id, s.computed + many) for s in self._running) > blocks:
            many //= 2
        return many

    def shape(self) -> tuple[StepShape, float]:
        """The next of those steps, and by how many keys each has more than the one before."""
        shape = StepShape()
        keys, more = self._attention.keys, 0.0
        for s in self._running:
            context = len(s.tokens)
            now = keys(1, context)
            shape.add(1, now, sample=True)
            more += keys(1, context + 1) - now
        return shape, more

    def interrupt(self, began: float) -> None:
        """Somebody comes during the step that began then: take its blocks, and tell those who make promises what its
        plan would have told. The first time in a step; whoever comes later in it finds that done."""
        if self._backlog is not None:
            return
        for one in self._running:  # what that evicts is not found by those who come
            self._cache.reserve(one.id, one.computed + 1)
        load, closed = self._load, self._places.closed_until(began) > began
        load.full = load.capped = closed
        load.decode = self._cost.predict(self.shape()[0])
        self._backlog = closed and self._queue.timely > 0

    def make(self, ends: Many[float], began: float, token: int) -> list[TokenEvent]:
        """Make as many steady steps as there are ``ends``, all at once: the first one began at ``began``, and
        each sequence gets ``token`` in each. Returns what is to be told of those that have ended."""
        steps, step, last, now = len(ends), self._load.step, began, ends[-1]
        for end in ends:
            step += 0.1 * (end - last - step)
            last = end
        self._load.step = step
        if self._queue.timely if self._backlog is None else self._backlog:
            self._forecast.progress(0.0, now - began)
        self._backlog = None
        self._tenants.tick(now)
        self._bill.steps(self._running, steps, began, now)
        self._fill(steps, token)
        self.held = self._cache.pool.held
        events: list[TokenEvent] = []
        for sequence in tuple(self._running):
            sequence.tokens.append(token)
            sequence.computed = sequence.reached = sequence.computed + 1
            self._tenants.charge(sequence.terms.tenant, OUTPUT_CHARGE * steps)
            self._cache.commit(sequence.id, sequence.tokens, sequence.computed)
            if len(sequence.tokens) >= sequence.longest:
                got, timeline = (SampledToken(sequence.id, token),), self._end(sequence, now)
                events.append(TokenEvent(sequence.id, got, "length", None, sequence.cached, sequence.queued, timeline))
        return events

    def _fill(self, steps: int, token: int) -> None:
        """Take blocks for so many steps, and move all on by all of them but the last, which may end some. Blocks are
        taken and full ones told of in the order of the steps, so that the same are given up and found."""
        size = self._cache.block_size
        events: list[tuple[int, bool, int]] = []  # step, whether a block is full (after those taken), whose
        for at, one in enumerate(self._running):
            done = one.computed
            one.tokens += [token] * (steps - 1)
            events += [(step, False, at) for step in range(1 + -done % size, steps + 1, size)]
            events += [(step, True, at) for step in range(size - done % size, steps, size)]
        for step, full, at in sorted(events):
            one = self._running[at]
            if full:
                self._cache.commit(one.id, one.tokens, one.computed + step)
            else:
                reserved = self._cache.reserve(one.id, one.computed + step)
                assert reserved, "steps() counted blocks that are not there"
        for one in self._running:
            one.computed += steps - 1

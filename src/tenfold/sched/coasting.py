"""Many steps at once, for simulation: while all that runs is in decode, and nobody who waits could get a place, a step
decides nothing. The scheduler is then as it would be had each been planned and applied by itself."""

import math
from collections.abc import Sequence as Many

from tenfold.cache.manager import CacheManager
from tenfold.cost.shape import Attention, StepShape
from tenfold.sched.bill import Bill
from tenfold.sched.expiries import Expiries
from tenfold.sched.forecast import Forecast, Load
from tenfold.sched.places import Places
from tenfold.sched.queue import WaitingQueue
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
        attention: Attention,
        load: Load,
        forecast: Forecast,
        bill: Bill,
        expiries: Expiries,
    ) -> None:
        self._places = places
        self._running = places.running
        self._queue = queue
        self._siblings = siblings
        self._tenants = tenants
        self._cache = cache
        self._attention = attention
        self._load = load
        self._forecast = forecast
        self._bill = bill
        self._expiries = expiries

    def until(self, now: float) -> float:
        """Until when steady steps may begin: no later than when one that waits is given up, or takes another's
        place."""
        until = self._places.closed_until(now) if self._queue else math.inf
        return min(until, self._expiries.first)

    def steps(self, now: float) -> int:
        """How many steps from ``now`` on would only give each running sequence its next token, if no token ends one:
        there is nothing to decide, blocks for all, and each step has as many keys more."""
        if not self._running or self._siblings or (self._queue and self._places.closed_until(now) <= now):
            return 0
        steps: float = 1 << 30
        for s in self._running:
            left = s.submission.max_length - len(s.tokens) - 1
            if left < steps:
                steps = left
            if len(s.tokens) - s.computed != 1 or s.first_token is None or s.computed < s.reached or left <= 0:
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

    def make(self, ends: Many[float], began: float, token: int) -> None:
        """Make as many steady steps as there are ``ends``, all at once: the first one began at ``began``, and
        each sequence gets ``token`` in each."""
        steps, step, last, now = len(ends), self._load.step, began, ends[-1]
        for end in ends:
            step += 0.1 * (end - last - step)
            last = end
        self._load.step = step
        if self._queue.timely:
            self._forecast.progress(0.0, now - began)
        self._tenants.tick(now)
        self._bill.steps(self._running, steps, began, now)
        for sequence in self._running:
            sequence.tokens += [token] * steps
            computed = sequence.computed + steps
            sequence.computed = sequence.reached = computed
            self._tenants.charge(sequence.terms.tenant, OUTPUT_CHARGE * steps)
            reserved = self._cache.reserve(sequence.id, computed)
            assert reserved, "steps() counted blocks that are not there"
            self._cache.commit(sequence.id, sequence.tokens, computed)

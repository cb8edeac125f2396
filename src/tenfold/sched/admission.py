"""What a new request can be promised; those that cannot be kept are refused when they come."""

import math
from collections import Counter
from collections.abc import Sequence as Many

from tenfold.cache.manager import CacheManager
from tenfold.core.config import SchedulerConfig
from tenfold.core.errors import InvalidRequest, Overloaded
from tenfold.sched.forecast import Forecast, Load
from tenfold.sched.queue import WaitingQueue
from tenfold.sched.sequence import TIMELY, Sequence
from tenfold.sched.tenants import Tenants

_PATIENCE = 8.0  # seconds, divided by its class's weight, that a prompt without a bound lets others go first,
_STRETCH = 3.0  # and so many times its own prefill


class Admission:
    """Gives sequences their place in the order, from their bounds and their work, or refuses them."""

    def __init__(
        self,
        config: SchedulerConfig,
        cache: CacheManager,
        forecast: Forecast,
        queue: WaitingQueue,
        tenants: Tenants,
    ) -> None:
        self._config = config
        self._policy = config.policy
        self._cache = cache
        self._forecast = forecast
        self._queue = queue
        self._tenants = tenants
        self.refused: Counter[str] = Counter()  # by reason

    def configure(self, config: SchedulerConfig) -> None:
        """Other limits for those that come."""
        self._config = config

    def check_limits(self, waiting: int, of_tenant: int, running: int, load: Load) -> None:
        """Raise Overloaded where the queue is full, or its tenant's part of it."""
        if waiting >= self._config.max_waiting:
            self.refused["queue"] += 1
            raise Overloaded(
                f"the queue is full ({self._config.max_waiting} waiting); try again later",
                retry_after=self.drained(running, load),
            )
        most = self._config.max_waiting_per_tenant
        if most is not None and of_tenant >= most:
            self.refused["tenant"] += 1
            raise Overloaded(
                f"this tenant has {most} requests waiting, as many as it may; try again later",
                retry_after=self.drained(running, load),
            )

    def promise(self, sequence: Sequence, running: Many[Sequence], now: float, load: Load) -> None:
        """Set its tier, key and deadline. Raises InvalidRequest or Overloaded."""
        terms, submission = sequence.terms, sequence.submission
        hits = 0 if sequence.anew else self._cache.match(submission.start.prompt_ids, submission.salt)
        sequence.work = work = self._forecast.prefill(hits, sequence.prompt)
        asked, ttft = terms.asked, terms.slo.ttft
        if asked.tpot is not None and asked.tpot < (least := self._forecast.decode(sequence.prompt)):
            raise InvalidRequest(
                f"slo_tpot_ms is {asked.tpot * 1000:g}, less than one step takes here: the fastest that could be "
                f"promised is {_up(least)} ms",
                param="slo_tpot_ms",
            )
        if asked.ttft is not None and asked.ttft < work:
            raise InvalidRequest(
                f"slo_ttft_ms is {asked.ttft * 1000:g}, less than this prompt of {sequence.prompt} tokens takes alone: "
                f"the fastest that could be promised is {_up(work)} ms",
                param="slo_ttft_ms",
            )
        arrival = submission.arrival
        sequence.key = arrival + _PATIENCE / terms.slo_class.weight + _STRETCH * work + terms.priority
        if ttft is None or work > ttft:
            return
        load.came(ttft, now)
        sequence.tier, sequence.deadline = TIMELY, arrival + ttft
        sequence.key = sequence.deadline + terms.priority
        if not terms.slo_class.sheddable or not (running or self._queue):
            return
        predicted = now - arrival + self._wait(sequence, running, load)
        limit = self._policy.admit * ttft
        if predicted > limit:
            self.refused["ttft"] += 1
            raise Overloaded(
                f"the first token is predicted to come after {predicted:.3g} s, too close to the {ttft:.3g} s that are "
                "promised, or beyond them; try again later",
                retry_after=predicted - limit,
            )

    def drained(self, running: int, load: Load) -> float:
        """Seconds until a good part of what waits has begun, roughly."""
        each = self._forecast.outputs(self._config.default_class) * load.step
        return max(1.0, min(60.0, each * max(1, len(self._queue)) / (2 * max(1, running))))

    def _wait(self, sequence: Sequence, running: Many[Sequence], load: Load) -> float:
        """Predicted seconds from now to its first token."""
        timely = [s for s in running if s.tier <= TIMELY and len(s.tokens) - s.computed > 1]
        fresh = self._fresh_rate(running, load)
        if not timely and not self._queue.timely:
            self._forecast.restart(fresh)
        seconds, places = self._queue.before(sequence, timely)
        part = self._tenants.part(sequence.terms.tenant)
        rate = part * (self._forecast.rate if seconds else fresh)
        before = seconds / rate
        weight = sequence.terms.slo_class.weight
        gives_way = any(s.terms.slo_class.preemptible and s.terms.slo_class.weight < weight for s in running)
        if (load.full if part < 1 else load.capped) and not gives_way:  # places become free as answers end
            each = self._forecast.outputs(sequence.terms.slo_class.name) * load.step
            before = max(before, each * (places + 1) / max(1, len(running)))
        return load.step * (0.5 + load.ahead) + before + sequence.work / rate

    def _fresh_rate(self, running: Many[Sequence], load: Load) -> float:
        """Seconds of prefill per second that a prompt with nothing ahead of it gets."""
        if not running:
            return 1.0
        bounds = [s.slo.tpot for s in running if s.slo.tpot is not None and 2 * s.slo.tpot > load.decode]
        if bounds:
            return max(self._policy.least_share, 1 - load.decode / min(bounds))
        chunk = self._forecast.prefill(0, self._config.max_step_tokens)
        return chunk / (chunk + load.decode) if chunk > 0 else 1.0


def _up(seconds: float) -> str:
    """Milliseconds, rounded up to tenths."""
    return f"{math.ceil(seconds * 10_000) / 10:.10g}"

"""Who has a place, who gets one, and who gives it up."""

from bisect import insort
from collections import Counter
from math import inf

from tenfold.cache.manager import CacheManager
from tenfold.core.config import SchedulerConfig
from tenfold.core.plan import SequenceStart
from tenfold.core.request import Preemption
from tenfold.cost.estimate import StepCost
from tenfold.cost.shape import Attention, StepShape
from tenfold.sched.assembly import Assembly
from tenfold.sched.forecast import Forecast, Load
from tenfold.sched.queue import WaitingQueue
from tenfold.sched.sequence import OTHER, TIMELY, Sequence
from tenfold.sched.tenants import Tenants

_PROTECTED = 16  # tokens that a displaced sequence gets before it can be displaced again


class Places:
    """Owner of the running set: the sequences that have KV blocks, at most ``max_running``."""

    def __init__(
        self,
        config: SchedulerConfig,
        cache: CacheManager,
        queue: WaitingQueue,
        tenants: Tenants,
        cost: StepCost,
        attention: Attention,
        forecast: Forecast,
        load: Load,
    ) -> None:
        self._config = config
        self._policy = config.policy
        self._cache = cache
        self._queue = queue
        self._tenants = tenants
        self._cost = cost
        self._attention = attention
        self._forecast = forecast
        self._load = load
        self._weights: dict[str, float] = {}  # of classes, the greatest that any that waits may have
        self._preemptible: Counter[float] = Counter()  # running ones that may be displaced, by weight
        self._owed = 0.0  # places that those that are not timely did not get of their part
        self.running: list[Sequence] = []  # by order of arrival
        self.started: list[SequenceStart] = []  # since this was emptied last
        self.preempted: list[tuple[str, str]] = []  # likewise: ids, and reasons in words
        self.preemptions: Counter[str] = Counter()  # by reason
        self.cached_prompt_tokens = 0
        self.configure(config)

    def configure(self, config: SchedulerConfig) -> None:
        """Other limits and weights of classes; nobody loses a place by that."""
        self._config = config
        for one in config.classes:
            self._weights[one.name] = max(one.weight, self._weights.get(one.name, 0.0))

    def closed_until(self, now: float, ending: int = 0) -> float:
        """Until when nobody who waits can get a place, whoever it is, if nobody comes or leaves but ``ending`` ones:
        all are taken, and none would be given up. ``now`` where that is not so."""
        if len(self.running) - ending < self._config.max_running:
            return now
        if not self._queue.timely or not self._preemptible:
            return inf
        weights = self._weights
        if max(weights[name] for name in self._queue.by_class) <= min(self._preemptible):
            return inf
        return max(now, self._queue.displaces_from)

    def leave(self, sequence: Sequence) -> bool:
        """Take it out and release its blocks; False if it has no place."""
        if sequence not in self.running:
            return False
        self.running.remove(sequence)
        sequence.settle(self._load.held)
        slo_class = sequence.terms.slo_class
        if slo_class.preemptible:
            self._preemptible[slo_class.weight] -= 1
            if not self._preemptible[slo_class.weight]:
                del self._preemptible[slo_class.weight]
        self._tenants.left(sequence.terms.tenant)
        self._cache.close(sequence.id)
        return True

    def admit(self, step: Assembly) -> None:
        """Let waiting sequences in while what is ahead of each does not fill the step.

        Where timely ones do, one that is not may get in for the part that is kept for those.
        """
        fits: int | None = None  # tokens of a prompt
        blocked: float | None = None  # the weight of a returning one that found no room
        passed: set[str] = set()  # tenants that hold many places, for which there are no more
        owed = self._owed >= 1
        now, queue, prefilling = step.now, self._queue, step.prefilling
        while (candidate := queue.next(now, returning=blocked is None, passed=passed)) is not None:
            if blocked is not None and candidate.terms.slo_class.weight <= blocked:
                return
            owes = owed and candidate.urgency[0] == TIMELY
            turn = queue.next(now, others=True, passed=passed) if owes else None
            candidate = turn or candidate
            urgency = candidate.urgency
            ahead = sum(len(s.tokens) - s.computed for s in prefilling if s.urgency <= urgency)
            if ahead and fits is None:
                fits = max(1, step.budget.most(0, step.budget.tokens))
            if fits is not None and ahead >= fits:
                other = queue.next(now, others=True, passed=passed) if urgency[0] == TIMELY else None
                if other is None or any(s.urgency[0] == OTHER and s.urgency <= other.urgency for s in prefilling):
                    return
                candidate = other
            tenant = candidate.terms.tenant
            kept = 0.0 if candidate.returning else self._tenants.kept(tenant)
            if self._enter(candidate, step, kept):
                owed = self._owed >= 1
                continue
            self._load.full = True
            self._load.capped |= not kept
            if kept:
                while self._displace(candidate, step, tenant):
                    if self._enter(candidate, step, 0.0):
                        break
                else:
                    passed.add(tenant)
            elif turn is not None:
                owed = False  # it finds no room yet: timely ones that do need not wait for that
            elif candidate.returning:
                blocked = candidate.terms.slo_class.weight
            elif not self._displace(candidate, step):
                return

    def make_room(self, sequence: Sequence, tokens: int, step: Assembly) -> tuple[bool, bool]:
        """Reserve ``tokens`` positions, preempting those of lower standing as needed, at worst ``sequence`` itself.

        Returns whether there is room now, and whether the step lost a sequence by that. Ahead, nobody is preempted.
        """
        if step.ahead:
            step.wanting = True
            return False, False
        taken = False
        while not self._cache.reserve(sequence.id, tokens):
            lower = [s for s in self.running if s.rank > sequence.rank]
            least = min((s.terms.slo_class.weight for s in lower), default=0.0)
            victim = min((s for s in lower if s.terms.slo_class.weight == least), key=self._loss, default=sequence)
            reason = "KV blocks ran out" if victim is sequence else "KV blocks ran out, for one of higher standing"
            taken |= self._preempt(victim, "memory", reason, step)
            victim.returning = True
            self._queue.push(victim)
            if victim is sequence:
                return False, taken
        return True, taken

    def _enter(self, sequence: Sequence, step: Assembly, kept: float) -> bool:
        """Give it a place and the blocks it finds; False where there is none, or not enough of them.

        A part may be ``kept`` for other tenants. What the running ones still need for their prompts and next block is
        kept back, too, so that a newcomer does not cause the next preemption. One that found no room is looked at again
        when there is more.
        """
        most = self._config.max_running - int(kept * self._config.max_running)
        if len(self.running) - len(step.ending) >= most or self._crowds(sequence, step, kept):
            return False
        kept_blocks = int(kept * self._cache.pool.blocks)
        if self._room() - kept_blocks <= sequence.no_room:
            return False
        cached = self._cache.open(sequence.id, sequence.tokens, sequence.submission.salt, anew=sequence.anew)
        room = self._room() - kept_blocks
        if self._cache.missing(sequence.id, len(sequence.tokens)) > room:
            self._cache.close(sequence.id)
            sequence.no_room = room
            return False
        sequence.no_room = -1
        self._queue.remove(sequence)
        self._count(sequence)
        self._tenants.took(sequence.terms.tenant)
        if (slo_class := sequence.terms.slo_class).preemptible:
            self._preemptible[slo_class.weight] += 1
        insort(self.running, sequence, key=lambda s: s.order)
        step.prefilling.append(sequence)
        sequence.computed = cached
        sequence.held_since = self._load.held
        sequence.reached = max(sequence.reached, cached)
        if not sequence.admitted:
            sequence.admitted = True
            sequence.queued = max(0.0, step.now - sequence.submission.arrival)
            sequence.cached = cached
            self.cached_prompt_tokens += cached
            self.started.append(sequence.submission.start)
        sequence.phases.enter(sequence.phase, step.now, self._load.interference)
        return True

    def _count(self, sequence: Sequence) -> None:
        """Of places, too, those that are not timely get their part."""
        if sequence.tier == OTHER:
            self._owed = max(0.0, self._owed - 1)
        elif sequence.tier == TIMELY and len(self._queue) > self._queue.timely:
            self._owed = min(2.0, self._owed + self._policy.background_share)

    def _crowds(self, sequence: Sequence, step: Assembly, kept: float) -> bool:
        """Whether decode with one more sequence is predicted to leave too little of the tightest TPOT bound, of which a
        part may be ``kept`` for others.

        A bound that even one sequence alone would miss keeps nobody out.
        """
        bound, own = self._load.tightest, sequence.slo.tpot
        if own is not None and (bound is None or own < bound):
            alone = self._forecast.decode(len(sequence.tokens))
            bound = own if alone <= (1 - self._policy.least_share) * own else bound
        if bound is None or not self.running:
            return False
        limit = (1 - self._policy.least_share) * (1 - kept) * bound
        shape = step.budget.shape
        more = [*step.prefilling, *step.resting, sequence]
        keys = sum(self._attention.keys(1, len(s.tokens)) for s in more)
        rows = shape.rows + len(more)
        together = StepShape(rows, rows, rows, shape.decode_keys + keys, 0.0)
        return self._cost.predict(together) > limit

    def _displace(self, sequence: Sequence, step: Assembly, tenant: str | None = None) -> bool:
        """Take a place from a running sequence of less weight (and of this tenant), if that is how this one's bound can
        still be kept; not ahead."""
        if sequence.tier != TIMELY or sequence.deadline is None or sequence.slo.ttft is None:
            return False
        if step.now < sequence.displaces_from:
            return False
        weight = sequence.terms.slo_class.weight
        victims = [
            s
            for s in self.running
            if s.terms.slo_class.weight < weight
            and s.terms.slo_class.preemptible
            and len(s.tokens) >= s.protected
            and (tenant is None or s.terms.tenant == tenant)
        ]
        needed = self._cache.blocks_for(len(sequence.tokens) + self._cache.block_size)
        if not victims or needed > self._room() + sum(len(self._cache.blocks(s.id)) for s in victims):
            return False
        if step.ahead:
            step.wanting = True
            return False
        victim = min(victims, key=self._loss)
        name = sequence.terms.slo_class.name
        reason = f"gave its place to a request of class {name}, to keep a TTFT bound of {sequence.slo.ttft:.3g} s"
        self._preempt(victim, "slo", reason, step)
        victim.protected = len(victim.tokens) + _PROTECTED
        victim.returning = False
        if victim.deadline is not None:
            victim.give_up_bound()
        self._queue.push(victim)
        sequence.no_room = -1
        return True

    def _preempt(self, victim: Sequence, kind: str, reason: str, step: Assembly) -> bool:
        """Take its place. Returns whether the step loses something by that."""
        taken = step.drop(victim)
        self.leave(victim)
        victim.computed = 0
        victim.over = False
        victim.phases.preemptions.append(Preemption(max(0.0, step.now - victim.submission.arrival), reason))
        victim.phases.enter("preempted", step.now, self._load.interference)
        self.preemptions[kind] += 1
        self.preempted.append((victim.id, reason))
        return taken

    def _loss(self, sequence: Sequence) -> tuple[bool, float, int]:
        """What is lost if it gives way: a bound it keeps so far; seconds to compute it again, per block; the latest
        has waited least."""
        harmed = sequence.slo.tpot is not None and sequence.first_token is not None
        seconds = self._forecast.prefill(0, sequence.computed)
        return harmed, seconds / max(1, len(self._cache.blocks(sequence.id))), -sequence.order

    def _room(self) -> int:
        """Blocks that there are, but for those the running sequences will ask for next."""
        ahead = self._cache.block_size
        promised = sum(self._cache.missing(s.id, len(s.tokens) + ahead) for s in self.running)
        return self._cache.pool.available - promised

"""Sequences moved on by what was computed of them."""

from tenfold.cache.manager import CacheManager
from tenfold.sched.forecast import Load
from tenfold.sched.sequence import TIMELY, Sequence
from tenfold.sched.siblings import Siblings
from tenfold.sched.tenants import Tenants


class Progress:
    """Tells the cache, the tenants' books and siblings of tokens whose KV is in memory."""

    def __init__(self, cache: CacheManager, tenants: Tenants, siblings: Siblings, load: Load) -> None:
        self._cache = cache
        self._siblings = siblings
        self._tenants = tenants
        self._load = load
        self.prompt_tokens = 0  # computed so far

    def advance(self, sequence: Sequence, before: int, count: int, pending: int, now: float) -> float:
        """After ``before`` tokens it has ``count`` more in memory, of ``pending`` that it lacked. Returns how much
        timely work that was, in seconds."""
        prompt, after = sequence.prompt, before + count
        if before < prompt:
            self.prompt_tokens += min(prompt, after) - before
            fresh = min(prompt, after) - max(before, sequence.reached)
            if fresh > 0:
                self._tenants.charge(sequence.terms.tenant, fresh)
        done = 0.0
        if sequence.work > 0.0:
            done = sequence.work * min(1.0, count / pending)
            sequence.work = max(0.0, sequence.work - done)
        sequence.computed = after
        if before < sequence.reached <= after and sequence.phases.preemptions:
            sequence.phases.enter(sequence.phase, now, self._load.interference)
        if after >= sequence.reached:
            sequence.reached = after
            sequence.returning = False
        self._cache.commit(sequence.id, sequence.tokens, after)
        if after >= prompt and self._siblings:
            self._siblings.release(sequence.id)
        return done if sequence.tier == TIMELY else 0.0

"""To whom the room of a step goes that decode leaves: timely prompts first, and a part for all others."""

from tenfold.cache.manager import CacheManager
from tenfold.core.config import Policy
from tenfold.sched.assembly import Assembly
from tenfold.sched.budget import StepBudget
from tenfold.sched.forecast import Load
from tenfold.sched.places import Places
from tenfold.sched.queue import WaitingQueue
from tenfold.sched.sequence import OTHER, TIMELY, Sequence
from tenfold.sched.tenants import Tenants

_LEAST_CHUNK = 16  # tokens of a prompt where not one is done in the time there is
_BACKGROUND = 0.6  # of a TPOT bound, what prompts that are promised nothing take of a step at most
_BRIEFLY = 0.05  # of a TTFT bound of late, what they take of a step where no TPOT bound applies,
_BRIEF = 0.02  # and never less seconds


class Prefill:
    """Owner of what prompts that are not timely are owed."""

    def __init__(
        self, policy: Policy, cache: CacheManager, queue: WaitingQueue, tenants: Tenants, places: Places, load: Load
    ) -> None:
        self._policy = policy
        self._cache = cache
        self._queue = queue
        self._tenants = tenants
        self._places = places
        self._load = load
        self._owed = 0.0  # seconds that those that are not timely did not get of their part
        self._fed = 0.0  # when they got some

    def fill(self, step: Assembly) -> None:
        """Chunks of prompts, the most urgent first; a part is kept for those that are not timely."""
        budget = step.budget
        for sequence in step.prefilling:
            if sequence.tier == TIMELY and sequence.late(step.now):
                sequence.give_up_bound()
        sequences = sorted(step.prefilling, key=lambda s: s.urgency)
        timely = next((i for i, s in enumerate(sequences) if s.urgency[0] == OTHER), len(sequences))
        first, others = sequences[:timely], sequences[timely:]
        if not others or not (first or self._queue.timely):
            self._fed = step.now
            if others and others[0].deadline is None:
                self._leave_slack(budget, step.now)
                self._chunks(sequences, step, least=1)
                return
            self._chunks(sequences, step, least=_LEAST_CHUNK)
            return
        policy, background = self._policy, others[0].deadline is None
        share, part = policy.background_share if background else policy.late_share, 0.0
        if budget.seconds is not None:
            left = max(0.0, budget.seconds - budget.predicted)
            part = share * left
            share = min(0.5, (part + self._owed) / left) if left > 0 else 0.0
        waits = background and bool(first) and step.now - self._fed < policy.background_wait
        budget.keep(0.0 if waits else share)
        self._chunks(first, step, least=_LEAST_CHUNK)
        if waits and step.slices:
            self._owed += part
            return
        # Where timely ones wait for a place, what is not used now brings the end of an answer nearer.
        budget.keep(0.0 if first else 1 - share)
        before = len(step.slices)
        self._chunks(others, step, least=0 if step.slices else _LEAST_CHUNK)
        if len(step.slices) > before:
            self._owed, self._fed = 0.0, step.now
        else:
            self._owed += part

    def _leave_slack(self, budget: StepBudget, now: float) -> None:
        """Prompts that are promised nothing do not use up what those in decode are ahead of their bounds: that is for
        timely ones that come. The more are in decode, the more wait for what is done of them now. And one that comes
        waits for the end of the step, also where nothing is in decode."""
        bound = self._load.tightest
        if budget.seconds is None:
            soonest = self._load.expected(now)
            if soonest is not None:
                budget.seconds = budget.predicted + max(_BRIEF, _BRIEFLY * soonest)
        elif bound is not None:
            part = min(_BACKGROUND, 1 / max(1, budget.shape.sequences))
            budget.seconds = min(budget.seconds, budget.predicted + part * bound)

    def _chunks(self, sequences: list[Sequence], step: Assembly, *, least: int) -> None:
        """As much of each as fits, one after the other; ``least`` tokens where of the first not one does."""
        budget = step.budget
        for sequence in sequences:
            if budget.full:
                break
            if sequence.waiting:
                continue  # preempted a moment ago
            part = self._tenants.part(sequence.terms.tenant)
            count = budget.most(sequence.computed, sequence.pending, part)
            count = count or min(least, sequence.pending, budget.tokens)
            if count == 0:
                continue
            if not self._cache.reserve(sequence.id, sequence.computed + count):
                room, _ = self._places.make_room(sequence, sequence.computed + count, step)
                if not room:
                    continue
            step.put(sequence, count, self._cache.blocks(sequence.id))
            least = 0

"""Which sequences get their next token in a step: all that are in decode, but for those that sit it out."""

from collections.abc import Sequence as Many

from tenfold.cache.manager import CacheManager
from tenfold.cost.estimate import StepCost
from tenfold.cost.shape import Attention, StepShape
from tenfold.sched.assembly import Assembly
from tenfold.sched.places import Places
from tenfold.sched.sequence import Sequence
from tenfold.sched.tenants import Tenants

_RESTS = 3.0  # TPOT bounds by which one of a tenant that holds much is ahead where it lets others' prompts go first


class Decode:
    """Looks at the running sequences, and takes blocks for them."""

    def __init__(
        self, cache: CacheManager, places: Places, tenants: Tenants, cost: StepCost, attention: Attention
    ) -> None:
        self._cache = cache
        self._places = places
        self._running = places.running
        self._tenants = tenants
        self._cost = cost
        self._attention = attention

    def has_blocks(self, sequences: Many[Sequence]) -> bool:
        """Whether there are blocks for the next token of each."""
        available = self._cache.pool.available
        if available >= len(sequences):
            return True
        return sum(self._cache.missing(s.id, s.computed + 1) for s in sequences) <= available

    def yielding(self, sequences: list[Sequence], step: Assembly) -> list[Sequence]:
        """Those that decode in the step. Others of them rest while another's prompt is computed: they are of a tenant
        that holds much, and well ahead of their TPOT bound."""
        part = self._tenants.part
        tenants = {s.terms.tenant for s in self._running}
        heavy = {tenant for tenant in tenants if part(tenant) < 1} if len(tenants) > 1 else ()
        if not heavy or all(s.terms.tenant in heavy for s in self._running if len(s.tokens) - s.computed != 1):
            return sequences
        step.resting = [s for s in sequences if s.terms.tenant in heavy and s.ahead(step.begins) >= _RESTS]
        return [s for s in sequences if s not in step.resting]

    def fill(self, sequences: Many[Sequence], step: Assembly) -> bool:
        """The next token of each, for as many as there are blocks. Returns whether the step lost one again."""
        lost = crowded = False
        for sequence in sequences:
            if crowded and sequence.waiting:
                continue  # preempted a moment ago
            if not self._cache.reserve(sequence.id, sequence.computed + 1):
                crowded = True
                room, taken = self._places.make_room(sequence, sequence.computed + 1, step)
                lost |= taken
                if not room:
                    continue
            step.put(sequence, 1, self._cache.blocks(sequence.id))
            step.decoding.append(sequence)
        return lost

    def seconds(self, step: Assembly) -> float:
        """Predicted ones of a step in which those that rest now decode with the others."""
        shape = step.budget.shape
        keys = sum(self._attention.keys(1, len(s.tokens)) for s in step.resting)
        rows = shape.rows + len(step.resting)
        return self._cost.predict(StepShape(rows, rows, rows, shape.decode_keys + keys, 0.0))

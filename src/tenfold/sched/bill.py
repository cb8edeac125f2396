"""What each sequence used of the machine, in seconds: every step's time is shared out among those that have a place.

Rows, samples and keys are paid for by whose they are, as the cost model has them. What every step takes, whoever is in
it, is shared out by the tokens that each holds in KV memory: memory is what keeps others from sharing it. All of it
adds up to what the steps took (docs/cost.md).
"""

from collections.abc import Iterable
from collections.abc import Sequence as Many

from tenfold.core.plan import SequenceSlice
from tenfold.cost.estimate import StepCost
from tenfold.cost.shape import Attention, StepShape
from tenfold.sched.forecast import Load
from tenfold.sched.sequence import Sequence

OTHERS = "other"
_TOLD_APART = 50  # tenants; clients name themselves, so there is no end of them


class Bill:
    """Owner of what sequences are charged. A step lasts from the end of the one before, if that left work to do.

    ``tenants`` have an account each, and so have the first others that come; the rest have one together, ``OTHERS``.
    """

    def __init__(self, cost: StepCost, attention: Attention, load: Load, tenants: Iterable[str] = ()) -> None:
        self._cost = cost
        self._attention = attention
        self._load = load
        self._since: float | None = None  # the end of the last step, if it left work to do
        self.seconds = 0.0  # of all steps
        self.accounts: dict[str, dict[str, float]] = {}  # of sequences that have ended, by SLO class and tenant
        self._own = {"", *tenants}  # tenants with an account of their own
        self._most = len(self._own) + _TOLD_APART

    def step(
        self,
        shape: StepShape,
        planned: Many[Sequence],
        slices: Iterable[SequenceSlice],
        running: Iterable[Sequence],
        began: float,
        now: float,
    ) -> None:
        """A step has ended, and nothing of it is applied to its sequences yet. ``running``: those that had a place."""
        seconds = max(0.0, now - (began if self._since is None else self._since))
        self._since = now
        self.seconds += seconds
        fixed, row, each, sample, decode_key, prefill_key, draft_key, asked = self._cost.shares(shape, seconds)
        tokens = sum([one.computed for one in running])
        start = 0.0 if tokens else fixed / len(planned)
        if tokens:
            self._load.held += fixed / tokens
        silent, held = start + row + each, self._load.held
        decode = silent + sample
        keys, plain = self._attention.keys, self._attention.plain
        for sequence, part in zip(planned, slices, strict=True):
            new = len(part.tokens) - part.drafted
            end = part.start + new
            if new == 1:
                own = (decode if part.sample else silent) + decode_key * (end if plain else keys(1, end))
            else:
                own = start + new * row + each + prefill_key * keys(new, end) + (sample if part.sample else 0.0)
            if drafted := part.drafted + part.asked:
                own += drafted * (row + sample) + draft_key * keys(drafted, end + drafted) + part.asked * asked
            sequence.charged += own + sequence.computed * (held - sequence.held_since)
            sequence.held_since = held

    def steps(self, running: Many[Sequence], steps: int, began: float, now: float) -> None:
        """So many steps have ended in which each of those got a token, and nothing of them is applied yet."""
        seconds = max(0.0, now - (began if self._since is None else self._since))
        self._since = now
        self.seconds += seconds
        middle, keys = (steps - 1) / 2, self._attention.keys  # what grows with each step is what it is in the middle
        seen = [(keys(1, len(s.tokens)) + keys(1, len(s.tokens) + steps - 1)) / 2 for s in running]
        count = len(running)
        shape = StepShape(count, count, count, sum(seen), 0.0)
        fixed, row, each, sample, decode_key, *_ = self._cost.shares(shape, seconds)
        before, more = self._load.held, fixed / (sum([s.computed for s in running]) + middle * count)
        self._load.held = before + more
        for sequence, own in zip(running, seen, strict=True):
            sequence.charged += row + each + sample + decode_key * own
            sequence.charged += (sequence.computed + middle) * more
            sequence.charged += sequence.computed * (before - sequence.held_since)
            sequence.held_since = before + more

    def close(self, sequence: Sequence) -> None:
        """It has ended, or the step that it left has: what it was charged goes to its tenant's account."""
        if not sequence.charged:
            return
        tenant = sequence.payer
        if len(self._own) < self._most:
            self._own.add(tenant)
        elif tenant not in self._own:
            tenant = OTHERS
        account = self.accounts.setdefault(sequence.terms.slo_class.name, {})
        account[tenant] = account.get(tenant, 0.0) + sequence.charged
        sequence.charged = 0.0

    def idle(self) -> None:
        """Nothing is left to do: what time passes now is nobody's."""
        self._since = None

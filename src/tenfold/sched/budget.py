"""What a step may hold: so many tokens, and so much work that no running sequence is predicted to miss its bound."""

from tenfold.cost.estimate import StepCost
from tenfold.cost.shape import Attention, StepShape


class StepBudget:
    """One step being put together. ``seconds`` None: only tokens are counted."""

    __slots__ = ("_attention", "_cost", "seconds", "shape", "tokens")

    def __init__(self, cost: StepCost, attention: Attention, tokens: int) -> None:
        self._cost = cost
        self._attention = attention
        self.shape = StepShape()
        self.tokens = tokens  # left
        self.seconds: float | None = None

    @property
    def full(self) -> bool:
        """Whether nothing more goes in. Of prefill, something always does."""
        if self.tokens <= 0:
            return True
        return self.seconds is not None and self.shape.prefill_keys > 0 and self.predicted >= self.seconds

    @property
    def predicted(self) -> float:
        """Seconds of what it holds so far."""
        return self._cost.predict(self.shape)

    def take(self, start: int, new: int, *, sample: bool) -> None:
        """``new`` tokens of a sequence, from position ``start`` on."""
        self.shape.add(new, self._attention.keys(new, start + new), sample)
        self.tokens -= new

    def give_back(self, start: int, new: int, *, sample: bool) -> None:
        """What was taken will not be computed after all."""
        self.shape.remove(new, self._attention.keys(new, start + new), sample)
        self.tokens += new

    def most(self, start: int, pending: int, sharing: int = 1) -> int:
        """How many of a sequence's ``pending`` tokens from ``start`` on fit: 0 where none does.

        It may use one of ``sharing`` equal parts of what is left, of tokens or, where that is bounded, of time.
        """
        if self.seconds is None:
            return min(pending, -(-self.tokens // sharing))
        many = min(pending, self.tokens)
        now = self.predicted
        limit = now + (self.seconds - now) / sharing
        if many == 0 or self._seconds_with(start, many, pending) <= limit:
            return many
        fits = 0  # and `many` does not
        while many - fits > 1:
            middle = (fits + many) // 2
            if self._seconds_with(start, middle, pending) <= limit:
                fits = middle
            else:
                many = middle
        return fits

    def _seconds_with(self, start: int, new: int, pending: int) -> float:
        return self._cost.predict(self.shape.with_more(new, self._attention.keys(new, start + new), new == pending))

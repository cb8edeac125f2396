"""What a step may hold: so many tokens, and so much work that no running sequence is predicted to miss its bound."""

import math

from tenfold.cost.estimate import StepCost
from tenfold.cost.shape import Attention, StepShape


class StepBudget:
    """One step being put together: decode, then, once it is :meth:`open`, prefill.

    ``seconds`` None: only tokens are counted.
    """

    __slots__ = (
        "_attention",
        "_cost",
        "_decode",
        "_kept_seconds",
        "_kept_tokens",
        "_opened",
        "_rationed",
        "seconds",
        "shape",
        "tokens",
    )

    def __init__(self, cost: StepCost, attention: Attention, tokens: int) -> None:
        self._cost = cost
        self._attention = attention
        self.shape = StepShape()
        self.tokens = tokens  # left
        self.seconds: float | None = None
        self._opened = tokens
        self._decode = 0.0  # seconds of what it held when it was opened
        self._rationed: tuple[int, float] | None = None  # tokens left and seconds used when a part was first asked for
        self._kept_tokens = 0
        self._kept_seconds = 0.0

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

    def open(self, seconds: float | None) -> None:
        """What is there now is decode; prefill may be added until the step takes so long."""
        self.seconds = seconds
        self._opened = self.tokens
        self._decode = self.predicted if seconds is not None else 0.0

    def keep(self, part: float) -> None:
        """From now on hold back this part of what is left, 0 to 1: :meth:`most` does not give it."""
        self._kept_tokens = int(self.tokens * part)
        self._kept_seconds = part * max(0.0, self.seconds - self.predicted) if self.seconds is not None else 0.0

    def take(self, start: int, new: int, *, sample: bool) -> None:
        """``new`` tokens of a sequence, from position ``start`` on."""
        self.shape.add(new, self._attention.keys(new, start + new), sample)
        self.tokens -= new

    def draft(self, start: int, count: int) -> None:
        """``count`` drafted tokens of a sequence that decodes, from position ``start`` on; below 0, they leave."""
        many = abs(count)
        keys = self._attention.keys(many, start + many)
        self.shape.draft(count, keys if count > 0 else -keys)
        self.tokens -= count

    def ask(self, asked: int, passes: int) -> None:
        """In all, a draft model makes ``asked`` tokens of those first."""
        self.shape.asked, self.shape.passes = asked, passes

    def give_back(self, start: int, new: int, *, sample: bool) -> None:
        """What was taken will not be computed after all."""
        self.shape.remove(new, self._attention.keys(new, start + new), sample)
        self.tokens += new

    def most(self, start: int, pending: int, part: float = 1.0) -> int:
        """How many of a sequence's ``pending`` tokens from ``start`` on fit: 0 where none does.

        All that ask for a ``part`` get, together, no more than that of the room which there was for prefill.
        """
        many, longest = min(pending, self.tokens - self._kept_tokens), math.inf
        if part < 1:
            if self._rationed is None:
                self._rationed = self.tokens, self.predicted
            tokens, used = self._rationed
            many = min(many, self.tokens - (tokens - int(part * self._opened)))
            if self.seconds is not None:
                longest = used + part * (self.seconds - self._decode)
        if many <= 0:
            return 0
        if self.seconds is None:
            return many
        limit = min(self.seconds - self._kept_seconds, longest)
        over = self._seconds_with(start, many, pending) - limit
        return many if over <= 0 else self._below(start, many, pending, limit, over)

    def _below(self, start: int, many: int, pending: int, limit: float, over: float) -> int:
        """The most tokens, fewer than ``many``, that do not take longer than ``limit``; ``many`` do, by ``over``.

        By interpolation: seconds are nearly a line. Where one end stays, its weight is halved (Illinois method).
        """
        fits, under = 0, limit - self.predicted
        if under <= 0:
            return 0
        side = 0
        while many - fits > 1:
            middle = min(max(fits + int((many - fits) * under / (under + over)), fits + 1), many - 1)
            left = limit - self._seconds_with(start, middle, pending)
            if left >= 0:
                fits, under = middle, left
                over = over / 2 if side > 0 else over
                side = 1
            else:
                many, over = middle, -left
                under = under / 2 if side < 0 else under
                side = -1
        return fits

    def _seconds_with(self, start: int, new: int, pending: int) -> float:
        return self._cost.predict(self.shape.with_more(new, self._attention.keys(new, start + new), new == pending))

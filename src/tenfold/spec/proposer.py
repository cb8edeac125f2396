"""The seam between the scheduler and those that draft."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from tenfold.core.plan import SequenceStart


class Proposal(NamedTuple):
    """Tokens that may come next, and the length of what stands behind them: tokens before that are the same there."""

    tokens: tuple[int, ...]
    matched: int


class Proposer(Protocol):
    """Drafts what may come next in a sequence.

    ``tokens`` is always the whole of it, prompt and output, and grows from call to call. ``salt`` separates those that
    must not learn from one another.
    """

    name: str

    def begin(self, start: SequenceStart) -> None:
        """A sequence will be drafted for."""
        ...

    def propose(self, sequence: str, tokens: Sequence[int], salt: str, most: int) -> Proposal | None:
        """Up to ``most`` (at least 1) tokens; None where it knows nothing."""
        ...

    def end(self, sequence: str, tokens: Sequence[int], salt: str, *, finished: bool) -> None:
        """The sequence is over, by itself (``finished``) or by an abort or a failure."""
        ...

"""Drafts from a sequence's own text: what followed the last time that its last tokens occurred in it.

(Prompt lookup decoding, A. Saxena, 2023; LLMA, Yang et al., 2023.)
"""

from collections.abc import Sequence

from tenfold.core.plan import SequenceStart
from tenfold.spec.proposer import Proposal
from tenfold.spec.runs import MATCHED, TRIED, Trail, matched

_ORDER = 2  # tokens that have to be the same


class PromptLookup:
    """Owner of an index of each sequence's text: some 100 bytes a token."""

    name = "lookup"

    def __init__(self) -> None:
        self._trails: dict[str, Trail] = {}

    def begin(self, start: SequenceStart) -> None:
        """Nothing to do: a text is read when it is drafted for."""

    def propose(self, sequence: str, tokens: Sequence[int], salt: str, most: int) -> Proposal | None:
        """The text goes on as it did then; where that reaches its end, it repeats itself."""
        trail = self._trails.get(sequence)
        if trail is None:
            trail = self._trails[sequence] = Trail(_ORDER)
        place = trail.latest(tokens)
        at, longest, left = 0, _ORDER - 1, TRIED
        while place is not None and left:
            length = matched(tokens, tokens, place)
            if length > longest:
                at, longest = place, length
                if length == MATCHED:
                    break
            place, left = trail.earlier(place), left - 1
        if longest < _ORDER:
            return None
        found = list(tokens[at : at + most])
        while len(found) < most:
            found += found[len(found) - (len(tokens) - at) :][: most - len(found)]
        return Proposal(tuple(found), longest)

    def end(self, sequence: str, tokens: Sequence[int], salt: str, *, finished: bool) -> None:
        """Forget it."""
        self._trails.pop(sequence, None)

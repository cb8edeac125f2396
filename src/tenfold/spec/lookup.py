"""Drafts from a sequence's own text: what followed the last time that its last tokens occurred in it.

(Prompt lookup decoding, A. Saxena, 2023; LLMA, Yang et al., 2023.)
"""

from collections.abc import Sequence

from tenfold.spec.proposer import Proposal
from tenfold.spec.runs import Runs, matched

_ORDER = 2  # tokens that have to be the same


class PromptLookup:
    """Owner of an index of each sequence's text: some 100 bytes a token."""

    name = "lookup"

    def __init__(self) -> None:
        self._runs: dict[str, tuple[Runs, int]] = {}  # and how many tokens each knows

    def propose(self, sequence: str, tokens: Sequence[int], salt: str, most: int) -> Proposal | None:
        """The text goes on as it did then; where that reaches its end, it repeats itself."""
        runs, known = self._runs.get(sequence) or (Runs(_ORDER), 0)
        if len(tokens) > known:
            runs.add(tokens, known)
            self._runs[sequence] = runs, len(tokens)
        at = longest = 0
        for place in runs.places(tokens):
            length = matched(tokens, tokens, place)
            if length > longest:
                at, longest = place, length
        if longest < _ORDER:
            return None
        found = list(tokens[at : at + most])
        while len(found) < most:
            found += found[len(found) - (len(tokens) - at) :][: most - len(found)]
        return Proposal(tuple(found), longest)

    def end(self, sequence: str, tokens: Sequence[int], salt: str, *, finished: bool) -> None:
        """Forget it."""
        self._runs.pop(sequence, None)

"""Drafts what a constraint leaves no choice in (grammar jump-ahead)."""

from collections.abc import Sequence

from tenfold.core.plan import SequenceStart
from tenfold.grammar.grammars import Grammars, Matcher
from tenfold.spec.proposer import Proposal
from tenfold.spec.runs import MATCHED


class ForcedTokens:
    """Owner of a matcher for each constrained sequence.

    A text may be cut into tokens in several ways, of which the usual one is drafted: nearly always right.
    """

    name = "grammar"

    def __init__(self, grammars: Grammars) -> None:
        self._grammars = grammars
        self._matchers: dict[str, tuple[Matcher, int]] = {}  # and how many tokens each knows

    def begin(self, start: SequenceStart) -> None:
        """Follow it, if it is constrained."""
        constraint = start.params.constraint
        if constraint is not None:  # which the engine has compiled before it let the request in
            self._matchers[start.id] = self._grammars.matcher(constraint), len(start.prompt_ids)

    def propose(self, sequence: str, tokens: Sequence[int], salt: str, most: int) -> Proposal | None:
        """What must come next."""
        found = self._matchers.get(sequence)
        if found is None:
            return None
        matcher, known = found
        matcher.consume(tokens[known:])
        self._matchers[sequence] = matcher, len(tokens)
        forced = matcher.forced()
        return Proposal(tuple(forced[:most]), MATCHED) if forced else None

    def end(self, sequence: str, tokens: Sequence[int], salt: str, *, finished: bool) -> None:
        """Forget it."""
        self._matchers.pop(sequence, None)

"""Drafts of texts that are not simulated: there, long and right as often as a profile says."""

import random
from collections.abc import Sequence
from itertools import accumulate

from tenfold.core.plan import SequenceStart
from tenfold.spec.acceptance import STEPS, bucket_of
from tenfold.spec.profile import DraftProfile
from tenfold.spec.proposer import Proposal
from tenfold.spec.runs import MATCHED


class SimulatedDrafts:
    """A :class:`~tenfold.spec.proposer.Proposer`; what it proposes is told to be right or not by :meth:`accepted`."""

    name = "text"

    def __init__(self, profile: DraftProfile, seed: int) -> None:
        self._profile = profile
        self._starts = list(accumulate(profile.starts))
        self._random = random.Random(seed)
        self._runs: dict[str, int] = {}  # of sequences in which one goes on: the tokens behind the next one

    def begin(self, start: SequenceStart) -> None:
        """Nothing to do."""

    def propose(self, sequence: str, tokens: Sequence[int], salt: str, most: int) -> Proposal | None:
        """A run that goes on, or one that begins."""
        behind = self._runs.get(sequence)
        if behind is None:
            if self._random.random() >= self._profile.offered:
                return None
            behind = STEPS[self._random.choices(range(len(STEPS)), cum_weights=self._starts)[0]]
            self._runs[sequence] = behind
        return Proposal((0,) * most, min(behind, MATCHED))

    def accepted(self, sequence: str, drafted: int) -> int:
        """How many of so many drafted tokens are right. Called once a step for each sequence that gets a token."""
        behind = self._runs.pop(sequence, None)
        if behind is None:
            return 0
        for right in range(drafted + 1):  # the one that comes after all of them goes on with the run, or does not
            if self._random.random() >= self._profile.chances[bucket_of(behind + right)]:
                return right
        self._runs[sequence] = behind + drafted + 1
        return drafted

    def end(self, sequence: str, tokens: Sequence[int], salt: str, *, finished: bool) -> None:
        """Forget it."""
        self._runs.pop(sequence, None)

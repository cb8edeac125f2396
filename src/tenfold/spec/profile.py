"""How drafts from text fare under a load, as far as a simulation must know it."""

from collections.abc import Sequence

import msgspec

from tenfold.spec.acceptance import STEPS, Acceptance, bucket_of


class DraftProfile(msgspec.Struct, frozen=True):
    """Where no run of tokens goes on, a sequence has a draft with probability ``offered``, behind which stand as many
    tokens as one of ``acceptance.STEPS`` says, with probabilities ``starts``. ``chances`` are of a drafted token to be
    right, by the same steps; while they are, the run goes on."""

    offered: float
    starts: tuple[float, ...]
    chances: tuple[float, ...]

    @property
    def usable(self) -> bool:
        """Whether it has the right form (it may come from a file)."""
        sizes = len(self.starts) == len(self.chances) == len(STEPS)
        return sizes and all(0 <= value <= 1 for value in (self.offered, *self.starts, *self.chances))


class DraftCounts:
    """What a profile is made of, counted while drafts are made."""

    def __init__(self) -> None:
        self._offers = [0] * len(STEPS)  # by how much stood behind the first token; where no run went on
        self._none = 0

    def offered(self, matched: int) -> None:
        """A sequence in which no run went on had a draft."""
        self._offers[bucket_of(matched)] += 1

    def none(self) -> None:
        """It had none."""
        self._none += 1

    def profile(self, known: Sequence[Acceptance]) -> DraftProfile | None:
        """With the chances of those proposers, weighted by what was seen of each; None before anything was seen."""
        offers = sum(self._offers)
        if not offers or not known:
            return None
        weights = [sum(one.weights[i] for one in known) for i in range(len(STEPS))]
        chances = [sum(one.weights[i] * one.chances[i] for one in known) / weight for i, weight in enumerate(weights)]
        return DraftProfile(
            offers / (offers + self._none), tuple(count / offers for count in self._offers), tuple(chances)
        )

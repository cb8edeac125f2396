"""How likely a drafted token is to be the one that comes."""

from tenfold.spec.runs import MATCHED

_WEIGHT = 5.0  # observations that the first guess is worth
_MEMORY = 512.0  # observations after which one counts 1/e
SURE = 0.98  # the most that a token is trusted
# Lengths of what stands behind a token are told apart up to here, each; then in ever larger steps.
STEPS: tuple[int, ...] = (*range(9), 12, 16, 24, MATCHED, 2 * MATCHED)
_BUCKETS: tuple[int, ...] = tuple(
    max(i for i, least in enumerate(STEPS) if least <= length) for length in range(STEPS[-1] + 1)
)


def bucket_of(matched: int) -> int:
    """Which of ``STEPS`` so many tokens are of."""
    return _BUCKETS[min(matched, STEPS[-1])]


class Acceptance:
    """What was seen of one proposer, in one class of requests, by how much stands behind a token.

    A token drafted after n others that all must hold has n more behind it than the first one: of each it is estimated
    how often it holds where those before it do.
    """

    def __init__(self) -> None:
        self.chances: list[float] = [least / (least + 4) for least in STEPS]
        self.weights = [_WEIGHT] * len(STEPS)

    def chance(self, matched: int) -> float:
        """0 to 1, of a token with so many that are the same before it."""
        return self.chances[bucket_of(matched)]

    def chain(self, matched: int, most: int, luck: float, least: float) -> list[float]:
        """Of each of up to ``most`` tokens, that it and all before it are right, if ``luck`` times as many are as it
        seems; up to the first below ``least``, which is there, too."""
        chances, known, buckets, last = self.chances, [], _BUCKETS, STEPS[-1]
        chance = 1.0
        for length in range(matched, matched + most):
            each = luck * chances[buckets[length if length < last else last]]
            chance *= each if each < SURE else SURE
            known.append(chance)
            if chance < least:
                break
        return known

    def observe(self, matched: int, held: bool) -> None:
        """One such was right, or was not."""
        bucket = bucket_of(matched)
        weight = self.weights[bucket] = min(self.weights[bucket] + 1, _MEMORY)
        chance = self.chances[bucket]
        self.chances[bucket] = min(SURE, chance + (held - chance) / weight)

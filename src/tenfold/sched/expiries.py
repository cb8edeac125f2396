"""Until when sequences may wait to begin, where their requests say so."""

import math
from collections.abc import Iterator, Mapping
from heapq import heapify, heappop, heappush

from tenfold.sched.sequence import Sequence


class Expiries:
    """Looks at the sequences that are ``here``, by id."""

    def __init__(self, here: Mapping[str, Sequence]) -> None:
        self._here = here
        self._heap: list[tuple[float, int, Sequence]] = []

    @property
    def first(self) -> float:
        """When one may be given up next, at the earliest."""
        return self._heap[0][0] if self._heap else math.inf

    def push(self, sequence: Sequence, at: float, waiting: int) -> None:
        """It is given up ``at`` then, if it has not begun. ``waiting``: how many do."""
        heappush(self._heap, (at, sequence.order, sequence))
        if len(self._heap) > 2 * waiting + 64:  # mostly of those that have begun
            self._heap[:] = [entry for entry in self._heap if not self._over(entry[2])]
            heapify(self._heap)

    def due(self, now: float) -> Iterator[Sequence]:
        """Those that have waited long enough, one after the other."""
        while self.first <= now:
            sequence = heappop(self._heap)[2]
            if not self._over(sequence):
                yield sequence

    def _over(self, sequence: Sequence) -> bool:
        return sequence.admitted or self._here.get(sequence.id) is not sequence

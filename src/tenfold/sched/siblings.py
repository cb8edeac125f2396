"""Samples of one request that wait for the first one's prefill, to share its blocks."""

from collections import Counter

from tenfold.sched.queue import WaitingQueue
from tenfold.sched.sequence import Sequence


class Siblings:
    """Owner of those that are held; they are not in the ``queue`` meanwhile."""

    def __init__(self, queue: WaitingQueue) -> None:
        self._queue = queue
        self._held: dict[str, list[Sequence]] = {}  # by the sequence they wait for
        self._of: Counter[str] = Counter()  # by tenant
        self.count = 0

    def __bool__(self) -> bool:
        return bool(self._held)

    def of(self, tenant: str) -> int:
        """How many of a tenant are held."""
        return self._of[tenant]

    def behind(self, parent: str) -> tuple[Sequence, ...]:
        """Those that wait for it."""
        return tuple(self._held.get(parent, ()))

    def hold(self, sequence: Sequence, parent: str) -> None:
        """It waits for ``parent``'s prefill."""
        self._held.setdefault(parent, []).append(sequence)
        self.count += 1
        self._of[sequence.terms.tenant] += 1

    def drop(self, sequence: Sequence) -> None:
        """It is held no more: it has ended."""
        self._held[sequence.submission.after or ""].remove(sequence)
        self._let_go(sequence)

    def release(self, parent: str) -> None:
        """Let those that wait for ``parent``'s prefill into the queue, where its own place was."""
        for sequence in self._held.pop(parent, ()):
            self._let_go(sequence)
            self._queue.push(sequence)

    def names(self) -> list[str]:
        """Ids of all that are held."""
        return [one.id for held in self._held.values() for one in held]

    def check(self) -> None:
        """Assert that counts are what they count."""
        assert self.count == sum(map(len, self._held.values())) == self._of.total()

    def _let_go(self, sequence: Sequence) -> None:
        tenant = sequence.terms.tenant
        self.count -= 1
        self._of[tenant] -= 1
        if not self._of[tenant]:
            del self._of[tenant]

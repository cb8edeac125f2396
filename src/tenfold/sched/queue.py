"""Who waits, and who is next.

Between tenants the one that was served least goes first (``tenants``), unless others that were served nearly as little
have something more urgent. Within a tenant: sequences that had a place and lost it, then those whose TTFT bound can
still be kept, the earliest deadline first, then all others. Coming, leaving and being next cost the logarithm of what
waits; a promise, the number of tenants that wait.
"""

import math
from bisect import insort
from collections import Counter
from collections.abc import Container, Iterable
from heapq import heapify, heappop, heappush

from tenfold.sched.sequence import TIMELY, Sequence
from tenfold.sched.tenants import Tenants

_LOOKED_AT = 8  # tenants with something to do, of those that were served least,
_PASSED = 64  # and tenants in all

_Entry = tuple[int, float, int, int, Sequence]  # tier, key, order of arrival, stamp


class _Line:
    """What waits of one tenant."""

    __slots__ = ("count", "others", "seconds", "timely", "timely_count")

    def __init__(self) -> None:
        self.count = 0
        self.timely_count = 0  # of those, timely ones
        self.timely: list[_Entry] = []  # heaps
        self.others: list[_Entry] = []
        self.seconds = 0.0  # prefill of timely ones


class WaitingQueue:
    """Owner of the order in which sequences get their place."""

    def __init__(self, tenants: Tenants, fairness: float) -> None:
        self._tenants = tenants
        self._fairness = fairness
        self._lines: dict[str, _Line] = {}  # of tenants that wait
        self._by_bound: dict[float, float] = {}  # seconds of timely prefill that wait, by TTFT bound (or nearly)
        self._returning: list[Sequence] = []
        self._displacing: list[tuple[float, int, int, Sequence]] = []  # a heap of timely ones, by when they may
        self._stamps = 0
        self._count = 0
        self.by_class: Counter[str] = Counter()
        self.timely = 0  # sequences

    def __len__(self) -> int:
        return self._count

    @property
    def displaces_from(self) -> float:
        """When the first of the timely ones may take another's place."""
        heap = self._displacing
        while heap and not (heap[0][3].waiting and heap[0][3].stamp == heap[0][2]):
            heappop(heap)
        return heap[0][0] if heap else math.inf

    def waiting_of(self, tenant: str) -> int:
        """How many sequences of a tenant wait."""
        line = self._lines.get(tenant)
        return line.count if line is not None else 0

    def before(self, sequence: Sequence, running: Iterable[Sequence]) -> tuple[float, int]:
        """What goes before a new timely one: seconds of prefill, and sequences that want a place.

        ``running`` are timely ones that have theirs already. Tenants that were served more, beyond fairness, come
        later; of n others each gets one in n.
        """
        tenants, bound = self._tenants, _bucket(sequence)
        sooner = sum(seconds for other, seconds in self._by_bound.items() if other <= bound)
        line = self._lines.get(sequence.terms.tenant)
        own, count = (line.seconds, line.count) if line is not None else (0.0, 0)
        most = tenants.reach(sequence.terms.tenant)
        ahead = sum(one.work for one in running if tenants.of(one.terms.tenant).served <= most)
        active = 0 if own else 1
        if self.timely:
            lines = self._lines.items()
            active += sum(1 for name, one in lines if one.seconds > 0 and tenants.of(name).served <= most)
        seconds = ahead + min(sooner, own * active + (active - 1) * sequence.work)
        return seconds, min(self.timely, count * active + active - 1)

    def push(self, sequence: Sequence) -> None:
        """A sequence waits, in the tier and with the key it has."""
        assert not sequence.waiting
        sequence.waiting = True
        self._count += 1
        self.by_class[sequence.terms.slo_class.name] += 1
        name = sequence.terms.tenant
        self._tenants.waits(name)
        line = self._lines.setdefault(name, _Line())
        line.count += 1
        if sequence.returning:
            insort(self._returning, sequence, key=lambda s: s.rank)
        else:
            self._file(line, sequence)

    def remove(self, sequence: Sequence) -> bool:
        """It waits no more; False if it did not."""
        if not sequence.waiting:
            return False
        sequence.waiting = False
        sequence.stamp = 0  # no entry that it leaves behind is ever its own again
        self._count -= 1
        slo_class, name = sequence.terms.slo_class.name, sequence.terms.tenant
        self.by_class[slo_class] -= 1
        if not self.by_class[slo_class]:
            del self.by_class[slo_class]
        self._tenants.waits_no_more(name)
        line = self._lines[name]
        line.count -= 1
        if sequence.returning:
            self._returning.remove(sequence)
        elif sequence.tier == TIMELY:
            self._unfile(line, sequence)
        if not line.count:
            del self._lines[name]
        for heap in (line.timely, line.others):
            if len(heap) > 2 * line.count + 64:  # mostly of those that left from the middle
                heap[:] = [entry for entry in heap if _valid(entry)]
                heapify(heap)
        return True

    def next(
        self, now: float, *, others: bool = False, returning: bool = True, passed: Container[str] = ()
    ) -> Sequence | None:
        """Who is next: with ``others`` of those that are not timely, without ``returning`` of those that are new; not
        of the tenants that are ``passed``."""
        if self._returning and returning and not others:
            return self._returning[0]
        best: Sequence | None = None
        most, found = math.inf, 0
        for at, tenant in enumerate(self._tenants.in_order()):
            if tenant.served > most or found == _LOOKED_AT or at == _PASSED:
                break
            if tenant.name in passed:
                continue
            line = self._lines[tenant.name]
            head = None if others else self._on_time(line, now)
            head = head or _top(line.others)
            if head is None:
                continue  # what it waits for is of another kind
            most, found = min(most, tenant.served + self._fairness), found + 1
            head.over = self._tenants.over(tenant.name)
            if best is None or head.urgency < best.urgency:
                best = head
        return best

    def check(self) -> None:
        """Assert that counts are what they count."""
        waiting = {id(s): s for s in self._returning}
        for line in self._lines.values():
            entries = [e for heap in (line.timely, line.others) for e in heap if _valid(e)]
            assert len({id(e[4]) for e in entries}) == len(entries), "a sequence is in the queue twice"
            waiting.update((id(e[4]), e[4]) for e in entries)
        for name, line in self._lines.items():
            mine = [s for s in waiting.values() if s.terms.tenant == name]
            filed = [s for s in mine if s.tier == TIMELY and not s.returning]
            assert line.count == len(mine) == self._tenants.of(name).waiting > 0, "a tenant's count is wrong"
            assert line.timely_count == len(filed)
            assert abs(line.seconds - sum(s.work for s in filed)) < 1e-6 if filed else line.seconds == 0
        assert self.timely == sum(s.tier == TIMELY and not s.returning for s in waiting.values())
        assert self._count == len(waiting) == self.by_class.total()
        self._tenants.check()

    def _file(self, line: _Line, sequence: Sequence) -> None:
        self._stamps += 1
        sequence.stamp = self._stamps
        entry = (sequence.tier, sequence.key, sequence.order, sequence.stamp, sequence)
        if sequence.tier == TIMELY:
            self.timely += 1
            line.timely_count += 1
            line.seconds += sequence.work
            bound = _bucket(sequence)
            self._by_bound[bound] = self._by_bound.get(bound, 0.0) + sequence.work
            heappush(line.timely, entry)
            heap = self._displacing
            heappush(heap, (sequence.displaces_from, sequence.order, sequence.stamp, sequence))
            if len(heap) > 2 * self._count + 64:  # mostly of those that left from the middle
                heap[:] = [one for one in heap if one[3].waiting and one[3].stamp == one[2]]
                heapify(heap)
        else:
            heappush(line.others, entry)

    def _unfile(self, line: _Line, sequence: Sequence) -> None:
        self.timely -= 1
        line.timely_count -= 1
        line.seconds = max(0.0, line.seconds - sequence.work) if line.timely_count else 0.0  # sums leave a rest
        bound = _bucket(sequence)
        left = self._by_bound.pop(bound, 0.0) - sequence.work
        if left > 1e-9:
            self._by_bound[bound] = left

    def _on_time(self, line: _Line, now: float) -> Sequence | None:
        """The most urgent one whose bound can be kept; those that cannot be on time any more join the others."""
        while (head := _top(line.timely)) is not None and head.late(now):
            self._unfile(line, head)
            head.give_up_bound()
            self._file(line, head)
        return head


def _bucket(sequence: Sequence) -> float:
    """Its TTFT bound, to the nearest tenth of an octave: as many numbers as there are, few are counted."""
    bound = sequence.slo.ttft
    return round(10 * math.log2(bound)) / 10 if bound is not None else math.inf


def _valid(entry: _Entry) -> bool:
    return entry[4].waiting and entry[4].stamp == entry[3]


def _top(heap: list[_Entry]) -> Sequence | None:
    while heap:
        if _valid(heap[0]):
            return heap[0][4]
        heappop(heap)
    return None

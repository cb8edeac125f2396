"""Who waits, and who is next.

Between tenants the one that was served least goes first (virtual token counters: Sheng et al., OSDI'24), unless others
that were served nearly as little have something more urgent. Within a tenant: sequences that had a place and lost it,
then those whose TTFT bound can still be kept, the earliest deadline first, then all others.
Every operation costs the logarithm of what waits.
"""

import math
from bisect import insort
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from heapq import heapify, heappop, heappush

from tenfold.sched.sequence import TIMELY, Sequence

_LOOKED_AT = 8  # tenants, of those that were served least
_MANY_TENANTS = 1024  # records above which those of tenants that are gone are dropped

_Entry = tuple[int, float, int, int, Sequence]  # tier, key, order of arrival, stamp


class _Tenant:
    __slots__ = ("count", "listed", "name", "others", "served", "timely", "timely_seconds", "weight")

    def __init__(self, name: str, weight: float) -> None:
        self.name = name
        self.weight = weight
        self.served = 0.0  # tokens it was charged, divided by its weight
        self.count = 0  # of its sequences that wait
        self.timely: list[_Entry] = []
        self.others: list[_Entry] = []
        self.timely_seconds = 0.0  # prefill that waits
        self.listed = False


class WaitingQueue:
    """Owner of the order in which sequences get their place."""

    def __init__(self, fairness: float, weights: Mapping[str, float]) -> None:
        self._fairness = fairness
        self._weights = weights
        self._tenants: dict[str, _Tenant] = {}
        self._by_bound: dict[float, float] = {}  # seconds of timely prefill that wait, by TTFT bound (or nearly)
        self._by_service: list[tuple[float, str]] = []  # in order; entries may be older than what they tell
        self._returning: list[Sequence] = []
        self._floor = fairness  # what the tenant that was served last had then: newcomers begin that much below
        self._stamps = 0
        self._count = 0
        self.by_class: Counter[str] = Counter()
        self.timely = 0  # sequences
        self.timely_seconds = 0.0

    def __len__(self) -> int:
        return self._count

    def waiting_of(self, tenant: str) -> int:
        """How many sequences of a tenant wait."""
        found = self._tenants.get(tenant)
        return found.count if found is not None else 0

    def before(self, sequence: Sequence, running: Iterable[Sequence]) -> tuple[float, int]:
        """What goes before a new timely one: seconds of prefill, and sequences that want a place.

        ``running`` are timely ones that have theirs already. Tenants that were served more, beyond fairness, come
        later; of n others each gets one in n.
        """
        bound = _bucket(sequence)
        sooner = sum(seconds for other, seconds in self._by_bound.items() if other <= bound)
        tenant = self._tenants.get(sequence.terms.tenant)
        served, own, count = (
            (tenant.served, tenant.timely_seconds, tenant.count) if tenant is not None else (-math.inf, 0.0, 0)
        )
        if not count:
            served = max(served, self._credited())
        most = served + self._fairness
        ahead = sum(one.work for one in running if self._tenant(one.terms.tenant).served <= most)
        active = 0 if own else 1
        if self.timely:
            active += sum(1 for one in self._tenants.values() if one.timely_seconds > 0 and one.served <= most)
        seconds = ahead + min(sooner, own * active + (active - 1) * sequence.work)
        return seconds, min(self.timely, count * active + active - 1)

    def push(self, sequence: Sequence) -> None:
        """A sequence waits, in the tier and with the key it has."""
        assert not sequence.waiting
        sequence.waiting = True
        self._count += 1
        self.by_class[sequence.terms.slo_class.name] += 1
        tenant = self._tenant(sequence.terms.tenant)
        if not tenant.count:
            self._arrive(tenant)
        tenant.count += 1
        if sequence.returning:
            insort(self._returning, sequence, key=lambda s: s.rank)
        else:
            self._file(tenant, sequence)

    def remove(self, sequence: Sequence) -> bool:
        """It waits no more; False if it did not."""
        if not sequence.waiting:
            return False
        sequence.waiting = False
        self._count -= 1
        name = sequence.terms.slo_class.name
        self.by_class[name] -= 1
        if not self.by_class[name]:
            del self.by_class[name]
        tenant = self._tenants[sequence.terms.tenant]
        tenant.count -= 1
        if sequence.returning:
            self._returning.remove(sequence)
        elif sequence.tier == TIMELY:
            self._unfile(tenant, sequence)
        for heap in (tenant.timely, tenant.others):
            if not tenant.count:
                heap.clear()
            elif len(heap) > 2 * tenant.count + 64:  # mostly of those that left from the middle
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
        for tenant in self._least_served(passed):
            head = None if others else self._on_time(tenant, now)
            head = head or _top(tenant.others)
            if head is not None and (best is None or head.urgency < best.urgency):
                best = head
        return best

    def tell_apart(self, prefilling: Iterable[Sequence]) -> None:
        """Mark those with a place whose tenant was served more than another's that want prefill, beyond fairness."""
        waiting = self._least_served()
        served = {one.terms.tenant: self._tenant(one.terms.tenant).served for one in prefilling}
        least = min([*served.values(), *(one.served for one in waiting[:1])], default=0.0)
        for one in prefilling:
            one.over = served[one.terms.tenant] > least + self._fairness

    def charge(self, tenant: str, tokens: float) -> None:
        """A tenant was served so many tokens; an output token may count as several."""
        one = self._tenant(tenant)
        one.served += tokens / one.weight

    def began(self, sequence: Sequence) -> None:
        """It gets its place now: newcomers of other tenants begin where this one's is."""
        self._floor = max(self._floor, self._tenants[sequence.terms.tenant].served)

    def service(self) -> dict[str, float]:
        """Tokens that each tenant of late was charged, divided by its weight."""
        return {name: tenant.served for name, tenant in self._tenants.items()}

    def check(self) -> None:
        """Assert that counts are what they count."""
        waiting = {id(s): s for s in self._returning}
        for tenant in self._tenants.values():
            entries = [e for heap in (tenant.timely, tenant.others) for e in heap if _valid(e)]
            assert len({id(e[4]) for e in entries}) == len(entries), "a sequence is in the queue twice"
            waiting.update((id(e[4]), e[4]) for e in entries)
            mine = [s for s in waiting.values() if s.terms.tenant == tenant.name]
            filed = [s for s in mine if s.tier == TIMELY and not s.returning]
            assert tenant.count == len(mine), "a tenant's count is wrong"
            assert abs(tenant.timely_seconds - sum(s.work for s in filed)) < 1e-6
            assert tenant.listed or not tenant.count, "a tenant that waits is not listed"
        assert self.timely == sum(s.tier == TIMELY and not s.returning for s in waiting.values())
        assert self._count == len(waiting) == self.by_class.total()

    def _file(self, tenant: _Tenant, sequence: Sequence) -> None:
        self._stamps += 1
        sequence.stamp = self._stamps
        entry = (sequence.tier, sequence.key, sequence.order, sequence.stamp, sequence)
        if sequence.tier == TIMELY:
            self.timely += 1
            tenant.timely_seconds += sequence.work
            self.timely_seconds += sequence.work
            bound = _bucket(sequence)
            self._by_bound[bound] = self._by_bound.get(bound, 0.0) + sequence.work
            heappush(tenant.timely, entry)
        else:
            heappush(tenant.others, entry)

    def _unfile(self, tenant: _Tenant, sequence: Sequence) -> None:
        self.timely -= 1
        tenant.timely_seconds = max(0.0, tenant.timely_seconds - sequence.work)
        self.timely_seconds = max(0.0, self.timely_seconds - sequence.work)
        bound = _bucket(sequence)
        left = self._by_bound.pop(bound, 0.0) - sequence.work
        if left > 1e-9:
            self._by_bound[bound] = left

    def _on_time(self, tenant: _Tenant, now: float) -> Sequence | None:
        """The most urgent one whose bound can be kept; those that cannot be on time any more join the others."""
        while (head := _top(tenant.timely)) is not None and head.late(now):
            self._unfile(tenant, head)
            head.give_up_bound()
            self._file(tenant, head)
        return head

    def _tenant(self, name: str) -> _Tenant:
        tenant = self._tenants.get(name)
        if tenant is None:
            if len(self._tenants) >= _MANY_TENANTS:
                self._drop()
            tenant = self._tenants[name] = _Tenant(name, self._weights.get(name, 1.0))
            tenant.served = self._credited()
        return tenant

    def _drop(self) -> None:
        """Forget tenants that wait for nothing and were served no more than one that is new; if need be, more."""
        least = self._floor - self._fairness
        kept = {n: t for n, t in self._tenants.items() if t.count or t.served > least}
        if len(kept) >= 2 * _MANY_TENANTS:
            kept = {n: t for n, t in kept.items() if t.count}
        self._tenants = kept
        self._by_service = [entry for entry in self._by_service if entry[1] in kept]

    def _arrive(self, tenant: _Tenant) -> None:
        """It has waited for nothing so far: what it did not use meanwhile is no credit, but for ``fairness`` tokens, so
        that it goes before a tenant that keeps others waiting."""
        tenant.served = max(tenant.served, self._credited())
        if not tenant.listed:
            tenant.listed = True
            insort(self._by_service, (tenant.served, tenant.name))

    def _credited(self) -> float:
        """Where a tenant begins that has not waited for anything."""
        floor = min((one.served for one in self._least_served()), default=self._floor)
        return floor - self._fairness

    def _least_served(self, passed: Container[str] = ()) -> list[_Tenant]:
        """Tenants that wait, of those that were served least, and nearly so."""
        found: list[_Tenant] = []
        order, at, least = self._by_service, 0, math.inf
        while at < len(order) and len(found) < _LOOKED_AT:
            served, name = order[at]
            tenant = self._tenants[name]
            if not tenant.count:
                del order[at]
                tenant.listed = False
            elif tenant.served != served:
                del order[at]
                insort(order, (tenant.served, name))
            elif served > least + self._fairness:
                break
            else:
                at += 1
                if name not in passed:
                    found.append(tenant)
                    least = min(least, served)
        return found


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

"""Which tenants hold so much that a part of what there is is kept for others."""

from collections import Counter, OrderedDict
from collections.abc import Mapping

_RECENT = 60.0  # seconds after its last request that a tenant counts as one that may come again
_MUCH = 1.5  # of its share: from here on a tenant holds many places
_PART = 0.25  # of a step's room for prefill: what its prompts get then
_MOST = 0.5  # and of what the one with most holds


class Shares:
    """Places by tenant, and who was here of late. A server with one tenant keeps nothing back."""

    def __init__(self, weights: Mapping[str, float], reserve: float) -> None:
        self._reserve = reserve
        self._weights = weights
        self._held: Counter[str] = Counter()
        self._last: OrderedDict[str, float] = OrderedDict()  # by time
        self._weight = 0.0  # of those

    def came(self, tenant: str, now: float) -> None:
        """A request of this tenant came."""
        if tenant not in self._last:
            self._weight += self._weights.get(tenant, 1.0)
        self._last[tenant] = now
        self._last.move_to_end(tenant)
        while (oldest := next(iter(self._last.items())))[1] < now - _RECENT:
            del self._last[oldest[0]]
            self._weight -= self._weights.get(oldest[0], 1.0)

    def took(self, tenant: str) -> None:
        """It has one place more."""
        self._held[tenant] += 1

    def left(self, tenant: str) -> None:
        """It has one place less."""
        self._held[tenant] -= 1
        if not self._held[tenant]:
            del self._held[tenant]

    def kept(self, tenant: str) -> float:
        """The part of places, decode's time and KV blocks that this tenant may not take: others may come for it."""
        held = self._held[tenant]
        if len(self._last) < 2 or not held:
            return 0.0
        weight = self._weights.get(tenant, 1.0)
        if held <= _MUCH * weight / self._weight * self._held.total():
            return 0.0
        most = max(count / self._weights.get(name, 1.0) for name, count in self._held.items())
        return self._reserve if held / weight > _MOST * most else 0.0

    def part(self, tenant: str) -> float:
        """Of a step's room for prefill, what this tenant's prompts may take: so that others' find steps short."""
        return _PART if self.kept(tenant) else 1.0

"""What tenants were served, and what they hold: who goes first, and what one that holds much leaves to others.

Virtual token counters (VTC: Sheng et al., OSDI'24): the tenant that was served least goes first. Tenants within
``fairness`` tokens of each other count as equal. One that waits for nothing collects no credit, but for ``fairness``
tokens when it comes again: so it goes before a backlog, however long that is.
"""

from bisect import insort
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from math import inf

from tenfold.sched.sequence import Sequence

OUTPUT_CHARGE = 2.0  # what a tenant is charged for an output token, in prompt tokens
_RECENT = 60.0  # seconds after its last request that a tenant counts as one that may come again
_BACKLOG = 1.0  # seconds for which something of a tenant has waited, from where on it wants more than it gets,
_LASTS = 10.0  # and for how many seconds after that
_MUCH = 1.5  # of its share of the places that are taken: from here on a tenant holds many,
_MOST = 0.5  # and of what the one with most holds
_PART = 0.25  # of a step's room for prefill: what its prompts get then
_LOOKED_AT = 8  # tenants that tell what was served at the least: of many that were served the same, a few will do
_MANY = 1024  # records above which those of tenants that are gone are dropped


class Tenant:
    """The books of one tenant."""

    __slots__ = ("credit", "held", "listed", "name", "served", "since", "until", "waiting", "weight")

    def __init__(self, name: str, weight: float, served: float) -> None:
        self.name = name
        self.weight = weight
        self.served = served  # tokens it was charged, divided by its weight
        self.credit = 0.0  # of those, what it was given for coming again and has not used
        self.waiting = 0  # sequences
        self.since = 0.0  # when that became more than none
        self.until = -inf  # until when it is taken to want more than it gets
        self.held = 0  # places
        self.listed = False


class Tenants:
    """Owner of all tenants' books. ``tick`` tells it the time."""

    def __init__(self, weights: Mapping[str, float], fairness: float, reserve: float) -> None:
        self._weights = weights
        self._fairness = fairness
        self._reserve = reserve
        self._records: dict[str, Tenant] = {}
        self._order: list[tuple[float, str]] = []  # those that wait, by service, at present or before
        self._recent: OrderedDict[str, float] = OrderedDict()  # when its last request came, by time
        self._recent_weight = 0.0
        self._holding: dict[str, Tenant] = {}
        self._held = 0  # places, of all
        self._floor = fairness  # the most that one had been served when it got a place
        self._bar = inf  # who was served more comes after those that were not
        self._now = 0.0

    def of(self, name: str) -> Tenant:
        """The books of a tenant; new ones begin where those begin that come again."""
        tenant = self._records.get(name)
        if tenant is None:
            if len(self._records) >= _MANY:
                self._drop()
            tenant = self._records[name] = Tenant(name, self._weight(name), self._level() - self._fairness)
            tenant.credit = self._fairness
        return tenant

    def tick(self, now: float) -> None:
        """It is ``now``; tenants that have not sent anything for a minute are not expected any more."""
        self._now = max(self._now, now)
        while self._recent and next(iter(self._recent.values())) < self._now - _RECENT:
            name, _ = self._recent.popitem(last=False)
            self._recent_weight -= self._weight(name)

    def came(self, name: str) -> None:
        """A request of this tenant came now."""
        if name not in self._recent:
            self._recent_weight += self._weight(name)
        self._recent[name] = self._now
        self._recent.move_to_end(name)

    def waits(self, name: str) -> None:
        """One sequence more waits."""
        tenant = self.of(name)
        if not tenant.waiting:
            tenant.since = self._now
            tenant.served, tenant.credit = self._standing(tenant)
            if not tenant.listed:
                tenant.listed = True
                insort(self._order, (tenant.served, name))
        tenant.waiting += 1

    def waits_no_more(self, name: str) -> None:
        """One sequence less waits."""
        self._records[name].waiting -= 1

    def took(self, name: str) -> None:
        """It has one place more."""
        tenant = self.of(name)
        self._floor = max(self._floor, tenant.served + tenant.credit)
        tenant.held += 1
        self._held += 1
        self._holding[name] = tenant

    def left(self, name: str) -> None:
        """It has one place less."""
        tenant = self._holding[name]
        tenant.held -= 1
        self._held -= 1
        if not tenant.held:
            del self._holding[name]

    def charge(self, name: str, tokens: float) -> None:
        """It was served so many tokens; an output token may count as several."""
        tenant = self.of(name)
        tokens /= tenant.weight
        tenant.served += tokens
        tenant.credit = max(0.0, tenant.credit - tokens)

    def service(self) -> dict[str, float]:
        """Tokens that each tenant of late was charged, divided by its weight; only differences mean anything."""
        return {name: tenant.served for name, tenant in self._records.items()}

    # Who goes first.

    def in_order(self) -> Iterator[Tenant]:
        """Those that wait, the one that was served least first. Nothing may change while this goes on."""
        order, at = self._order, 0
        while at < len(order):
            served, name = order[at]
            tenant = self._records[name]
            if not tenant.waiting:
                del order[at]
                tenant.listed = False
            elif tenant.served != served:
                del order[at]
                insort(order, (tenant.served, name))
            else:
                at += 1
                yield tenant

    def tell_apart(self, prefilling: Iterable[Sequence]) -> None:
        """From now on, those are ``over`` that were served more than another that wants prefill, beyond fairness."""
        served = {one.terms.tenant: self.of(one.terms.tenant).served for one in prefilling}
        first = next(self.in_order(), None)
        least = min([*served.values(), *([first.served] if first is not None else [])], default=0.0)
        self._bar = least + self._fairness
        for one in prefilling:
            one.over = served[one.terms.tenant] > self._bar

    def over(self, name: str) -> bool:
        """Whether it was served so much more than others that those go first."""
        return self._records[name].served > self._bar

    def reach(self, name: str) -> float:
        """Whoever was served more than this goes after a request of this tenant that comes now."""
        tenant = self._records.get(name)
        served = self._level() - self._fairness
        if tenant is not None:
            served = tenant.served if tenant.waiting else self._standing(tenant)[0]
        return served + self._fairness

    # Who holds much.

    def kept(self, name: str) -> float:
        """The part of places, of decode's time and of KV blocks that this tenant may not take: others may come for it.

        Nothing, unless it holds much more than its share, wants more, and others were here of late.
        """
        tenant = self._records.get(name)
        if tenant is None or not tenant.held:
            return 0.0
        if tenant.waiting and self._now - tenant.since >= _BACKLOG:
            tenant.until = self._now + _LASTS
        if self._now > tenant.until:
            return 0.0
        mine = name in self._recent
        if len(self._recent) - mine < 1:
            return 0.0
        weights = self._recent_weight + (0.0 if mine else tenant.weight)
        if tenant.held <= _MUCH * tenant.weight / weights * self._held:
            return 0.0
        most = max(one.held / one.weight for one in self._holding.values())
        return self._reserve if tenant.held / tenant.weight > _MOST * most else 0.0

    def part(self, name: str) -> float:
        """Of a step's room for prefill, what this tenant's prompts may take: so that others' find steps short."""
        return _PART if self.kept(name) else 1.0

    def check(self) -> None:
        """Assert that counts are what they count."""
        assert self._held == sum(one.held for one in self._records.values())
        assert all(one.listed or not one.waiting for one in self._records.values()), "one that waits is not listed"

    def _weight(self, name: str) -> float:
        return self._weights.get(name, 1.0)

    def _level(self) -> float:
        """What was served those that wait, without credit, at the least; or the one that got a place last."""
        level = inf
        for tenant in islice(self.in_order(), _LOOKED_AT):
            level = min(level, tenant.served + tenant.credit)
        return level if level < inf else self._floor

    def _standing(self, tenant: Tenant) -> tuple[float, float]:
        """What counts as served, and how much of that is credit, where it has waited for nothing so far."""
        level = self._level()
        served = max(tenant.served, level - self._fairness)
        return served, max(0.0, min(self._fairness, level - served))

    def _drop(self) -> None:
        """Forget tenants that hold and wait for nothing and were served no more than a new one; if need be, more."""
        least = self._floor - self._fairness
        kept = {n: t for n, t in self._records.items() if t.waiting or t.held or t.served > least}
        if len(kept) >= 2 * _MANY:
            kept = {n: t for n, t in kept.items() if t.waiting or t.held}
        self._records = kept
        self._order = [entry for entry in self._order if entry[1] in kept]

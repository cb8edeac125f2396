"""Where the time of finished requests went; the latest are kept."""

from collections import OrderedDict
from enum import Enum
from itertools import islice

import msgspec


def cost_of(machine_seconds: float, price: float | None) -> float | None:
    """What they cost at a price per hour; None where there is none."""
    return None if price is None else machine_seconds * price / 3600


class ChoiceTimeline(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time of a choice went, in seconds from the request's receipt; the parts add up to ``total``.

    ``tokenize``: reading the request; ``queue`` until first scheduled; ``prefill`` until the first token; then
    ``decode``, and ``interference``, which is what others' prompts took of its steps; ``preempted`` without a place,
    ``recompute`` after that; ``delivery`` from the engine to the connection. ``machine_seconds`` is its part of the
    time that the engine's steps took, ``cost`` what that costs where the server has a price.
    """

    slo_class: str
    tokenize: float
    queue: float
    prefill: float
    decode: float
    interference: float
    preempted: float
    recompute: float
    delivery: float
    total: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    machine_seconds: float
    draft_tokens: int = 0
    accepted_tokens: int = 0
    saved_seconds: float = 0.0
    cost: float | None = None
    ttft: float | None = None
    tpot: float | None = None
    ttft_bound: float | None = None
    tpot_bound: float | None = None
    preemptions: list[str] = []


class RequestReport(msgspec.Struct, frozen=True, kw_only=True):
    """A finished request: ``id`` as in its answer, ``request_id`` as in its x-request-id header.

    ``prompt_tokens`` are those of all its prompts.
    """

    id: str
    request_id: str
    ended: float  # Unix seconds
    finish_reasons: list[str]
    choices: list[ChoiceTimeline]
    prompt_tokens: int = 0


class Everyone(Enum):
    """Who may see every tenant's requests."""

    EVERYONE = "everyone"


EVERYONE = Everyone.EVERYONE


class RequestLog:
    """The requests that ended last, at most ``capacity``; found by either of their ids. No text is kept."""

    def __init__(self, capacity: int = 1024) -> None:
        self._capacity = capacity
        self._reports: OrderedDict[str, tuple[RequestReport, str | None]] = OrderedDict()  # by answer id
        # Answer id by tenant and request id; of the latest, where a client uses one again.
        self._answers: dict[tuple[str | None, str], str] = {}
        self.added = 0  # since the start

    def add(self, report: RequestReport, tenant: str | None) -> None:
        """Keep a report; ``tenant`` is that of the request's API key, if there are keys."""
        self.added += 1
        self._reports[report.id] = report, tenant
        self._answers[tenant, report.request_id] = report.id
        if len(self._reports) > self._capacity:
            _, (oldest, owner) = self._reports.popitem(last=False)
            if self._answers.get((owner, oldest.request_id)) == oldest.id:
                del self._answers[owner, oldest.request_id]

    def find(self, name: str, tenant: str | Everyone | None) -> RequestReport | None:
        """The report of an answer or request id, if ``tenant`` may see it."""
        if tenant is EVERYONE:
            named = (report for report, _ in reversed(self._reports.values()) if name in (report.id, report.request_id))
            return next(named, None)
        found = self._reports.get(name) or self._reports.get(self._answers.get((tenant, name), ""))
        return found[0] if found is not None and found[1] == tenant else None

    def latest(self, count: int, tenant: str | Everyone | None) -> list[RequestReport]:
        """The last ones that ``tenant`` may see, the latest first."""
        mine = (report for report, owner in reversed(self._reports.values()) if tenant in (EVERYONE, owner))
        return [report for report, _ in zip(mine, range(count), strict=False)]

    def after(self, number: int, count: int, tenant: str | Everyone | None) -> list[tuple[RequestReport, str | None]]:
        """Of those that came after the first so many, the last ones with whose they are, the latest at the end."""
        new = min(self.added - number if number <= self.added else self.added, count)
        last = list(islice(reversed(self._reports.values()), new))
        return [(report, owner) for report, owner in reversed(last) if tenant in (EVERYONE, owner)]

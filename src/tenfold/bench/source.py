"""What is asked: loads of a workload or a trace at any rate, with text for a server and without it for a simulation."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from tenfold.bench.load import Load, among_classes, at_random, closed, shares_of
from tenfold.bench.replay import Replay
from tenfold.core.errors import ConfigError
from tenfold.traffic import lengths
from tenfold.traffic.arrivals import gamma
from tenfold.traffic.row import Row

_APART = 1_000_003  # seeds of rates that follow each other
_LEAST_REQUESTS = 20  # at each of several rates: of fewer, a part says nothing


@dataclass(frozen=True, slots=True)
class Source:
    """``requests`` of a ``workload`` by ``users`` at a time or at a rate, or those of ``replay``; with ``several``
    rates, as many as come within ``seconds``. ``classes`` shares them out among SLO classes."""

    workload: str
    requests: int
    users: int
    seed: int
    burstiness: float = 1.0
    seconds: float = 60.0
    several: bool = False
    replay: Replay | None = None
    classes: str | None = None

    @property
    def name(self) -> str:
        """Of the workload, or the trace."""
        return self.replay.name if self.replay is not None else self.workload

    def check(self, rates: list[float], *, searched: bool) -> None:
        """Raise ConfigError where one of these rates cannot be."""
        most = self.most
        for one in rates:
            if not 0 < one < float("inf"):
                raise ConfigError(f"--rate must be above 0 requests per second, got {one:g}")
            if one > most and not searched:
                raise ConfigError(
                    f"--rate {one:g}: at this --speed the trace has no more than {most:.3g} requests per second"
                )

    @property
    def most(self) -> float:
        """The greatest rate there can be."""
        return self.replay.rate if self.replay is not None else float("inf")

    def class_names(self) -> set[str]:
        """SLO classes that requests name."""
        named = set(shares_of(self.classes)) if self.classes is not None else set()
        return named | ({row.slo_class for row in self.replay.rows(None, 0)} if self.replay is not None else set())

    def count(self, rate: float | None) -> int:
        """Requests that there will be."""
        if self.replay is not None:
            return len(self.replay.rows(rate, self.seed))
        return max(_LEAST_REQUESTS, round(rate * self.seconds)) if self.several and rate is not None else self.requests

    def told(self, rate: float | None) -> dict[str, Any]:
        """How it is made, for a report."""
        if self.replay is not None:
            return self.replay.told(rate)
        return {} if rate is None else {"rate": rate, "burstiness": self.burstiness}

    def load(self, rate: float | None, turn: int = 0) -> Load:
        """At this rate; None: by users, or as the trace has it. ``turn`` counts the rates of a run: what an earlier one
        asked lies in the prefix cache, so each asks anew."""
        fresh = self.seed + _APART * turn
        if self.replay is not None:
            made = self.replay.load(rate, fresh)
        elif rate is None:
            made = closed(self.workload, self.requests, self.users, fresh)
        else:
            made = at_random(self.workload, self.count(rate), rate, fresh, burstiness=self.burstiness)
        return among_classes(made, self.classes) if self.classes is not None else made

    def rows(self, rate: float | None, turn: int = 0) -> Iterator[Row]:
        """The same without text, made when asked for; lengths are drawn from the same distributions."""
        fresh = self.seed + _APART * turn
        if self.replay is not None:
            rows = iter(self.replay.rows(rate, fresh))
        else:
            times = gamma(rate, self.burstiness, fresh) if rate is not None else iter(lambda: 0.0, None)
            rows = lengths.rows(self.workload, islice(times, self.count(rate)), fresh)
        if self.classes is None:
            return rows
        shares, rng = shares_of(self.classes), random.Random(fresh)
        names, weights = list(shares), list(shares.values())
        return (replace(row, slo_class=rng.choices(names, weights)[0]) for row in rows)

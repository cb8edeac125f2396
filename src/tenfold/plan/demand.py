"""The traffic to plan for: a workload at a rate, or a trace."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tenfold.bench.source import Source
from tenfold.traffic.row import Row
from tenfold.traffic.shaping import faster


@dataclass(frozen=True, slots=True)
class SourceDemand:
    """So much of a :class:`~tenfold.bench.source.Source`: ``rate`` requests per second, for its ``seconds``."""

    source: Source
    rate: float

    def rows(self, factor: float, seed: int) -> Iterator[Row]:
        """See :class:`~tenfold.plan.setting.Demand`. Of a trace, all of it in a shorter or longer time."""
        if self.source.replay is not None:
            return iter(faster(self.source.replay.rows(None, seed), factor))
        return replace(self.source, seed=seed, several=True).rows(factor * self.rate)

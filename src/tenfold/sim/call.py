"""One simulated request."""

from tenfold.core.request import Timeline
from tenfold.core.slo import Slo
from tenfold.traffic.row import Row

_WORDS = 1 << 30  # different tokens


class Call:
    """A row of traffic on its way; times are in seconds on the simulation's clock."""

    __slots__ = ("arrived", "ended", "error", "first", "number", "replica", "row", "slo_class", "timeline", "work")

    def __init__(self, number: int, row: Row, arrived: float) -> None:
        self.number = number
        self.row = row
        self.arrived = arrived
        self.slo_class = row.slo_class
        self.replica = 0
        self.work = 0.0  # seconds of its prompt alone
        self.first: float | None = None  # its first token
        self.ended: float | None = None
        self.error: str | None = None  # why it was refused or given up
        self.timeline: Timeline | None = None

    @property
    def name(self) -> str:
        """Its id."""
        return str(self.number)

    def prompt_ids(self) -> tuple[int, ...]:
        """As many tokens as its row has; equal ones where rows name equal blocks, else its own."""
        row = self.row
        ids: list[int] = []
        for block in row.blocks:
            start = block * row.block_tokens % _WORDS
            ids += range(start, start + row.block_tokens)
        own = row.prompt - len(ids)
        if own < 0:
            del ids[own:]
        start = -1 - self.number * 65_536 % _WORDS
        return (*ids, *range(start, start - own, -1))

    def refuse(self, error: str) -> None:
        """It was not let in, or given up."""
        self.error = error

    def end(self, now: float, timeline: Timeline | None) -> None:
        """It has its last token."""
        self.ended, self.timeline = now, timeline

    @property
    def ttft(self) -> float | None:
        """Seconds to its first token."""
        return None if self.first is None else self.first - self.arrived

    @property
    def tpot(self) -> float | None:
        """Seconds per token after the first, on average; None where there is none."""
        if self.first is None or self.ended is None or self.row.outputs < 2:
            return None
        return (self.ended - self.first) / (self.row.outputs - 1)

    def good(self, slo: Slo) -> bool:
        """Whether it was answered and met the bounds."""
        if self.error is not None or self.ttft is None:
            return False
        tpot = self.tpot
        return (slo.ttft is None or self.ttft <= slo.ttft) and (slo.tpot is None or tpot is None or tpot <= slo.tpot)

"""What is measured of one request."""

from dataclasses import dataclass, field

from tenfold.core.clock import Clock
from tenfold.core.slo import Slo


@dataclass(slots=True)
class Record:
    """One request's times, in seconds on the clock of the client, and tokens.

    ``prompt_tokens`` and ``output_tokens`` are as reported by the system under test; ``error`` says what went wrong,
    ``unreached`` that nobody was there to say it.
    """

    kind: str
    wanted: int
    began: float
    first: float | None = None
    last: float | None = None
    ended: float | None = None
    gaps: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    output_tokens: int = 0
    error: str | None = None
    unreached: bool = False
    tenant: str = ""
    slo_class: str = ""
    ids: list[int] = field(default_factory=list)  # of the output, where the target tells them

    def output(self, now: float) -> None:
        """A piece of output (one token, or several that were produced together) has arrived."""
        if self.last is None:
            self.first = now
        else:
            self.gaps.append(now - self.last)
        self.last = now

    def end(self, clock: Clock) -> "Record":
        """Nothing more will come."""
        self.ended = clock.now()
        return self

    @property
    def refused(self) -> bool:
        """Whether it was turned away: with a 429, or a 400 because the bounds it names cannot be kept even alone."""
        error = self.error or ""
        return error.startswith("429") or (error.startswith("400") and "slo_t" in error)

    def good(self, slo: Slo) -> bool:
        """Whether it was answered in full and met the bounds; refusals and errors did not."""
        if self.error is not None or self.ttft is None or self.output_tokens < self.wanted:
            return False
        slow = slo.tpot is not None and self.tpot is not None and self.tpot > slo.tpot
        return not slow and (slo.ttft is None or self.ttft <= slo.ttft)

    @property
    def ttft(self) -> float | None:
        """Time to first token."""
        return None if self.first is None else self.first - self.began

    @property
    def e2e(self) -> float | None:
        """Time to the end of the answer."""
        return None if self.ended is None else self.ended - self.began

    @property
    def tpot(self) -> float | None:
        """Mean time per output token after the first; None for fewer than two tokens."""
        if self.first is None or self.last is None or self.output_tokens < 2:
            return None
        return (self.last - self.first) / (self.output_tokens - 1)

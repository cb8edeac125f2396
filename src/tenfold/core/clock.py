"""Time, behind one seam: the only place of the engine that reads a clock."""

import time
from typing import Protocol


class Clock(Protocol):
    """A monotonic clock."""

    def now(self) -> float:
        """Seconds since an arbitrary fixed point; never goes back."""
        ...


class WallClock:
    """The machine's monotonic clock (the same in all processes of one machine)."""

    def now(self) -> float:
        """Seconds since some fixed point."""
        return time.monotonic()


class CpuClock:
    """The CPU time this process has used, over all its threads."""

    def now(self) -> float:
        """Seconds since the process began."""
        return time.process_time()


class VirtualClock:
    """A clock that moves only when told to: for simulation and tests."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        """Seconds, as told so far."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move forward by ``seconds`` (>= 0)."""
        assert seconds >= 0, "time does not go back"
        self._now += seconds

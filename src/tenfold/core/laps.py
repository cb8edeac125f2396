"""Where one thread's time goes: it is attributed, without a gap, to the parts of its steps."""

from typing import Protocol

from tenfold.core.clock import Clock
from tenfold.core.plan import StepPlan


class Laps(Protocol):
    """Told when a part of a step ends. One thread's."""

    def step(self, plan: StepPlan) -> None:
        """A step has begun: what was not attributed yet, and what follows, belongs to it."""
        ...

    def lap(self, part: str) -> None:
        """The time since the previous call was spent on ``part``."""
        ...

    def skip(self) -> None:
        """The time since the previous call was spent waiting for work: it, and what follows, belongs to no step."""
        ...

    def totals(self) -> dict[str, dict[str, float]]:
        """By :func:`step_kind`: seconds of each part, and under ``steps`` how many steps there were."""
        ...


class NoLaps:
    """Records nothing; what runs unless a profile is asked for."""

    def step(self, plan: StepPlan) -> None:
        """Nothing."""

    def lap(self, part: str) -> None:
        """Nothing."""

    def skip(self) -> None:
        """Nothing."""

    def totals(self) -> dict[str, dict[str, float]]:
        """Nothing."""
        return {}


class ClockedLaps:
    """Adds up the parts' seconds by kind of step."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = clock.now()
        self._totals: dict[str, dict[str, float]] = {}
        self._parts: dict[str, float] = {}  # of the present step's kind; outside of steps, nobody's

    def step(self, plan: StepPlan) -> None:
        """See :meth:`Laps.step`."""
        self._parts = self._totals.setdefault(step_kind(plan), {"steps": 0})
        self._parts["steps"] += 1

    def lap(self, part: str) -> None:
        """See :meth:`Laps.lap`."""
        now = self._clock.now()
        self._parts[part] = self._parts.get(part, 0.0) + now - self._last
        self._last = now

    def skip(self) -> None:
        """See :meth:`Laps.skip`."""
        self._last = self._clock.now()
        self._parts = {}

    def totals(self) -> dict[str, dict[str, float]]:
        """A copy. See :meth:`Laps.totals`."""
        return {kind: dict(parts) for kind, parts in self._totals.items()}


NO_LAPS = NoLaps()


def step_kind(plan: StepPlan) -> str:
    """``decode 32`` for a step of one token each of 32 sequences; ``prefill`` where some sequence has more."""
    sequences = len(plan.slices)
    return f"decode {sequences}" if plan.tokens == sequences else "prefill"

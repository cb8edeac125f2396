"""The seam between scheduling and computing."""

from typing import Protocol

from tenfold.core.plan import StepPlan, StepResult


class Executor(Protocol):
    """Computes one step at a time."""

    def execute(self, plan: StepPlan) -> StepResult:
        """Compute the plan's tokens and sample where asked: a token per sampling slice, in plan order, and one more for
        each of its drafted tokens that was right, until one was not.

        A sequence that cannot go on (its logits are not finite) is in ``failed`` instead.
        """
        ...

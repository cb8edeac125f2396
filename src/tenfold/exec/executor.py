"""The seam between scheduling and computing."""

from typing import Protocol

from tenfold.core.plan import StepPlan, StepResult


class Executor(Protocol):
    """Computes one step at a time."""

    def execute(self, plan: StepPlan) -> StepResult:
        """Compute the plan's tokens and sample where asked; one sample per sampling slice, in plan order.

        A sequence that cannot go on (its logits are not finite) is in ``failed`` instead.
        """
        ...

"""The seam between scheduling and computing."""

from typing import Protocol, runtime_checkable

from tenfold.core.plan import StepPlan, StepResult


class Executor(Protocol):
    """Computes one step at a time."""

    def execute(self, plan: StepPlan) -> StepResult:
        """Compute the plan's tokens and sample where asked: a token per sampling slice, in plan order, and one more for
        each of its drafted tokens that was right, until one was not.

        A sequence that cannot go on (its logits are not finite) is in ``failed`` instead.
        """
        ...


class Launched(Protocol):
    """A step that is computed, or will be when those launched before it are."""

    def result(self) -> StepResult:
        """What it gives; waits for its end. Asked for once, and in the order of launching."""
        ...


@runtime_checkable
class Overlapping(Executor, Protocol):
    """An executor that computes by itself, while the host plans and launches the next step: two are under way at most.

    Steps are computed in the order of launching, each as if all before it had ended; so blocks that one of them uses
    may be another's in the next. A plan launched on top of another has :data:`~tenfold.core.plan.NEXT_TOKEN` for what
    that one gives, also where it fails: then any valid id stands for it, and what is computed of the sequence is not
    looked at. The two may hold, together, twice as many sequences as may run: some end with the first.
    """

    def launch(self, plan: StepPlan) -> Launched:
        """Begin to compute the plan's step, or have it begin when those before it end; waits for none of them.

        :meth:`execute` launches a step and waits for it; it is called only while none is under way.
        """
        ...


class OneByOne:
    """The steps of an executor that computes while it is waited for."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    def launch(self, plan: StepPlan) -> Launched:
        """Nothing yet: the step is computed when its result is asked for."""
        return _Later(self._executor, plan)


class _Later:
    __slots__ = ("_executor", "_plan")

    def __init__(self, executor: Executor, plan: StepPlan) -> None:
        self._executor = executor
        self._plan = plan

    def result(self) -> StepResult:
        return self._executor.execute(self._plan)

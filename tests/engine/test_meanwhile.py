"""What others do while a step is computed: submit, abort, submit again under the same id."""

from collections.abc import Callable

import pytest

from tenfold.core.errors import Overloaded
from tenfold.core.plan import StepPlan, StepResult
from tests.helpers.engines import Rig


class Interrupted(Rig):
    """A rig in which something happens while each step is computed."""

    def __init__(self, meanwhile: Callable[["Interrupted"], None], **settings: int) -> None:
        super().__init__(**settings)  # type: ignore[arg-type]
        compute = self.executor.execute

        def execute(plan: StepPlan) -> StepResult:
            meanwhile(self)
            return compute(plan)

        self.executor.execute = execute  # type: ignore[method-assign]


def test_requests_come_and_go_while_a_step_is_computed() -> None:
    def meanwhile(rig: Interrupted) -> None:
        steps = rig.executor.steps
        if steps == 0:
            rig.submit("late", [1, 2, 3], max_tokens=5)
        if steps == 3:
            rig.abort("early")
            rig.submit("other", [4, 5], max_tokens=3)

    rig = Interrupted(meanwhile)
    rig.submit("early", [1, 2, 3, 4, 5, 6], max_tokens=30, ignore_eos=True)
    rig.run()
    assert rig.finish("early") == "abort"
    alone = Rig()
    alone.submit("late", [1, 2, 3], max_tokens=5)
    alone.run()
    assert rig.tokens("late") == alone.tokens("late")
    assert rig.finish("other") in ("stop", "length")
    assert rig.cache.pool.held == 0


def test_an_id_is_used_again_before_its_step_has_ended() -> None:
    """What the step computed for the one that ended is not the new one's."""

    def meanwhile(rig: Interrupted) -> None:
        if rig.executor.steps == 2:
            rig.abort("x")
            rig.outputs.clear()
            rig.submit("x", [9, 8, 7, 6], max_tokens=6, ignore_eos=True)

    rig = Interrupted(meanwhile)
    rig.submit("x", [1, 2, 3, 4, 5, 6], max_tokens=30, ignore_eos=True)
    rig.run()
    alone = Rig()
    alone.submit("x", [9, 8, 7, 6], max_tokens=6, ignore_eos=True)
    alone.run()
    assert rig.tokens("x") == alone.tokens("x")


def test_a_refusal_does_not_wait_for_the_step() -> None:
    refused = []

    def meanwhile(rig: Interrupted) -> None:
        if rig.executor.steps == 1:
            with pytest.raises(Overloaded):
                for i in range(10):
                    rig.submit(f"{i}", [1, 2], max_tokens=2)
            refused.append(rig.executor.steps)

    rig = Interrupted(meanwhile, max_waiting=3)
    rig.submit("first", [1, 2, 3], max_tokens=10)
    rig.run()
    assert refused == [1]


def test_one_that_leaves_in_a_step_pays_for_it() -> None:
    def meanwhile(rig: Interrupted) -> None:
        if rig.executor.steps in (3, 5):
            rig.abort(f"{rig.executor.steps}")

    rig = Interrupted(meanwhile)
    for name in ("3", "5", "stays"):
        rig.submit(name, [1, 2, 3], max_tokens=20, ignore_eos=True)
    rig.run()
    stats = rig.core.stats()
    assert stats.busy_seconds_total > 0
    assert stats.billed_seconds_total == {"standard": {"": pytest.approx(stats.busy_seconds_total)}}
    told = sum(outputs[-1].timeline.machine_seconds for outputs in rig.outputs.values() if outputs[-1].timeline)
    assert 0 < told < stats.busy_seconds_total

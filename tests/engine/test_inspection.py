"""What the engine tells whoever looks: steps that are new, sequences as they are."""

import pytest

from tenfold.cost.shape import StepShape
from tenfold.engine.inspection import KEPT, Step, StepLog
from tests.helpers.engines import Rig


def test_only_steps_that_are_new() -> None:
    log = StepLog()
    assert log.latest(10) == []
    steps = [Step(StepShape(), float(at), 0.01, 0) for at in range(KEPT + 5)]
    for step in steps[:5]:
        log.add(step)
    assert log.latest(10) == steps[:5]
    assert log.latest(2) == steps[3:5]
    assert log.latest(0) == []
    assert log.latest(10, after=3) == steps[3:5]
    assert log.latest(1, after=3) == steps[4:5]
    assert log.latest(10, after=5) == []
    assert log.latest(10, after=99) == steps[:5], "counted in an engine that is gone"
    for step in steps[5:]:
        log.add(step)
    assert log.made == KEPT + 5
    assert log.latest(KEPT * 2) == steps[5:]
    assert log.latest(10, after=KEPT + 2) == steps[KEPT + 2 :]


def test_sequences_that_have_not_ended() -> None:
    """Their phases add up to their age, and those with a place are those that hold blocks."""
    rig = Rig(max_running=2)
    for at in range(4):
        rig.submit(f"s{at}", [at + 1] * 20, max_tokens=6)
    phases = set()
    while not rig.core.idle:
        rig.clock.advance(0.5)
        rig.take(rig.core.step())
        seen = rig.scheduler.live(rig.clock.now(), 256)
        for one in seen:
            assert sum(one.seconds.values()) == pytest.approx(one.age)
            assert one.computed <= one.prompt_tokens + one.output_tokens
            phases.add(one.phase)
        placed = [one.id for one in seen if one.phase != "waiting"]
        assert len(placed) == rig.scheduler.running
        assert len(seen) == rig.scheduler.running + rig.scheduler.waiting
        assert set(placed) == {one.id for one in rig.cache.map().holders}
        assert [one.id for one in rig.scheduler.live(rig.clock.now(), 1)] == [one.id for one in seen][:1]
    assert phases == {"waiting", "prefill", "decode"}
    assert rig.scheduler.live(rig.clock.now(), 256) == []

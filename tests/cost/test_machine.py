"""What a simulation takes from real steps."""

import random

import msgspec
import pytest

from tenfold.cost.estimate import StepCost, StepFit
from tenfold.cost.machine import KINDS, Machine, kind_of, read_machine
from tenfold.cost.shape import StepShape

FIT = StepFit((0.002, 0.008, 0.008, 0.012, 0.012, 0.012, 0.0003, 0.001, 0.003, 0.01, 0.003, 0.004, 0.002))
MACHINE = Machine(model="m", backend="b", cpu="c", max_context=99, blocks=9, block_size=16, windows=(0,), fit=FIT)


def decode(sequences: int) -> StepShape:
    return StepShape(sequences, sequences, sequences, 100.0 * sequences, 0.0)


def test_times_scatter_by_kind_as_they_did() -> None:
    """Twice as long for few sequences, three times for many: both are found again, and the mean speed."""
    cost, rng = StepCost(FIT), random.Random(1)
    steps = []
    for _ in range(200):
        for sequences, slower in ((1, 2.0), (30, 3.0)):
            shape = decode(sequences)
            steps.append((shape, 100.0, slower * rng.uniform(0.9, 1.1) * cost.fitted(shape)))
    learned = MACHINE.learned(steps)
    assert 2.0 < learned.drift < 3.0
    for sequences, slower in ((1, 2.0), (30, 3.0)):
        ratios = [ratio * learned.drift for ratio in learned.ratios_of(kind_of(decode(sequences)))]
        assert sum(ratios) / len(ratios) == pytest.approx(slower, rel=0.02)
        assert min(ratios) == pytest.approx(0.9 * slower, rel=0.03)
        assert max(ratios) == pytest.approx(1.1 * slower, rel=0.03)
    assert learned.spells == (1.0,)  # all in one second
    total = sum(seconds for *_, seconds in steps)
    assert sum(learned.drift * cost.fitted(shape) for shape, *_ in steps) == pytest.approx(total)
    assert learned.cost().predict(decode(1)) == pytest.approx(learned.drift * cost.fitted(decode(1)))


def test_slow_spells_are_told_by_the_second() -> None:
    """Ten seconds at one speed, ten at half of it, ten without work, ten at the first speed."""
    cost = StepCost(FIT)
    shape = decode(4)
    took = cost.fitted(shape)
    steps = [(shape, 0.5 + at * took, took) for at in range(int(10 / took))]
    steps += [(shape, 10.5 + at * 2 * took, 2 * took) for at in range(int(5 / took))]
    steps += [(shape, 30.5 + at * took, took) for at in range(int(10 / took))]
    learned = MACHINE.learned(steps)
    assert len(learned.spells) == 41
    speeds = [learned.drift * spell for spell in learned.spells]
    assert speeds[:10] == pytest.approx([1.0] * 10, rel=0.01)
    assert speeds[11:20] == pytest.approx([2.0] * 9, rel=0.01)
    assert speeds[28:30] == pytest.approx([learned.drift] * 2, rel=0.05)  # of an idle machine nothing is known
    assert speeds[31:] == pytest.approx([1.0] * 10, rel=0.01)
    (ratios,) = (some for some in learned.ratios if some)
    assert sorted(ratios)[3:-3] == pytest.approx([1.0] * (len(ratios) - 6), rel=0.01)  # all but those in mixed seconds
    assert MACHINE.learned(random.Random(1).sample(steps, len(steps))).spells == learned.spells
    later = MACHINE.learned([(shape, 0.0, took), *((shape, at + 1e4, took) for _, at, took in steps)])
    assert later.spells[-41:] == pytest.approx(learned.spells, rel=0.01)
    assert len(later.spells) == 900


def test_a_slow_second_before_an_idle_hour_is_one_second() -> None:
    shape = decode(4)
    took = StepCost(FIT).fitted(shape)
    steps = [(shape, at * took, took) for at in range(int(12 / took))]
    steps += [(shape, 12 + at * 5 * took, 5 * took) for at in range(int(1 / took / 5))]
    learned = MACHINE.learned([*steps, (shape, 800.0, took)])
    assert len(learned.spells) == 801
    assert learned.drift * sum(learned.spells) / 801 == pytest.approx(learned.drift, rel=0.02)
    assert learned.drift * learned.spells[12] == pytest.approx(5.0, rel=0.1)
    asleep = MACHINE.learned([*steps, (shape, 14.0, 40_000.0), *((shape, 50_000 + at, took) for _, at, took in steps)])
    assert read_machine(asleep.to_json(), "here") == asleep


def test_a_kind_that_was_not_seen_takes_the_nearest() -> None:
    ratios: list[tuple[float, ...]] = [()] * KINDS
    ratios[2], ratios[KINDS - 1] = (1.5,), (0.5,)
    machine = msgspec.structs.replace(MACHINE, ratios=tuple(ratios))
    assert machine.ratios_of(0) == machine.ratios_of(5) == (1.5,)
    assert machine.ratios_of(KINDS // 2) == (0.5,)
    assert MACHINE.ratios_of(3) == (1.0,)


def test_without_steps_nothing_is_learned() -> None:
    assert MACHINE.learned([]) == MACHINE
    assert MACHINE.learned([(decode(1), 1.0, 0.0)]) == MACHINE


def test_it_survives_a_file() -> None:
    learned = MACHINE.learned([(decode(1), 1.0, 0.01)] * 40)
    assert read_machine(learned.to_json(), "here") == learned


@pytest.mark.parametrize("steps", [1, 5, 40, 300])
@pytest.mark.parametrize("slower", [0.3, 0.8, 1.2, 1.6, 9.0])
def test_following_many_steps_is_following_each(steps: int, slower: float) -> None:
    one, many = StepCost(FIT), StepCost(FIT)
    shape = decode(4)
    fitted = one.fitted(shape)
    for _ in range(steps):
        one.follow(fitted, slower * fitted)
    many.follow(fitted, slower * fitted, steps)
    assert many.drift == pytest.approx(one.drift)

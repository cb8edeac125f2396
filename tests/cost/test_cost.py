"""The cost model: what it learns, how fast, and what does not confuse it."""

import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.core.plan import SequenceSlice, StepPlan
from tenfold.cost.estimate import FIRST_GUESS, Moments, StepCost, StepFit
from tenfold.cost.record import CostRecord
from tenfold.cost.shape import Attention, StepShape, shape_of

Machine = Callable[[StepShape], float]


def cpu(shape: StepShape) -> float:
    """A machine like the CPU the first kernels ran on."""
    rows, head = shape.rows, 0.0006 if shape.sampled else 0.0
    keys = 4e-7 * shape.decode_keys + 1.6e-7 * shape.prefill_keys + 6e-8 * shape.draft_keys
    return 0.0016 + 0.00033 * rows + head + 5e-8 * shape.sampled + keys + 0.00025 * shape.asked + 0.0005 * shape.passes


def gpu(shape: StepShape) -> float:
    """Flat up to some hundred rows, then a line."""
    return 0.006 + 2e-5 * max(0, shape.rows - 256) + 3e-8 * shape.decode_keys + 2e-9 * shape.prefill_keys


def tiles(shape: StepShape) -> float:
    """A few rows cost more each than many: from some on, a kernel takes whole tiles of them."""
    rows = 0.0006 * min(shape.rows, 4) + 0.0004 * min(max(shape.rows - 4, 0), 12) + 0.0002 * max(shape.rows - 16, 0)
    return 0.005 + rows + 1.2e-6 * shape.decode_keys + 3e-7 * shape.prefill_keys


def traffic(draws: random.Random, count: int) -> list[StepShape]:
    """Steps of a server: decode, mostly, and now and then a chunk beside it."""
    attention, shapes = Attention((0,)), []
    for _ in range(count):
        shape = StepShape()
        for _ in range(draws.choice((1, 1, 4, 16, 32))):
            shape.add(1, attention.keys(1, draws.randint(20, 2000)), True)
        if draws.random() < 0.4:
            new = draws.choice((40, 128, 256, 480))
            context = new + draws.choice((0, 0, 512, 2048))
            shape.add(new, attention.keys(new, context), draws.random() < 0.5)
        shapes.append(shape)
    return shapes


def drafting(draws: random.Random, count: int) -> list[StepShape]:
    """Steps in which some tokens are drafted, from text or by a draft model."""
    attention, shapes = Attention((0,)), []
    for _ in range(count):
        shape = StepShape()
        for _ in range(draws.choice((1, 1, 2, 8, 16))):
            context, drafted = draws.randint(20, 2000), draws.choice((0, 1, 3, 7, 15))
            shape.add(1, attention.keys(1, context), True)
            shape.draft(drafted, attention.keys(drafted, context + drafted))
            if draws.random() < 0.3:
                shape.asked += drafted
                shape.passes = max(shape.passes, drafted)
        shapes.append(shape)
    return shapes


def test_learns_what_drafted_tokens_cost() -> None:
    draws = random.Random(2)

    def machine(shape: StepShape) -> float:
        return cpu(shape) + 2e-7 * shape.draft_keys + 0.0003 * shape.passes

    cost = StepCost()
    steps = traffic(draws, 60) + drafting(draws, 60)
    cost.settle([(s, machine(s) * draws.uniform(0.97, 1.03)) for s in steps])
    assert worst(cost, machine, drafting(draws, 300)) < 0.1
    shape = StepShape(1, 1, 1, 500.0, 0.0)
    more = StepShape(1, 1, 1, 500.0, 0.0)
    more.draft(1, 501.0)
    row, key = cost.draft(shape.rows, 1)
    assert cost.predict(more) - cost.predict(shape) == pytest.approx(row + 501 * key)
    more.asked = more.passes = 1
    assert cost.predict(more) - cost.predict(shape) == pytest.approx(row + 501 * key + sum(cost.asked()))


def worst(cost: StepCost, machine: Machine, shapes: list[StepShape]) -> float:
    errors = sorted(abs(cost.predict(s) - machine(s)) / machine(s) for s in shapes)
    return errors[int(0.95 * len(errors))]


@pytest.mark.parametrize("machine", [cpu, gpu, tiles])
def test_learns_a_machine_from_a_few_steps(machine: Machine) -> None:
    draws = random.Random(1)
    cost = StepCost()
    cost.settle([(s, machine(s) * draws.uniform(0.97, 1.03)) for s in traffic(draws, 60)])
    assert worst(cost, machine, traffic(draws, 300)) < 0.1


@pytest.mark.parametrize("machine", [cpu, gpu, tiles])
def test_learns_from_live_steps_alone(machine: Machine) -> None:
    draws = random.Random(2)
    cost = StepCost()
    for shape in traffic(draws, 3000):
        cost.observe(shape, machine(shape) * draws.uniform(0.95, 1.05))
    assert cost.error is not None
    assert cost.error < 0.06
    assert worst(cost, machine, traffic(draws, 300)) < 0.15


def test_rows_that_no_step_had_cost_what_those_before_them_do() -> None:
    draws, cost = random.Random(7), StepCost()

    def slow(shape: StepShape) -> float:
        return 0.02 + 0.004 * shape.rows

    steps = [StepShape(rows, 1, 1, 0.0, 0.0) for rows in (1, 2, 3, 4, 8, 12, 16, 24, 32, 48, 64)]
    cost.settle([(s, slow(s) * draws.uniform(0.98, 1.02)) for s in steps])
    for rows in (200, 512, 4096):
        shape = StepShape(rows, 1, 1, 0.0, 0.0)
        assert cost.predict(shape) == pytest.approx(slow(shape), rel=0.1)


def test_a_sharp_bend_after_a_few_rows_is_learned() -> None:
    """What steps tell is not overruled by what rows beyond the bend cost."""
    draws, cost = random.Random(8), StepCost()

    def bends(shape: StepShape) -> float:
        return 0.003 + 0.002 * min(shape.rows, 4) + 2e-5 * max(shape.rows - 4, 0)

    steps = [StepShape(rows, rows, rows, 0.0, 0.0) for rows in (1, 2, 4, 8, 16, 32, 64) for _ in range(3)]
    steps += [StepShape(rows, 1, 1, 0.0, 0.0) for rows in (2, 4, 8, 16, 32, 64, 128, 256, 2048)]
    cost.settle([(s, bends(s) * draws.uniform(0.98, 1.02)) for s in steps])
    for rows in (1, 2, 4, 8, 16):
        shape = StepShape(rows, rows, rows, 0.0, 0.0)
        assert cost.predict(shape) == pytest.approx(bends(shape), rel=0.1)


def test_stalls_do_not_confuse_it() -> None:
    draws = random.Random(3)
    cost = StepCost()
    cost.settle([(s, cpu(s)) for s in traffic(draws, 60)])
    for shape in traffic(draws, 2000):
        stalled = draws.random() < 0.1
        cost.observe(shape, cpu(shape) * (draws.uniform(3, 40) if stalled else draws.uniform(0.97, 1.03)))
    assert worst(cost, cpu, traffic(draws, 300)) < 0.25
    assert cost.error is not None
    assert cost.error < 0.12


def test_follows_a_machine_that_becomes_slower() -> None:
    draws = random.Random(4)
    cost = StepCost()
    cost.settle([(s, cpu(s)) for s in traffic(draws, 60)])
    for shape in traffic(draws, 60):
        cost.observe(shape, 1.7 * cpu(shape))
    assert cost.drift == pytest.approx(1.7, rel=0.05)
    assert worst(cost, lambda s: 1.7 * cpu(s), traffic(draws, 100)) < 0.1
    for shape in traffic(draws, 60):
        cost.observe(shape, cpu(shape))
    assert worst(cost, cpu, traffic(draws, 100)) < 0.1


def test_the_scale_stays_whatever_the_noise_and_however_often_it_starts() -> None:
    draws = random.Random(6)
    cost = StepCost()
    cost.settle([(s, cpu(s)) for s in traffic(draws, 60)])
    chunk = StepShape()
    chunk.add(400, Attention((0,)).keys(400, 400), True)
    for _ in range(12):
        for shape in traffic(draws, 1500):
            cost.observe(shape, 1.5 * cpu(shape) * (1 + draws.expovariate(8)))
        cost = StepCost(cost.fit)
        cost.rebase([(s, 1.5 * cpu(s)) for s in traffic(draws, 8)])
    assert cost.drift == pytest.approx(1.5, rel=0.15)
    assert cost.predict(chunk) == pytest.approx(1.5 * cpu(chunk), rel=0.15)


def test_long_decode_does_not_make_it_forget_prefill() -> None:
    draws = random.Random(5)
    cost = StepCost()
    cost.settle([(s, cpu(s)) for s in traffic(draws, 60)])
    for step in range(8000):
        shape = StepShape()
        for _ in range(16):
            shape.add(1, 100 + step % 400, True)
        cost.observe(shape, 0.9 * cpu(shape))
    chunk = StepShape()
    chunk.add(512, Attention((0,)).keys(512, 512), True)
    assert cost.predict(chunk) == pytest.approx(cpu(chunk), rel=0.3)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4096), st.integers(0, 100_000), st.booleans()), max_size=40), st.data())
def test_predictions_are_sane_whatever_it_is_told(parts: list[tuple[int, int, bool]], data: st.DataObject) -> None:
    cost = StepCost()
    for new, before, sample in parts:
        shape = StepShape()
        shape.add(new, Attention((0, 512)).keys(new, before + new), sample)
        cost.observe(shape, data.draw(st.sampled_from([0.0, -1.0, math.nan, math.inf, 1e-9, 1e-3, 0.1, 1e6])))
        cost.settle([(shape, data.draw(st.sampled_from([0.0, math.nan, 1e-6, 2.0])))])
    shape = StepShape()
    last = 0.0
    for new in (1, 2, 100, 3000):
        now = cost.predict(shape.with_more(new, new * 50.0, True))
        assert math.isfinite(now)
        assert now >= 0.0
        assert now >= last or new == 2  # a second row turns decode into prefill
        last = now


def test_keys_of_windows() -> None:
    windows, layers = (0, 5, 5, 64), 4
    attention = Attention(windows)
    for new, context in ((1, 1), (1, 40), (7, 7), (7, 9), (30, 100), (100, 100), (3, 200)):
        expected = sum(
            min(position + 1, window or position + 1)
            for window in windows
            for position in range(context - new, context)
        )
        assert attention.keys(new, context) == pytest.approx(expected / layers)


def test_shape_of_a_plan() -> None:
    plan = StepPlan(
        (
            SequenceSlice("a", 10, (1,), (0,), True),
            SequenceSlice("b", 4, (1, 2, 3), (1,), False),
        )
    )
    shape = shape_of(plan, Attention((0,)))
    assert (shape.rows, shape.sequences, shape.sampled) == (4, 2, 1)
    assert (shape.decode_keys, shape.prefill_keys) == (11, 5 + 6 + 7)
    assert len(shape.features()) == StepShape.FEATURES


def test_record_comes_back(tmp_path: Path) -> None:
    cost = StepCost()
    draws = random.Random(6)
    cost.settle([(s, cpu(s)) for s in traffic(draws, 60)])
    record = CostRecord(tmp_path / "new" / "folder", ("model", "cpu"))
    assert record.load() is None
    assert record.save(cost.fit)
    again = record.load()
    assert again is not None
    shapes = traffic(draws, 50)
    restored = StepCost(again)
    assert [restored.predict(s) for s in shapes] == [cost.predict(s) for s in shapes]
    assert CostRecord(tmp_path / "new" / "folder", ("model", "other cpu")).load() is None
    for damaged in (b"", b"{}", record.path.read_bytes()[:-5], record.path.read_bytes().replace(b"parts", b"party")):
        record.path.write_bytes(damaged)
        assert record.load() is None


def test_what_cannot_be_put_in_place_leaves_nothing(tmp_path: Path) -> None:
    record = CostRecord(tmp_path, ("model",))
    (record.path / "in the way").mkdir(parents=True)
    assert not record.save(FIRST_GUESS)
    assert list(tmp_path.iterdir()) == [record.path]


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    record = CostRecord(tmp_path / "file" / "below", ("model",))
    assert not record.save(FIRST_GUESS)
    assert record.load() is None


def test_fits_that_make_no_sense_are_not_usable() -> None:
    parts = FIRST_GUESS.parts
    assert not StepFit(parts, Moments(weight=-1.0)).usable
    for bad in ((), parts[:-1], (-1.0, *parts[1:]), (math.nan, *parts[1:]), (0.0,) * len(parts)):
        assert not StepFit(bad).usable
    assert FIRST_GUESS.usable


def test_a_few_steps_tell_how_fast_the_machine_is_today() -> None:
    cost = StepCost()
    steps = traffic(random.Random(3), 80)
    cost.settle([(s, cpu(s)) for s in steps])
    few = [(s, 0.4 * cpu(s)) for s in steps[:7]]
    few[3] = (few[3][0], 9.0)  # one of them was disturbed
    fit = cost.fit
    cost.rebase(few)
    assert cost.drift == pytest.approx(0.4, rel=0.05)
    assert cost.fit.parts == fit.parts
    cost.rebase([])
    assert cost.drift == pytest.approx(0.4, rel=0.05)


@given(st.lists(st.integers(0, 600), min_size=5, max_size=5), st.lists(st.floats(0.0, 1e6), min_size=3, max_size=3))
def test_seconds_are_the_sum_over_the_features(counts: list[int], keys: list[float]) -> None:
    rows, sequences, sampled, asked, passes = counts
    shape = StepShape(rows, sequences, sampled, *keys, asked, passes)
    parts = [0.01 * (at + 1) / 7 for at in range(StepShape.FEATURES)]
    assert shape.seconds(parts) == sum(a * b for a, b in zip(shape.features(), parts, strict=True))

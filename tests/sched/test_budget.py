"""A step's budget in predicted time: what prompts may cost those who are being answered."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.core.config import FIRST_COME, Policy
from tenfold.core.errors import ConfigError
from tenfold.core.slo import Slo, parse_slo
from tenfold.cost.estimate import StepCost
from tenfold.cost.shape import StepShape
from tenfold.sched.budget import StepBudget
from tests.cost.test_cost import cpu
from tests.helpers.scheduling import ATTENTION, BALANCED, Server, calibrated


def chatting(slo: Slo, chats: int, outputs: int, policy: Policy = BALANCED) -> Server:
    """A server in the middle of some answers."""
    server = Server(slo, policy=policy)
    for i in range(chats):
        server.add(f"chat {i}", 40, outputs)
    for _ in range(20):
        server.step()
    return server


def test_long_prompts_leave_running_ones_their_bound() -> None:
    bound = 0.03
    worst = {}
    for slo in (Slo(), Slo(tpot=bound)):
        server = chatting(slo, 8, 150)
        for i in range(6):
            server.add(f"long {i}", 6000, 2)
        server.run()
        worst[slo] = max(server.tpot(f"chat {i}") for i in range(8))
        assert all(len(server.times[f"long {i}"]) == 2 for i in range(6))
    assert worst[Slo()] > 2 * bound
    assert worst[Slo(tpot=bound)] < 1.1 * bound


@pytest.mark.parametrize("slo", [Slo(), Slo(tpot=0.03), Slo(ttft=0.5), Slo(0.5, 0.03)])
def test_short_prompts_do_not_wait_for_long_ones(slo: Slo) -> None:
    waits = {}
    for policy in (FIRST_COME, Policy()):
        server = chatting(slo, 4, 600, policy)
        for i in range(3):
            server.add(f"long {i}", 7000, 2)
        server.step()
        began = server.now
        server.add("short", 100, 2)
        server.run()
        waits[policy] = server.times["short"][0] - began
        assert max(server.times[f"long {i}"][0] for i in range(3)) - began < 25
    assert waits[Policy()] < 0.5
    assert waits[FIRST_COME] > 3


def test_short_prompts_do_not_wait_where_nothing_runs() -> None:
    server = Server(Slo(tpot=0.03))
    server.add("long", 7000, 2)
    server.step()
    server.add("short", 100, 2)
    server.step()
    assert "short" in server.times
    assert "long" not in server.times


def test_alone_a_prompt_is_computed_as_fast_as_can_be() -> None:
    server = Server(Slo(tpot=0.001))
    server.add("long", 6000, 1)
    server.run()
    assert len(server.steps) == -(-6000 // 512)


def test_prefill_never_stands_still() -> None:
    """Even where the bound cannot be held."""
    server = Server(Slo(tpot=0.0001))
    for i in range(32):
        server.add(f"chat {i}", 20, 400)
    for _ in range(40):
        server.step()
    server.add("late", 300, 1)
    steps = 0
    while "late" not in server.times:
        server.step()
        steps += 1
    assert steps <= -(-300 // 16) + 1


def test_what_is_lost_holds_nobody_up() -> None:
    """A sequence that has missed its bound for good does not keep prompts at their least."""
    server = Server(Slo(tpot=0.05))
    server.add("victim", 20, 2000)
    for _ in range(5):
        server.step()
    server.now += 30.0  # a stall
    server.add("late", 3000, 1)
    before = server.now
    while "late" not in server.times:
        server.step()
    assert server.now - before < 4 * cpu(StepShape(3000, 1, 1, 0, 3000 * 1500))


@settings(max_examples=60, deadline=None)
@given(
    jobs=st.lists(st.tuples(st.integers(1, 900), st.integers(1, 60), st.integers(0, 40)), min_size=1, max_size=12),
    bound=st.sampled_from([0.0001, 0.005, 0.02, 0.2]),
    blocks=st.integers(64, 200),
)
def test_all_finish_and_the_books_balance(jobs: list[tuple[int, int, int]], bound: float, blocks: int) -> None:
    server = Server(Slo(tpot=bound), blocks=blocks)
    for step in range(41):
        for i, (prompt, outputs, arrive) in enumerate(jobs):
            if arrive == step:
                server.add(f"{i}", prompt, outputs)
        server.step()
    server.run()
    assert {name: len(times) for name, times in server.times.items()} == {
        f"{i}": outputs for i, (_, outputs, _) in enumerate(jobs)
    }


@given(st.integers(0, 5000), st.integers(1, 5000), st.floats(0.0, 0.5), st.integers(0, 512))
def test_the_most_that_fits(start: int, pending: int, seconds: float, tokens: int) -> None:
    cost = calibrated(cpu)
    budget = StepBudget(cost, ATTENTION, tokens)
    budget.seconds = seconds
    most = budget.most(start, pending)
    assert 0 <= most <= min(pending, tokens)

    def predicted(new: int) -> float:
        return cost.predict(StepShape().with_more(new, ATTENTION.keys(new, start + new), new == pending))

    if most:
        assert predicted(most) <= seconds
    if 2 < most + 1 < min(pending, tokens):  # between one row and two it turns from decode to prefill
        assert predicted(most + 1) > seconds


def test_taking_and_giving_back() -> None:
    budget = StepBudget(StepCost(), ATTENTION, 100)
    budget.take(10, 1, sample=True)
    budget.take(5, 60, sample=False)
    budget.give_back(5, 60, sample=False)
    only = StepBudget(StepCost(), ATTENTION, 100)
    only.take(10, 1, sample=True)
    assert budget.tokens == 99
    assert budget.shape.features() == only.shape.features()


@pytest.mark.parametrize(
    ("text", "slo"),
    [
        ("tpot=30ms", Slo(tpot=0.03)),
        (" tpot = 2 s ", Slo(tpot=2.0)),
        ("ttft=200ms,tpot=.5s", Slo(0.2, 0.5)),
        ("ttft=1s", Slo(ttft=1.0)),
    ],
)
def test_parse(text: str, slo: Slo) -> None:
    assert parse_slo(text) == slo


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not understood"),
        ("tpot", "not understood"),
        ("tpot=30", "no time"),
        ("tpot=0ms", "above 0"),
        ("tpot=-1s", "no time"),
        ("itl=3ms", "not understood"),
        ("tpot=1s,tpot=2s", "not understood"),
        ("ttft=1", "no time"),
    ],
)
def test_what_makes_no_sense_is_said(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_slo(text)


def test_those_that_ask_for_a_part_share_it() -> None:
    budget = StepBudget(StepCost(), ATTENTION, 100)
    budget.take(40, 1, sample=True)
    budget.open(None)
    budget.take(0, 19, sample=False)  # of others, in full
    assert budget.most(0, 500, 0.25) == 24
    budget.take(0, 20, sample=False)
    assert budget.most(0, 500, 0.25) == 4
    assert budget.most(0, 500) == 60
    cost = calibrated(cpu)
    budget = StepBudget(cost, ATTENTION, 512)
    budget.open(0.08)
    part = budget.most(0, 500, 0.25)
    assert cost.predict(StepShape(part, 1, 0, 0.0, ATTENTION.keys(part, part))) == pytest.approx(0.02, rel=0.1)

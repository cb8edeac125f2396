"""Prompts that are promised nothing: what they leave to those that are, also to those that have not come yet."""

from contextlib import suppress

import pytest

from tenfold.core.errors import Overloaded
from tenfold.core.slo import Slo
from tests.helpers.scheduling import Server

BOUNDS = Slo(ttft=1.0, tpot=0.04)
LONG = 6000  # tokens


def longest(server: Server, since: int = 0) -> float:
    return max(seconds for _, seconds in server.steps[since:])


def test_steps_are_short_where_bounded_requests_may_come() -> None:
    """One that comes waits for the end of the step: a twentieth of its bound, or not much more."""
    server = Server(BOUNDS)
    server.add("bulk", LONG, 4, slo_class="batch")
    server.run(until=1.0)
    assert longest(server) > 0.1  # nobody is promised anything yet
    server.add("chat", 30, 4)
    while "chat" not in server.timelines:
        server.step()
    since = len(server.steps)
    server.run()
    assert longest(server, since) < 1.5 * 0.05 * BOUNDS.ttft  # type: ignore[operator]


def test_bounds_of_long_ago_make_no_step_shorter() -> None:
    server = Server(BOUNDS)
    server.add("chat", 30, 4)
    server.run()
    server.now += 61.0
    since = len(server.steps)
    server.add("bulk", LONG, 4, slo_class="batch")
    server.run()
    assert longest(server, since) > 0.1


def test_they_get_nothing_beside_a_timely_prompt_for_a_while_and_then_their_part() -> None:
    server = Server(BOUNDS)
    server.add("first", 30, 1)  # from now on steps of what is promised nothing are short
    server.run()
    server.add("bulk", LONG, 4, slo_class="batch")
    began, fed = server.now, list[str]()
    server.step()
    server.add("chat", 600, 4)
    while server.now < began + 0.25 and "chat" not in server.times:
        plan = server.step()
        assert plan is not None
        fed += [part.id for part in plan.slices if part.id == "bulk"]
    assert not fed
    for at in range(60):  # timely prompts without end
        with suppress(Overloaded):
            server.add(f"more {at}", 600, 1)
        plan = server.step()
        assert plan is not None
        fed += [part.id for part in plan.slices if part.id == "bulk"]
    assert fed


@pytest.mark.parametrize(("few", "many"), [(1, 8), (4, 16)])
def test_the_more_answers_wait_the_less_is_done_of_them(few: int, many: int) -> None:
    tokens = {}
    for count in (few, many):
        server = Server(BOUNDS)
        for at in range(count):
            server.add(f"chat {at}", 20, 400)
        while not all(f"chat {at}" in server.times for at in range(count)):
            server.step()
        server.add("bulk", LONG, 4, slo_class="batch")
        found = []
        for _ in range(20):
            plan = server.step()
            assert plan is not None
            found += [len(part.tokens) for part in plan.slices if part.id == "bulk"]
            assert server.steps[-1][1] < BOUNDS.tpot  # type: ignore[operator]
        tokens[count] = sum(found)
    assert 0 < tokens[many] < 0.7 * tokens[few]

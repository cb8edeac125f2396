"""Tenants beside each other: who is next, who has a place, and what one that sends much changes for the others."""

import random
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.core.config import Policy
from tenfold.core.errors import Overloaded
from tenfold.core.plan import SequenceStart
from tenfold.core.sampling import SamplingParams
from tenfold.core.slo import Slo
from tenfold.sched.assembly import Assembly
from tenfold.sched.budget import StepBudget
from tenfold.sched.sequence import Sequence, Submission
from tenfold.sched.tenants import Tenants
from tests.helpers.scheduling import ATTENTION, Server


def test_a_tenant_that_sends_much_does_not_hold_up_others() -> None:
    server = Server(max_running=4, blocks=300)
    for i in range(200):
        server.add(f"greedy {i}", 200, 30, tenant="greedy")
    server.run(until=2.0)
    server.add("modest", 200, 30, tenant="modest")
    server.run()
    assert server.ttft("modest") < 2.0
    assert max(server.ttft(f"greedy {i}") for i in range(200)) > 5


def test_weights_of_tenants() -> None:
    server = Server(max_running=8, tenants={"gold": 3.0}, policy=Policy(fairness=100.0))
    for i in range(150):
        for tenant in ("gold", "iron"):
            server.add(f"{tenant} {i}", 150, 20, tenant=tenant)
    for _ in range(4000):
        server.step()
        if sum(name.startswith("gold") for name in server.times) >= 120:
            break
    started = {tenant: sum(name.startswith(tenant) for name in server.times) for tenant in ("gold", "iron")}
    assert started["gold"] / started["iron"] == pytest.approx(3.0, rel=0.2)


def test_what_was_not_used_is_no_credit() -> None:
    """A tenant that comes back after a long pause does not have the machine for itself."""
    server = Server(max_running=4, policy=Policy(fairness=500.0))
    server.add("a first", 100, 10, tenant="a")
    server.run()
    for i in range(100):
        server.add(f"b {i}", 200, 40, tenant="b")
    server.run(until=server.now + 5.0)
    for i in range(60):
        server.add(f"a {i}", 200, 40, tenant="a")
    began = server.now
    server.run(until=began + 4.0)
    served = {t: sum(name.startswith(t) and server.times[name][0] > began for name in server.times) for t in "ab"}
    assert served["b"] >= 0.6 * served["a"]


jobs = st.lists(
    st.tuples(
        st.sampled_from("abcd"),
        st.integers(1, 400),  # prompt
        st.integers(1, 60),  # outputs
        st.integers(0, 60),  # arrives before this step
    ),
    min_size=2,
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(jobs=jobs, max_running=st.integers(1, 8), fairness=st.sampled_from([0.0, 200.0, 2000.0]))
def test_service_differs_no_more_than_the_theorem_says(
    jobs: list[tuple[str, int, int, int]], max_running: int, fairness: float
) -> None:
    """While two tenants wait, what they are served differs by at most twice what can be under way unseen (VTC, theorem
    4.4: 2 max(w_p L_input, w_q M)), and by what urgency may do here."""
    server = Server(max_running=max_running, policy=Policy(fairness=fairness))
    under_way = max_running * (400 + 2 * 60)
    backlogged: dict[str, float] = {}  # what a tenant had been served when it last began to wait
    for step in range(5000):
        for i, (tenant, prompt, outputs, arrive) in enumerate(jobs):
            if arrive == step:
                server.add(f"{tenant}{i}", prompt, outputs, tenant=tenant)
        if server.step() is None and step > 60:
            break
        service = server.scheduler.service
        waiting = {s for s in "abcd" if server.scheduler._queue.waiting_of(s)}
        backlogged = {t: backlogged.get(t, service[t]) for t in waiting}
        for a in waiting:
            for b in waiting:
                difference = (service[a] - backlogged[a]) - (service[b] - backlogged[b])
                assert difference <= 2 * under_way + 2 * fairness
    assert server.scheduler.idle


def test_one_that_was_away_goes_before_a_backlog() -> None:
    """Of any length: also when no tenant has had much yet, and while a long prompt of the backlog is computed."""
    for backlog in (3, 60):
        server = Server(max_running=64)
        for i in range(backlog):
            server.add(f"greedy {i}", 3000, 40, tenant="greedy")
        for _ in range(20):
            server.step()
        server.add("modest", 300, 20, tenant="modest")
        server.run()
        assert server.ttft("modest") < 0.5
        assert server.ttft(f"greedy {backlog - 1}") > 1.5


def test_those_that_come_again_are_served_in_the_order_they_came() -> None:
    server = Server(max_running=1)
    server.add("long", 50, 200, tenant="long")
    server.step()
    for i in range(12):
        server.add(f"{i}", 50, 2, tenant=f"tenant {i}")
    server.run()
    began = sorted(server.times, key=lambda name: server.times[name][0])
    assert began == ["long", *map(str, range(12))]


def beside_a_backlog(reserve: float = 0.3) -> Server:
    """Ten places; of two tenants that were here of late, one has a backlog, for so long that the reserve is free."""
    server = Server(max_running=10, policy=Policy(reserve=reserve))
    server.add("modest", 20, 5, tenant="modest")
    server.run()
    for i in range(60):
        server.add(f"greedy {i}", 20, 200 + i, tenant="greedy")
    server.run(until=server.now + 3.0)
    return server


def test_a_part_of_the_places_is_kept_for_those_that_were_here() -> None:
    server = beside_a_backlog()
    assert server.scheduler.running == 7
    server.add("again", 20, 50, tenant="modest")
    server.run(until=server.now + 0.1)
    assert server.ttft("again") < 0.05
    assert beside_a_backlog(reserve=0.0).scheduler.running == 10


def test_who_was_here_a_minute_ago_is_not_expected_any_more() -> None:
    server = beside_a_backlog()
    server.now += 61
    server.step()
    server.step()
    assert server.scheduler.running == 10


def test_the_backlog_may_be_older_than_a_minute() -> None:
    """What counts is that another came of late."""
    server = beside_a_backlog()
    server.now += 61
    server.add("again", 20, 5, tenant="modest")
    for _ in range(10):
        server.step()
    assert "again" in server.times
    server.run(until=server.now + 2.0)
    assert server.scheduler.running == 7


def test_one_that_lost_its_place_comes_back_in_spite_of_the_reserve() -> None:
    """Else it would keep out those for whom the reserve is."""
    server = Server(max_running=10, blocks=100)
    server.add("modest", 10, 1, tenant="modest")
    server.run()
    for i in range(9):
        server.add(f"greedy {i}", 20, 400, tenant="greedy")
    while not server.scheduler.preemptions["memory"]:
        server.step()
    server.run(until=server.now + 2.0)
    server.add("again", 20, 5, tenant="modest")
    server.run(until=server.now + 1.0)
    assert server.ttft("again") < 1.0
    server.run()


def test_a_few_requests_at_once_are_no_backlog() -> None:
    """Of 20 tenants that were here, each has its chat on a machine that has room: no prompt is held back, nobody is
    refused."""
    server = Server(Slo(0.5, 0.06))
    for i in range(20):
        server.add(f"before {i}", 10, 1, tenant=f"{i}")
        server.run()
    for i in range(6):
        server.add(f"chat {i}", 50, 200, tenant=f"{i}")
        server.run(until=server.now + 0.05)
    server.add("second", 900, 5, tenant="0")
    server.run()
    assert server.ttft("second") < 0.5


def test_a_long_prompt_of_the_other_goes_on_beside_a_backlog() -> None:
    """The backlog's new prompts do not overtake it one by one, and are finished one by one."""
    alone = Server()
    alone.add("modest", 4000, 2)
    alone.run()
    server = Server(max_running=64, policy=Policy(reserve=0.0))
    for i in range(30):
        server.add(f"before {i}", 600, 2, tenant="greedy")
    server.run(until=3.0)
    server.add("modest", 4000, 2, tenant="modest")
    for i in range(60):
        server.add(f"greedy {i}", 600, 2, tenant="greedy")
    server.run()
    assert server.ttft("modest") < 2 * alone.ttft("modest")


def test_those_that_rest_decode_after_all_where_the_prompt_finds_no_room() -> None:
    server = Server(Slo(tpot=0.1), blocks=412, max_step_tokens=64, max_running=4)
    for name in ("modest", "second", "third"):
        server.add(name, 10, 1, tenant=name)
        server.run()
    for i in range(12):
        server.add(f"greedy {i}", 20, 420, tenant="greedy")
    while len(server.timelines) < 7:
        server.step()
    server.add("long", 6400, 1, tenant="modest")
    server.run()
    assert "long" in server.times
    assert server.timelines["long"].preemptions
    assert len(server.timelines) == 16


def test_one_that_rests_and_loses_its_place_rests_no_more() -> None:
    """The prompt they rest for takes places of them, finds no room all the same, and the others go on."""
    server = Server(Slo(tpot=0.1), blocks=412, max_step_tokens=64, max_running=4)
    for name in ("modest", "second", "third"):
        server.add(name, 10, 1, tenant=name)
        server.run()
    for i in range(12):
        server.add(f"greedy {i}", 20, 420, tenant="greedy", slo_class="standard" if i % 2 else "batch", tpot=0.1)
    while len(server.timelines) < 7:
        server.step()
    server.add("long", 6400, 1, tenant="modest")
    server.run()
    assert len(server.timelines) == 16
    step = Assembly(StepBudget(server.cost, ATTENTION, 64), 0.0)
    one = Sequence(Submission(SequenceStart("one", (1,), SamplingParams(), 0, ()), 0.0, 9, frozenset()), 0)
    step.resting.append(one)
    assert not step.drop(one)
    assert step.resting == []


def test_those_that_rest_keep_their_places() -> None:
    """A long prompt for which they rest does not let in more than a step of all of them can hold."""
    most = {}
    for beside in (False, True):
        server = Server(Slo(tpot=0.02), max_running=200)
        for name in ("modest", "second", "third"):
            server.add(name, 10, 1, tenant=name)
            server.run()
        for i in range(200):
            server.add(f"greedy {i}", 5, 60 + 2 * i, tenant="greedy")
        server.run(until=server.now + 6.0)
        if beside:
            server.add("long", 3000, 1, tenant="second")
            server.step()
        for i in range(60):
            server.add(f"chat {i}", 5, 300, tenant="modest")
        most[beside] = 0
        for _ in range(60):
            server.step()
            most[beside] = max(most[beside], server.scheduler.running)
    assert most[True] <= most[False] + 1


def test_who_is_promised_nothing_gets_its_part_of_a_tenant_that_holds_much() -> None:
    server = Server(Slo(ttft=9.0, tpot=0.06), max_running=40, policy=Policy(fairness=1e6))
    for i in range(60):
        server.add(f"greedy {i}", 20, 400, tenant="greedy", slo_class="batch")
    server.add("long", 2000, 2, tenant="greedy", slo_class="batch", priority=-100)
    rng, at = random.Random(1), 0.0
    for i in range(150):
        at += rng.expovariate(6.0)
        server.run(until=at)
        server.now = max(server.now, at)
        with suppress(Overloaded):
            server.add(f"modest {i}", 300, 1, tenant="modest")
    assert "long" in server.times
    server.run()


def test_a_tenant_whose_request_comes_back_hides_no_other() -> None:
    """The least served waits for blocks for one that lost its place; another's request of more weight gets its own."""
    server = Server(blocks=60, max_running=8, policy=Policy(fairness=0.0, reserve=0.0))
    server.add("b0", 30, 700, tenant="b", slo_class="standard")
    for i in range(2):
        server.add(f"a{i}", 30, 500, tenant="a", slo_class="batch")
    while not server.scheduler.preemptions["memory"]:
        server.step()
    server.add("urgent", 20, 5, tenant="b", slo_class="interactive")
    server.run(until=server.now + 0.5)
    assert server.ttft("urgent") < 0.5
    server.run()


@pytest.mark.parametrize("tenants", [1, 2, 5])
def test_tenants_that_send_the_same_get_all_places(tenants: int) -> None:
    server = Server(max_running=10)
    for i in range(60):
        server.add(f"{i}", 20, 100, tenant=f"tenant {i % tenants}")
    for _ in range(60):
        server.step()
    assert server.scheduler.running == 10


def test_who_holds_much() -> None:
    tenants = Tenants({"gold": 4.0}, fairness=100.0, reserve=0.25)
    for name, places in (("gold", 8), ("a", 2), ("b", 10), ("c", 0)):
        tenants.came(name)
        tenants.waits(name)
        for _ in range(places):
            tenants.took(name)
    assert tenants.kept("b") == 0.0  # so far it has waited for nothing
    tenants.tick(1.5)
    assert {name: tenants.kept(name) for name in ("gold", "a", "b", "c", "nobody")} == {
        "gold": 0.0,
        "a": 0.0,
        "b": 0.25,
        "c": 0.0,
        "nobody": 0.0,
    }
    assert (tenants.part("a"), tenants.part("b")) == (1.0, 0.25)
    tenants.waits_no_more("b")  # which may be for a moment
    tenants.tick(5.0)
    assert tenants.kept("b") == 0.25
    tenants.tick(16.0)
    assert tenants.kept("b") == 0.0
    tenants.waits("b")
    tenants.tick(18.0)
    assert tenants.kept("b") == 0.25
    for _ in range(8):
        tenants.left("b")
    assert tenants.kept("b") == 0.0
    tenants.check()


def test_records_of_tenants_that_are_gone_are_dropped() -> None:
    tenants = Tenants({}, fairness=100.0, reserve=0.3)
    tenants.waits("waits")
    tenants.took("holds")
    for i in range(5000):
        tenants.charge(f"{i}", 1.0 if i % 2 else 1000.0)
        if i % 3 == 0:
            tenants.waits(f"{i}")
            tenants.waits_no_more(f"{i}")
        assert len(list(tenants.in_order())) == 1
    assert len(tenants.service()) < 2100
    assert {"waits", "holds"} <= set(tenants.service())
    tenants.check()


def chats(server: Server, seconds: float, times: int) -> dict[str, list[str]]:
    """Eight tenants, one of them ``times`` as much. Returns the requests by tenant."""
    rng, at, names = random.Random(3), {f"{i}": 0.0 for i in range(8)}, dict[str, list[str]]()
    while min(at.values()) < seconds:
        tenant = min(at, key=lambda name: at[name])
        server.run(until=at[tenant])
        server.now = max(server.now, at[tenant])
        name = f"{tenant} {at[tenant]:.3f}"
        with suppress(Overloaded):
            server.add(name, rng.randint(20, 900), rng.randint(16, 300), tenant=tenant)
        names.setdefault(tenant, []).append(name)
        at[tenant] += rng.expovariate(0.2 * (times if tenant == "0" else 1))
    server.run()
    return names


def others_p95(times: int, policy: Policy) -> tuple[float, int]:
    """Of the seven others: the 95th percentile of their TTFT, and refusals. All who are served keep their TPOT."""
    server = Server(Slo(ttft=5.0, tpot=0.1), policy=policy, blocks=2000)
    names = [name for tenant, all_ in chats(server, 60.0, times).items() if tenant != "0" for name in all_]
    assert max(server.tpot(name) for name in server.times) <= 0.1
    found = sorted(server.ttft(name) for name in names if name in server.times)
    return found[int(0.95 * len(found))], len(names) - len(found)


def test_ten_times_as_much_of_one_changes_little_for_the_others() -> None:
    (before, _), (after, refused) = others_p95(1, Policy()), others_p95(10, Policy())
    assert after < 1.5 * before
    assert refused == 0
    assert others_p95(10, Policy(fairness=1e9, reserve=0.0))[0] > 2.5 * before  # what it is without

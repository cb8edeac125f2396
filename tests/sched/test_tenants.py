"""Tenants beside each other: who is next, who has a place, and what one that sends much changes for the others."""

import random
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.core.config import Policy
from tenfold.core.errors import Overloaded
from tenfold.core.slo import Slo
from tenfold.sched.shares import Shares
from tests.helpers.scheduling import Server


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
    for step in range(1000):
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


def test_a_part_of_the_places_is_kept_for_those_that_were_here() -> None:
    server = Server(max_running=10, policy=Policy(reserve=0.3))
    server.add("modest 0", 20, 5, tenant="modest")
    server.run()
    for i in range(40):
        server.add(f"greedy {i}", 20, 200, tenant="greedy")
    while server.scheduler.running < 7:
        server.step()
    for _ in range(30):
        server.step()
    assert server.scheduler.running == 7
    server.add("modest 1", 20, 50, tenant="modest")
    server.run(until=server.now + 0.1)
    assert server.ttft("modest 1") < 0.1
    server.run()
    server.now += 61  # after a minute they are not expected any more
    for i in range(40, 80):
        server.add(f"greedy {i}", 20, 200, tenant="greedy")
    for _ in range(30):
        server.step()
    assert server.scheduler.running == 10


@pytest.mark.parametrize("tenants", [1, 2, 5])
def test_tenants_that_send_the_same_get_all_places(tenants: int) -> None:
    server = Server(max_running=10)
    for i in range(60):
        server.add(f"{i}", 20, 100, tenant=f"tenant {i % tenants}")
    for _ in range(60):
        server.step()
    assert server.scheduler.running == 10


def test_who_holds_much() -> None:
    shares = Shares({"gold": 4.0}, 0.25)
    for tenant, places in (("gold", 8), ("a", 2), ("b", 10), ("c", 0)):
        shares.came(tenant, 0.0)
        for _ in range(places):
            shares.took(tenant)
    assert {tenant: shares.kept(tenant) for tenant in ("gold", "a", "b", "c")} == {
        "gold": 0.0,
        "a": 0.0,
        "b": 0.25,
        "c": 0.0,
    }
    assert (shares.part("a"), shares.part("b")) == (1.0, 0.25)
    shares.came("b", 61.0)  # the others were here more than a minute ago
    assert shares.kept("b") == 0.0
    shares.came("a", 61.0)
    for _ in range(8):
        shares.left("b")
    assert shares.kept("b") == 0.0


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
    """Of the seven others: the 95th percentile of their TTFT, and refusals."""
    server = Server(Slo(ttft=5.0, tpot=0.1), policy=policy, blocks=8000)
    names = [name for tenant, all_ in chats(server, 60.0, times).items() if tenant != "0" for name in all_]
    found = sorted(server.ttft(name) for name in names if name in server.times)
    return found[int(0.95 * len(found))], len(names) - len(found)


def test_ten_times_as_much_of_one_changes_little_for_the_others() -> None:
    (before, _), (after, refused) = others_p95(1, Policy()), others_p95(10, Policy())
    assert after < 1.4 * before
    assert refused == 0
    assert others_p95(10, Policy(fairness=1e9, reserve=0.0))[0] > 2.5 * before  # what it is without

"""What is promised to whom: bounds, classes, tenants, refusals, displacement. On a machine that is a formula."""

import random
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.core.config import FIRST_COME, PROFILES, Policy
from tenfold.core.errors import ConfigError, InvalidRequest, Overloaded
from tenfold.core.slo import DEFAULT_CLASSES, Slo, SloClass, parse_classes, with_slo
from tests.helpers.scheduling import Server

BOUNDS = Slo(ttft=0.5, tpot=0.04)


def offer(server: Server, rate: float, seconds: float, seed: int = 0, **terms: object) -> int:
    """Chats at random times; refusals are counted in ``scheduler.refused``. Returns how many came."""
    rng, at, count = random.Random(seed), 0.0, 0
    while (at := at + rng.expovariate(rate)) < seconds:
        server.run(until=at)
        server.now = max(server.now, at)
        prompt, outputs = min(1200, int(rng.lognormvariate(5, 0.8))) + 1, max(16, int(rng.lognormvariate(4.4, 0.6)))
        with suppress(Overloaded):
            server.add(f"chat {count}", prompt, outputs, **terms)
        count += 1
    server.run()
    return count


def good(server: Server, bounds: Slo) -> int:
    assert bounds.ttft is not None
    assert bounds.tpot is not None
    return sum(
        server.ttft(name) <= bounds.ttft and (len(times) < 2 or server.tpot(name) <= bounds.tpot)
        for name, times in server.times.items()
    )


def test_what_is_accepted_is_kept() -> None:
    """At any load: of those let in, nearly all get what they were promised; and overload costs nothing."""
    kept = {}
    for rate, seconds in ((3.0, 20.0), (6.0, 20.0), (12.0, 30.0), (24.0, 30.0)):
        server = Server(BOUNDS, blocks=1500)
        offer(server, rate, seconds)
        kept[rate] = good(server, BOUNDS) / seconds
        assert kept[rate] >= 0.85 * len(server.times) / seconds, rate
    assert kept[24.0] >= 0.9 * max(kept.values())


def test_first_come_collapses_where_bounds_do_not() -> None:
    counts = {}
    for name, policy in (("slack", Policy()), ("arrival", FIRST_COME)):
        server = Server(BOUNDS, policy=policy)
        offer(server, 12.0, 20.0)
        counts[name] = good(server, BOUNDS)
    assert counts["slack"] > 2 * counts["arrival"]


def test_a_refusal_says_when_to_come_back() -> None:
    server = Server(BOUNDS, blocks=1500)
    with pytest.raises(Overloaded, match=r"predicted to come after .* the 0\.5 s that are promised") as refused:
        for i in range(100):
            server.add(f"{i}", 600, 50)
    assert 0 < refused.value.retry_after < 10
    assert server.scheduler.refused == {"ttft": 1}
    server.run()
    assert all(server.ttft(name) < 0.6 for name in server.times)


def test_what_may_not_be_shed_waits() -> None:
    server = Server()
    for i in range(100):
        server.add(f"{i}", 600, 5, slo_class="batch", ttft=0.9)
    server.run()
    assert len(server.times) == 100


def test_the_queue_and_each_tenants_part_are_bounded() -> None:
    server = Server(max_waiting=5, max_waiting_per_tenant=3)
    for i in range(3):
        server.add(f"a{i}", 10, 5, tenant="a")
    with pytest.raises(Overloaded, match="this tenant has 3") as refused:
        server.add("a3", 10, 5, tenant="a")
    assert refused.value.retry_after >= 1
    for i in range(2):
        server.add(f"b{i}", 10, 5, tenant="b")
    with pytest.raises(Overloaded, match="queue is full"):
        server.add("c", 10, 5, tenant="c")
    assert server.scheduler.refused == {"tenant": 1, "queue": 1}
    server.run()
    assert len(server.times) == 5


def test_other_limits_count_from_then_on() -> None:
    server = Server(max_running=4, max_waiting=2)
    for i in range(4):
        server.add(f"{i}", 40, 60)
        server.step()
    bounds = with_slo(server.config.classes, "standard", Slo(ttft=0.3))
    server.configure(max_running=2, max_waiting=5, max_step_tokens=16, classes=bounds)
    steps = len(server.steps)
    for i in range(5):
        server.add(f"late{i}", 40, 20, slo_class="batch")
    with pytest.raises(Overloaded, match=r"full \(5 waiting\)"):
        server.add("one more", 40, 20, slo_class="batch")
    server.configure(max_waiting=99)
    with pytest.raises(Overloaded, match=r"0\.3 s that are promised"):
        for i in range(90):
            server.add(f"bound{i}", 40, 20)
    server.run()
    assert server.scheduler.refused == {"queue": 1, "ttft": 1}
    shapes = [shape for shape, _ in server.steps[steps:]]
    assert max(shape.sequences for shape in shapes[:20]) == 4  # nobody loses a place
    assert max(shape.sequences for shape in shapes[-20:]) == 2
    assert all(shape.rows <= 16 for shape in shapes)
    assert {"late4", "bound0"} < set(server.times)


@pytest.mark.parametrize(
    ("terms", "param", "said"),
    [
        ({"slo_class": "gold"}, "slo_class", "no SLO class 'gold': choose one of interactive, standard, batch"),
        ({"ttft": 0.0}, "slo_ttft_ms", "above 0"),
        ({"tpot": -1.0}, "slo_tpot_ms", "above 0"),
        ({"ttft": float("nan")}, "slo_ttft_ms", "above 0"),
        ({"tpot": 1e-5}, "slo_tpot_ms", r"the fastest that could be promised is [\d.]+ ms"),
        ({"ttft": 1e-3}, "slo_ttft_ms", r"the fastest that could be promised is [\d.]+ ms"),
        ({"priority": 5000}, "priority", "from -1000 to 1000"),
        ({"queue_timeout": 0.0}, "queue_timeout_ms", "above 0"),
    ],
)
def test_what_cannot_be_promised_is_said(terms: dict[str, object], param: str, said: str) -> None:
    server = Server()
    with pytest.raises(InvalidRequest, match=said) as error:
        server.add("x", 300, 5, **terms)
    assert error.value.param == param
    assert server.scheduler.idle


def test_the_fastest_that_is_named_can_be_promised() -> None:
    import re

    server = Server()
    with pytest.raises(InvalidRequest) as error:
        server.add("x", 3000, 5, ttft=0.01)
    named = re.search(r"promised is ([\d.]+) ms", str(error.value))
    assert named is not None
    server.add("x", 3000, 5, ttft=float(named[1]) / 1000 * 1.01)
    server.run()
    assert server.ttft("x") == pytest.approx(float(named[1]) / 1000, rel=0.15)


def test_an_urgent_class_takes_the_place_of_another() -> None:
    server = Server(max_running=2, blocks=300)
    for i in range(2):
        server.add(f"batch {i}", 50, 2000, slo_class="batch")
    server.run(until=1.0)
    server.add("urgent", 50, 20, slo_class="interactive")
    server.run()
    assert server.ttft("urgent") < 1.0
    assert server.scheduler.preemptions == {"slo": 1}
    told = [p.reason for i in range(2) for p in server.timelines[f"batch {i}"].preemptions]
    assert told == ["gave its place to a request of class interactive, to keep a TTFT bound of 1 s"]
    assert all(len(server.times[f"batch {i}"]) == 2000 for i in range(2))


@pytest.mark.parametrize(
    ("changed", "displaces"), [({}, True), ({"weight": 1.0}, False), ({"preemptible": False}, False)]
)
def test_equals_and_the_protected_keep_their_places(changed: dict[str, object], displaces: bool) -> None:
    classes = tuple(replace(one, **{"sheddable": False, **changed}) for one in DEFAULT_CLASSES)  # type: ignore[arg-type]
    server = Server(max_running=1, blocks=300, classes=classes)
    server.add("batch", 50, 3000, slo_class="batch")
    server.run(until=0.5)
    server.add("urgent", 50, 20, slo_class="interactive")
    server.run()
    assert (server.scheduler.preemptions["slo"] > 0) == displaces
    assert (server.ttft("urgent") < 1.0) == displaces


def test_displacement_does_not_thrash() -> None:
    """Under a stream of urgent ones the displaced still come to an end, and each time they get some tokens first."""
    server = Server(max_running=2, blocks=300)
    for i in range(2):
        server.add(f"batch {i}", 50, 1500, slo_class="batch")
    rng, at, urgent = random.Random(1), 0.5, []
    for i in range(60):
        at += rng.expovariate(3.0)
        server.run(until=at)
        server.now = max(server.now, at)
        with suppress(Overloaded):
            server.add(f"urgent {i}", 60, 30, slo_class="interactive")
            urgent.append(f"urgent {i}")
    server.run()
    assert len(server.times["batch 0"]) == len(server.times["batch 1"]) == 1500
    assert server.scheduler.preemptions["slo"] > 5
    assert sum(server.ttft(name) <= 1.0 for name in urgent) >= 0.9 * len(urgent)
    for i in range(2):
        assert len(server.timelines[f"batch {i}"].preemptions) <= 1500 / 16


def test_a_backlog_of_batch_does_not_shut_out_the_urgent() -> None:
    server = Server(max_running=2, blocks=300)
    for i in range(40):
        server.add(f"batch {i}", 50, 500, slo_class="batch")
    server.run(until=2.0)
    server.add("urgent", 50, 20, slo_class="interactive")
    server.run()
    assert server.ttft("urgent") < 1.0


def test_places_are_also_those_of_who_is_promised_nothing() -> None:
    """Under overload of timely ones, a batch request begins; and so it does beside many that are late."""
    for classes in (DEFAULT_CLASSES, parse_classes(["bulk:ttft=2s,shed=no"])):
        server = Server(Slo(ttft=20.0), blocks=400, max_running=4, classes=classes)
        kind = "bulk" if len(classes) > 3 else None
        rng, at = random.Random(2), 0.0
        for i in range(200):
            at += rng.expovariate(12.0)
            server.run(until=at)
            server.now = max(server.now, at)
            with suppress(Overloaded):
                server.add(f"{i}", 400, 60, slo_class=kind)
            if i == 40:
                server.add("batch", 400, 60, slo_class="batch")
        server.run()
        assert server.ttft("batch") < (35 if kind else 5)  # bulk is not refused: all of it takes 42 s


def test_a_large_one_that_is_owed_a_place_does_not_hold_up_timely_ones() -> None:
    server = Server(Slo(ttft=1.0), blocks=128)
    server.add("holder", 900, 600)
    server.run(until=1.0)
    server.add("large", 1200, 5, slo_class="batch")
    for i in range(40):
        server.run(until=server.now + 0.05)
        server.add(f"{i}", 30, 3)
    server.run()
    assert server.scheduler._places._owed < 2.01
    assert max(server.ttft(f"{i}") for i in range(40)) < 0.5
    assert len(server.times["large"]) == 5


def test_one_that_waits_for_blocks_does_not_hold_up_higher_classes() -> None:
    server = Server(blocks=64)
    server.add("a", 300, 500)
    server.add("b", 300, 500, slo_class="batch")
    while not server.scheduler.preemptions["memory"]:
        server.step()
    server.add("urgent", 50, 20, slo_class="interactive")
    server.run()
    assert server.ttft("urgent") < 1.0
    assert len(server.times["b"]) == 500


def test_samples_of_one_request() -> None:
    """They wait for the first one's prefill, on its terms; the wait to begin is over when the first one begins."""
    server = Server(max_waiting_per_tenant=10)
    assert server.scheduler.most_together == 10  # a request of more samples could never be let in
    server.add("x", 3000, 20, slo_class="interactive", ttft=5.0, queue_timeout=0.05, salt="")
    for i in range(1, 4):
        server.add(f"x/{i}", 3000, 20, slo_class="interactive", ttft=5.0, queue_timeout=0.05, salt="", after="x")
    server.run()
    assert not server.failed
    assert {name: len(times) for name, times in server.times.items()} == dict.fromkeys(("x", "x/1", "x/2", "x/3"), 20)
    blocked = Server(max_running=1, max_waiting_per_tenant=10)
    blocked.add("first", 50, 2000)
    blocked.step()
    blocked.add("x", 100, 20, queue_timeout=0.2)
    blocked.add("x/1", 100, 20, queue_timeout=0.2, after="x")
    for i in range(8):
        blocked.add(f"y{i}", 10, 1, after="x")
    with pytest.raises(Overloaded, match="this tenant"):
        blocked.add("one more", 10, 1)
    blocked.run()
    assert {"x", "x/1"} <= set(blocked.failed)


def test_a_tight_bound_does_not_hold_up_others_for_long() -> None:
    waits = []
    for tight in (None, 0.01):
        server = Server()
        for i in range(24):
            server.add(f"{i}", 400, 400)
        server.add("tight", 20, 400, tpot=tight)
        server.run(until=4.0)
        server.add("later", 2000, 1)
        server.run()
        waits.append(server.ttft("later"))
    assert waits[1] < 4 * waits[0]


def test_blocks_go_to_those_of_higher_standing() -> None:
    """When KV runs out, the lowest class gives way first, the latest first among equals; all finish."""
    server = Server(blocks=40)
    server.add("batch", 100, 300, slo_class="batch")
    server.add("standard", 100, 300)
    server.add("interactive", 100, 300, slo_class="interactive")
    server.run()
    assert {name: len(times) for name, times in server.times.items()} == dict.fromkeys(
        ("batch", "standard", "interactive"), 300
    )
    assert server.scheduler.preemptions["memory"] > 0
    assert not server.timelines["interactive"].preemptions
    assert server.times["interactive"][-1] < server.times["batch"][-1]


def test_one_that_waits_too_long_is_given_up() -> None:
    server = Server(max_running=1)
    server.add("first", 50, 500)
    server.add("patient", 50, 5)
    server.add("hasty", 50, 5, queue_timeout=0.3)
    server.run()
    assert set(server.failed) == {"hasty"}
    assert "waited for 0.3 s" in server.failed["hasty"].error
    assert server.failed["hasty"].retry_after
    assert set(server.times) == {"first", "patient"}


def test_priority_is_worth_seconds_of_waiting() -> None:
    server = Server(max_running=1)
    server.add("first", 50, 100)
    server.step()
    for name, priority in (("normal", 0), ("late", 2), ("soon", -2)):
        server.add(name, 50, 5, priority=priority)
    server.run()
    order = sorted(server.times, key=lambda name: server.times[name][0])
    assert order == ["first", "soon", "normal", "late"]


@pytest.mark.parametrize("step_tokens", [6, 8])
def test_a_prompt_goes_on_when_all_that_decode_lose_their_place(step_tokens: int) -> None:
    """One in decode that gives way to a prompt which came earlier leaves a step of that prompt alone."""
    lost = 0
    for prompt in range(1, 17):
        server = Server(blocks=27, max_step_tokens=step_tokens, max_running=4)
        server.add("long", 400, 4)
        server.step()
        server.add("short", prompt, 100)
        server.run()
        assert {name: len(times) for name, times in server.times.items()} == {"long": 4, "short": 100}
        lost += server.scheduler.preemptions["memory"]
    assert lost > 0


@settings(max_examples=120, deadline=None)
@given(
    data=st.data(),
    blocks=st.integers(30, 120),
    max_running=st.integers(1, 6),
    profile=st.sampled_from(sorted(PROFILES)),
    slo=st.sampled_from([Slo(), Slo(0.3), Slo(tpot=0.03), Slo(0.2, 0.02), Slo(0.01, 0.0001)]),
    overlap=st.booleans(),
)
def test_all_that_is_accepted_ends_once(
    data: st.DataObject, blocks: int, max_running: int, profile: str, slo: Slo, overlap: bool
) -> None:
    """Any classes, bounds, tenants, aborts, stalls: each ends once, books balance, times add up."""
    server = Server(slo, blocks=blocks, max_running=max_running, policy=PROFILES[profile], overlap=overlap)
    aborted, refused = set(), set()
    count = data.draw(st.integers(1, 25))
    names = []
    for i in range(count):
        name = f"{i}"
        terms = {
            "slo_class": data.draw(st.sampled_from([None, "interactive", "standard", "batch"])),
            "tenant": data.draw(st.sampled_from(["", "a", "b"])),
            "priority": data.draw(st.integers(-3, 3)),
            "ttft": data.draw(st.sampled_from([None, None, 0.5, 5.0])),
            "tpot": data.draw(st.sampled_from([None, None, 0.05, 1.0])),
            "queue_timeout": data.draw(st.sampled_from([None, None, 0.2])),
        }
        try:
            prompt, outputs = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 60))
            server.add(name, prompt, outputs, salt="", **terms)
            names.append(name)
            for sibling in range(data.draw(st.sampled_from([0, 0, 1, 3]))):
                server.add(f"{name}/{sibling}", prompt, outputs, salt="", after=name, **terms)
                names.append(f"{name}/{sibling}")
        except (Overloaded, InvalidRequest):
            refused.add(name)
        for _ in range(data.draw(st.integers(0, 5))):
            server.step()
        if data.draw(st.integers(0, 9)) == 0:
            server.now += 3.0  # a stall
        if names and data.draw(st.integers(0, 5)) == 0:
            victim = data.draw(st.sampled_from(names))
            if server.scheduler.end(victim, server.now) is not None:
                aborted.add(victim)
                server.scheduler.check()
    server.run()
    assert server.scheduler.idle
    assert server.cache.pool.held == 0
    for name in names:
        finished = name in server.timelines
        assert finished + (name in aborted) + (name in server.failed) == 1
        if finished:
            line = server.timelines[name]
            parts = line.queue + line.prefill + line.decode + line.interference + line.preempted + line.recompute
            assert parts == pytest.approx(line.total)
            assert line.output_tokens == len(server.times[name])
    if profile == "fcfs":
        assert not server.scheduler.refused.keys() & {"ttft"}


def test_interference_is_what_others_prompts_took() -> None:
    server = Server(Slo(tpot=0.05))
    server.add("chat", 20, 100)
    for _ in range(5):
        server.step()
    alone = pairwise(server.times["chat"])
    step = max(b - a for a, b in alone)
    server.add("long", 4000, 1)
    server.run()
    line = server.timelines["chat"]
    assert line.interference == pytest.approx(line.interference + line.decode - 100 * step, rel=0.2)
    assert line.interference > 0.5


def test_classes_are_read() -> None:
    classes = parse_classes(["interactive:ttft=200ms,preempt=yes", "bulk:tpot=1s,weight=0.5,shed=no", "batch:ttft=9s"])
    by_name = {one.name: one for one in classes}
    assert by_name["interactive"].slo == Slo(0.2, 0.1)
    assert by_name["interactive"].preemptible
    assert by_name["bulk"] == SloClass("bulk", Slo(tpot=1.0), 0.5, sheddable=False)
    assert by_name["batch"].slo == Slo(ttft=9.0)
    assert parse_classes(["batch:ttft=none"]) == DEFAULT_CLASSES
    assert parse_classes(map(str, classes)) == classes


@pytest.mark.parametrize(
    "text", ["Gold:ttft=1s", "a:ttft=1", "a:weight=x", "a:weight=0", "a:shed=maybe", "a:speed=1", "a:"]
)
def test_classes_that_make_no_sense(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_classes([text])

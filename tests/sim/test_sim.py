"""The simulator: the engine's own parts under a clock of their own."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tenfold.core.config import FIRST_COME, NO_SPECULATION, PROFILES, SchedulerConfig
from tenfold.core.errors import ConfigError
from tenfold.core.slo import DEFAULT_CLASSES, NO_SLO, Slo, with_slo
from tenfold.cost.estimate import StepFit
from tenfold.cost.machine import KINDS, Machine
from tenfold.sim.call import Call
from tenfold.sim.cluster import Cluster
from tenfold.sim.outcome import Outcome
from tenfold.sim.routing import ROUTERS
from tenfold.spec.acceptance import STEPS
from tenfold.spec.profile import DraftProfile
from tenfold.traffic import lengths
from tenfold.traffic.arrivals import poisson
from tenfold.traffic.row import Row

FIT = StepFit((0.002, 0.008, 0.008, 0.012, 0.012, 0.012, 0.0003, 0.001, 0.003, 0.01, 0.003, 0.004, 0.002))
BOUNDS = Slo(ttft=1.0, tpot=0.05)


def machine(
    blocks: int = 4000,
    windows: tuple[int, ...] = (0,),
    ratios: tuple[float, ...] = (),
    spells: tuple[float, ...] = (),
) -> Machine:
    return Machine(
        model="m", backend="b", cpu="c", max_context=4096, blocks=blocks, block_size=16, windows=windows, fit=FIT,
        ratios=(ratios,) * KINDS, spells=spells,
    )  # fmt: skip


def config(slo: Slo = NO_SLO, **limits: object) -> SchedulerConfig:
    classes = with_slo(DEFAULT_CLASSES, "standard", slo) if slo.bounded else DEFAULT_CLASSES
    return SchedulerConfig(classes=classes, **limits)  # type: ignore[arg-type]


def traffic(count: int, rate: float, seed: int = 1, families: int = 0) -> list[Row]:
    """``families`` of prompts that begin alike; 0: none do."""
    rng, rows = random.Random(seed), []
    for at, _ in zip(poisson(rate, seed), range(count), strict=False):
        prompt, shared = rng.choice((3, 40, 300, 900)), ()
        if families and prompt >= 40:
            first = 100 * rng.randrange(families)
            shared = tuple(range(first, first + min(prompt // 16, rng.choice((2, 10, 50)))))
        outputs, tenant = rng.choice((1, 2, 30, 200)), rng.choice(("", "a", "b"))
        rows.append(Row(at, prompt, outputs, tenant, shared, 16 if shared else 0))
    return rows


def figures(outcome: Outcome) -> dict[str, object]:
    report = outcome.report("t", "w", {}, None, 1)
    rows = [{k: v for k, v in row.items() if k != "machine_s"} for row in report["requests"]]
    return {"rows": rows, "steps": outcome.steps, "seconds": round(outcome.seconds, 9)}


@given(
    seed=st.integers(0, 10_000),
    rate=st.sampled_from([0.5, 3.0, 10.0, 40.0]),
    blocks=st.sampled_from([90, 300, 4000]),
    families=st.sampled_from([0, 6]),
    windows=st.sampled_from([(0,), (0, 64), (32,)]),
    policy=st.sampled_from([PROFILES["balanced"], PROFILES["interactive"], FIRST_COME]),
    slo=st.sampled_from([NO_SLO, BOUNDS]),
    spells=st.sampled_from([(), (1.0, 1.6, 0.7)]),
)
@settings(max_examples=40, deadline=None)
def test_many_steps_at_once_are_as_many_steps(
    seed: int,
    rate: float,
    blocks: int,
    families: int,
    windows: tuple[int, ...],
    policy: object,
    slo: Slo,
    spells: tuple[float, ...],
) -> None:
    """Whatever the load: the same requests get the same times, to the nanosecond, in as many steps and blocks."""
    found = []
    for coasting in (True, False):
        cluster = Cluster(
            machine(blocks, windows, spells=spells),
            config(slo, policy=policy, max_running=16),
            coasting=coasting,
        )
        found.append(figures(cluster.run(traffic(60, rate, seed, families))))
        found[-1]["held"] = cluster.replicas[0].held
    assert (found[0]["held"], found[0]["steps"]) == (found[1]["held"], found[1]["steps"])
    for one, other in zip(found[0]["rows"], found[1]["rows"], strict=True):  # type: ignore[call-overload]
        assert {k: v for k, v in one.items() if not isinstance(v, float)} == {
            k: v for k, v in other.items() if not isinstance(v, float)
        }
        for key in ("ttft_ms", "tpot_ms", "e2e_ms"):
            assert (one[key] or 0) == pytest.approx(other[key] or 0, rel=1e-6, abs=1e-3)


@given(
    seed=st.integers(0, 10_000),
    rate=st.sampled_from([1.0, 8.0, 60.0]),
    blocks=st.sampled_from([90, 4000]),
    router=st.sampled_from(sorted(ROUTERS)),
    count=st.integers(1, 4),
)
@settings(max_examples=40, deadline=None)
def test_each_request_ends_once_and_the_books_balance(
    seed: int, rate: float, blocks: int, router: str, count: int
) -> None:
    cluster = Cluster(
        machine(blocks, ratios=(0.9, 1.0, 1.3)), config(BOUNDS), count=count, router=router, slo=BOUNDS, seed=seed
    )
    rows = traffic(80, rate, seed)
    outcome = cluster.run(rows)
    assert outcome.count == len(rows)
    report = outcome.report("t", "w", {}, None, seed)
    assert report["all"]["n"] == outcome.answered + report["all"]["refused"]
    assert outcome.output_tokens == sum(row["output_tokens"] for row in report["requests"])
    for replica in cluster.replicas:
        replica.scheduler.check()
        assert replica.calls == 0
        assert replica.cache.pool.held == 0
        assert replica.prefill == pytest.approx(0.0, abs=1e-6)
    assert outcome.machine_seconds == pytest.approx(outcome.busy, rel=0.01)


def test_slow_spells_come_when_they_came() -> None:
    """Three times as slow from the fourth second of the record to the sixth; the simulation may begin within it."""
    spells = (1.0,) * 4 + (3.0,) * 2 + (1.0,) * 30
    rows = [Row(at / 4, 40, 20) for at in range(40)]
    plain = Cluster(machine(), config()).run(rows).report("t", "w", {}, None, 1)["requests"]
    for since in (0.0, 2.0, 36.0, -34.5):
        cluster = Cluster(machine(spells=spells), config(), since=since)
        report = cluster.run(rows).report("t", "w", {}, None, 1)["requests"]
        slower = [one["e2e_ms"] / usual["e2e_ms"] for one, usual in zip(report, plain, strict=True)]
        first = int(4 * (4.0 - since % 36))
        assert slower[first + 1 : first + 7] == pytest.approx([3.0] * 6)
        assert slower[: first - 1] + slower[first + 10 :] == pytest.approx([1.0] * (len(slower) - 11), rel=0.01)


def test_users_ask_again_when_they_are_answered() -> None:
    rows = [Row(0.0, 50, 20) for _ in range(30)]
    most = 0

    class Counting(Cluster):
        def _submit(self, row: Row) -> None:
            nonlocal most
            super()._submit(row)
            most = max(most, self.replicas[0].calls)

    outcome = Counting(machine(), config()).run(rows, users=4)
    assert (outcome.count, most) == (30, 4)


def test_equal_blocks_are_computed_once() -> None:
    """Rows that begin with the same blocks share them; others do not."""
    shared = [Row(float(at), 600, 4, blocks=(7,), block_tokens=512) for at in range(4)]
    apart = [Row(float(at), 600, 4, blocks=(at,), block_tokens=512) for at in range(4)]
    times = []
    for rows in (shared, apart):
        report = Cluster(machine(), config()).run(rows).report("t", "w", {}, None, 1)
        times.append([row["ttft_ms"] for row in report["requests"]])
    assert times[0][0] == pytest.approx(times[1][0], rel=1e-6)
    assert all(one < 0.5 * other for one, other in zip(times[0][1:], times[1][1:], strict=True))


def test_prompts_are_as_long_as_their_rows() -> None:
    for row in (
        Row(0, 5, 1),
        Row(0, 700, 1, blocks=(1, 2), block_tokens=512),
        Row(0, 2000, 1, blocks=(1,), block_tokens=512),
    ):
        ids = Call(3, row, 0.0).prompt_ids()
        assert len(ids) == row.prompt
        assert all(-(2**31) <= token < 2**31 for token in ids)
    assert set(Call(3, Row(0, 65_000, 1), 0.0).prompt_ids()).isdisjoint(Call(4, Row(0, 65_000, 1), 0.0).prompt_ids())


def test_what_cannot_be_served_is_refused() -> None:
    rows = [Row(0.0, 5000, 10), Row(0.0, 10, 10), Row(0.5, 10, 10, slo_class="none")]
    outcome = Cluster(machine(), config()).run(rows)
    assert outcome.answered == 1
    assert sum(outcome.reasons.values()) == 2


def test_prefixes_go_where_they_were_computed() -> None:
    """Conversations of 40 users on 4 replicas: the affine router finds more of their prompts cached."""

    def turns() -> Iterator[Row]:
        rng = random.Random(5)
        for at in range(400):
            user = rng.randrange(40)
            yield Row(at * 0.25, 512 + 30, 20, blocks=(user,), block_tokens=512)

    found = {}
    for router in ("round-robin", "prefix"):
        outcome = Cluster(machine(2000), config(), count=4, router=router).run(turns())
        found[router] = sum(outcome._tokens["cached"])
    assert found["prefix"] > 1.3 * found["round-robin"]


def test_a_router_that_knows_work_beats_one_that_does_not() -> None:
    """Every fourth request is long: one after the other puts all of those on one of four replicas."""
    rows = [Row(at * 0.08, 1500 if at % 4 == 0 else 30, 20) for at in range(400)]
    late = {}
    for router in ("round-robin", "least-work", "slo"):
        outcome = Cluster(machine(), config(), count=4, router=router, slo=BOUNDS).run(rows)
        late[router] = outcome.report("", "", {}, None, 1)["all"]["ttft_ms"]["p95"]
    assert late["least-work"] < 0.7 * late["round-robin"]
    assert late["slo"] < 0.7 * late["round-robin"]


def test_lengths_are_those_of_the_load() -> None:
    """A simulation's requests are as long as those that a server is asked."""
    from tenfold.bench.workload import make_workload

    for kind in ("mixed", "chat"):
        real = [work.row(0.0) for work in make_workload(kind, 400, 3)]
        drawn = list(lengths.rows(kind, iter([0.0] * 400), 3))
        for name in ("prompt", "outputs"):
            means = [sum(getattr(row, name) for row in rows) / 400 for rows in (real, drawn)]
            assert means[0] == pytest.approx(means[1], rel=0.1)


@pytest.mark.parametrize(("count", "router"), [(0, "slo"), (1, "nobody")])
def test_bad_clusters(count: int, router: str) -> None:
    with pytest.raises(ConfigError):
        Cluster(machine(), config(), count=count, router=router)


PROFILE = DraftProfile(
    offered=0.3,
    starts=tuple(0.5 if least in (2, 4) else 0.0 for least in STEPS),
    chances=tuple(least / (least + 1) for least in STEPS),
)


def test_drafts_are_simulated_as_often_and_as_right_as_they_were() -> None:
    """A server's own profile, simulated, gives the same profile again."""
    drafting = replace(machine(), drafts=PROFILE)
    cluster = Cluster(drafting, config())
    cluster.run([Row(0.0, 50, 3000)])
    speculation = cluster.replicas[0].scheduler.speculation
    assert speculation is not None
    seen = speculation.profile
    assert seen is not None
    assert seen.offered == pytest.approx(0.3, abs=0.05)
    assert [i for i, part in enumerate(seen.starts) if part > 0.1] == [2, 4]
    long = [i for i, least in enumerate(STEPS) if least >= 8]
    assert [seen.chances[i] for i in long] == pytest.approx([PROFILE.chances[i] for i in long], abs=0.08)


def test_drafts_make_a_simulated_sequence_faster_and_change_nothing_else() -> None:
    rows = [Row(float(i), 50, 300) for i in range(4)]
    plain = Cluster(machine(), config()).run(rows).report("t", "w", {}, None, 1)
    off = Cluster(replace(machine(), drafts=PROFILE), config(speculation=NO_SPECULATION))
    assert off.run(rows).report("t", "w", {}, None, 1)["requests"] == plain["requests"]
    drafting = Cluster(replace(machine(), drafts=PROFILE), config()).run(rows).report("t", "w", {}, None, 1)
    for one, other in zip(drafting["requests"], plain["requests"], strict=True):
        assert one["output_tokens"] == other["output_tokens"] == 300
        assert one["tpot_ms"] < 0.8 * other["tpot_ms"]

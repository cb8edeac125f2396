"""The diagnosis of a server: each rule has a case in which it speaks, and one in which it does not."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from tenfold.core.config import FIRST_COME, PROFILES, SchedulerConfig, SpeculationConfig
from tenfold.core.slo import DEFAULT_CLASSES, Slo, with_slo
from tenfold.cost.estimate import StepFit
from tenfold.cost.machine import Machine
from tenfold.cost.shape import StepShape
from tenfold.doctor.evidence import Evidence, read_counts
from tenfold.doctor.finding import Finding, table
from tenfold.doctor.server import diagnose
from tenfold.doctor.work import work_of
from tenfold.engine.inspection import StepRecord
from tenfold.observe.requests import ChoiceTimeline

FIT = StepFit((0.004, 0.008, 0.008, 0.012, 0.012, 0.012, 0.0003, 0.001, 0.003, 0.01, 0.003, 0.004, 0.002))
MACHINE = Machine(
    model="m",
    backend="cpu (avx512-vnni, 2 threads, int8, kv bf16)",
    cpu="some CPU",
    max_context=4096,
    blocks=1000,
    block_size=16,
    windows=(0,),
    fit=FIT,
)


def steps(count: int, decode: int, prefill: int = 0, *, idle: float = 0.0, **more: Any) -> list[StepRecord]:
    """As many, each of so many sequences of 200 tokens in decode beside so many tokens of prompts."""
    cost, found, at = MACHINE.cost(), [], 100.0
    for _ in range(count):
        keys, prompts = 200.0 * decode, 0.5 * prefill * prefill
        shape = StepShape(decode + prefill, decode + (prefill > 0), decode, keys, prompts)
        seconds = cost.predict(shape)
        known = {"computing": seconds, "running": decode + (prefill > 0), "waiting": 0, "held": 200, **more}
        found.append(
            StepRecord(
                began=at, seconds=seconds, predicted=seconds, decode=decode, prefill=prefill, sampled=decode,
                decode_keys=keys, prefill_keys=prompts, **known,
            )
        )  # fmt: skip
        at += seconds + idle
    return found


def choice(**more: Any) -> ChoiceTimeline:
    fields: dict[str, Any] = {
        "slo_class": "standard", "tokenize": 0.001, "queue": 0.002, "prefill": 0.1, "decode": 1.0, "interference": 0.1,
        "preempted": 0.0, "recompute": 0.0, "delivery": 0.003, "prompt_tokens": 100, "cached_tokens": 0,
        "output_tokens": 50, "ttft": 0.1, "tpot": 0.02, "machine_seconds": 0.1, "cost": None,
    }  # fmt: skip
    fields |= more
    parts = ("tokenize", "queue", "prefill", "decode", "interference", "preempted", "recompute", "delivery")
    return ChoiceTimeline(total=sum(fields[part] for part in parts), **fields)


def look(**more: Any) -> Evidence:
    known: dict[str, Any] = {
        "seconds": 10.0,
        "machine": MACHINE,
        "limits": SchedulerConfig(),
        "steps": steps(100, 4, idle=0.02),
        "choices": [choice()] * 20,
    }
    return Evidence(**{**known, **more})


def names(evidence: Evidence) -> list[str]:
    return [one.name for one in diagnose(evidence) if one.level == "problem"]


def found(evidence: Evidence, name: str) -> Finding:
    return next(one for one in diagnose(evidence) if one.name == name)


def test_nothing_is_wrong() -> None:
    told = diagnose(look())
    assert not [one for one in told if one.level == "problem"]
    assert "healthy" in [one.name for one in told]
    assert table("a server", told).row_count == len(told)


def test_a_server_that_does_nothing() -> None:
    told = diagnose(look(steps=[], choices=[]))
    assert [one.name for one in told] == ["idle"]


def test_more_than_the_machine_can_do() -> None:
    late = [choice(queue=5.0)] * 20
    told = found(look(choices=late, steps=steps(100, 32, 200, waiting=9)), "capacity")
    assert told.level == "problem"
    assert "more than it can do" in told.words


def test_a_queue_that_grows() -> None:
    """Those that have ended did not wait long yet, but those that come do."""
    growing = [replace_step(step, waiting=at // 2) for at, step in enumerate(steps(100, 32, 200))]
    assert "more at the end" in found(look(steps=growing), "capacity").words


def test_all_places_are_taken_though_there_is_room() -> None:
    told = look(choices=[choice(queue=5.0)] * 20, steps=steps(100, 4, waiting=9), limits=SchedulerConfig(max_running=4))
    assert found(told, "places").advice[0].startswith("--max-running 8")


def test_throughput_is_great_but_it_feels_slow() -> None:
    """Prompts of others in nearly every step: running answers crawl."""
    busy, slow = steps(100, 8, 400), [choice(decode=1.0, interference=3.0)] * 20
    told = found(look(steps=busy, choices=slow), "interference")
    assert "interference" not in names(look(steps=busy, choices=[choice(prefill=9.0)] * 20))  # short answers
    assert any(advice.startswith("--slo tpot=") for advice in told.advice)
    assert "feels slow" in told.words
    limits = SchedulerConfig(policy=PROFILES["throughput"], max_step_tokens=4096)
    assert any(
        "--profile balanced" in advice
        for advice in found(look(steps=busy, limits=limits, choices=slow), "interference").advice
    )
    limits = SchedulerConfig(policy=FIRST_COME)
    assert "fcfs" in found(look(steps=busy, limits=limits, choices=slow), "interference").advice[0]


def test_slower_than_alone_but_as_fast_as_promised() -> None:
    bounds = with_slo(DEFAULT_CLASSES, "standard", Slo(tpot=1.0))
    assert "interference" not in names(
        look(steps=steps(100, 8, 400), limits=SchedulerConfig(classes=bounds), choices=[choice(interference=3.0)] * 20)
    )


@pytest.mark.parametrize(("decode", "prefill", "binds"), [(1, 0, "weights"), (2, 500, "prompts"), (60, 0, "tokens")])
def test_what_binds(decode: int, prefill: int, binds: str) -> None:
    """Quantizing helps where reading the weights binds, and is said not to where something else does."""
    told = found(look(steps=steps(60, decode, prefill)), f"binds-{binds}")
    if binds == "weights":
        assert "--weights int4" in told.advice[0]
    else:
        assert "Quantizing the weights further would save at most" in told.words
        assert told.evidence["weights"] < 0.35


def test_already_in_four_bits() -> None:
    machine = replace_machine(backend="cpu (avx512-vnni, 2 threads, int4 g32, kv int8)")
    told = found(look(steps=steps(60, 1), machine=machine), "binds-weights")
    assert not any("--weights" in advice for advice in told.advice)


def replace_machine(**more: Any) -> Machine:
    return msgspec.structs.replace(MACHINE, **more)


def test_kv_memory_is_short() -> None:
    full = look(
        steps=steps(100, 8, held=990, waiting=3),
        choices=[choice(preempted=0.5, recompute=0.3)] * 20,
        after={("tenfold_num_preemptions_total", (("reason", "memory"),)): 12.0},
    )
    told = found(full, "kv")
    assert told.advice[0].startswith("--kv int8")
    assert "--kv-tokens 32000" in " ".join(told.advice)
    assert not any(
        "--kv int8" in a for a in found(replace(full, machine=replace_machine(backend="x kv int8)")), "kv").advice
    )


def test_time_outside_of_the_model() -> None:
    slow = [replace_step(step, computing=0.6 * step.seconds) for step in steps(100, 4)]
    assert "engine" in names(look(steps=slow))


def replace_step(step: StepRecord, **more: Any) -> StepRecord:
    return msgspec.structs.replace(step, **more)


def test_time_on_the_way_to_the_client() -> None:
    assert "delivery" in names(look(choices=[choice(delivery=1.0)] * 20))


def test_the_machine_got_slower() -> None:
    told = look(machine=replace_machine(drift=2.0), steps=steps(100, 4))
    assert "2.00 times as long" in found(told, "machine").words
    assert found(look(calibrated=False), "calibration").level == "note"


def test_the_wrong_kernels() -> None:
    assert "kernels" in names(look(machine=replace_machine(backend="reference (NumPy)")))


def test_refusals_and_missed_bounds() -> None:
    after = {
        ("tenfold_requests_refused_total", (("reason", "ttft"),)): 30.0,
        ("tenfold_engine_finished_total", (("finished_reason", "stop"),)): 70.0,
        ("tenfold_slo_requests_total", (("outcome", "met"), ("slo_class", "standard"))): 40.0,
        ("tenfold_slo_requests_total", (("outcome", "tpot_missed"), ("slo_class", "standard"))): 30.0,
    }
    late = [choice(tpot=0.5, tpot_bound=0.05, interference=9.0)] * 20
    told = look(after=after, choices=late)
    assert {"refused", "bounds"} <= set(names(told))
    assert "30%" in found(told, "refused").words
    assert "interference" in found(told, "bounds").advice[0]
    before = {key: value for key, value in after.items() if "refused" in key[0] or "slo" in key[0]}
    assert not {"refused", "bounds"} & set(names(look(after=after, before=before, choices=late)))


def test_the_parts_of_the_work_are_all_of_it() -> None:
    for made in (steps(50, 8, 100), steps(50, 1), steps(20, 30, 3)):
        work = work_of(made, MACHINE)
        assert work.total == pytest.approx(sum(step.seconds for step in made), rel=1e-6)
        assert sum(work.parts().values()) == pytest.approx(1.0)
        assert work.busy == pytest.approx(1.0)
        assert 0 <= work.interference < work.gap
    assert work_of([], MACHINE).total == 0


def test_counters_are_read() -> None:
    text = 'tenfold_x_total{reason="a"} 3\ntenfold_x_total{reason="b"} 4\n# HELP y z\n# TYPE y gauge\ny 5\n'
    told = replace(look(), after=read_counts(text), before=read_counts('tenfold_x_total{reason="a"} 1\n'))
    assert told.more("tenfold_x_total") == 6
    assert told.more("tenfold_x_total", reason="a") == 2
    assert told.by("tenfold_x_total", "reason") == {"a": 2, "b": 4}
    assert told.now("y") == 5


def drafting(
    drafted: int, accepted: int, spent: float, saved: float
) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        ("tenfold_spec_decode_num_draft_tokens_total", (("proposer", "lookup"),)): drafted,
        ("tenfold_spec_decode_num_accepted_tokens_total", (("proposer", "lookup"),)): accepted,
        ("tenfold_spec_decode_seconds_total", (("kind", "spent"),)): spent,
        ("tenfold_spec_decode_seconds_total", (("kind", "saved"),)): saved,
    }


def test_speculation_should_always_help() -> None:
    """The third complaint: always so many tokens, at a load where steps are arithmetic."""
    steps_of_many = steps(100, 24)
    busy = sum(step.seconds for step in steps_of_many)
    fixed = SchedulerConfig(speculation=SpeculationConfig(mode="fixed", draft_tokens=4))
    after = drafting(10_000, 2_000, 0.5 * busy, 0.1 * busy)
    ill = look(steps=steps_of_many, limits=fixed, after=after)
    assert "speculation" in names(ill)
    told = found(ill, "speculation")
    assert "20%" in told.words
    assert "saved 10%" in told.words
    assert told.advice[0].startswith("--speculation auto")
    by_itself = found(look(steps=steps_of_many, after=after), "speculation")
    assert by_itself.advice[0].startswith("--speculation off")


def test_speculation_that_pays_is_told_of() -> None:
    well = look(after=drafting(1_000, 800, 0.1, 0.6))
    assert names(well) == []
    assert "80%" in found(well, "drafts").words
    assert "drafts" not in [one.name for one in diagnose(look())]


def test_drafts_are_a_part_of_the_work() -> None:
    plain, more = steps(10, 4), steps(10, 4)
    cost = MACHINE.cost()
    shape = replace_step(more[0], drafted=12, draft_keys=12 * 200.0, sampled=16).shape
    assert (shape.rows, shape.sequences, shape.sampled) == (16, 4, 16)
    longer = [
        replace_step(step, drafted=12, draft_keys=12 * 200.0, sampled=16, computing=cost.predict(shape))
        for step in more
    ]
    one, other = work_of(plain, MACHINE), work_of(longer, MACHINE)
    assert one.drafts == 0
    assert other.drafts == pytest.approx(sum(step.computing for step in longer) - one.total, rel=0.05)
    assert other.prompts == 0

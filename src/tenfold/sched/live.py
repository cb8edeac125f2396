"""Sequences that have not ended, as whoever looks sees them."""

from collections.abc import Iterable
from itertools import islice

import msgspec

from tenfold.sched.sequence import Sequence


class LiveSequence(msgspec.Struct, frozen=True, kw_only=True):
    """``phase`` is what it does now; ``seconds`` where its time went so far, by phase: they add up to ``age``, which is
    since its arrival. ``computed`` of its ``prompt_tokens`` and ``output_tokens`` are in KV memory."""

    id: str
    tenant: str
    slo_class: str
    phase: str  # waiting, prefill, decode, recompute
    age: float
    seconds: dict[str, float]
    prompt_tokens: int
    cached_tokens: int
    computed: int
    output_tokens: int
    machine_seconds: float
    preemptions: int
    ttft_bound: float | None = None
    tpot_bound: float | None = None


def live(sequences: Iterable[Sequence], now: float, interference: float, most: int) -> list[LiveSequence]:
    """At most so many, those with a place first; ``interference`` is the scheduler's total of it."""
    placed: list[Sequence] = []
    others: list[Sequence] = []
    for one in sequences:
        (placed if one.admitted and not one.waiting else others).append(one)
    found = [_seen(one, one.phase, now, interference) for one in islice(placed, most)]
    return [*found, *(_seen(one, "waiting", now, interference) for one in islice(others, most - len(found)))]


def _seen(one: Sequence, phase: str, now: float, interference: float) -> LiveSequence:
    return LiveSequence(
        id=one.id,
        tenant=one.terms.tenant,
        slo_class=one.terms.slo_class.name,
        phase=phase,
        age=max(0.0, now - one.submission.arrival),
        seconds={name: spent for name, spent in one.phases.until(now, interference).items() if spent},
        prompt_tokens=one.prompt,
        cached_tokens=one.cached,
        computed=one.computed,
        output_tokens=one.outputs,
        machine_seconds=one.charged,
        preemptions=len(one.phases.preemptions),
        ttft_bound=one.slo.ttft,
        tpot_bound=one.slo.tpot,
    )

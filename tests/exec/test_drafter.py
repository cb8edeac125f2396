"""A draft model that is the target itself is always right: whatever is lacking or stale in its KV memory would show."""

from dataclasses import replace

import numpy as np
import pytest

from tenfold.cache.manager import CacheManager
from tenfold.core.clock import VirtualClock
from tenfold.core.config import CacheConfig, SchedulerConfig, SpeculationConfig
from tenfold.core.request import EngineRequest, EngineStats
from tenfold.core.sampling import SamplingParams
from tenfold.engine.core import EngineCore
from tenfold.exec.drafter import DraftModel
from tenfold.exec.runner import ModelRunner
from tenfold.ops.base import Ops
from tenfold.ops.cpu import CpuOps
from tenfold.ops.reference import ReferenceOps
from tenfold.ops.tensors import Tensor, Weights
from tenfold.sched.scheduler import Scheduler
from tests.helpers.engines import LetterVocabulary
from tests.helpers.models import random_weights, tiny_spec

SPEC = tiny_spec(tied_head=True, vocab=160)
PARAMS = (
    {"temperature": 0.0},
    {"temperature": 0.8, "seed": 3},
    {"temperature": 1.1, "top_k": 12, "seed": 4},
    {"temperature": 0.9, "top_p": 0.9, "min_p": 0.01, "seed": 5},
)


def ops_of(backend: str) -> tuple[Ops, Ops]:
    """A model, and the same beside it."""
    weights = random_weights(SPEC)
    if backend == "reference":
        return ReferenceOps(weights), ReferenceOps(weights)
    target = CpuOps(weights, threads=2)
    return target, CpuOps(weights, beside=target)


def run(
    target: Ops, draft: DraftModel | None, blocks: int, **limits: object
) -> tuple[dict[str, tuple[int, ...]], EngineStats]:
    """Twelve requests, some of which share a beginning, and what came of them."""
    mode = "fixed" if draft is not None else "off"
    config = SchedulerConfig(
        speculation=SpeculationConfig(mode=mode, draft_tokens=3),
        **limits,  # type: ignore[arg-type]
    )
    cache = CacheManager(CacheConfig(blocks, 16))
    core = EngineCore(
        Scheduler(config, cache, draft_model=draft is not None),
        cache,
        ModelRunner(target, blocks, 16, draft_model=draft),
        LetterVocabulary(),
        VirtualClock(),
        512,
        SPEC.vocab,
    )
    tokens: dict[str, tuple[int, ...]] = {}
    for i in range(12):
        prompt = (*range(1, 40 if i % 3 else 5), i + 50)
        params = SamplingParams(max_tokens=25 + i, ignore_eos=True, **PARAMS[i % 4])  # type: ignore[arg-type]
        core.submit(EngineRequest(id=f"r{i}", prompt_ids=prompt, params=params, arrival=0.0))
        if i == 6:
            for _ in range(9):
                for output in core.step():
                    tokens[output.id] = tokens.get(output.id, ()) + output.tokens
    while not core.idle:
        for output in core.step():
            tokens[output.id] = tokens.get(output.id, ()) + output.tokens
        core.check()
    return tokens, core.stats()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("blocks", "limits"),
    [(200, {}), (12, {}), (200, {"max_step_tokens": 9, "max_running": 3})],
    ids=["roomy", "preempted", "chunked"],
)
def test_the_target_itself_is_always_right(backend: str, blocks: int, limits: dict[str, int]) -> None:
    target, same = ops_of(backend)
    draft = DraftModel("same", same, np.arange(SPEC.vocab, dtype=np.int32))
    expected, _ = run(target, None, blocks, **limits)
    got, stats = run(target, draft, blocks, **limits)
    assert got == expected
    assert stats.draft_tokens_total["model"] > 150
    assert stats.accepted_tokens_total == stats.draft_tokens_total
    assert (stats.preemptions_total.get("memory", 0) > 0) == (blocks == 12)


def test_a_draft_model_may_know_fewer_tokens() -> None:
    """One over the target's own embedding, whose head has every third token: what it drafts is of those."""
    weights = random_weights(SPEC)
    known = np.arange(0, SPEC.vocab, 3, dtype=np.int32)
    embed = weights["embed"]
    head = Tensor("head", embed.kind, (len(known), SPEC.hidden), embed.data[known], lambda: embed.decode()[known])
    spec = replace(SPEC, tied_head=False, head_rows=len(known))
    small = Weights(spec, {**weights.tensors, "head": head})
    target = CpuOps(weights, threads=2)
    draft = DraftModel("small", CpuOps(small, beside=target), known)
    expected, _ = run(target, None, 200)
    got, stats = run(target, draft, 200)
    assert got == expected
    accepted, drafted = stats.accepted_tokens_total["model"], stats.draft_tokens_total["model"]
    assert 0 < accepted < drafted


def test_models_beside_each_other_share_threads_and_embedding() -> None:
    weights = random_weights(SPEC)
    target = CpuOps(weights, threads=2)
    beside = CpuOps(weights, beside=target)
    assert beside.model.threads == 2
    assert beside.model.weight_bytes < target.model.weight_bytes
    other = CpuOps(random_weights(tiny_spec(hidden=32, heads=2, kv_heads=1)), beside=target)
    assert other.model.weight_bytes > 0

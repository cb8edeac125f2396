"""Embeddings: what they are, and that how a text is served changes not a bit of them."""

from collections.abc import Mapping

import numpy as np
import pytest

from tenfold.cache.manager import CacheManager
from tenfold.core.clock import VirtualClock
from tenfold.core.config import CacheConfig, SchedulerConfig
from tenfold.core.errors import ContextOverflow, InvalidRequest
from tenfold.core.request import POOLED, EngineRequest, Pooling, RequestOutput
from tenfold.core.sampling import SamplingParams
from tenfold.engine.core import EngineCore
from tenfold.exec.runner import ModelRunner
from tenfold.ops.base import Ops
from tenfold.ops.cpu import CpuOps
from tenfold.ops.reference import ReferenceOps
from tenfold.sched.scheduler import Scheduler
from tests.helpers.engines import LetterVocabulary
from tests.helpers.models import Slice, make_batch, random_weights, tiny_spec

WEIGHTS = random_weights(tiny_spec())
RNG = np.random.default_rng(4)
TEXTS = [tuple(RNG.integers(1, 160, length).tolist()) for length in (1, 5, 16, 33, 33, 70)]
TEXTS[4] = TEXTS[3][:32] + TEXTS[4][32:]  # two that begin alike
LONG = SamplingParams(temperature=0.0, max_tokens=60, ignore_eos=True)


@pytest.fixture(scope="module")
def ops() -> CpuOps:
    return CpuOps(WEIGHTS, threads=2)


def core_over(ops: Ops, *, blocks: int = 64, max_step_tokens: int = 512, pools: bool = True) -> EngineCore:
    cache = CacheManager(CacheConfig(blocks, 16))
    limits = SchedulerConfig(max_step_tokens=max_step_tokens, max_running=min(16, max_step_tokens))
    scheduler = Scheduler(limits, cache)
    runner = ModelRunner(ops, blocks, 16)
    return EngineCore(scheduler, cache, runner, LetterVocabulary(), VirtualClock(), 512, 160, pools=pools)


def submit(core: EngineCore, wanted: Mapping[str, tuple[int, ...]], pooling: Pooling) -> None:
    for name, ids in wanted.items():
        core.submit(EngineRequest(id=name, prompt_ids=ids, params=POOLED, arrival=0.0, pooling=pooling))


def finish(core: EngineCore) -> dict[str, RequestOutput]:
    """The last output of each request."""
    found = {}
    while not core.idle:
        for output in core.step():
            found[output.id] = output
        core.check()
    return found


def embeddings(core: EngineCore, pooling: Pooling) -> list[bytes]:
    submit(core, {str(at): ids for at, ids in enumerate(TEXTS)}, pooling)
    found = finish(core)
    vectors = [found[str(at)].embedding for at in range(len(TEXTS))]
    assert all(vector is not None for vector in vectors)
    return [vector for vector in vectors if vector is not None]


def expected(ids: tuple[int, ...], pooling: Pooling) -> np.ndarray:
    """By the reference's ops, layer by layer over the whole text, and the definition."""
    ops = ReferenceOps(WEIGHTS)
    kv, batch = ops.new_kv(8, 16), make_batch([Slice(ids, 0, range(8))])
    x = ops.embed(batch)
    for layer in range(ops.spec.layers):
        q = ops.qkv(layer, x, batch, kv)
        x = ops.mlp(layer, ops.attn_out(layer, ops.attend(layer, q, batch, kv), x))
    x = x.astype(np.float64)
    x = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + ops.spec.norm_eps) * WEIGHTS["norm"].decode()
    vector = x[-1] if pooling == "last" else x.mean(axis=0)
    return np.asarray(vector / np.linalg.norm(vector))


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_they_are_the_pooled_hidden_states(ops: CpuOps, pooling: Pooling) -> None:
    by_reference = embeddings(core_over(ReferenceOps(WEIGHTS), max_step_tokens=20), pooling)
    by_kernels = embeddings(core_over(ops), pooling)
    for ids, reference, kernels in zip(TEXTS, by_reference, by_kernels, strict=True):
        wanted = expected(ids, pooling)
        np.testing.assert_allclose(np.frombuffer(reference, "<f4"), wanted, atol=2e-5)
        got = np.frombuffer(kernels, "<f4").astype(np.float64)
        assert abs(np.linalg.norm(got) - 1) < 1e-6
        assert got @ wanted > 0.995  # products of 8-bit activations, keys in bf16
    if pooling == "mean":
        assert by_kernels[0] == embeddings(core_over(ops), "last")[0]  # of one token


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize(
    ("options", "beside", "again"),
    [
        pytest.param({"max_step_tokens": 7}, False, False, id="chunked"),
        pytest.param({}, True, False, id="beside others"),
        pytest.param({"blocks": 12, "max_step_tokens": 24}, True, False, id="preempted"),
        pytest.param({}, False, True, id="cached"),
    ],
)
def test_bits_do_not_depend_on_company(
    ops: CpuOps, pooling: Pooling, options: dict[str, int], beside: bool, again: bool
) -> None:
    alone = []
    for ids in TEXTS:
        core = core_over(ops)
        submit(core, {"x": ids}, pooling)
        alone.append(finish(core)["x"].embedding)
    core = core_over(ops, **options)
    for number in range(3 if beside else 0):
        core.submit(EngineRequest(id=f"beside {number}", prompt_ids=TEXTS[2 + number], params=LONG, arrival=0.0))
        core.step()
    if again:
        embeddings(core, "last")
    assert embeddings(core, pooling) == alone
    stats = core.stats()
    assert (sum(stats.preemptions_total.values()) > 0) == (options.get("blocks") == 12)
    assert stats.generated_tokens_total == (180 if beside else 0)


def test_what_the_cache_has_is_not_computed_again_but_for_a_mean(ops: CpuOps) -> None:
    core = core_over(ops)
    submit(core, {"first": TEXTS[3]}, "mean")
    first = finish(core)["first"]
    assert (first.cached_tokens, first.finish, first.tokens) == (0, "stop", ())
    assert first.timeline is not None
    assert (first.timeline.prompt_tokens, first.timeline.output_tokens) == (33, 0)
    submit(core, {"last": TEXTS[4]}, "last")
    assert finish(core)["last"].cached_tokens == 32
    submit(core, {"mean": TEXTS[4]}, "mean")
    assert finish(core)["mean"].cached_tokens == 0


def test_one_that_is_aborted_leaves_nothing(ops: CpuOps) -> None:
    core = core_over(ops, max_step_tokens=16)
    submit(core, {"x": TEXTS[5]}, "mean")
    core.step()
    assert [output.finish for output in core.abort("x")] == ["abort"]
    assert core.idle
    submit(core, {"x": TEXTS[1]}, "mean")
    found = finish(core)["x"].embedding
    other = core_over(ops)
    submit(other, {"x": TEXTS[1]}, "mean")
    assert found == finish(other)["x"].embedding


def test_what_cannot_be_is_refused(ops: CpuOps) -> None:
    with pytest.raises(InvalidRequest, match="no embeddings"):
        submit(core_over(ops, pools=False), {"x": (1, 2)}, "last")
    with pytest.raises(ContextOverflow):
        submit(core_over(ops), {"x": (1,) * 512}, "last")
    with pytest.raises(InvalidRequest, match="empty"):
        submit(core_over(ops), {"x": ()}, "last")

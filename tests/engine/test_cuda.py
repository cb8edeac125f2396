"""The engine over the CUDA backend's ops, in plain torch on the CPU with fake graphs: steps are launched ahead, tokens
chosen where logits lie, and the outputs are those of the reference ops."""

import functools
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold.core.config import CudaConfig, EngineConfig, SchedulerConfig, SpeculationConfig
from tenfold.core.constraint import Constraint
from tenfold.core.sampling import SamplingParams
from tenfold.engine.llm import LLM
from tests.model.tiny import write_byte_level

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

SORTS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 1.0},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.9},
    {"temperature": 1.0, "min_p": 0.02, "n": 2},
    {"temperature": 0.0, "logprobs": 3},
    {"temperature": 0.7, "presence_penalty": 0.5, "frequency_penalty": 0.2, "repetition_penalty": 1.2},
    {"temperature": 1.0, "logit_bias": {17: 100.0}},
    {"temperature": 1.0, "logprobs": 0, "min_tokens": 8, "ignore_eos": False},
    {"temperature": 1.0, "constraint": Constraint("regex", "[a-f]{30}"), "ignore_eos": False},
)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tiny model; ``backend="cuda"`` runs on the CPU."""
    from tenfold.ops.cuda import ops as cuda
    from tenfold.ops.cuda import presence

    captured: list[int] = []

    class OnTheCpu(cuda.CudaOps):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options, device=torch.device("cpu"), dtype=torch.float32)

        def new_kv(self, blocks: int, block_size: int) -> cuda.PagedKv:
            kv = super().new_kv(blocks, block_size)
            self.use_graphs(kv, lambda step: captured.append(len(step())) or step)  # type: ignore[func-returns-value]
            return kv

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(presence, "find_gpus", lambda wanted: None)
    monkeypatch.setattr(cuda, "CudaOps", OnTheCpu)
    return str(write_byte_level(tmp_path / "tiny.gguf", **{"llama.context_length": 512}))


def generated(model: str, backend: str, mode: str, **options: Any) -> list[list[tuple[int, ...]]]:
    random = np.random.default_rng(3)
    prompts = [random.integers(3, 250, int(length)).tolist() for length in random.integers(1, 60, 9)]
    prompts[5] = prompts[4] * 2  # what repeats itself is drafted
    params = [
        SamplingParams(
            **{"max_tokens": int(random.integers(30, 70)), "seed": i, "ignore_eos": True} | SORTS[i % len(SORTS)]
        )
        for i in range(len(prompts))
    ]
    scheduler = SchedulerConfig(
        max_step_tokens=64, max_running=12, speculation=SpeculationConfig(mode=mode, draft_tokens=3)
    )
    llm = LLM(model, backend=backend, kv_tokens=208, scheduler=scheduler, **options)
    found = llm.generate(prompts, params, progress=False)
    llm._core.check()
    stats = llm.stats()
    assert sum(stats.preemptions_total.values()), "nobody lost a place: blocks are too many"
    assert mode == "off" or sum(stats.draft_tokens_total.values())
    for one, asked in zip(found, params, strict=True):
        for sample in one.samples:
            assert asked.logprobs is None or len(sample.logprobs or ()) == len(sample.tokens)
            assert sample.finish in ("length", "stop")
    return [[sample.tokens for sample in one.samples] for one in found]


def test_all_that_decode_needs_is_captured_before_there_are_requests(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tenfold.engine.build import build_engine
    from tenfold.ops.cuda import graphs

    sizes: set[tuple[int, int, bool]] = set()

    def run(self: graphs.Graphs, key: Any, step: Any, run: Any = graphs.Graphs.run) -> Any:
        sizes.add((key[0].rows, key[0].sequences, key[0].decode))
        return run(self, key, step)

    monkeypatch.setattr(graphs.Graphs, "run", run)
    scheduler = SchedulerConfig(max_step_tokens=64, max_running=12)
    engine = build_engine(EngineConfig(model=model, backend="cuda", kv_tokens=512, scheduler=scheduler), warm_up=True)
    assert {rows for rows, _, decode in sizes if decode} == {1, 2, 4, 8, 16}
    mixed = {(rows, sequences) for rows, sequences, decode in sizes if not decode}
    assert mixed == {(4, 4), (8, 8), (16, 16), (32, 16), (64, 16)}
    assert engine.core.idle
    engine.core.check()
    assert engine.core.stats().blocks_held == 0


HEADS = ((4, 8), (3, 3), (2, 8), (4, 1), (1, 32), (4, 4))  # query heads per KV head, KV heads


def needs_of(slices: list[tuple[int, int]], heads: tuple[int, int], window: int, running: int) -> set[Any]:
    """The graph that a step takes, of sequences of (tokens known before, new ones), or its kinds of kernels."""
    from tenfold.ops.cuda.attention_plan import plan_attention
    from tenfold.ops.cuda.fused.prefill_attention import worth_copying
    from tenfold.ops.cuda.graphs import Graphs

    new = np.array([count for _, count in slices], np.int32)
    context = np.array([sum(one) for one in slices], np.int32)
    graphs = Graphs(max(running, 32), 8192, lambda step: step)
    rows, count = int(new.sum()), len(new)
    padding = graphs.decode(count) if count == rows else graphs.mixed(rows, count, count)
    if padding is not None:
        new, context = (np.append(x, [0] * (padding.sequences - len(x))).astype(np.int32) for x in (new, context))
    starts = np.concatenate(([0], np.cumsum(new))).astype(np.int32)
    sizes = {"group": heads[0], "kv_heads": heads[1], "window": window, "processors": 132, "most_gathered": 32_768}
    plan = plan_attention(starts, context, padding=padding, **sizes)
    if padding is not None:
        return {(padding, plan.rows)}
    kinds: set[Any] = {("split", plan.rows)} if plan.items.size else set()
    if plan.fresh:
        kinds.add(("fresh", plan.tile_rows))
    if plan.tiles.shape[1] > plan.fresh:
        kinds.add(("copied" if worth_copying(plan) else "in place", plan.tile_rows))
    return kinds


@functools.cache
def warmed(heads: tuple[int, int], window: int, running: int, context: int) -> set[Any]:
    from tenfold.engine.warming import steps

    found = set()
    for slices, _ in steps(SchedulerConfig(max_step_tokens=8192, max_running=running), context, heads[0]):
        assert len(slices) <= running and sum(new for _, new in slices) <= 8192
        assert all(before + new <= context for before, new in slices)
        needs = needs_of(slices, heads, window, running)
        found |= needs | {("split", key[1]) for key in needs if isinstance(key[1], int)}
    return found


@given(st.data())
@hypothesis.settings(max_examples=150, deadline=None)
def test_hardly_a_step_meets_a_kernel_that_was_not_compiled_or_captured(data: st.DataObject) -> None:
    heads, window = data.draw(st.sampled_from(HEADS)), data.draw(st.sampled_from((0, 1024)))
    running, context = data.draw(st.sampled_from((256, 64))), data.draw(st.sampled_from((4096, 1024)))
    known = warmed(heads, window, running, context)
    prompts = data.draw(
        st.lists(
            st.tuples(st.just(0) | st.integers(0, context // 2), st.integers(1, 40) | st.integers(1, context // 2))
        )
    )
    step: list[tuple[int, int]] = [(context // 4, 1)] * data.draw(st.integers(0, running))
    while prompts and sum(new for _, new in step) + prompts[-1][1] <= 8192 and len(step) < running:
        step.append(prompts.pop())
    if step:
        for need in needs_of(step, heads, window, running) - known:
            assert need[1] == 32 and need[0].rows > 64, need  # drafts of many at a time: captured when they come


@pytest.mark.parametrize("mode", ["off", "fixed"])
def test_outputs_are_those_of_the_reference(model: str, mode: str) -> None:
    got, wanted = generated(model, "cuda", mode), generated(model, "reference", mode)
    assert got == wanted


def test_batch_invariantly_too(model: str) -> None:
    options = {"cuda": CudaConfig(batch_invariant=True, graphs=False)}
    assert generated(model, "cuda", "off", **options) == generated(model, "reference", "off")


def test_steps_are_launched_ahead(model: str) -> None:
    llm = LLM(model, backend="cuda", scheduler=SchedulerConfig(speculation=SpeculationConfig(mode="off")))
    steps = llm._core._steps
    assert steps.overlaps
    ahead = []
    launch = steps.launch

    def counted(*arguments: Any) -> None:
        ahead.append(bool(steps))
        launch(*arguments)

    steps.launch = counted  # type: ignore[method-assign]
    llm.generate([[5, 6, 7], [8, 9]], SamplingParams(max_tokens=20, temperature=0.0, ignore_eos=True), progress=False)
    assert ahead.count(True) >= len(ahead) - 3

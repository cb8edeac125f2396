"""The engine over the CUDA backend's ops, in plain torch on the CPU with fake graphs: steps are launched ahead, tokens
chosen where logits lie, and the outputs are those of the reference ops."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

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

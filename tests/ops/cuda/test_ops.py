"""The whole forward pass: tiny models in plain torch, equal to the reference; padding and graphs, by a fake."""

from typing import Any

import numpy as np
import pytest
import torch

from tenfold.core.config import CudaConfig
from tenfold.core.errors import ConfigError
from tenfold.model.decoder import forward
from tenfold.ops.choosing import Wanted
from tenfold.ops.cuda.attention_plan import Padding
from tenfold.ops.cuda.graphs import Graphs, rows_up_to, sequences_up_to, sizes_up_to
from tenfold.ops.cuda.kernels import fused_kernels, plain_kernels
from tenfold.ops.cuda.ops import CudaOps
from tenfold.ops.reference import ReferenceOps
from tests.helpers.models import Slice, make_batch, random_weights, tiny_spec
from tests.ops.test_cpu_ops import SPECS, steps

CPU = torch.device("cpu")


def cuda_ops(weights: Any, **options: Any) -> CudaOps:
    fields = {"device": CPU, "dtype": torch.float32, "max_rows": 256, "max_sequences": 16} | options
    return CudaOps(weights, **fields)


def near(got: torch.Tensor, wanted: np.ndarray, tolerance: float) -> None:
    assert torch.isfinite(got).all()
    assert np.abs(got.numpy() - wanted).max() <= tolerance * np.abs(wanted).max()


@pytest.mark.parametrize("name", SPECS)
def test_tiny_models_equal_the_reference(name: str) -> None:
    weights = random_weights(tiny_spec(**SPECS[name]), seed=2)
    ops, oracle = cuda_ops(weights), ReferenceOps(weights)
    kv, kv_oracle = ops.new_kv(13, 16), oracle.new_kv(13, 16)
    for batch in steps(weights.spec.vocab):
        wanted = forward(oracle, kv_oracle, batch)
        near(ops.forward(batch, kv), wanted, 2e-5)
        near(forward(ops, kv, batch), wanted, 2e-5)  # op by op, over the same keys again


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_the_kernels_make_the_same_pass(name: str) -> None:
    weights = random_weights(tiny_spec(**SPECS[name]), seed=2)
    ops, oracle = cuda_ops(weights, kernels=fused_kernels()), cuda_ops(weights, kernels=plain_kernels())
    kv, kv_oracle = ops.new_kv(13, 16), oracle.new_kv(13, 16)
    text = [int(t) for t in np.random.default_rng(1).integers(0, 160, 30)]
    for batch in (
        make_batch([Slice(text[:20], 0, [3, 1])]),
        make_batch([Slice(text[20:22], 20, [3, 1], [0, 1]), Slice(text[:18], 0, [5, 6]), Slice(text[:1], 0, [4])]),
    ):
        near(ops.forward(batch, kv), oracle.forward(batch, kv_oracle).numpy(), 2e-5)


def test_what_the_step_before_gave_goes_on() -> None:
    weights = random_weights(tiny_spec(), seed=2)
    ops, oracle = cuda_ops(weights), ReferenceOps(weights)
    kv, kv_oracle = ops.new_kv(13, 16), oracle.new_kv(13, 16)
    first = make_batch([Slice([5, 6, 7], 0, [1]), Slice([9, 8], 0, [2])])
    tokens = ops.choose(ops.forward(first, kv), Wanted()).result().tokens.tolist()
    ahead = make_batch([Slice([-2], 2, [2]), Slice([-1], 3, [1])])
    told = make_batch([Slice([tokens[1]], 2, [2]), Slice([tokens[0]], 3, [1])])
    forward(oracle, kv_oracle, first)
    near(ops.forward(ahead, kv), forward(oracle, kv_oracle, told), 2e-5)


@pytest.mark.parametrize("kernels", [plain_kernels, fused_kernels])
def test_graphs_replay_padded_steps(kernels: Any) -> None:
    weights = random_weights(tiny_spec(), seed=2)
    ops, oracle = cuda_ops(weights, kernels=kernels()), ReferenceOps(weights)
    kv, kv_oracle = ops.new_kv(40, 16), oracle.new_kv(40, 16)
    captured: list[int] = []

    def capture(step: Any) -> Any:
        """A fake graph: what is captured is called again, over the same memory."""
        captured.append(len(step()))
        return step

    ops.use_graphs(kv, capture)
    texts = [[int(t) for t in np.random.default_rng(n).integers(0, 160, 30 + n)] for n in range(3)]
    blocks = [[3 * n, 3 * n + 1, 3 * n + 2] for n in range(3)]
    start = make_batch([Slice(text[:-9], 0, own) for text, own in zip(texts, blocks, strict=True)])
    near(ops.forward(start, kv), forward(oracle, kv_oracle, start), 2e-5)
    assert captured == [16]  # logits of as many rows as sequences
    for at in (0, 3, 1):
        some = [n for n in range(3) if n != at % 4]  # 2 or 3 sequences
        slices = [Slice([texts[n][len(texts[n]) - 9]], len(texts[n]) - 9, blocks[n]) for n in some]
        batch = make_batch(slices)
        near(ops.forward(batch, kv), forward(oracle, kv_oracle, batch), 2e-5)
    assert captured == [16, 2, 4]


@pytest.mark.parametrize("name", ["llama", "gemma"])
@pytest.mark.parametrize("kernels", [plain_kernels, fused_kernels])
def test_graphs_replay_steps_with_prompts_and_drafts(kernels: Any, name: str) -> None:
    weights = random_weights(tiny_spec(**SPECS[name]), seed=2)
    ops, oracle = cuda_ops(weights, kernels=kernels()), ReferenceOps(weights)
    kv, kv_oracle = ops.new_kv(40, 16), oracle.new_kv(40, 16)
    captured: list[int] = []
    ops.use_graphs(kv, lambda step: captured.append(len(step())) or step)  # type: ignore[func-returns-value]
    random = np.random.default_rng(5)
    known = [0] * 4
    for new, drafted, graphs in (
        ((9, 4, 0, 0), (), 1),
        ((1, 2, 0, 10), (), 1),  # as many rows when padded: the same graph
        ((20, 1, 0, 8), (), 2),
        ((4, 1, 0, 5), (0, 3), 3),  # drafts: logits of all their rows
        ((1, 1, 40, 1), (), 4),
        ((1, 3, 1, 1), (1,), 5),
    ):
        slices = [
            Slice(
                random.integers(0, 150, count).tolist(),
                known[s],
                range(8 * s, 8 * s + 8),
                range(count) if s in drafted else [count - 1],
            )
            for s, count in enumerate(new)
            if count
        ]
        known = [before + count for before, count in zip(known, new, strict=True)]
        batch = make_batch(slices)
        near(ops.forward(batch, kv), forward(oracle, kv_oracle, batch), 2e-5)
        assert len(captured) == graphs


def test_steps_larger_than_all_graphs_run_as_they_are() -> None:
    weights = random_weights(tiny_spec(max_context=2048), seed=2)
    ops, oracle = cuda_ops(weights, max_rows=2048, max_sequences=2), ReferenceOps(weights)
    kv, kv_oracle = ops.new_kv(80, 16), oracle.new_kv(80, 16)
    captured: list[int] = []
    ops.use_graphs(kv, lambda step: captured.append(len(step())) or step)  # type: ignore[func-returns-value]
    text = [int(t) for t in np.random.default_rng(1).integers(0, 150, 1100)]
    for batch in (
        make_batch([Slice(text[:1050], 0, range(70))]),  # rows
        make_batch([Slice(text[1050:1090], 1050, range(70), range(40))]),  # logits
    ):
        near(ops.forward(batch, kv), forward(oracle, kv_oracle, batch), 5e-5)
    assert not captured


def test_graphs_are_captured_once_and_hold_every_size() -> None:
    assert sizes_up_to(70) == (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 80)
    assert rows_up_to(100) == (4, 8, 16, 32, 64, 100) and rows_up_to(5000)[-3:] == (768, 896, 1024)
    assert sequences_up_to(40) == (16, 40) and sequences_up_to(256) == (16, 64, 256) and sequences_up_to(16) == (16,)
    made: list[int] = []

    def capture(step: Any) -> Any:
        made.append(int(step()[0]))
        return step

    graphs = Graphs(20, 300, capture)
    sizes = [graphs.decode(n) for n in (1, 3, 9, 20, 24, 25)]
    assert [size and size.rows for size in sizes] == [1, 4, 16, 24, 24, None]
    assert graphs.mixed(100, 3, 17) == Padding(128, 20, decode=False)
    assert graphs.mixed(5, 1, 5) == Padding(8, 8, decode=False)
    assert graphs.mixed(301, 1, 1) is graphs.mixed(5, 1, 21) is None
    assert [int(graphs.run(n, lambda n=n: torch.full((n,), n))[0]) for n in (4, 1, 4)] == [4, 1, 4]
    assert made == [4, 1] and graphs.captured == (4, 1)


def test_settings_that_do_not_fit() -> None:
    weights = random_weights(tiny_spec())
    with pytest.raises(ConfigError, match="16, 32, 64"):
        cuda_ops(weights, block_size=24)
    assert "batch-invariant" in cuda_ops(weights, settings=CudaConfig(batch_invariant=True)).describe()

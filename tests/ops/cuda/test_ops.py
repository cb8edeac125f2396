"""The whole forward pass: tiny models in plain torch, equal to the reference; padding and graphs, by a fake."""

from typing import Any

import numpy as np
import pytest
import torch

from tenfold.core.config import CudaConfig
from tenfold.core.errors import ConfigError
from tenfold.model.decoder import forward
from tenfold.ops.choosing import Wanted
from tenfold.ops.cuda.graphs import Graphs, sizes_up_to
from tenfold.ops.cuda.kernels import fused_kernels, plain_kernels
from tenfold.ops.cuda.ops import CudaOps
from tenfold.ops.reference import ReferenceOps
from tests.helpers.models import Slice, make_batch, random_weights, tiny_spec
from tests.ops.test_cpu_ops import SPECS, steps

CPU = torch.device("cpu")


def cuda_ops(weights: Any, **options: Any) -> CudaOps:
    fields = {"device": CPU, "dtype": torch.float32, "max_rows": 256, "max_sequences": 8} | options
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
    for at in (0, 3, 1):
        some = [n for n in range(3) if n != at % 4]  # 2 or 3 sequences
        slices = [Slice([texts[n][len(texts[n]) - 9]], len(texts[n]) - 9, blocks[n]) for n in some]
        batch = make_batch(slices)
        near(ops.forward(batch, kv), forward(oracle, kv_oracle, batch), 2e-5)
    assert captured == [2, 4]


def test_graphs_are_captured_once_and_hold_every_size() -> None:
    assert sizes_up_to(70) == (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 80)
    made: list[int] = []

    def step(size: int) -> Any:
        made.append(size)
        return lambda: torch.full((size,), float(size))

    graphs = Graphs(20, step, lambda one: one)
    assert [graphs.padded(n) for n in (1, 3, 9, 20, 24, 25)] == [1, 4, 16, 24, 24, None]
    assert [int(graphs.run(size)[0]) for size in (4, 1, 4)] == [4, 1, 4]
    assert made == [4, 1] and graphs.captured == (1, 4)


def test_settings_that_do_not_fit() -> None:
    weights = random_weights(tiny_spec())
    with pytest.raises(ConfigError, match="16, 32, 64"):
        cuda_ops(weights, block_size=24)
    assert "batch-invariant" in cuda_ops(weights, settings=CudaConfig(batch_invariant=True)).describe()

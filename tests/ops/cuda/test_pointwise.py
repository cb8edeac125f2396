"""Norms, heads, activations and embeddings: plain against the reference ops, kernels against plain."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tenfold.ops import reference
from tenfold.ops.cuda.fused import embedding as fused_embedding
from tenfold.ops.cuda.fused import gated as fused_gated
from tenfold.ops.cuda.fused import heads as fused_heads
from tenfold.ops.cuda.fused import norms as fused_norms
from tenfold.ops.cuda.plain import embedding, gated, heads, norms
from tenfold.ops.reference import PagedKv, ReferenceOps
from tests.helpers.models import Slice, make_batch, random_weights, rope, tiny_spec

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # as wanted, of the interpreter

TYPES = (torch.float32, torch.bfloat16)
SIZES = [(1, 50), (3, 96), (2, 4096), (700, 8)]  # rows, columns


def random(*shape: int, dtype: torch.dtype = torch.float32, device: Any = None, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(device=device, dtype=dtype)


def near(got: Any, wanted: Any, tolerance: float | None = None) -> None:
    """Equal up to roundings of their type."""
    if isinstance(got, tuple):
        near(got[0], wanted[0])
        near(got[1], wanted[1], tolerance)
        return
    assert got.dtype == wanted.dtype and got.shape == wanted.shape
    got, wanted, dtype = got.float(), wanted.float(), got.dtype
    if dtype == torch.float8_e4m3fn:  # the interpreter rounds to it without carrying into the exponent
        assert ((got - wanted).abs() > 2.0**-9 + 0.13 * wanted.abs()).float().mean() <= 0.07
        return
    rough = {torch.float32: 4e-6, torch.bfloat16: 2e-2}[dtype] if tolerance is None else tolerance
    torch.testing.assert_close(got, wanted, rtol=rough, atol=rough)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", SIZES)
def test_norms(device: torch.device, size: tuple[int, int], dtype: torch.dtype) -> None:
    x, y = (random(*size, dtype=dtype, device=device, seed=seed) for seed in (1, 2))
    x[0] *= 1e-3
    weight, post = (1 + random(size[1], dtype=dtype, device=device, seed=seed) / 4 for seed in (3, 4))
    for quantize in (False, True):
        near(fused_norms.rms_norm(x, weight, 1e-5, quantize), norms.rms_norm(x, weight, 1e-5, quantize))
        for after in (None, post):
            mine, theirs = x.clone(), x.clone()
            got = fused_norms.add_rms_norm(mine, y, weight, 1e-5, after, quantize)
            wanted = norms.add_rms_norm(theirs, y, weight, 1e-5, after, quantize)
            near(got, wanted, None if dtype == torch.float32 else 2e-2)
            near(mine, theirs)
    for after in (None, post):
        mine, theirs = x.clone(), x.clone()
        fused_norms.add(mine, y, after, 1e-5)
        norms.add(theirs, y, after, 1e-5)
        near(mine, theirs)


def test_a_row_of_zeros_is_quantized(device: torch.device) -> None:
    x = torch.zeros(2, 48, device=device)
    for module in (norms, fused_norms):
        values, scale = module.rms_norm(x, x[0] + 1, 1e-5, True)
        assert (values.float() == 0).all() and (scale == 1).all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", [(1, 5), (3, 1030), (2, 4096)])
def test_gated(device: torch.device, size: tuple[int, int], dtype: torch.dtype) -> None:
    x = 4 * random(size[0], 2 * size[1], dtype=dtype, device=device)
    for activation, quantize in product(("silu", "gelu_tanh"), (False, True)):
        near(fused_gated.gated(x, activation, quantize), gated.gated(x, activation, quantize))


@pytest.mark.parametrize("dtype", TYPES)
def test_embed(device: torch.device, dtype: torch.dtype) -> None:
    table = random(7, 1030, dtype=dtype, device=device)
    tokens = torch.tensor([0, 6, -1, 3, -2, -3], dtype=torch.int32, device=device)
    previous = torch.tensor([5, -1, 2], dtype=torch.int32, device=device)
    wanted = (table[[0, 6, 5, 3, 0, 2]].float() * 1.7).to(dtype)
    for module in (embedding, fused_embedding):
        near(module.embed(tokens, previous, table, 1.7), wanted)
        near(module.embed(tokens[:2], previous[:0], table, 1.7), wanted[:2])


HEADS: dict[str, tuple[int, int, int, int, dict[str, bool]]] = {  # rows, heads, KV heads, head_dim
    "grouped": (5, 4, 2, 16, {}),
    "of six": (3, 9, 3, 6, {"bias": True}),
    "norms": (2, 8, 2, 128, {"norm": True}),
    "all, wide": (2, 3, 1, 80, {"norm": True, "bias": True, "keep": True}),
    "many": (7, 3, 1, 256, {"bias": True, "keep": True}),
}


@pytest.mark.parametrize("cache", ["bfloat16", "float32", "float8_e4m3fn"])
@pytest.mark.parametrize("name", HEADS)
def test_heads(device: torch.device, name: str, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, h, k, dim, switches = HEADS[name]
    if name == "many":
        monkeypatch.setattr(fused_heads, "_MANY", 1)  # as if rows were many
    dtype = torch.bfloat16 if cache == "bfloat16" else torch.float32
    qkv = random(rows, (h + 2 * k) * dim, dtype=dtype, device=device) * 5
    qkv[0, -1] = 1000.0  # more than FP8 holds
    bias = random(qkv.shape[1], dtype=dtype, device=device) if "bias" in switches else None
    q_norm, k_norm = (1 + random(dim, device=device, seed=s) / 4 if "norm" in switches else None for s in (5, 6))
    positions = torch.arange(rows, dtype=torch.int32, device=device) * 3
    slots = (torch.arange(rows, dtype=torch.int32, device=device) * 7 + 19) % (32 * 16)
    slots[rows // 2] = -1
    table = heads.rope_table(rope(dim).inv_freq, 3 * rows, device)
    results = []
    for module in (fused_heads, heads):
        source, q = qkv.clone(), torch.full((rows, h, dim), torch.nan, dtype=dtype, device=device)
        keys, values = (torch.zeros(32, k, 16, dim, device=device).to(getattr(torch, cache)) for _ in range(2))
        options = (bias, q_norm, k_norm, 1e-6, 0.25, "keep" in switches)
        module.finish_heads(source, q, keys, values, positions, slots, table, h, k, *options)
        results.append((source, q, keys, values))
    for got, wanted in zip(*results, strict=True):
        near(got, wanted, None if got.dtype == torch.bfloat16 else 2e-5)
    assert (results[0][2].float() != 0).any(dim=(1, 3)).sum() == rows - 1


@pytest.mark.parametrize("name", ["llama", "biases", "qk norm"])
def test_plain_heads_are_those_of_the_reference(name: str) -> None:
    spec = tiny_spec(layers=1, qkv_bias=name == "biases", qk_norm=name == "qk norm")
    ops = ReferenceOps(weights := random_weights(spec))
    batch = make_batch([Slice([3, 4, 5], 14, [2, 0]), Slice([9], 0, [1])])
    kv = ops.new_kv(3, 16)
    assert isinstance(kv, PagedKv)
    x = ops.embed(batch)
    wanted = torch.from_numpy(ops.qkv(0, x, batch, kv)) * 0.5

    tensors = {n.removeprefix("layers.0."): torch.from_numpy(t.decode()) for n, t in weights.tensors.items()}
    normed = norms.rms_norm(torch.from_numpy(x), tensors["attn_norm"], spec.norm_eps)
    qkv = torch.cat([normed @ tensors[which].T for which in "qkv"], dim=1)
    bias = torch.cat([tensors[f"{which}_bias"] for which in "qkv"]) if spec.qkv_bias else None
    q = torch.empty_like(wanted)
    keys, values = torch.zeros(2, 3, spec.kv_heads, 16, spec.head_dim)
    slots = torch.tensor([2 * 16 + 14, 2 * 16 + 15, 0, 16], dtype=torch.int32)
    table = heads.rope_table(spec.rope.inv_freq, 64, "cpu")
    norm = (tensors.get("q_norm"), tensors.get("k_norm"))
    positions = torch.from_numpy(batch.positions)
    heads.finish_heads(
        qkv, q, keys, values, positions, slots, table, spec.heads, spec.kv_heads, bias, *norm, spec.norm_eps, 0.5
    )
    near(q, wanted, 1e-5)
    for got, memory in ((keys, kv.k), (values, kv.v)):
        near(got, torch.from_numpy(memory[0]).transpose(1, 2), 1e-5)


def test_plain_is_the_reference() -> None:
    ops = ReferenceOps(random_weights(tiny_spec()))
    x, y = random(3, 64).numpy(), random(3, 64, seed=1).numpy()
    weight = torch.from_numpy(ops._tensor("norm"))
    near(norms.rms_norm(torch.from_numpy(x), weight, 1e-5), torch.from_numpy(ops._norm(x, "norm")), 1e-6)
    both = torch.from_numpy(np.concatenate((x, y), axis=1))
    near(gated.gated(both, "silu"), torch.from_numpy(reference.silu(x) * y), 1e-6)
    near(gated.gated(both, "gelu_tanh"), torch.from_numpy(reference.gelu_tanh(x) * y), 1e-6)
    angles = heads.rope_table(rope(16).inv_freq, 99, "cpu")
    assert angles.shape == (99, 16) and angles.dtype == torch.float32
    near(angles[98, 8:], torch.tensor(np.sin(98 * np.array(rope(16).inv_freq)), dtype=torch.float32), 1e-7)

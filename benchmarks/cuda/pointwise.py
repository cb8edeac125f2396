"""Norms, heads, activations and embeddings on the device: right, and how close to its memory's speed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from benchmarks.cuda.timing import Limits, Row, error, median_time
from tenfold.ops.cuda.fused import embedding as fused_embedding
from tenfold.ops.cuda.fused import gated as fused_gated
from tenfold.ops.cuda.fused import heads as fused_heads
from tenfold.ops.cuda.fused import norms as fused_norms
from tenfold.ops.cuda.plain import embedding, gated, heads, norms

_EPS = 1e-5


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Of a model, as far as these operations see it."""

    name: str
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    bias: bool = False
    norm: bool = False
    post: bool = False

    @property
    def projected(self) -> int:
        return (self.heads + 2 * self.kv_heads) * self.head_dim


LLAMA_8B = _Sizes("8B", 4096, 32, 8, 128, 14336)
QWEN = _Sizes("qwen", 3584, 28, 4, 128, 18944, bias=True, norm=True)
GEMMA = _Sizes("gemma", 640, 4, 1, 256, 2048, norm=True, post=True)


def check(device: torch.device | str) -> list[str]:
    """What is not right on ``device``, in words: each kernel in bfloat16 against plain torch in float32."""
    wrong = []
    for sizes in (LLAMA_8B, QWEN, GEMMA):
        for rows in (1, 65, 2100):
            for name, got, wanted in _pairs(sizes, rows, device):
                scaled = got[0].float() * got[1] if isinstance(got, tuple) else got.float()
                coarse = isinstance(got, tuple) or got.dtype == norms.FP8
                apart = error(scaled, wanted.float())
                if not apart < (0.035 if coarse else 0.004):
                    wrong.append(f"{name} of {sizes.name}, {rows} rows: off by {apart:.2g}")
    return wrong


def _pairs(sizes: _Sizes, rows: int, device: torch.device | str) -> Iterator[tuple[str, Any, Tensor]]:
    """(name, what a kernel gave, what plain torch gives in float32)."""
    _poison(device)
    x, y = (_random(rows, sizes.hidden, device=device) for _ in range(2))
    weight = 1 + _random(sizes.hidden, device=device) / 8
    post = weight.flip(0) if sizes.post else None
    for quantize in (False, True):
        yield (
            "rms_norm",
            fused_norms.rms_norm(x, weight, _EPS, quantize),
            _tensor(norms.rms_norm(x.float(), weight, _EPS)),
        )
        mine, theirs = x.clone(), x.clone()
        got = fused_norms.add_rms_norm(mine, y, weight, _EPS, post, quantize)
        norms.add(theirs, y, post, _EPS)
        yield "add_rms_norm", got, _tensor(norms.rms_norm(theirs.float(), weight, _EPS))
        yield "the sum of add_rms_norm", mine, theirs
        gates = 3 * _random(rows, 2 * sizes.ffn, device=device)
        for activation in ("silu", "gelu_tanh"):
            yield (
                activation,
                fused_gated.gated(gates, activation, quantize),
                _tensor(gated.gated(gates.float(), activation)),
            )
    tokens = torch.randint(-rows, 1000, (rows,), device=device, dtype=torch.int32)
    previous = torch.randint(-1, 1000, (rows,), device=device, dtype=torch.int32)
    table = _random(1000, sizes.hidden, device=device)
    yield (
        "embed",
        fused_embedding.embed(tokens, previous, table, 3.0),
        embedding.embed(tokens, previous, table.float(), 3.0),
    )
    for cache in (torch.bfloat16, norms.FP8):
        finished = [_heads(module, sizes, rows, cache, device)() for module in (fused_heads, heads)]
        for what, got, wanted in zip(("queries", "keys", "values", "kept"), *finished, strict=True):
            yield f"{what} of finish_heads to {cache}", got, wanted


def _heads(
    module: ModuleType, sizes: _Sizes, rows: int, cache: torch.dtype, device: torch.device | str
) -> Callable[[], tuple[Tensor, Tensor, Tensor, Tensor]]:
    """A call of ``finish_heads``, which returns all it wrote. The same random numbers each time."""
    generator = torch.Generator(device).manual_seed(1)
    qkv = torch.randn((rows, sizes.projected), generator=generator, device=device).bfloat16()
    bias = qkv[0] / 2 if sizes.bias else None
    norm = 1 + qkv[0, : sizes.head_dim] / 8 if sizes.norm else None
    blocks = -(-rows // 16)
    q = torch.full((rows, sizes.heads, sizes.head_dim), torch.nan, device=device, dtype=torch.bfloat16)
    k, v = (torch.zeros((blocks, sizes.kv_heads, 16, sizes.head_dim), device=device).to(cache) for _ in range(2))
    positions = torch.arange(rows, device=device, dtype=torch.int32)
    slots = torch.randperm(blocks * 16, generator=generator, device=device, dtype=torch.int32)[:rows]
    if rows > 1:
        slots[rows // 2] = -1
    table = heads.rope_table([1e4 ** (-i / sizes.head_dim) for i in range(0, sizes.head_dim, 2)], 8192, device)
    counts = (sizes.heads, sizes.kv_heads)

    def call() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        module.finish_heads(
            qkv, q, k, v, positions, slots, table, *counts, bias, norm, norm, _EPS, 0.1, keep=sizes.bias
        )
        return q, k, v, qkv

    return call


def run(limits: Limits) -> list[Row]:
    """Times of each, at prefill (8192 rows) and decode (64 rows and 1, of a captured graph)."""
    device = torch.device("cuda")
    table = []
    for rows in (8192, 64, 1):
        for name, shape, moved, call in _calls(LLAMA_8B, rows, device):
            seconds = median_time(call, graph=rows < 1024)
            note = f"{moved / seconds / limits.copy:.0%} of a copy's speed" if rows >= 1024 else ""
            table.append(Row(name, f"{rows} x {shape}", seconds * 1e6, moved, note=note))
    return table


def _calls(sizes: _Sizes, rows: int, device: torch.device) -> Iterator[tuple[str, int, float, Callable[[], object]]]:
    """(name, columns, bytes read and written, call)."""
    x, y = (_random(rows, sizes.hidden, device=device) for _ in range(2))
    weight = _random(sizes.hidden, device=device)
    gates = _random(rows, 2 * sizes.ffn, device=device)
    n, ffn = rows * sizes.hidden, rows * sizes.ffn
    yield "torch rms_norm", sizes.hidden, 4 * n, lambda: torch.nn.functional.rms_norm(x, (sizes.hidden,), weight, _EPS)
    yield "rms_norm", sizes.hidden, 4 * n, lambda: fused_norms.rms_norm(x, weight, _EPS)
    yield "add_rms_norm", sizes.hidden, 8 * n, lambda: fused_norms.add_rms_norm(x, y, weight, _EPS)
    yield "add_rms_norm fp8", sizes.hidden, 7 * n, lambda: fused_norms.add_rms_norm(x, y, weight, _EPS, None, True)
    yield "gated", sizes.ffn, 6 * ffn, lambda: fused_gated.gated(gates, "silu")
    yield "gated fp8", sizes.ffn, 5 * ffn, lambda: fused_gated.gated(gates, "silu", True)
    for cache in (torch.bfloat16, norms.FP8):
        bytes_of_kv = rows * 2 * sizes.kv_heads * sizes.head_dim * cache.itemsize
        moved = 2 * rows * sizes.projected + 2 * rows * sizes.heads * sizes.head_dim + bytes_of_kv
        call = _heads(fused_heads, sizes, rows, cache, device)
        yield f"finish_heads {8 * cache.itemsize} bit", sizes.projected, moved, call
    tokens = torch.randint(0, 32000, (rows,), device=device, dtype=torch.int32)
    embeddings = _random(32000, sizes.hidden, device=device)
    yield "embed", sizes.hidden, 4 * n, lambda: fused_embedding.embed(tokens, tokens, embeddings, 1.0)


def _random(*shape: int, device: torch.device | str) -> Tensor:
    return torch.randn(shape, device=device).bfloat16()


def _tensor(result: norms.Normed) -> Tensor:
    assert isinstance(result, Tensor)
    return result


def _poison(device: torch.device | str) -> None:
    """Fill memory that is free again afterwards, so that what a kernel does not write is not a number."""
    big = torch.full((1 << 27,), torch.nan, device=device)
    small = [torch.full((1 << 16,), torch.nan, device=device) for _ in range(64)]
    del big, small

"""Whole steps of Llama-3-8B's shape with random weights: decode beside the bytes it reads, prefill beside its products."""

import gc

import numpy as np
import torch

from benchmarks.cuda.timing import Limits, Row, error, median_time
from tenfold.core.config import CudaConfig
from tenfold.model.dummy import dummy_checkpoint
from tenfold.ops.base import Batch
from tenfold.ops.cuda.kernels import plain_kernels
from tenfold.ops.cuda.ops import CudaOps, PagedKv
from tenfold.ops.tensors import Weights

MODEL = "llama-3-8b"
_SIZE = 16  # tokens of a block
_DECODES = ((1, 1024), (8, 1024), (16, 1024), (64, 1024), (64, 2048))
_PROMPTS = ((1, 512), (1, 2048), (1, 8192), (4, 2048))


def check(device: torch.device) -> list[str]:
    """A small model's kernels against plain torch: prompts, then decode by graph, twice."""
    wrong = []
    weights = dummy_checkpoint("qwen3-0.6b").weights
    for settings in (CudaConfig(), CudaConfig(batch_invariant=True)):
        fused = CudaOps(weights, max_rows=512, max_sequences=8, max_context=2048, settings=settings, device=device)
        plain = CudaOps(
            weights, max_rows=512, max_sequences=8, max_context=2048, device=device, kernels=plain_kernels(),
            settings=CudaConfig(graphs=False),
        )  # fmt: skip
        kvs = fused.new_kv(80, _SIZE), plain.new_kv(80, _SIZE)
        tables = np.random.default_rng(0).permutation(80).reshape(2, 40).astype(np.int32)
        for step, batch in enumerate((prompts(2, 200, tables), decode(2, 201, tables), decode(2, 202, tables))):
            got, wanted = fused.forward(batch, kvs[0]), plain.forward(batch, kvs[1])
            off = error(got, wanted)
            if not off < 0.05:
                wrong.append(f"step {step}, batch_invariant={settings.batch_invariant}: logits are off by {off:.3f}")
    return wrong


def run(limits: Limits) -> list[Row]:
    """Steps in bf16; decode of one and 64 also with smaller weights."""
    weights = dummy_checkpoint(MODEL).weights
    rows: list[Row] = []
    for form, kv_type in (("bf16", "bf16"), ("fp8", "fp8"), ("int4", "bf16")):
        try:
            rows += _of_form(weights, form, kv_type, limits)
        except Exception as reason:
            rows.append(Row("8B", f"{form} failed", 0.0, note=repr(reason)[:300]))
        gc.collect()
        torch.cuda.empty_cache()
    return rows


def _of_form(weights: Weights, form: str, kv_type: str, limits: Limits) -> list[Row]:
    ops = CudaOps(weights, form=form, kv_type=kv_type, max_rows=8192, max_sequences=64, max_context=8192)
    kv = ops.new_kv(64 * 2048 // _SIZE, _SIZE)
    spec, size = weights.spec, ops.weight_bytes
    token = 2 * spec.layers * spec.kv_heads * spec.head_dim * kv.k.element_size()
    rows = []
    for sequences, context in _DECODES if form == "bf16" else ((1, 1024), (64, 1024)):
        batch = decode(sequences, context, scattered(sequences, context))
        step = _step(ops, kv, batch)
        rows.append(
            Row(f"8B decode {form}", f"{sequences} x {context}", 1e6 * step, size + sequences * context * token,
                note=f"{sequences / step:,.0f} tok/s")
        )  # fmt: skip
    for sequences, length in _PROMPTS if form == "bf16" else ((1, 8192),):
        batch = prompts(sequences, length, scattered(sequences, length))
        step = _step(ops, kv, batch)
        products = 2 * sequences * length * (size_of_linears(weights) // 2)
        products += sequences * 4 * spec.layers * spec.heads * spec.head_dim * length * (length + 1) // 2
        rows.append(
            Row(f"8B prefill {form}", f"{sequences} x {length}", 1e6 * step, flops=products,
                note=f"{sequences * length / step:,.0f} tok/s")
        )  # fmt: skip
    return rows


def _step(ops: CudaOps, kv: PagedKv, batch: Batch) -> float:
    return median_time(lambda: ops.forward(batch, kv), seconds=0.4)


def size_of_linears(weights: Weights) -> int:
    """Bytes of the layers' matrices in bf16; the head is computed for a row or two of a prompt."""
    spec = weights.spec
    layer = spec.hidden * spec.head_dim * (2 * spec.heads + 2 * spec.kv_heads) + 3 * spec.hidden * spec.ffn
    return 2 * spec.layers * layer


def scattered(sequences: int, length: int) -> np.ndarray:
    """Block tables as they are after a while: blocks in no order."""
    blocks = -(-length // _SIZE)
    order = np.random.default_rng(1).permutation(64 * 2048 // _SIZE)[: sequences * blocks]
    return order.reshape(sequences, blocks).astype(np.int32)


def decode(sequences: int, context: int, tables: np.ndarray) -> Batch:
    """One row each of so many sequences, with ``context`` keys."""
    each = np.arange(sequences, dtype=np.int32)
    full = np.full(sequences, context, np.int32)
    return Batch(each + 7, full - 1, np.arange(sequences + 1, dtype=np.int32), full, tables, each)


def prompts(sequences: int, length: int, tables: np.ndarray) -> Batch:
    """Whole prompts."""
    starts = np.arange(sequences + 1, dtype=np.int32) * np.int32(length)
    tokens = np.random.default_rng(2).integers(0, 1000, sequences * length).astype(np.int32)
    positions = np.tile(np.arange(length, dtype=np.int32), sequences)
    return Batch(tokens, positions, starts, np.full(sequences, length, np.int32), tables, starts[1:] - 1)

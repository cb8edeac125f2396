"""Whole steps of Llama-3-8B's shape with random weights: decode beside the bytes it reads, prefill beside products."""

import gc
from dataclasses import replace

import numpy as np
import torch

from benchmarks.cuda.timing import Limits, Row, error, median_time
from tenfold.core.config import CudaConfig
from tenfold.model.dummy import dummy_checkpoint, dummy_spec
from tenfold.model.layout import shapes
from tenfold.ops.base import Batch
from tenfold.ops.cuda.kernels import Kernels, plain_kernels
from tenfold.ops.cuda.ops import CudaOps, PagedKv
from tenfold.ops.tensors import Weights

MODEL = "llama-3-8b"
_SIZE = 16  # tokens of a block
_BLOCKS = 1200  # of the checks
_DECODES = ((1, 1024), (8, 1024), (16, 1024), (64, 1024), (64, 2048))
_MIXED = ((1, 5, 0), (8, 5, 0), (0, 1, 128), (0, 1, 500), (15, 1, 100), (60, 1, 60), (60, 1, 300), (60, 1, 900))
_PROMPTS = ((1, 512), (1, 2048), (1, 8192), (4, 2048))


def check(device: torch.device) -> list[str]:
    """Two layers of models' true shapes against plain torch: steps as an engine makes them, decode by graph."""
    wrong = []
    for name in ("llama-3-8b", "qwen3-0.6b"):
        weights = _shallow(name)
        plain = _ops(weights, device, CudaConfig(graphs=False), plain_kernels())
        for settings in (CudaConfig(), CudaConfig(batch_invariant=True)):
            fused = _ops(weights, device, settings, None)
            kvs = fused.new_kv(_BLOCKS, _SIZE), plain.new_kv(_BLOCKS, _SIZE)
            for step, (words, batch) in enumerate(_steps()):
                off = error(fused.forward(batch, kvs[0]), plain.forward(batch, kvs[1]))
                torch.cuda.synchronize()
                if not off < 0.03:
                    wrong.append(f"{name} {settings.batch_invariant=} step {step}, {words}: off by {off:.3f}")
    return wrong


def _ops(weights: Weights, device: torch.device, settings: CudaConfig, kernels: Kernels | None) -> CudaOps:
    return CudaOps(
        weights, max_rows=2048, max_sequences=16, max_context=4096, device=device, settings=settings, kernels=kernels
    )


def _shallow(name: str) -> Weights:
    """The dummy of a name with two layers."""
    spec = replace(dummy_spec(name), layers=2, windows=(0, 0))
    tensors = dummy_checkpoint(name).weights.tensors
    return Weights(spec, {name: tensors[name] for name in shapes(spec)})


def _steps() -> list[tuple[str, Batch]]:
    """Prompts, their next chunks beside decode, drafts, decode of several numbers of sequences."""
    order = np.random.default_rng(3).permutation(_BLOCKS).astype(np.int32)
    tables = [order[200 * s : 200 * (s + 1)] for s in range(6)]
    computed = [0] * 6
    steps = []
    for words, new in (
        ("three prompts", (700, 512, 300, 0, 0, 0)),
        ("decode and prompts", (1, 1, 1, 1000, 900, 0)),
        ("a short and a long chunk", (1, 16, 0, 500, 17, 0)),
        ("chunks and drafts", (5, 3, 600, 64, 0, 150)),
        ("decode of six", (1, 1, 1, 1, 1, 1)),
        ("decode of six again", (1, 1, 1, 1, 1, 1)),
        ("decode of three", (0, 1, 1, 0, 1, 0)),
        ("decode of one", (0, 0, 0, 1, 0, 0)),
        ("a chunk of a long text", (0, 0, 0, 1500, 0, 0)),
    ):
        which = [s for s in range(6) if new[s]]
        counts = np.array([new[s] for s in which], np.int32)
        starts = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
        before = np.array([computed[s] for s in which], np.int32)
        positions = np.arange(starts[-1], dtype=np.int32) + np.repeat(before - starts[:-1], counts)
        tokens = np.random.default_rng(len(steps)).integers(0, 1000, starts[-1]).astype(np.int32)
        table = np.stack([tables[s] for s in which])
        steps.append((words, Batch(tokens, positions, starts, before + counts, table, starts[1:] - 1)))
        for s in which:
            computed[s] += new[s]
    return steps


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
        if context == _DECODES[0][1] and sequences in (1, 64):
            rows += _parts(ops, kv, batch, f"8B decode {form} {sequences}")
        rows.append(
            Row(f"8B decode {form}", f"{sequences} x {context}", 1e6 * step, size + sequences * context * token,
                note=f"{sequences / step:,.0f} tok/s")
        )  # fmt: skip
    for sequences, new, prompt in _MIXED if form != "int4" else _MIXED[:2]:
        rows += _mixed(ops, kv, form, sequences, new, prompt)
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


def _mixed(ops: CudaOps, kv: PagedKv, form: str, sequences: int, new: int, prompt: int) -> list[Row]:
    """``sequences`` of 1,024 keys with ``new`` rows each, and a prompt: by a graph, and launched one by one."""
    counts = np.array([new] * sequences + [prompt] * (prompt > 0), np.int32)
    context = np.array([1024] * sequences + [prompt] * (prompt > 0), np.int32)
    starts = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
    positions = np.arange(starts[-1], dtype=np.int32) + np.repeat(context - counts - starts[:-1], counts)
    wanted = np.arange(starts[-1], dtype=np.int32) if new > 1 else starts[1:] - 1
    batch = Batch(positions + 7, positions, starts, context, scattered(len(counts), 1024), wanted)
    graph, graphs = _step(ops, kv, batch), ops._graphs
    ops._graphs = None
    apart = _step(ops, kv, batch)
    ops._graphs = graphs
    shape = f"{sequences} x {new} rows" + (f", a prompt of {prompt}" if prompt else "")
    note = f"launched one by one {1e6 * apart:,.0f} us"
    return [Row(f"8B mixed {form}", shape, 1e6 * graph, ops.weight_bytes, note=note)]


def _parts(ops: CudaOps, kv: PagedKv, batch: Batch, name: str) -> list[Row]:
    """A step's time by kernel, as the profiler sees it in a replayed graph; and between kernels."""
    from torch.profiler import ProfilerActivity, profile

    repeats = 5
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(repeats):
            ops.forward(batch, kv)
        torch.cuda.synchronize()
    totals: dict[str, list[float]] = {}
    for event in found.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            totals.setdefault(event.name[:40], []).append(event.device_time_total)
    rows = [
        Row(name, kernel, sum(times) / repeats, note=f"{len(times) // repeats} x {sum(times) / len(times):.1f} us")
        for kernel, times in totals.items()
    ]
    return sorted(rows, key=lambda row: -row.microseconds)[:12]


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

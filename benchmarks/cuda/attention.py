"""Attention on the device: right at real shapes, and how close it comes to the limits of memory and matrix units."""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.cuda.compiling import compiling
from benchmarks.cuda.timing import Limits, Row, error, median_time
from tenfold.ops.cuda.attention_plan import Padding, plan_attention
from tenfold.ops.cuda.device_plan import DevicePlan
from tenfold.ops.cuda.fused import attention as fused
from tenfold.ops.cuda.fused.decode_attention import DecodeShape
from tenfold.ops.cuda.fused.prefill_attention import PrefillShape, gather_kv
from tenfold.ops.cuda.plain import attention as plain

BF16, FP8 = torch.bfloat16, torch.float8_e4m3fn
Slices = list[tuple[int, int]]  # (context, new rows) of each sequence
_RESIDENT = 256 << 20  # bytes of keys and values that successive calls read in turn: more than the cache in front holds


@dataclass(frozen=True, slots=True)
class Heads:
    """Of a model, as far as attention sees it."""

    heads: int = 32
    kv_heads: int = 8
    dim: int = 128
    block_size: int = 16


LLAMA_8B = Heads()


@dataclass(frozen=True, slots=True)
class Step:
    """A step over random numbers: queries and the step's own keys and values, and ``caches`` of so many layers."""

    slices: Slices
    sizes: Heads
    q: Tensor
    dense: tuple[Tensor, Tensor]
    caches: list[tuple[Tensor, Tensor]]
    plan: DevicePlan
    starts: Tensor
    context: Tensor
    tables: Tensor

    def attend(self, module: Any = fused, layer: int = 0, **options: Any) -> Tensor:
        """What a module gives, in a buffer that held no numbers before."""
        out = torch.full((len(self.q), self.q[0].numel()), torch.nan, device=self.q.device, dtype=self.q.dtype)
        self.to(out, module, layer, **options)
        return out

    def to(self, out: Tensor, module: Any = fused, layer: int = 0, **options: Any) -> None:
        """The same without the buffer."""
        options = {"window": self.plan.host.window, "dense": self.dense} | options
        module.attend(self.q, *self.caches[layer], self.plan, self, out=out, **options)

    def calls(self, **options: Any) -> Callable[[], None]:
        """A call that takes the caches of another layer each time."""
        out, layers = torch.empty(len(self.q), self.q[0].numel(), device="cuda", dtype=BF16), itertools.count()
        return lambda: self.to(out, layer=next(layers) % len(self.caches), **options)


def make_step(
    slices: Slices,
    sizes: Heads = LLAMA_8B,
    *,
    kv: torch.dtype = BF16,
    layers: int = 1,
    device: torch.device | str = "cuda",
    **settings: Any,
) -> Step:
    """A step whose cache blocks lie in random order. ``settings`` go to the plan."""
    made = torch.Generator(device).manual_seed(len(slices))
    random = partial(torch.randn, generator=made, device=device)
    counts = np.array([-(-context // sizes.block_size) for context, _ in slices])
    blocks = np.random.default_rng(0).permutation(int(counts.sum()) + 1).astype(np.int32)
    tables = np.zeros((len(slices), max(1, int(counts.max()))), np.int32)
    for s, (end, count) in enumerate(zip(np.cumsum(counts), counts, strict=True)):
        tables[s, :count] = blocks[end - count : end]
    shape = (len(blocks), sizes.kv_heads, sizes.block_size, sizes.dim)
    caches = [(random(shape).to(kv), random(shape).to(kv)) for _ in range(layers)]
    starts = np.cumsum([0, *(new for _, new in slices)]).astype(np.int32)
    context = np.array([context for context, _ in slices], np.int32)
    rows, wide = int(starts[-1]), sizes.heads + 2 * sizes.kv_heads
    qkv = random(rows, wide, sizes.dim).to(BF16)
    for s, (seen, new) in enumerate(slices):  # the step's own keys and values are in the first layer's cache, too
        position = np.arange(max(0, seen - new), seen)
        at = torch.from_numpy(tables[s, position // sizes.block_size]).long().to(device)
        slot = torch.from_numpy(position % sizes.block_size).to(device)
        for cache, first in zip(caches[0], (sizes.heads, sizes.heads + sizes.kv_heads), strict=True):
            own = qkv[starts[s] : starts[s] + len(position), first : first + sizes.kv_heads]
            cache[at, :, slot] = own.to(kv)
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    shared = {"group": sizes.heads // sizes.kv_heads, "kv_heads": sizes.kv_heads, "processors": processors}
    plan = plan_attention(starts, context, **{"window": 0, "dense": kv == BF16} | shared | settings)
    starts_there, context_there, tables_there = (torch.from_numpy(x).to(device) for x in (starts, context, tables))
    return Step(
        slices,
        sizes,
        (qkv[:, : sizes.heads] * sizes.dim**-0.5).contiguous(),
        (qkv[:, sizes.heads : -sizes.kv_heads], qkv[:, -sizes.kv_heads :]),
        caches,
        DevicePlan.of(plan, torch.from_numpy(plan.pack()).to(device)),
        starts_there,
        context_there,
        tables_there,
    )


# Checks.

_SMALL = Heads(heads=8, kv_heads=2)  # plain torch holds all scores of a prompt at once


def _checked() -> Iterator[tuple[str, Callable[..., Step], dict[str, Any]]]:
    """(name, the step, options of the kernels)."""
    ragged = [(c, 1) for c in (1, 17, 4096, 130, 0, 8000, 2500, 511, 512, 513)]
    mixed = [(3000, 1), (700, 700), (0, 1), (2300, 300), (129, 129), (40, 3)]
    for kv in (BF16, FP8):
        kind = "bf16" if kv == BF16 else "fp8"
        yield f"decode 32 x 4k {kind}", partial(make_step, [(4096, 1)] * 32, kv=kv), {}
        yield f"ragged decode {kind}", partial(make_step, ragged, kv=kv, padding=Padding(10, 10, decode=True)), {}
        yield f"mixed {kind}", partial(make_step, mixed, kv=kv), {}
        captured = partial(make_step, mixed, kv=kv, padding=Padding(1280, 6, decode=False))
        yield f"mixed {kind}, as captured", captured, {}
        yield f"mixed {kind}, window", partial(make_step, mixed, kv=kv, window=500), {}
        yield f"invariant {kind}", partial(make_step, mixed, kv=kv, invariant=True), {}
    yield "drafts", partial(make_step, [(4000, 5), (333, 16), (70, 2)]), {}
    yield "few rows of a long context", partial(make_step, [(20000, 60)]), {}
    yield "prefill 8k", partial(make_step, [(8192, 8192)], _SMALL), {}
    yield "prefill 8k, window", partial(make_step, [(8192, 8192)], _SMALL, window=1024), {}
    yield "prefill 2k, softcap", partial(make_step, [(2048, 2048)], _SMALL), {"softcap": 2.0}
    chunk = partial(make_step, [(16896, 512), (5000, 1000)], _SMALL)
    yield "chunks", chunk, {}
    yield "chunks, window", partial(chunk, window=1024), {}
    yield "chunks, gathered", chunk, {"prefill": PrefillShape(128, 8, 2, gather=True)}
    for sizes in (Heads(9, 3, 64), Heads(4, 1, 256, 32), Heads(14, 2, 80, 64), Heads(28, 4), Heads(8, 8, 64)):
        name = f"{sizes.heads} / {sizes.kv_heads} heads of {sizes.dim}"
        yield name, partial(make_step, mixed, sizes), {}
        yield f"{name}, window", partial(make_step, mixed, sizes, window=300), {}


def check(device: torch.device) -> list[str]:
    """What is not right on ``device``, in words: the kernels in bfloat16 against plain torch in float32."""
    wrong = []
    with compiling():
        for _, made, options in _checked():
            made(device=device).attend(**options)
    for name, made, options in _checked():
        try:
            step = made(device=device)
            wanted = _plainly(step, softcap=options.get("softcap", 0.0))
            apart = error(step.attend(**options), wanted)
            if not apart < 0.01:
                wrong.append(f"{name}: off by {apart:.2g}")
        except Exception as failure:
            wrong.append(f"{name}: {_words(failure)}")
        torch.cuda.empty_cache()
    return wrong + _check_invariance(device)


def _plainly(step: Step, **options: Any) -> Tensor:
    out = torch.empty(len(step.q), step.q[0].numel(), device=step.q.device)
    plain.attend(step.q.float(), *step.caches[0], step.plan, step, window=step.plan.host.window, out=out, **options)
    return out


def _check_invariance(device: torch.device) -> list[str]:
    """The last row of a prompt, alone and with the others, has the same bits."""
    wrong = []
    for window in (0, 1000):
        settings: dict[str, Any] = {"device": device, "window": window, "invariant": True}
        whole = make_step([(3000, 200)], **settings)
        alone = make_step([(3000, 1)], **settings)
        one = Step(
            alone.slices, alone.sizes, whole.q[-1:].contiguous(), alone.dense, whole.caches, alone.plan, alone.starts,
            alone.context, whole.tables,
        )  # fmt: skip
        if not torch.equal(one.attend()[0], whole.attend()[-1]):
            wrong.append(f"a row's bits depend on the batch, window {window}")
    return wrong


# Times.


def run(limits: Limits) -> list[Row]:
    """Decode beside the bytes of its keys and values, prefill beside its products, torch's kernels beside both."""
    return [*_decode_rows(), *_prefill_rows(), *_chunk_rows()]


def _timed(
    name: str, shape: str, call: Callable[[], object], *, graph: bool = False, moved: float = 0, flops: float = 0
) -> Row:
    """A row, or the reason why there is none."""
    try:
        return Row(name, shape, 1e6 * median_time(call, graph=graph), moved, flops)
    except Exception as failure:
        torch.cuda.synchronize()
        return Row(name, shape, 0.0, note=f"failed: {_words(failure)}")


def _decode_rows() -> Iterator[Row]:
    variants = [DecodeShape(64, 4, 3), DecodeShape(128, 4, 3), DecodeShape(64, 8, 4)]
    for sequences, context, kv in (
        (32, 4096, BF16), (32, 4096, FP8), (1, 4096, BF16), (64, 2048, BF16), (8, 32768, BF16),
    ):  # fmt: skip
        sizes = LLAMA_8B
        moved = 2 * sequences * context * sizes.kv_heads * sizes.dim * kv.itemsize
        layers = max(1, -(-_RESIDENT // moved))
        padding = Padding(sequences, sequences, decode=True)
        step = make_step([(context, 1)] * sequences, kv=kv, layers=layers, padding=padding)
        shape = f"{sequences} x {context}" + (" fp8" if kv == FP8 else "")
        shapes: list[DecodeShape | None] = [None]
        if (sequences, context) == (32, 4096):
            shapes += variants
        calls = {f"decode {_short(x)}": step.calls(decode=x) for x in shapes}
        with compiling():
            for call in calls.values():
                call()
        for name, call in calls.items():
            yield _timed(name, shape, call, graph=True, moved=moved)
        if kv == BF16:
            yield from _torch_decode(step, shape, moved)
        del step, calls
        torch.cuda.empty_cache()


def _torch_decode(step: Step, shape: str, moved: int) -> Iterator[Row]:
    """torch's own over dense keys and values of the same size."""
    (context, _), sizes = step.slices[0], step.sizes
    dense = [
        torch.randn(2, len(step.slices), sizes.kv_heads, context, sizes.dim, device="cuda", dtype=BF16)
        for _ in step.caches
    ]
    q, layers = step.q[:, :, None], itertools.count()  # [S, H, 1, D]
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):

        def call(backend: SDPBackend = backend) -> None:
            k, v = dense[next(layers) % len(dense)]
            with sdpa_kernel(backend):
                scaled_dot_product_attention(q, k, v, scale=1.0, enable_gqa=True)

        yield _timed(f"torch {backend.name.lower()}", shape, call, graph=True, moved=moved)


def _prefill_rows() -> Iterator[Row]:
    shapes: dict[str, tuple[PrefillShape | None, int]] = {  # and rows of a tile
        "prefill": (None, 128),
        "prefill 64 keys": (PrefillShape(64, 8, 2), 128),
        "prefill 64 keys, 4 stages": (PrefillShape(64, 8, 4), 128),
        "prefill 64 keys, pointers": (PrefillShape(64, 8, 3, tma=False), 128),
        "prefill 64 keys, one loop": (PrefillShape(64, 8, 3, apart=False), 128),
        "prefill 64 rows, 64 keys": (PrefillShape(64, 4, 2), 64),
    }
    for sequences, context, window in ((4, 8192, 0), (1, 2048, 0), (4, 8192, 1024)):
        steps = {}
        for rows in {rows for _, rows in shapes.values()}:
            steps[rows] = make_step([(context, context)] * sequences, window=window, tile_rows=rows)
        shape = f"{sequences} x {context}" + (f" window {window}" if window else "")
        tried = {name: shapes[name] for name in ("prefill", "prefill 64 rows, 64 keys")} if window else shapes
        calls = {name: steps[rows].calls(prefill=x) for name, (x, rows) in tried.items()}
        with compiling():
            for call in calls.values():
                call()
        flops = _products(steps[128])
        for name, call in calls.items():
            yield _timed(name, shape, call, flops=flops)
        if not window:
            yield from _torch_prefill(steps[128], shape, flops)
        del steps, calls
        torch.cuda.empty_cache()


def _torch_prefill(step: Step, shape: str, flops: float) -> Iterator[Row]:
    """torch's own over the same rows; what a first call of a length takes is noted."""
    sequences, new = len(step.slices), step.slices[0][1]
    q, k, v = (x.view(sequences, new, *x.shape[1:]).transpose(1, 2) for x in (step.q, *step.dense))

    def call(backend: SDPBackend, rows: int = new) -> None:
        some = slice(rows)
        with sdpa_kernel(backend):
            scaled_dot_product_attention(
                q[:, :, some], k[:, :, some], v[:, :, some], is_causal=True, scale=1.0, enable_gqa=True
            )

    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        row = _timed(f"torch {backend.name.lower()}", shape, partial(call, backend), flops=flops)
        if row.microseconds:
            began = time.perf_counter()
            call(backend, new - 64)
            torch.cuda.synchronize()
            row = replace(row, note=f"a new length: {1e3 * (time.perf_counter() - began):.1f} ms")
        yield row


def _chunk_rows() -> Iterator[Row]:
    step = make_step([(16896, 512)])
    flops, shape = _products(step), "512 at 16384"
    shapes = {
        "chunk": None,
        "chunk, 2 stages": PrefillShape(64, 8, 2),
        "chunk, gathered": PrefillShape(128, 8, 2, gather=True),
    }
    calls: dict[str, Callable[[], object]] = {name: step.calls(prefill=x) for name, x in shapes.items()}
    gather = partial(gather_kv, *step.caches[0], step.plan, step, BF16)
    with compiling():
        gather()
        for call in calls.values():
            call()
    for name, call in calls.items():
        yield _timed(name, shape, call, flops=flops)
    yield _timed("gathering", shape, gather, moved=2 * sum(x.nbytes for x in gather()))
    q = step.q.transpose(0, 1)[None]
    k, v = (torch.randn(1, 8, 16896, 128, device="cuda", dtype=BF16) for _ in range(2))
    mask = causal_lower_right(512, 16896)
    yield _timed(
        "torch, lower right", shape,
        lambda: scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0, enable_gqa=True), flops=flops,
    )  # fmt: skip


def _products(step: Step) -> float:
    """Operations of both products over the keys that rows see, each key counted once."""
    window = step.plan.host.window
    seen = 0
    for context, new in step.slices:
        keys = np.arange(context - new + 1, context + 1)
        seen += int((np.minimum(keys, window) if window else keys).sum())
    return 4.0 * step.sizes.heads * step.sizes.dim * seen


def _short(shape: DecodeShape | None) -> str:
    return "" if shape is None else f"{shape.keys} keys, {shape.warps} warps, {shape.stages} stages"


def _words(failure: Exception) -> str:
    return f"{type(failure).__name__}: {str(failure).strip()[:160]}"

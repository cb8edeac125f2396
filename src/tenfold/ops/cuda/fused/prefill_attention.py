"""Attention of many rows: tiles of queries over tiles of keys with an online softmax (FlashAttention-2, Dao, 2023).

The matrix units and the exponentials overlap within a program as in FlashAttention-3 (Shah et al., 2024): the product
with the values of one tile of keys is under way while the softmax of the next one is computed.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from tenfold.ops.cuda.attention_plan import KEY_TILE, AttentionPlan
from tenfold.ops.cuda.device_plan import DevicePlan, Sequences
from tenfold.ops.cuda.fused.decode_attention import LOG2_E, LOWEST, softcapped

_WORTH_COPYING = 1024  # flat rows that read what was copied


@dataclass(frozen=True, slots=True)
class PrefillShape:
    """How a prefill program runs. Its rows are the plan's ``tile_rows``."""

    keys: int  # of a tile: 32, 64 or 128
    warps: int
    stages: int
    tma: bool = True  # dense keys and values come through tensor descriptors, where their layout allows
    gather: bool | None = (
        None  # those of sequences with earlier context are first copied densely, fp8 always but in graphs
    )
    apart: bool = True  # tiles of keys that all rows see have a loop of their own; with a window they never have


def prefill_shape(rows: int, padded_dim: int, number_bytes: int, *, tma: bool, window: bool) -> PrefillShape:
    """What fits into the registers and the shared memory (227 KiB) of one Hopper processor.

    Of 128 x 128 queries and keys a thread holds 64 sums, 64 scores and 64 weights; addresses and masks need room, too.
    """
    if number_bytes > 2:
        return PrefillShape(keys=32, warps=4, stages=2)
    warps = 8 if rows >= 128 else 4
    if padded_dim > 128:
        return PrefillShape(keys=64 if tma else 32, warps=warps, stages=2 if tma else 3)
    if tma and not window:
        return PrefillShape(keys=128, warps=warps, stages=2)
    return PrefillShape(keys=64, warps=warps, stages=3 if padded_dim > 64 else 2)


def attend_long(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    plan: DevicePlan,
    batch: Sequences,
    softcap: float,
    out: Tensor,
    dense: tuple[Tensor, Tensor] | None,
    shape: PrefillShape | None = None,
) -> None:
    """The tiles of ``plan``: the fresh ones over ``dense``, the others over the cache or, where the plan makes one, a
    dense copy of it."""
    host, count = plan.host, plan.tiles.shape[1]
    if host.fresh:
        assert dense is not None, "the plan reads the step's own keys and values"
        _launch(q, dense, None, plan, batch, softcap, out, shape, 0, host.fresh)
    if count > host.fresh:
        copied = worth_copying(host) if shape is None else bool(shape.gather)
        copied = (copied or k_cache.dtype != q.dtype) and plan.copies.shape[1] > 0
        keys = gather_kv(k_cache, v_cache, plan, batch, q.dtype) if copied else (k_cache, v_cache)
        _launch(q, keys, None if copied else batch.tables, plan, batch, softcap, out, shape, host.fresh, count)


def worth_copying(plan: AttentionPlan) -> bool:
    """Whether so many rows read keys of earlier context that these are copied densely first."""
    return (plan.tile_count - plan.fresh) * plan.tile_rows >= _WORTH_COPYING


def gather_kv(
    k_cache: Tensor, v_cache: Tensor, plan: DevicePlan, batch: Sequences, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Dense keys and values [rows, K, D] that the sequences with earlier context see, in ``dtype``."""
    kv_heads, block_size, head_dim = k_cache.shape[1:]
    k, v = (torch.empty((plan.host.gathered, kv_heads, head_dim), dtype=dtype, device=k_cache.device) for _ in range(2))
    copies = plan.copies.shape[1]
    _gather[(copies * kv_heads,)](
        k_cache, v_cache, batch.tables, batch.tables.stride(0), batch.context, plan.copies, copies, k, v,
        KV_HEADS=kv_heads, HEAD_DIM=head_dim, PADDED=triton.next_power_of_2(head_dim), BLOCK=block_size,
        KEYS=KEY_TILE, num_warps=8,
    )  # fmt: skip
    return k, v


def _launch(
    q: Tensor,
    keys: tuple[Tensor, Tensor],
    tables: Tensor | None,
    plan: DevicePlan,
    batch: Sequences,
    softcap: float,
    out: Tensor,
    shape: PrefillShape | None,
    first: int,
    end: int,
) -> None:
    """Tiles first … end - 1 over the cache, where ``tables`` are given, or over dense [rows, K, D]."""
    k, v = keys
    host, head_dim, paged = plan.host, q.shape[2], tables is not None
    padded = max(16, triton.next_power_of_2(head_dim))
    tma = not paged and padded == head_dim and all(_describable(x, head_dim) for x in keys)
    shape = shape or prefill_shape(host.tile_rows, padded, q.element_size(), tma=tma, window=host.window > 0)
    descriptors: list[Tensor | TensorDescriptor] = [k, v]
    if tma and shape.tma:
        sizes, block = [len(k), host.kv_heads * head_dim], [shape.keys, head_dim]
        descriptors = [TensorDescriptor(x, sizes, [x.stride(0), 1], block) for x in keys]
    _prefill[((end - first) * host.kv_heads,)](
        q, k, v, *descriptors, k.stride(0), v.stride(0), tables if tables is not None else plan.tiles,
        tables.stride(0) if tables is not None else 0, batch.starts, batch.context, plan.counts, plan.tiles,
        plan.tiles.shape[1], first, out, softcap,
        GROUP=host.group, KV_HEADS=host.kv_heads, HEAD_DIM=head_dim, PADDED=padded, ROWS=host.tile_rows,
        KEYS=shape.keys, BLOCK=k.shape[2] if paged else 1, WINDOW=host.window, SOFTCAP=softcap > 0,
        PAGED=paged, TMA=tma and shape.tma, APART=shape.apart and not host.window,
        num_warps=shape.warps, num_stages=shape.stages,
    )  # fmt: skip


def _describable(keys: Tensor, head_dim: int) -> bool:
    """Whether [rows, K, D] is for the tensor memory accelerator: heads next to one another, rows at 16 bytes."""
    size = keys.element_size()
    return keys.stride(1) == head_dim and keys.stride(0) * size % 16 == 0 and keys.data_ptr() % 16 == 0


@triton.jit
def _attend_tiles(
    acc, m, total, scale, weights, block, k_before, query, k, v, k_descriptor, v_descriptor, k_stride, v_stride, table,
    head, base, seen, positions, low, first, end, softcap,
    KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, KEYS: tl.constexpr, BLOCK: tl.constexpr,
    WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, PAGED: tl.constexpr, TMA: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """The state after the keys first … end - 1; the values of the last tile of them are still to be taken.

    Each turn multiplies queries with keys, then the weights of the turn before with its values. That second product
    runs until the next turn, beside the softmax. ``MASKED``: some of the keys may be seen by some of the rows only.
    """
    across = tl.arange(0, KEYS)
    d = tl.arange(0, PADDED)
    for key in tl.range(first, end, KEYS):
        keys = key + across
        if TMA:  # the last tile begins earlier rather than reach into rows of other sequences
            begin = tl.minimum(key, seen - KEYS)
            keys = begin + across
            keys = tl.where(keys >= key, keys, 1 << 30)  # seen already
            k_tile = k_descriptor.load([base + begin, head * HEAD_DIM])
        else:
            earlier = keys - KEYS
            if PAGED:
                v_at = k_before
                k_at = ((block.to(tl.int64) * KV_HEADS + head) * BLOCK + keys % BLOCK) * HEAD_DIM
                k_before = k_at
                block = tl.load(table + (keys + KEYS) // BLOCK, mask=keys + KEYS < seen, other=0)
            else:
                k_at = (base + keys).to(tl.int64) * k_stride + head * HEAD_DIM
                v_at = (base + earlier).to(tl.int64) * v_stride + head * HEAD_DIM
            k_there = (keys < seen)[:, None]
            v_there = ((earlier >= low) & (earlier < seen))[:, None]
            if PADDED != HEAD_DIM:
                k_there, v_there = k_there & (d < HEAD_DIM)[None, :], v_there & (d < HEAD_DIM)[None, :]
            k_tile = tl.load(k + k_at[:, None] + d[None, :], mask=k_there, other=0.0).to(query.dtype)
        x = tl.dot(query, tl.trans(k_tile), input_precision="ieee")
        acc = acc * scale[:, None]
        if TMA:
            begin = tl.minimum(tl.maximum(key - KEYS, low), seen - KEYS)
            v_tile = v_descriptor.load([base + begin, head * HEAD_DIM])
        else:
            v_tile = tl.load(v + v_at[:, None] + d[None, :], mask=v_there, other=0.0).to(query.dtype)
        # Rounded only here, for the compiler puts a carried operand into shared memory, and waits for its product.
        acc = tl.dot(weights.to(v_tile.dtype), v_tile, acc, input_precision="ieee")
        if SOFTCAP:
            x = softcapped(x, softcap)
        if MASKED:
            visible = keys[None, :] <= positions[:, None]
            if WINDOW:
                visible = visible & (keys[None, :] > positions[:, None] - WINDOW)
            x = tl.where(visible, x, float("-inf"))
        top = tl.maximum(m, tl.max(x, 1) * LOG2_E)
        weights = tl.exp2(x * LOG2_E - top[:, None])
        scale = tl.exp2(m - top)
        total = total * scale + tl.sum(weights, 1)
        m = top
    return acc, m, total, scale, weights, block, k_before


@triton.jit(
    do_not_specialize=["tables", "table_stride", "starts", "context", "counts", "tiles", "capacity", "first_tile"]
)
def _prefill(
    q, k, v, k_descriptor, v_descriptor, k_stride, v_stride, tables, table_stride, starts, context, counts, tiles,
    capacity, first_tile, out, softcap,
    GROUP: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr,
    KEYS: tl.constexpr, BLOCK: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, PAGED: tl.constexpr,
    TMA: tl.constexpr, APART: tl.constexpr,
):  # fmt: skip
    """A tile of flat rows and a KV head. ``APART``: tiles of keys that all rows see have a loop without masks."""
    head = tl.program_id(0) % KV_HEADS
    tile = first_tile + tl.program_id(0) // KV_HEADS
    if tile >= tl.load(counts + 2):
        return
    sequence = tl.load(tiles + tile)
    first_flat = tl.load(tiles + capacity + tile)
    base = tl.load(tiles + 2 * capacity + tile)
    start = tl.load(starts + sequence)
    new = tl.load(starts + sequence + 1) - start
    seen = tl.load(context + sequence)
    flat = first_flat + tl.arange(0, ROWS)
    row = flat // GROUP
    positions = seen - new + row
    d = tl.arange(0, PADDED)
    whole = (flat < new * GROUP)[:, None] & (d < HEAD_DIM)[None, :]
    rows_at = ((start + row).to(tl.int64) * (KV_HEADS * GROUP) + head * GROUP + flat % GROUP) * HEAD_DIM
    query = tl.load(q + rows_at[:, None] + d[None, :], mask=whole, other=0.0)

    nearest = seen - new + first_flat // GROUP
    furthest = tl.minimum(seen - 1, seen - new + (first_flat + ROWS - 1) // GROUP)
    low = 0
    if WINDOW:
        low = tl.maximum(nearest - WINDOW + 1, 0) // KEYS * KEYS
    high = low + tl.cdiv(furthest + 1 - low, KEYS) * KEYS
    across = tl.arange(0, KEYS)
    table = tables + sequence.to(tl.int64) * table_stride
    block = tl.zeros([KEYS], tl.int32)
    k_before = tl.zeros([KEYS], tl.int64)
    if PAGED:
        block = tl.load(table + (low + across) // BLOCK, mask=low + across < seen, other=0)
    m = tl.full([ROWS], LOWEST, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    scale = tl.full([ROWS], 1.0, tl.float32)
    acc = tl.zeros([ROWS, PADDED], tl.float32)
    weights = tl.zeros([ROWS, KEYS], tl.float32)
    middle = low
    if APART:
        middle = (nearest + 1) // KEYS * KEYS
        acc, m, total, scale, weights, block, k_before = _attend_tiles(
            acc, m, total, scale, weights, block, k_before, query, k, v, k_descriptor, v_descriptor, k_stride, v_stride,
            table, head, base, seen, positions, low, low, middle, softcap,
            KV_HEADS, HEAD_DIM, PADDED, KEYS, BLOCK, WINDOW, SOFTCAP, PAGED, TMA, False,
        )  # fmt: skip
    # One turn more than there are tiles: nothing of its keys is seen, and the last values are taken.
    acc, m, total, scale, weights, block, k_before = _attend_tiles(
        acc, m, total, scale, weights, block, k_before, query, k, v, k_descriptor, v_descriptor, k_stride, v_stride,
        table, head, base, seen, positions, low, middle, high + KEYS, softcap,
        KV_HEADS, HEAD_DIM, PADDED, KEYS, BLOCK, WINDOW, SOFTCAP, PAGED, TMA, True,
    )  # fmt: skip
    y = acc / tl.where(total > 0, total, 1.0)[:, None]
    tl.store(out + rows_at[:, None] + d[None, :], y.to(out.dtype.element_ty), mask=whole)


@triton.jit(do_not_specialize=["tables", "table_stride", "context", "copies", "count"])
def _gather(
    k_cache, v_cache, tables, table_stride, context, copies, count, k, v,
    KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """KEYS keys and values of a sequence and KV head to dense rows."""
    head = tl.program_id(0) % KV_HEADS
    copy = tl.program_id(0) // KV_HEADS
    sequence = tl.load(copies + copy)
    keys = tl.load(copies + count + copy) + tl.arange(0, KEYS)
    rows = tl.load(copies + 2 * count + copy) + tl.arange(0, KEYS)
    d = tl.arange(0, PADDED)
    there = keys < tl.load(context + sequence)
    block = tl.load(tables + sequence.to(tl.int64) * table_stride + keys // BLOCK, mask=there, other=0)
    whole = there[:, None] & (d < HEAD_DIM)[None, :]
    source = (((block.to(tl.int64) * KV_HEADS + head) * BLOCK + keys % BLOCK) * HEAD_DIM)[:, None] + d[None, :]
    target = ((rows.to(tl.int64) * KV_HEADS + head) * HEAD_DIM)[:, None] + d[None, :]
    element = k.dtype.element_ty
    tl.store(k + target, tl.load(k_cache + source, mask=whole, other=0.0).to(element), mask=whole)
    tl.store(v + target, tl.load(v_cache + source, mask=whole, other=0.0).to(element), mask=whole)

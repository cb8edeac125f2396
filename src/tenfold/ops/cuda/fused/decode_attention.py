"""Attention of few rows: a sequence's keys are split among programs ("flash decoding", Dao et al., 2023).

One program reads a range of the keys of one KV head once, for all query heads of its group and all its rows, packed in
one tile of the matrix units. Its partial result is (sum of weights x values, largest score, sum of weights) in float32.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from tenfold.ops.cuda.device_plan import DevicePlan, Sequences

LOG2_E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-1e30)  # the largest score of nothing: finite, so that differences are numbers


@dataclass(frozen=True, slots=True)
class DecodeShape:
    """How a split program runs: keys of a tile (16 … 128, a power of two), warps, and tiles under way at once + 1."""

    keys: int
    warps: int
    stages: int


def decode_shape(rows: int, padded_dim: int, key_bytes: int) -> DecodeShape:
    """Tiles of 16 KiB, three of keys and of values under way: about 96 KiB of each program's, two to a processor.

    Of 3.3 to 4.8 TB/s at near 1 us a Hopper processor must have 25 to 40 KiB under way.
    """
    keys = min(128, max(32, 16384 // (padded_dim * key_bytes)))
    return DecodeShape(keys, 8 if rows * padded_dim > 64 * 128 else 4, 4 if rows < 64 else 3)


def attend_short(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    plan: DevicePlan,
    batch: Sequences,
    softcap: float,
    out: Tensor,
    shape: DecodeShape | None = None,
) -> None:
    """The items of ``plan``, then its pieces merged. Two launches, whose grids follow from the plan's capacities."""
    host = plan.host
    items, pieces = plan.items.shape[1], plan.pieces.shape[1]
    if not items:
        return
    kv_heads, block_size, head_dim = k_cache.shape[1:]
    pairs = k_cache.dtype == torch.float8_e4m3fn
    padded = max(32 if pairs else 16, triton.next_power_of_2(head_dim))
    shape = shape or decode_shape(host.rows, padded, k_cache.element_size())
    slots = items if pieces else 0
    partial = torch.empty((slots, kv_heads, host.rows, head_dim), dtype=torch.float32, device=q.device)
    sums = torch.empty((slots, kv_heads, host.rows, 2), dtype=torch.float32, device=q.device)
    if pairs:
        k_cache, v_cache = k_cache.view(torch.int16), v_cache.view(torch.int16)
    sizes = {"GROUP": host.group, "KV_HEADS": kv_heads, "HEAD_DIM": head_dim, "PADDED": padded, "ROWS": host.rows}
    _split[(items * kv_heads,)](
        q, k_cache, v_cache, batch.tables, batch.tables.stride(0), batch.starts, batch.context,
        plan.counts, plan.items, items, partial, sums, out, softcap,
        **sizes, BLOCK=block_size, KEYS=shape.keys, WINDOW=host.window, SOFTCAP=softcap > 0, CHUNK=host.chunk,
        PAIRS=pairs, CONVERTS=q.is_cuda, num_warps=shape.warps, num_stages=shape.stages,
    )  # fmt: skip
    if pieces:
        _merge[(pieces * kv_heads, host.used_rows)](
            batch.starts, plan.counts, plan.pieces, pieces, partial, sums, out, **sizes, num_warps=1
        )


@triton.jit
def softcapped(x, cap):
    """cap x tanh(x / cap)."""
    return cap - 2.0 * cap / (1.0 + tl.exp2(x * (2.0 * LOG2_E / cap)))


@triton.jit
def _unpack(pair, CONVERTS: tl.constexpr):
    """The two e4m3 numbers of each int16, the lower byte's first, as float16, which holds them exactly."""
    if CONVERTS:  # two of a register at once; the compiler's own conversion takes one byte at a time
        low, high = tl.inline_asm_elementwise(
            """{
            .reg .b16 first, second;
            .reg .b32 x, y;
            mov.b32 {first, second}, $2;
            cvt.rn.f16x2.e4m3x2 x, first;
            cvt.rn.f16x2.e4m3x2 y, second;
            prmt.b32 $0, x, y, 0x5410;
            prmt.b32 $1, x, y, 0x7632;
            }""",
            "=r,=r,r", [pair], dtype=(tl.float16, tl.float16), is_pure=True, pack=2,
        )  # fmt: skip
    else:  # as float16 the bits mean 2^-8 of the number
        bits = pair.to(tl.uint16, bitcast=True)
        low = (((bits & 0x80) << 8) | ((bits & 0x7F) << 7)).to(tl.float16, bitcast=True) * 256.0
        high = ((bits & 0x8000) | ((bits & 0x7F00) >> 1)).to(tl.float16, bitcast=True) * 256.0
    return low, high


@triton.jit
def _attend_range(
    q, q_odd, k_cache, v_cache, table, head, positions, first, end, softcap,
    KV_HEADS: tl.constexpr, WIDTH: tl.constexpr, LANES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    KEYS: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, PAIRS: tl.constexpr, CONVERTS: tl.constexpr,
):  # fmt: skip
    """(acc, acc of the odd dimensions, m, total) over the keys first … end - 1: the online softmax, in powers of 2.

    A tile of keys that a row sees nothing of leaves its bits as they are.
    """
    lane = tl.arange(0, LANES)
    across = tl.arange(0, KEYS)
    acc = tl.zeros([ROWS, LANES], tl.float32)
    acc_odd = tl.zeros([ROWS, LANES], tl.float32)
    m = tl.full([ROWS], LOWEST, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    block = tl.load(table + (first + across) // BLOCK, mask=first + across < end, other=0)
    for key in range(first, end, KEYS):
        keys = key + across
        inside = keys < end
        whole = inside[:, None]
        if LANES != WIDTH:
            whole = whole & (lane < WIDTH)[None, :]
        at = ((block.to(tl.int64) * KV_HEADS + head) * BLOCK + keys % BLOCK) * WIDTH
        k = tl.load(k_cache + at[:, None] + lane[None, :], mask=whole, other=0)
        v = tl.load(v_cache + at[:, None] + lane[None, :], mask=whole, other=0)
        # For the next tile, so that its addresses are there when its loads are issued.
        block = tl.load(table + (keys + KEYS) // BLOCK, mask=keys + KEYS < end, other=0)
        if PAIRS:
            k_even, k_odd = _unpack(tl.trans(k), CONVERTS)
            x = tl.dot(q_odd, k_odd, tl.dot(q, k_even))
        else:
            x = tl.dot(q, tl.trans(k.to(q.dtype)), input_precision="ieee")
        if SOFTCAP:
            x = softcapped(x, softcap)
        seen = inside[None, :] & (keys[None, :] <= positions[:, None])
        if WINDOW:
            seen = seen & (keys[None, :] > positions[:, None] - WINDOW)
        x = tl.where(seen, x * LOG2_E, float("-inf"))
        top = tl.maximum(m, tl.max(x, 1))
        p = tl.exp2(x - top[:, None])
        scale = tl.exp2(m - top)
        total = total * scale + tl.sum(p, 1)
        m = top
        acc = acc * scale[:, None]
        if PAIRS:
            v_even, v_odd = _unpack(v, CONVERTS)
            p = p.to(tl.float16)
            acc = tl.dot(p, v_even, acc)
            acc_odd = tl.dot(p, v_odd, acc_odd * scale[:, None])
        else:
            acc = tl.dot(p.to(q.dtype), v.to(q.dtype), acc, input_precision="ieee")
    return acc, acc_odd, m, total


@triton.jit(do_not_specialize=["tables", "table_stride", "starts", "context", "counts", "items", "capacity"])
def _split(
    q, k_cache, v_cache, tables, table_stride, starts, context, counts, items, capacity, partial, sums, out, softcap,
    GROUP: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, KEYS: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, CHUNK: tl.constexpr,
    PAIRS: tl.constexpr, CONVERTS: tl.constexpr,
):  # fmt: skip
    """An item and KV head: to ``out``, or to its slot of ``partial`` [slots, K, ROWS, D] and ``sums`` [..., 2]."""
    head = tl.program_id(0) % KV_HEADS
    item = tl.program_id(0) // KV_HEADS
    if item >= tl.load(counts):
        return
    sequence = tl.load(items + item)
    flat = tl.load(items + capacity + item) + tl.arange(0, ROWS)
    first = tl.load(items + 2 * capacity + item)
    end = tl.load(items + 3 * capacity + item)
    slot = tl.load(items + 4 * capacity + item)
    start = tl.load(starts + sequence)
    new = tl.load(starts + sequence + 1) - start
    before = tl.load(context + sequence) - new
    row = flat // GROUP
    positions = before + row
    alive = flat < new * GROUP
    if WINDOW:  # no row sees less than the first one's least key
        least = before + tl.load(items + capacity + item) // GROUP - WINDOW + 1
        first = tl.maximum(first, tl.maximum(least, 0) // KEYS * KEYS)

    WIDTH: tl.constexpr = HEAD_DIM // 2 if PAIRS else HEAD_DIM  # elements of a key as it is loaded
    LANES: tl.constexpr = PADDED // 2 if PAIRS else PADDED
    STEP: tl.constexpr = 2 if PAIRS else 1
    lane = tl.arange(0, LANES)
    whole = alive[:, None] & (lane < WIDTH)[None, :]
    rows_at = ((start + row).to(tl.int64) * (KV_HEADS * GROUP) + head * GROUP + flat % GROUP) * HEAD_DIM
    at = rows_at[:, None] + STEP * lane[None, :]
    query = tl.load(q + at, mask=whole, other=0.0)
    query_odd = query
    if PAIRS:
        query = query.to(tl.float16)
        query_odd = tl.load(q + at + 1, mask=whole, other=0.0).to(tl.float16)
    table = tables + sequence.to(tl.int64) * table_stride
    if CHUNK:
        acc = tl.zeros([ROWS, LANES], tl.float32)
        acc_odd = tl.zeros([ROWS, LANES], tl.float32)
        m = tl.full([ROWS], LOWEST, tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        for begin in range(first // CHUNK * CHUNK, end, CHUNK):
            part, part_odd, m_part, total_part = _attend_range(
                query, query_odd, k_cache, v_cache, table, head, positions, tl.maximum(begin, first),
                tl.minimum(begin + CHUNK, end), softcap,
                KV_HEADS, WIDTH, LANES, ROWS, BLOCK, KEYS, WINDOW, SOFTCAP, PAIRS, CONVERTS,
            )  # fmt: skip
            top = tl.maximum(m, m_part)
            old, more = tl.exp2(m - top), tl.exp2(m_part - top)
            acc = tl.fma(part, more[:, None] + tl.zeros_like(part), acc * old[:, None])
            if PAIRS:
                acc_odd = tl.fma(part_odd, more[:, None] + tl.zeros_like(part), acc_odd * old[:, None])
            total = tl.fma(total_part, more, total * old)
            m = top
    else:
        acc, acc_odd, m, total = _attend_range(
            query, query_odd, k_cache, v_cache, table, head, positions, first, end, softcap,
            KV_HEADS, WIDTH, LANES, ROWS, BLOCK, KEYS, WINDOW, SOFTCAP, PAIRS, CONVERTS,
        )  # fmt: skip

    if slot < 0:
        share = tl.where(total > 0, total, 1.0)[:, None]
        tl.store(out + at, (acc / share).to(out.dtype.element_ty), mask=whole)
        if PAIRS:
            tl.store(out + at + 1, (acc_odd / share).to(out.dtype.element_ty), mask=whole)
    else:
        to = (slot * KV_HEADS + head).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        at = to[:, None] * HEAD_DIM + STEP * lane[None, :]
        tl.store(partial + at, acc, mask=whole)
        if PAIRS:
            tl.store(partial + at + 1, acc_odd, mask=whole)
        tl.store(sums + to * 2, m, mask=alive)
        tl.store(sums + to * 2 + 1, total, mask=alive)


@triton.jit(do_not_specialize=["starts", "counts", "pieces", "capacity"])
def _merge(
    starts, counts, pieces, capacity, partial, sums, out,
    GROUP: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """One flat row of a piece and KV head: its partial results, added in ascending order of their keys."""
    head = tl.program_id(0) % KV_HEADS
    piece = tl.program_id(0) // KV_HEADS
    if piece >= tl.load(counts + 1):
        return
    sequence = tl.load(pieces + piece)
    flat = tl.load(pieces + capacity + piece) + tl.program_id(1)
    slot = tl.load(pieces + 2 * capacity + piece)
    count = tl.load(pieces + 3 * capacity + piece)
    start = tl.load(starts + sequence)
    if flat >= (tl.load(starts + sequence + 1) - start) * GROUP:
        return
    d = tl.arange(0, PADDED)
    acc = tl.zeros([PADDED], tl.float32)
    m = tl.full([], LOWEST, tl.float32)
    total = tl.full([], 0.0, tl.float32)
    for first in range(0, count, 8):
        for i in tl.static_range(8):  # their loads do not wait for one another
            there = first + i < count
            at = ((slot + first + i) * KV_HEADS + head).to(tl.int64) * ROWS + tl.program_id(1)
            part = tl.load(partial + at * HEAD_DIM + d, mask=(first + i + 0 * d < count) & (d < HEAD_DIM), other=0.0)
            m_part = tl.load(sums + at * 2, mask=there, other=LOWEST)
            total_part = tl.load(sums + at * 2 + 1, mask=there, other=0.0)
            top = tl.maximum(m, m_part)
            old, more = tl.exp2(m - top), tl.exp2(m_part - top)
            acc = tl.fma(part, more + tl.zeros_like(part), acc * old)
            total = tl.fma(total_part, more, total * old)
            m = top
    at = (start + flat // GROUP).to(tl.int64) * (KV_HEADS * GROUP) + head * GROUP + flat % GROUP
    tl.store(
        out + at * HEAD_DIM + d, (acc / tl.where(total > 0, total, 1.0)).to(out.dtype.element_ty), mask=d < HEAD_DIM
    )

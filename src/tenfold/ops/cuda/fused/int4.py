"""The products and the unpacking of ``plain.int4``. A weight is read as 5 bits and becomes bfloat16 in registers."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from tenfold.ops.cuda.fused.gemm import Tile, finish, output_rows, padded, widened
from tenfold.ops.cuda.plain.int4 import GROUP
from tenfold.ops.spec import Activation

_PROGRAMS = 256  # that keep a large GPU busy
MAGIC = 0x43004300
_UNPACK_ROWS = 16
_UNPACK_GROUPS = 16


def tile_for(rows: int, outputs: int, inputs: int) -> Tile:
    """The tile for x of ``rows`` rows.

    A weight is 5 bits, so reading x (from L2) and taking codes apart weigh more than in ``gemm.tile_for``: a program
    takes as many outputs as leave two programs, and eight warps, for each multiprocessor. Wide x needs the registers
    for sums that a deeper tile would take.
    """
    wide = padded(rows)
    if wide == 8:
        tile = Tile(32 if outputs >= 32 * _PROGRAMS else 16, 512, 4, 5)
    elif wide == 16:
        tile = Tile(64 if outputs >= 64 * 2 * _PROGRAMS else 32, 512, 8, 4)
    else:
        tile = Tile(32, 256, 8, 4)
    depth = min(tile.depth, max(GROUP * tile.warps, triton.next_power_of_2(inputs)))
    return Tile(tile.rows, depth, tile.warps, tile.stages)


def skinny(
    x: Tensor,
    words: Tensor,
    scales: Tensor,
    *,
    out: Tensor | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """[T, N]: as ``gemm.skinny``."""
    if out is None:
        out = x.new_empty(len(x), len(words))
    _launch(x, words, scales, out, tile, activation=None, add=False)
    return out


def skinny_gated(
    x: Tensor,
    words: Tensor,
    scales: Tensor,
    activation: Activation,
    *,
    tile: Tile | None = None,
) -> Tensor:
    """[T, F]: as ``gemm.skinny_gated``."""
    out = x.new_empty(len(x), len(words) // 2)
    _launch(x, words, scales, out, tile, activation=activation, add=False)
    return out


def skinny_add(x: Tensor, words: Tensor, scales: Tensor, residual: Tensor, *, tile: Tile | None = None) -> None:
    """As ``gemm.skinny_add``."""
    _launch(x, words, scales, residual, tile, activation=None, add=True)


def _launch(
    x: Tensor,
    words: Tensor,
    scales: Tensor,
    out: Tensor,
    tile: Tile | None,
    activation: Activation | None,
    add: bool,
) -> None:
    (count, inputs), outputs = x.shape, len(words)
    assert words.shape == (outputs, inputs // GROUP, 4) and scales.shape == (inputs // GROUP, outputs)
    assert x.is_contiguous() and words.is_contiguous() and scales.is_contiguous() and out.stride(1) == 1
    tile = tile or tile_for(count, outputs, inputs)
    _skinny_kernel[(triton.cdiv(outputs, tile.rows),)](
        x,
        words,
        scales,
        out,
        count,
        outputs,
        inputs // GROUP,
        out.stride(0),
        MAGIC,
        GROUPS=inputs // GROUP,
        WIDE=padded(count),
        ROWS=tile.rows,
        WARPS=tile.warps,
        DEPTH=tile.depth // GROUP,
        STAGES=tile.stages,
        ACTIVATION=activation,
        ADD=add,
        WIDEN=widened(x),
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


def unpack(words: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights [N, K] in ``dtype``, rounded once; ``scales`` may have any row stride."""
    outputs, groups = words.shape[:2]
    w = torch.empty(outputs, groups * GROUP, dtype=dtype, device=words.device)
    grid = (triton.cdiv(outputs, _UNPACK_ROWS), triton.cdiv(groups, _UNPACK_GROUPS))
    stride, size = scales.stride(0), {"ROWS": _UNPACK_ROWS, "DEPTH": _UNPACK_GROUPS}
    _unpack_kernel[grid](words, scales, w, outputs, groups, stride, MAGIC, **size, num_warps=4)
    return w


@triton.jit
def codes(words, magic):
    """128 + the codes [A, B, 32] in bfloat16, of words [A, B, 4]: 128 … 143 are 0x4300 + code there.

    ``magic`` is MAGIC; were it a constant, taking a pair out would take two instructions instead of one.
    """
    # [A, B, half of the group, word, pair]
    shift = tl.arange(0, 2)[:, None, None] * 8 + tl.arange(0, 2)[None, None, :] * 4
    pair = ((words[:, :, None, :, None] >> shift[None, None]) & 0x000F000F) | magic
    low = (pair & 0xFFFF).to(tl.int16).to(tl.bfloat16, bitcast=True)
    high = (pair >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
    return tl.reshape(tl.join(low, high), (words.shape[0], words.shape[1], 32))


@triton.jit
def scale_and_offset(pairs):
    """The float32 halves of float16 pairs."""
    scale = (pairs & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    return scale, (pairs >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit(do_not_specialize=["rows", "magic"])
def _skinny_kernel(
    x,
    words,
    scales,
    out,
    rows,
    outputs,
    groups,
    stride,
    magic,
    GROUPS: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    WARPS: tl.constexpr,
    DEPTH: tl.constexpr,
    STAGES: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ADD: tl.constexpr,
    WIDEN: tl.constexpr,
):
    GATED: tl.constexpr = ACTIVATION is not None
    OPERAND: tl.constexpr = tl.float32 if WIDEN else x.dtype.element_ty
    PRECISION: tl.constexpr = "ieee" if WIDEN else "tf32"  # no matter to bfloat16
    SLABS: tl.constexpr = ROWS // 16
    # A tile is DEPTH groups, and each of them a product of its own, with its own scales.
    row = output_rows(tl.arange(0, ROWS), outputs, ROWS, GATED)
    t = tl.arange(0, WIDE)
    group = tl.arange(0, DEPTH)
    within = tl.arange(0, 32)[None, :, None]
    word_tile = words + (row.to(tl.int64)[None, :, None] * GROUPS + group[:, None, None]) * 4
    word_tile += tl.arange(0, 4)[None, None, :]
    x_tile = x + (t[None, None, :] * GROUPS + group[:, None, None]) * 32 + within
    scale_tile = scales + group[:, None] * outputs + row[None, :]
    there = t[None, None, :] < rows
    half = tl.full((DEPTH, 16, 2, 4, 2), -128.0, OPERAND)
    minus = tl.reshape(tl.join(half, half), (DEPTH, 16, 32))  # in the layout that ``codes`` have

    y = tl.zeros((DEPTH, ROWS, WIDE), tl.float32)
    # The compiler unrolls loops whose length it knows; the interpreter must know it.
    for g in tl.range(0, GROUPS if WIDEN else groups, DEPTH, num_stages=STAGES):
        inside = group + g < GROUPS
        packed = tl.load(word_tile + g * 4, mask=inside[:, None, None], other=0, eviction_policy="evict_first")
        b = tl.load(x_tile + g * 32, mask=inside[:, None, None] & there, other=0.0)
        pairs = tl.load(scale_tile + g * outputs, mask=inside[:, None], other=0)
        b = b.to(OPERAND)
        # The codes' 128 are taken off by starting from -128 times the group's sum, which the offsets need, too.
        less = tl.dot(minus, b, input_precision=PRECISION)[:, None]
        less = tl.reshape(tl.broadcast_to(less, (DEPTH, SLABS, 16, WIDE)), (DEPTH, ROWS, WIDE))
        product = tl.dot(codes(packed, magic).to(OPERAND), b, less, input_precision=PRECISION)
        scale, offset = scale_and_offset(pairs)
        y += product * scale[:, :, None]
        y += less * (offset * (-1 / 128))[:, :, None]

    finish(tl.sum(y, 0), scales, out, rows, outputs, stride, WIDE, ROWS, False, ACTIVATION, ADD)


@triton.jit(do_not_specialize=["magic"])
def _unpack_kernel(words, scales, w, outputs, groups, stride, magic, ROWS: tl.constexpr, DEPTH: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    group = tl.program_id(1) * DEPTH + tl.arange(0, DEPTH)
    inside = (row < outputs)[:, None] & (group < groups)[None, :]
    at = row.to(tl.int64)[:, None] * groups + group[None, :]
    word = tl.arange(0, 4)[None, None, :]
    packed = tl.load(words + at[:, :, None] * 4 + word, mask=inside[:, :, None], other=0)
    pairs = tl.load(scales + group[None, :] * stride + row[:, None], mask=inside, other=0)
    scale, offset = scale_and_offset(pairs)
    value = (codes(packed, magic).to(tl.float32) - 128) * scale[:, :, None] + offset[:, :, None]
    column = tl.arange(0, 32)[None, None, :]
    tl.store(w + at[:, :, None] * 32 + column, value.to(w.dtype.element_ty), mask=inside[:, :, None])

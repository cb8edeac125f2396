"""The products and the unpacking of ``plain.int4``. A weight is read as 5 bits and becomes bfloat16 in registers.

As in ``gemm``, warps take different inputs. A group's scales are applied to its sums, of which there are as many as
columns in a matrix instruction: 8. With fewer rows of x several groups share the columns, each with its own, so that
one instruction after another adds to the same sums and scales are applied once for all of these groups.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from tenfold.ops.cuda.fused.gemm import MOST_ROWS, Tile, finish, output_rows, widened
from tenfold.ops.cuda.plain.int4 import BLOCK, GROUP
from tenfold.ops.spec import Activation

MAGIC = 0x43004300
_COLUMNS = 8  # of a matrix instruction
_UNPACK_BLOCKS = 2
_UNPACK_GROUPS = 8


def tile_for(rows: int, outputs: int) -> Tile:
    """The tile for x of ``rows`` rows.

    Few outputs are spread over all multiprocessors, with many warps each; of more a program takes several blocks,
    which share what is done with x. The more rows, the more x weighs, of which each program reads all (from L2).
    """
    tall = triton.next_power_of_2(rows)
    few = outputs <= 400 * BLOCK
    if tall <= 4:
        if few:
            return Tile(16, 2048 // tall, 8, 4)
        return Tile(32, 1024 // tall * (1 if tall == 1 else 2), 4, 3) if outputs >= 1024 * BLOCK else Tile(16, 1024 // tall, 4, 4)
    if tall == 8:
        return Tile(16, 512, 8, 4) if few else Tile(32, 512, 4, 4)
    if tall == 16:
        return Tile(32, 512, 16, 4) if outputs <= 264 * BLOCK else Tile(32, 256, 8, 4) if few else Tile(64, 256, 8, 4)
    return Tile(32, 256, 8, 4) if few else Tile(64, 128, 4, 4)


def skinny(
    x: Tensor, words: Tensor, scales: Tensor, *, out: Tensor | None = None, tile: Tile | None = None
) -> Tensor:
    """[T, N]: as ``gemm.skinny``."""
    if out is None:
        out = x.new_empty(len(x), BLOCK * len(words))
    _launch(x, words, scales, out, tile, activation=None, add=False)
    return out


def skinny_gated(
    x: Tensor, words: Tensor, scales: Tensor, activation: Activation, *, tile: Tile | None = None
) -> Tensor:
    """[T, F]: as ``gemm.skinny_gated``; F is a multiple of 16."""
    out = x.new_empty(len(x), BLOCK * len(words) // 2)
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
    (count, inputs), (blocks, groups) = x.shape, words.shape[:2]
    assert 1 <= count <= MOST_ROWS and inputs == GROUP * groups
    assert x.is_contiguous() and words.is_contiguous() and scales.is_contiguous() and out.stride(1) == 1
    tile = tile or tile_for(count, BLOCK * blocks)
    height = tile.rows // BLOCK
    if activation is not None:
        assert blocks % 2 == 0
        height = max(2, height)
    tall = triton.next_power_of_2(count)
    together = max(1, _COLUMNS // tall)
    _skinny_kernel[(triton.cdiv(blocks, height),)](
        x if x.dtype == torch.float32 else x.view(torch.int32),
        words,
        scales,
        out,
        count,
        BLOCK * blocks,
        groups,
        out.stride(0),
        MAGIC,
        GROUPS=groups,
        TALL=tall,
        TOGETHER=together,
        BLOCKS=height,
        SETS=max(tile.warps, tile.depth // (GROUP * together)),
        STAGES=tile.stages,
        ACTIVATION=activation,
        ADD=add,
        WIDEN=widened(x),
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


def unpack(words: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights [N, K] in ``dtype``, rounded once."""
    blocks, groups = words.shape[:2]
    assert words.is_contiguous() and scales.is_contiguous()
    w = torch.empty(BLOCK * blocks, GROUP * groups, dtype=dtype, device=words.device)
    grid = (triton.cdiv(blocks, _UNPACK_BLOCKS), triton.cdiv(groups, _UNPACK_GROUPS))
    size = {"BLOCKS": _UNPACK_BLOCKS, "DEPTH": _UNPACK_GROUPS}
    _unpack_kernel[grid](words, scales, w, blocks, groups, MAGIC, **size, num_warps=4)
    return w


@triton.jit
def halves(words):
    """The bfloat16 halves [..., 2] of int32 words [...]."""
    low = (words & 0xFFFF).to(tl.int16).to(tl.bfloat16, bitcast=True)
    high = (words >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
    return tl.join(low, high)


@triton.jit
def codes(words, magic, ROWS: tl.constexpr, SETS: tl.constexpr, TOGETHER: tl.constexpr):
    """128 + the codes [SETS, ROWS, TOGETHER, b, j, c, a] in bfloat16: 128 … 143 are 0x4300 + code there.

    ``words`` are [SETS * TOGETHER, ROWS / 16, 64]; the letters are those of ``plain.int4``. ``magic`` is MAGIC; were it
    a constant, taking a pair out would take two instructions instead of one.
    """
    words = tl.permute(tl.reshape(words, (SETS, TOGETHER, ROWS // 16, 8, 4, 2)), (0, 2, 5, 3, 1, 4))
    words = tl.reshape(words, (SETS, ROWS, TOGETHER, 4))[:, :, :, None, :, None]
    shift = tl.arange(0, 2)[:, None, None] * 8 + tl.arange(0, 2)[None, None, :] * 4
    return halves(((words >> shift[None, None, None]) & 0x000F000F) | magic)


@triton.jit
def scale_and_offset(pairs, ROWS: tl.constexpr, SETS: tl.constexpr, TOGETHER: tl.constexpr, TALL: tl.constexpr):
    """In float32 [SETS, ROWS, TOGETHER * TALL], each ``TALL`` times, of pairs [SETS * TOGETHER, ROWS / 16, 16]."""
    pairs = tl.permute(tl.reshape(pairs, (SETS, TOGETHER, ROWS // 16, 8, 2)), (0, 2, 4, 3, 1))
    pairs = tl.broadcast_to(tl.reshape(pairs, (SETS, ROWS, TOGETHER, 1)), (SETS, ROWS, TOGETHER, TALL))
    pairs = tl.reshape(pairs, (SETS, ROWS, TOGETHER * TALL))
    scale = (pairs & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    return scale, (pairs >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _columns(x, SETS: tl.constexpr, TOGETHER: tl.constexpr, TALL: tl.constexpr, PACKED: tl.constexpr):
    """x [SETS * TOGETHER, TALL, 32] as [SETS, 32 * TOGETHER, TOGETHER * TALL]: a group's columns are 0 for others.

    Its inputs come in the order of ``codes``. ``PACKED``: x is int32, two of bfloat16 each.
    """
    ONE: tl.constexpr = 1 if PACKED else 2
    x = tl.permute(tl.reshape(x, (SETS, TOGETHER, TALL, 4, 2, 2, ONE)), (0, 1, 5, 3, 4, 6, 2))[:, :, :, :, :, :, None]
    if TOGETHER > 1:
        group = tl.arange(0, TOGETHER)
        own = group[:, None, None, None, None, None, None] == group[:, None]
        x = tl.where(own[None], x, tl.zeros((1,), x.dtype))
    if PACKED:
        x = tl.permute(halves(x), (0, 1, 2, 3, 4, 5, 8, 6, 7))
    return tl.reshape(x, (SETS, 32 * TOGETHER, TOGETHER * TALL))


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
    TALL: tl.constexpr,
    TOGETHER: tl.constexpr,
    BLOCKS: tl.constexpr,
    SETS: tl.constexpr,
    STAGES: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ADD: tl.constexpr,
    WIDEN: tl.constexpr,
):
    PACKED: tl.constexpr = x.dtype.element_ty == tl.int32
    OPERAND: tl.constexpr = tl.float32 if WIDEN else tl.bfloat16
    PRECISION: tl.constexpr = "ieee" if WIDEN else "tf32"  # no matter to bfloat16
    WIDTH: tl.constexpr = 16 if PACKED else 32
    ROWS: tl.constexpr = 16 * BLOCKS
    WIDE: tl.constexpr = TOGETHER * TALL
    DEPTH: tl.constexpr = SETS * TOGETHER

    # Tiles [group, block of outputs, word], and [group, row of x, input].
    group = tl.arange(0, DEPTH)[:, None, None]
    block = output_rows(tl.arange(0, BLOCKS), outputs // 16, BLOCKS, ACTIVATION is not None)
    at = block.to(tl.int64)[None, :, None] * GROUPS + group
    word_tile = words + at * 64 + tl.arange(0, 64)[None, None, :]
    pair_tile = scales + at * 16 + tl.arange(0, 16)[None, None, :]
    t = tl.arange(0, TALL)[None, :, None]
    x_tile = x + (t * GROUPS + group) * WIDTH + tl.arange(0, WIDTH)[None, None, :]
    minus = halves(tl.full((SETS, 16, TOGETHER, 2, 4, 2), -0x7FFF8000, tl.int32) ^ magic)  # -128
    minus = tl.reshape(minus, (SETS, 16, 32 * TOGETHER)).to(OPERAND)

    y = tl.zeros((SETS, ROWS, WIDE), tl.float32)
    # The compiler unrolls loops whose length it knows; the interpreter must know it.
    for g in tl.range(0, GROUPS if WIDEN else groups, DEPTH, num_stages=STAGES):
        if GROUPS % DEPTH == 0:
            packed = tl.load(word_tile + g * 64, eviction_policy="evict_first")
            pairs = tl.load(pair_tile + g * 16, eviction_policy="evict_first")
            if TALL == 1:
                b = tl.load(x_tile + g * WIDTH)
            else:
                b = tl.load(x_tile + g * WIDTH, mask=t < rows, other=0)
        else:
            inside = group + g < GROUPS
            packed = tl.load(word_tile + g * 64, mask=inside, other=0, eviction_policy="evict_first")
            pairs = tl.load(pair_tile + g * 16, mask=inside, other=0, eviction_policy="evict_first")
            b = tl.load(x_tile + g * WIDTH, mask=inside & (t < rows), other=0)
        b = _columns(b, SETS, TOGETHER, TALL, PACKED).to(OPERAND)
        a = tl.reshape(codes(packed, magic, ROWS, SETS, TOGETHER), (SETS, ROWS, 32 * TOGETHER)).to(OPERAND)
        # The codes' 128 are taken off by -128 times the sum of x, which the offsets need, too.
        product = tl.dot(a, b, input_precision=PRECISION)
        less = tl.dot(minus, b, input_precision=PRECISION)[:, None]
        less = tl.reshape(tl.broadcast_to(less, (SETS, BLOCKS, 16, WIDE)), (SETS, ROWS, WIDE))
        scale, offset = scale_and_offset(pairs, ROWS, SETS, TOGETHER, TALL)
        y += product * scale
        y += less * (scale - offset * (1 / 128))
    y = tl.sum(tl.reshape(tl.sum(y, 0), (ROWS, TOGETHER, TALL)), 1)
    finish(y, scales, out, rows, outputs, stride, TALL, ROWS, False, ACTIVATION, ADD)


@triton.jit(do_not_specialize=["magic"])
def _unpack_kernel(words, scales, w, blocks, groups, magic, BLOCKS: tl.constexpr, DEPTH: tl.constexpr):
    ROWS: tl.constexpr = 16 * BLOCKS
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    group = tl.program_id(1) * DEPTH + tl.arange(0, DEPTH)
    inside = ((group < groups)[:, None] & (block < blocks)[None, :])[:, :, None]
    at = (block.to(tl.int64)[None, :] * groups + group[:, None])[:, :, None]
    packed = tl.load(words + at * 64 + tl.arange(0, 64)[None, None, :], mask=inside, other=0)
    pairs = tl.load(scales + at * 16 + tl.arange(0, 16)[None, None, :], mask=inside, other=0)
    scale, offset = scale_and_offset(pairs, ROWS, 1, DEPTH, 1)
    value = natural(codes(packed, magic, ROWS, 1, DEPTH), ROWS, DEPTH).to(tl.float32) - 128
    value = tl.reshape(value, (ROWS, DEPTH, 32))
    value = value * tl.reshape(scale, (ROWS, DEPTH, 1)) + tl.reshape(offset, (ROWS, DEPTH, 1))
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * (DEPTH * 32) + tl.arange(0, DEPTH * 32)
    where = w + row.to(tl.int64)[:, None] * (groups * 32) + column[None, :]
    mask = (row < blocks * 16)[:, None] & (column < groups * 32)[None, :]
    tl.store(where, tl.reshape(value, (ROWS, DEPTH * 32)).to(w.dtype.element_ty), mask=mask)


@triton.jit
def natural(values, ROWS: tl.constexpr, DEPTH: tl.constexpr):
    """Values [1, ROWS, DEPTH, b, j, c, a] of ``codes`` as [ROWS, DEPTH, 32], in the order of the inputs."""
    return tl.reshape(tl.permute(values, (0, 1, 2, 4, 5, 3, 6)), (ROWS, DEPTH, 32))

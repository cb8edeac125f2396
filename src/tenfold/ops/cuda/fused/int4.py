"""The products and the unpacking of ``plain.int4``. A weight is read as 5 bits and becomes bfloat16 in registers.

Few rows, as in ``gemm``: warps take different inputs. A group's scales are applied to its sums, of which there are as
many as columns in a matrix instruction: 8. With fewer rows of x several groups share the columns, each with its own,
so that one instruction after another adds to the same sums and scales are applied once for all of these groups.

More rows: scales are applied to the weights, each of which then serves many rows.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from tenfold.ops.cuda.fused.gemm import Tile, finish, output_rows, tile_of, widened
from tenfold.ops.cuda.plain.int4 import BLOCK, GROUP
from tenfold.ops.spec import Activation

MOST_ROWS = 16  # of x, where they are few
_MAGIC = 0x43004300
_COLUMNS = 8  # of a matrix instruction
_PROGRAMS = 264  # that keep a large GPU busy
_SIDE_BY_SIDE = 8  # tiles of x whose programs run at about the same time, to share weights in L2
_UNPACK_BLOCKS = 2
_UNPACK_GROUPS = 8


@dataclass(frozen=True, slots=True)
class Cut:
    """How ``tiled`` cuts its work: ``together`` rows of x to a program, the inputs into ``parts`` summed afterwards."""

    tile: Tile
    together: int
    parts: int


def tile_for(rows: int, outputs: int) -> Tile:
    """The tile for x of few ``rows``.

    Few outputs are spread over all multiprocessors, with many warps each; of many a program takes several blocks,
    which share what is done with x. The more rows, the more x weighs, of which each program reads all (from L2).
    """
    tall = triton.next_power_of_2(rows)
    blocks = outputs // BLOCK
    if tall > 8:
        return Tile(128, 128, 4, 4) if blocks > 4 * _PROGRAMS else Tile(64, 128, 4, 5)
    if blocks <= _PROGRAMS:
        return Tile(16, 2048 // tall, 8, 4) if tall <= 4 else Tile(32, 512, 16, 4)
    if blocks <= 4 * _PROGRAMS:
        return Tile(16, 1024 // tall, 4, 4) if tall <= 4 else Tile(32, 256, 8, 4)
    if tall <= 2:
        return Tile(32, 1024, 4, 3)
    return Tile(64, 256, 4 if tall <= 4 else 8, 4)


def cut_for(rows: int, outputs: int, inputs: int) -> Cut:
    """How to cut for x of more ``rows``: as many programs as keep a large GPU busy, where each has work enough."""
    together = max(32, min(128, triton.next_power_of_2(rows)))
    tile = Tile(128, 128 if together <= 64 else 64, 8, 3)
    programs = triton.cdiv(outputs, tile.rows) * triton.cdiv(rows, together)
    parts = 1
    while 2 * parts * programs <= _PROGRAMS and inputs >= 2 * parts * 1024:
        parts *= 2
    return Cut(tile, together, parts)


def skinny(x: Tensor, words: Tensor, scales: Tensor, *, out: Tensor | None = None, tile: Tile | None = None) -> Tensor:
    """[T, N]: as ``gemm.skinny``; T is at most ``MOST_ROWS``."""
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
    count, (blocks, groups) = len(x), words.shape[:2]
    _check(x, words, scales, out)
    assert 1 <= count <= MOST_ROWS
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
        _MAGIC,
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


def tiled(x: Tensor, words: Tensor, scales: Tensor, *, out: Tensor | None = None, cut: Cut | None = None) -> Tensor:
    """[T, N]: as ``skinny``, for any T. ``cut`` decides the bits of the result, which rows of x does not matter."""
    count, (blocks, groups) = len(x), words.shape[:2]
    outputs = BLOCK * blocks
    if out is None:
        out = x.new_empty(count, outputs)
    _check(x, words, scales, out)
    cut = cut or cut_for(count, outputs, x.shape[1])
    sums = out
    if cut.parts > 1:
        sums = torch.empty(cut.parts * count, outputs, dtype=torch.float32, device=x.device)
    grid = (triton.cdiv(outputs, cut.tile.rows) * triton.cdiv(count, cut.together), cut.parts)
    # Inputs in the order in which a matrix instruction meets them: see ``_values``.
    ordered = x.view(count, groups, 4, 4, 2).transpose(2, 3).contiguous()
    _tiled_kernel[grid](
        ordered,
        words,
        scales,
        sums,
        count,
        outputs,
        groups,
        sums.stride(0),
        _MAGIC,
        GROUPS=groups,
        ROWS=cut.tile.rows,
        TOGETHER=cut.together,
        DEPTH=cut.tile.depth // GROUP,
        STAGES=cut.tile.stages,
        SIDE=_SIDE_BY_SIDE,
        WIDEN=widened(x),
        num_warps=cut.tile.warps,
        num_stages=cut.tile.stages,
    )
    if cut.parts > 1:
        _sum_kernel[(triton.cdiv(outputs, 512), count)](
            sums, out, count, outputs, out.stride(0), PARTS=cut.parts, BLOCK=512, num_warps=4
        )
    return out


def unpack(words: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights [N, K] in ``dtype``, rounded once."""
    blocks, groups = words.shape[:2]
    assert words.is_contiguous() and scales.is_contiguous()
    w = torch.empty(BLOCK * blocks, GROUP * groups, dtype=dtype, device=words.device)
    grid = (triton.cdiv(blocks, _UNPACK_BLOCKS), triton.cdiv(groups, _UNPACK_GROUPS))
    size = {"BLOCKS": _UNPACK_BLOCKS, "DEPTH": _UNPACK_GROUPS}
    _unpack_kernel[grid](words, scales, w, blocks, groups, _MAGIC, **size, num_warps=4)
    return w


def _check(x: Tensor, words: Tensor, scales: Tensor, out: Tensor) -> None:
    assert x.shape[1] == GROUP * words.shape[1] and words.shape[:2] == scales.shape[:2]
    assert x.is_contiguous() and words.is_contiguous() and scales.is_contiguous() and out.stride(1) == 1


@triton.jit
def _halves(words):
    """The bfloat16 halves [..., 2] of int32 words [...]."""
    low = (words & 0xFFFF).to(tl.int16).to(tl.bfloat16, bitcast=True)
    high = (words >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
    return tl.join(low, high)


@triton.jit
def _codes(words, magic, ROWS: tl.constexpr, SETS: tl.constexpr, TOGETHER: tl.constexpr):
    """Pairs of 128 + the codes in bfloat16, as int32 [SETS, ROWS, TOGETHER, b, j, c] (letters as in ``plain.int4``).

    ``words`` are [SETS * TOGETHER, ROWS / 16, 64]. 128 … 143 are 0x4300 + code. ``magic`` is ``_MAGIC``; were it a
    constant, taking a pair out would take two instructions instead of one.
    """
    words = tl.permute(tl.reshape(words, (SETS, TOGETHER, ROWS // 16, 8, 4, 2)), (0, 2, 5, 3, 1, 4))
    words = tl.reshape(words, (SETS, ROWS, TOGETHER, 4))[:, :, :, None, :, None]
    shift = tl.arange(0, 2)[:, None, None] * 8 + tl.arange(0, 2)[None, None, :] * 4
    return ((words >> shift[None, None, None]) & 0x000F000F) | magic


@triton.jit
def _scale_and_offset(pairs, ROWS: tl.constexpr, SETS: tl.constexpr, TOGETHER: tl.constexpr, TALL: tl.constexpr):
    """In float32 [SETS, ROWS, TOGETHER * TALL], each ``TALL`` times, of pairs [SETS * TOGETHER, ROWS / 16, 16]."""
    pairs = tl.permute(tl.reshape(pairs, (SETS, TOGETHER, ROWS // 16, 8, 2)), (0, 2, 4, 3, 1))
    pairs = tl.broadcast_to(tl.reshape(pairs, (SETS, ROWS, TOGETHER, 1)), (SETS, ROWS, TOGETHER, TALL))
    pairs = tl.reshape(pairs, (SETS, ROWS, TOGETHER * TALL))
    scale = (pairs & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    return scale, (pairs >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _columns(x, SETS: tl.constexpr, TOGETHER: tl.constexpr, TALL: tl.constexpr, PACKED: tl.constexpr):
    """x [SETS * TOGETHER, TALL, 32] as [SETS, 32 * TOGETHER, TOGETHER * TALL]: a group's columns are 0 for others.

    Its inputs come in the order of ``_codes``. ``PACKED``: x is int32, two of bfloat16 each.
    """
    ONE: tl.constexpr = 1 if PACKED else 2
    x = tl.permute(tl.reshape(x, (SETS, TOGETHER, TALL, 4, 2, 2, ONE)), (0, 1, 5, 3, 4, 6, 2))[:, :, :, :, :, :, None]
    if TOGETHER > 1:
        group = tl.arange(0, TOGETHER)
        own = group[:, None, None, None, None, None, None] == group[:, None]
        x = tl.where(own[None], x, tl.zeros((1,), x.dtype))
    if PACKED:
        x = tl.permute(_halves(x), (0, 1, 2, 3, 4, 5, 8, 6, 7))
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
    minus = _halves(tl.full((SETS, 16, TOGETHER, 2, 4, 2), -0x7FFF8000, tl.int32) ^ magic)  # -128
    minus = tl.reshape(minus, (SETS, 16, 32 * TOGETHER)).to(OPERAND)

    y = tl.zeros((SETS, ROWS, WIDE), tl.float32)
    # The compiler unrolls loops whose length it knows; the interpreter must know it.
    for g in tl.range(0, GROUPS if WIDEN else groups, DEPTH, num_stages=STAGES):
        if GROUPS % DEPTH == 0:
            packed = tl.load(word_tile + g * 64)
            pairs = tl.load(pair_tile + g * 16)
            b = tl.load(x_tile + g * WIDTH) if TALL == 1 else tl.load(x_tile + g * WIDTH, mask=t < rows, other=0)
        else:
            inside = group + g < GROUPS
            packed = tl.load(word_tile + g * 64, mask=inside, other=0)
            pairs = tl.load(pair_tile + g * 16, mask=inside, other=0)
            b = tl.load(x_tile + g * WIDTH, mask=inside & (t < rows), other=0)
        b = _columns(b, SETS, TOGETHER, TALL, PACKED).to(OPERAND)
        a = _halves(_codes(packed, magic, ROWS, SETS, TOGETHER))
        a = tl.reshape(a, (SETS, ROWS, 32 * TOGETHER)).to(OPERAND)
        # The codes' 128 are taken off by -128 times the sum of x, which the offsets need, too.
        product = tl.dot(a, b, input_precision=PRECISION)
        less = tl.dot(minus, b, input_precision=PRECISION)[:, None]
        less = tl.reshape(tl.broadcast_to(less, (SETS, BLOCKS, 16, WIDE)), (SETS, ROWS, WIDE))
        scale, offset = _scale_and_offset(pairs, ROWS, SETS, TOGETHER, TALL)
        y += product * scale
        y += less * (scale - offset * (1 / 128))
    y = tl.sum(tl.reshape(tl.sum(y, 0), (ROWS, TOGETHER, TALL)), 1)
    finish(y, scales, out, rows, outputs, stride, TALL, ROWS, False, ACTIVATION, ADD)


@triton.jit
def _wide_codes(words, magic, ROWS: tl.constexpr, DEPTH: tl.constexpr):
    """128 + the codes in float32 [ROWS, DEPTH, c, b, j, a], of words of DEPTH groups."""
    codes = tl.reshape(_codes(words, magic, ROWS, 1, DEPTH), (ROWS, DEPTH, 2, 4, 2))
    codes = tl.permute(codes, (0, 1, 4, 2, 3))
    return tl.join((codes << 16).to(tl.float32, bitcast=True), (codes & -0x10000).to(tl.float32, bitcast=True))


@triton.jit
def _for_each(scale, ROWS: tl.constexpr, DEPTH: tl.constexpr):
    """Scales or offsets as what ``_wide_codes`` gives can be multiplied with."""
    return tl.reshape(scale, (ROWS, DEPTH))[:, :, None, None, None, None]


@triton.jit(do_not_specialize=["rows", "magic"])
def _tiled_kernel(
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
    ROWS: tl.constexpr,
    TOGETHER: tl.constexpr,
    DEPTH: tl.constexpr,
    STAGES: tl.constexpr,
    SIDE: tl.constexpr,
    WIDEN: tl.constexpr,
):
    OPERAND: tl.constexpr = tl.float32 if WIDEN else tl.bfloat16
    PRECISION: tl.constexpr = "ieee" if WIDEN else "tf32"  # no matter to bfloat16
    BLOCKS: tl.constexpr = ROWS // 16
    tile_t, tile_n = tile_of(rows, outputs, TOGETHER, ROWS, SIDE)
    t = tile_t * TOGETHER + tl.arange(0, TOGETHER)
    n = tile_n * ROWS + tl.arange(0, ROWS)
    there = (t < rows)[None, :]

    group = tl.arange(0, DEPTH)
    k = tl.arange(0, 32 * DEPTH)
    block = tl.minimum(tile_n * BLOCKS + tl.arange(0, BLOCKS), outputs // 16 - 1)
    at = block.to(tl.int64)[None, :, None] * GROUPS + group[:, None, None]
    word_tile = words + at * 64 + tl.arange(0, 64)[None, None, :]
    pair_tile = scales + at * 16 + tl.arange(0, 16)[None, None, :]
    x_tile = x + t.to(tl.int64)[None, :] * (GROUPS * 32) + k[:, None]

    part = tl.program_id(1)
    share = tl.cdiv(tl.cdiv(groups, DEPTH), tl.num_programs(1)) * DEPTH
    y = tl.zeros((ROWS, TOGETHER), tl.float32)
    for g in tl.range(part * share, tl.minimum(part * share + share, groups), DEPTH, num_stages=STAGES):
        if GROUPS % DEPTH == 0:
            packed = tl.load(word_tile + g * 64)
            pairs = tl.load(pair_tile + g * 16)
            b = tl.load(x_tile + g * 32, mask=there, other=0.0)
        else:
            inside = (group + g < GROUPS)[:, None, None]
            packed = tl.load(word_tile + g * 64, mask=inside, other=0)
            pairs = tl.load(pair_tile + g * 16, mask=inside, other=0)
            b = tl.load(x_tile + g * 32, mask=there & (k + g * 32 < GROUPS * 32)[:, None], other=0.0)
        scale, offset = _scale_and_offset(pairs, ROWS, 1, DEPTH, 1)
        a = _wide_codes(packed, magic, ROWS, DEPTH) * _for_each(scale, ROWS, DEPTH)
        a += _for_each(offset - 128 * scale, ROWS, DEPTH)
        a = tl.reshape(a.to(x.dtype.element_ty), (ROWS, 32 * DEPTH))
        y = tl.dot(a.to(OPERAND), b.to(OPERAND), y, input_precision=PRECISION)
    where = out + (part.to(tl.int64) * rows + t)[None, :] * stride + n[:, None]
    tl.store(where, y.to(out.dtype.element_ty), mask=(n < outputs)[:, None] & there)


@triton.jit(do_not_specialize=["rows"])
def _sum_kernel(sums, out, rows, outputs, stride, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    """Row by row what ``PARTS`` programs gave, [PARTS, rows, outputs]."""
    t = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y = tl.zeros((BLOCK,), tl.float32)
    for part in tl.static_range(PARTS):
        y += tl.load(sums + (t + part * rows) * outputs + n, mask=n < outputs, other=0.0)
    tl.store(out + t * stride + n, y.to(out.dtype.element_ty), mask=n < outputs)


@triton.jit(do_not_specialize=["magic"])
def _unpack_kernel(words, scales, w, blocks, groups, magic, BLOCKS: tl.constexpr, DEPTH: tl.constexpr):
    ROWS: tl.constexpr = 16 * BLOCKS
    block = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    group = tl.program_id(1) * DEPTH + tl.arange(0, DEPTH)
    inside = ((group < groups)[:, None] & (block < blocks)[None, :])[:, :, None]
    at = (block.to(tl.int64)[None, :] * groups + group[:, None])[:, :, None]
    packed = tl.load(words + at * 64 + tl.arange(0, 64)[None, None, :], mask=inside, other=0)
    pairs = tl.load(scales + at * 16 + tl.arange(0, 16)[None, None, :], mask=inside, other=0)
    scale, offset = _scale_and_offset(pairs, ROWS, 1, DEPTH, 1)
    value = (_wide_codes(packed, magic, ROWS, DEPTH) - 128) * _for_each(scale, ROWS, DEPTH)
    value = tl.permute(value + _for_each(offset, ROWS, DEPTH), (0, 1, 4, 2, 3, 5))
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * (DEPTH * 32) + tl.arange(0, DEPTH * 32)
    where = w + row.to(tl.int64)[:, None] * (groups * 32) + column[None, :]
    mask = (row < blocks * 16)[:, None] & (column < groups * 32)[None, :]
    tl.store(where, tl.reshape(value, (ROWS, DEPTH * 32)).to(w.dtype.element_ty), mask=mask)

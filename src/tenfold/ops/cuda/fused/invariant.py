"""Batch-invariant products: the bits of a row of the result depend on that row of x alone, however many there are.

One tile and one order of summation serve every number of rows (He et al., "Defeating nondeterminism in LLM inference",
2025), so few rows leave multiprocessors idle and many have less reuse than a product tuned for them.
"""

import triton
import triton.language as tl
from torch import Tensor

from tenfold.ops.cuda.fused.gemm import Tile, widened
from tenfold.ops.cuda.fused.int4 import MAGIC, codes, scale_and_offset
from tenfold.ops.cuda.plain.int4 import GROUP

TILE = Tile(rows=64, depth=128, warps=4, stages=3)
_SIDE_BY_SIDE = 8  # tiles of x whose programs run at about the same time, to share weights in L2


def product(
    x: Tensor,
    w: Tensor,
    *,
    scale: Tensor | None = None,
    scales: Tensor | None = None,
    out: Tensor | None = None,
    tile: Tile = TILE,
    together: int = 64,
) -> Tensor:
    """[T, N]: x [T, K] times w, transposed; ``out`` may have any type and row stride.

    ``w`` [N, K] is in x's type, or FP8 with a ``scale`` [N]; or words [N, K / 32, 4] with their ``scales``, as
    in ``plain.int4``. ``tile`` and ``together``, the rows of x of a program, are part of what decides the bits.
    """
    (count, inputs), outputs = x.shape, len(w)
    if out is None:
        out = x.new_empty(count, outputs)
    assert w.shape[1] * (1 if scales is None else GROUP) == inputs
    assert x.is_contiguous() and w.is_contiguous() and (scales is None or scales.is_contiguous())
    _invariant_kernel[(triton.cdiv(outputs, tile.rows) * triton.cdiv(count, together),)](
        x,
        w,
        scale,
        scales,
        out,
        count,
        outputs,
        inputs,
        out.stride(0),
        MAGIC,
        INPUTS=inputs,
        ROWS=tile.rows,
        TOGETHER=together,
        DEPTH=tile.depth,
        STAGES=tile.stages,
        GROUP=GROUP,
        SIDE=_SIDE_BY_SIDE,
        WIDEN=widened(x),
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return out


@triton.jit(do_not_specialize=["rows", "magic"])
def _invariant_kernel(
    x,
    w,
    scale,
    scales,
    out,
    rows,
    outputs,
    inputs,
    stride,
    magic,
    INPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    TOGETHER: tl.constexpr,
    DEPTH: tl.constexpr,
    STAGES: tl.constexpr,
    GROUP: tl.constexpr,
    SIDE: tl.constexpr,
    WIDEN: tl.constexpr,
):
    OPERAND: tl.constexpr = tl.float32 if WIDEN else x.dtype.element_ty
    PRECISION: tl.constexpr = "ieee" if WIDEN else "tf32"  # no matter to bfloat16
    # Programs in the order of SIDE tiles of x, by tiles of outputs.
    tiles = tl.cdiv(rows, TOGETHER)
    strip = SIDE * tl.cdiv(outputs, ROWS)
    first = tl.program_id(0) // strip * SIDE
    height = tl.minimum(tiles - first, SIDE)
    t = (first + tl.program_id(0) % strip % height) * TOGETHER + tl.arange(0, TOGETHER)
    n = (tl.program_id(0) % strip // height) * ROWS + tl.arange(0, ROWS)
    row = tl.minimum(n, outputs - 1).to(tl.int64)
    there = (t < rows)[None, :]

    k = tl.arange(0, DEPTH)
    x_tile = x + t.to(tl.int64)[None, :] * INPUTS + k[:, None]
    if scales is None:
        w_tile = w + row[:, None] * INPUTS + k[None, :]
    else:
        group = tl.arange(0, DEPTH // GROUP)
        w_tile = (
            w + (row[:, None, None] * (INPUTS // GROUP) + group[None, :, None]) * 4 + tl.arange(0, 4)[None, None, :]
        )
        scale_tile = scales + group[None, :] * outputs + row[:, None]

    y = tl.zeros((ROWS, TOGETHER), tl.float32)
    # The compiler unrolls loops whose length it knows; the interpreter must know it.
    for start in tl.range(0, INPUTS if WIDEN else inputs, DEPTH, num_stages=STAGES):
        if INPUTS % DEPTH == 0:
            b = tl.load(x_tile + start, mask=there, other=0.0)
        else:
            b = tl.load(x_tile + start, mask=there & (k + start < INPUTS)[:, None], other=0.0)
        if scales is not None:
            inside = (group + start // GROUP < INPUTS // GROUP)[None, :]
            packed = tl.load(w_tile + start // GROUP * 4, mask=inside[:, :, None], other=0)
            pairs = tl.load(scale_tile + start // GROUP * outputs, mask=inside, other=0)
            factor, offset = scale_and_offset(pairs)
            value = (codes(packed, magic).to(tl.float32) - 128) * factor[:, :, None] + offset[:, :, None]
            a = tl.reshape(value, (ROWS, DEPTH)).to(x.dtype.element_ty)
        elif INPUTS % DEPTH == 0:
            a = tl.load(w_tile + start)
        else:
            a = tl.load(w_tile + start, mask=(k + start < INPUTS)[None, :], other=0.0)
        if scale is not None:  # by way of float16: the direct conversion to bfloat16 is slow
            a = a.to(tl.float16).to(tl.float32)
        y = tl.dot(a.to(OPERAND), b.to(OPERAND), y, input_precision=PRECISION)
    if scale is not None:
        y *= tl.load(scale + row)[:, None]
    mask = (n < outputs)[:, None] & there
    tl.store(out + t.to(tl.int64)[None, :] * stride + n[:, None], y.to(out.dtype.element_ty), mask=mask)

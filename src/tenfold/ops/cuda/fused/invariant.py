"""Batch-invariant products: the bits of a row of the result depend on that row of x alone, however many there are.

One tile and one order of summation serve every number of rows (He et al., "Defeating nondeterminism in LLM inference",
2025), so few rows leave multiprocessors idle and many have less reuse than a product tuned for them.
"""

import triton
import triton.language as tl
from torch import Tensor

from tenfold.ops.cuda.fused.gemm import Tile, tile_of, widened
from tenfold.ops.cuda.fused.int4 import Cut, tiled

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

    ``w`` [N, K] is in x's type, or FP8 with a ``scale`` [N]; or words with their ``scales``, as in ``plain.int4``.
    ``tile`` and ``together``, the rows of x of a program, are part of what decides the bits.
    """
    if scales is not None:
        return tiled(x, w, scales, out=out, cut=Cut(tile, together, parts=1))
    (count, inputs), outputs = x.shape, len(w)
    if out is None:
        out = x.new_empty(count, outputs)
    assert w.shape[1] == inputs and x.is_contiguous() and w.is_contiguous()
    _invariant_kernel[(triton.cdiv(outputs, tile.rows) * triton.cdiv(count, together),)](
        x,
        w,
        scale,
        out,
        count,
        outputs,
        inputs,
        out.stride(0),
        INPUTS=inputs,
        ROWS=tile.rows,
        TOGETHER=together,
        DEPTH=tile.depth,
        STAGES=tile.stages,
        SIDE=_SIDE_BY_SIDE,
        WIDEN=widened(x),
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    return out


@triton.jit(do_not_specialize=["rows"])
def _invariant_kernel(
    x,
    w,
    scale,
    out,
    rows,
    outputs,
    inputs,
    stride,
    INPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    TOGETHER: tl.constexpr,
    DEPTH: tl.constexpr,
    STAGES: tl.constexpr,
    SIDE: tl.constexpr,
    WIDEN: tl.constexpr,
):
    OPERAND: tl.constexpr = tl.float32 if WIDEN else x.dtype.element_ty
    PRECISION: tl.constexpr = "ieee" if WIDEN else "tf32"  # no matter to bfloat16
    tile_t, tile_n = tile_of(rows, outputs, TOGETHER, ROWS, SIDE)
    t = tile_t * TOGETHER + tl.arange(0, TOGETHER)
    n = tile_n * ROWS + tl.arange(0, ROWS)
    row = tl.minimum(n, outputs - 1).to(tl.int64)
    there = (t < rows)[None, :]

    k = tl.arange(0, DEPTH)
    x_tile = x + t.to(tl.int64)[None, :] * INPUTS + k[:, None]
    w_tile = w + row[:, None] * INPUTS + k[None, :]
    y = tl.zeros((ROWS, TOGETHER), tl.float32)
    # The compiler unrolls loops whose length it knows; the interpreter must know it.
    for start in tl.range(0, INPUTS if WIDEN else inputs, DEPTH, num_stages=STAGES):
        if INPUTS % DEPTH == 0:
            a = tl.load(w_tile + start)
            b = tl.load(x_tile + start, mask=there, other=0.0)
        else:
            a = tl.load(w_tile + start, mask=(k + start < INPUTS)[None, :], other=0.0)
            b = tl.load(x_tile + start, mask=there & (k + start < INPUTS)[:, None], other=0.0)
        if scale is not None:  # by way of float16: the direct conversion to bfloat16 is slow
            a = a.to(tl.float16).to(tl.float32)
        y = tl.dot(a.to(OPERAND), b.to(OPERAND), y, input_precision=PRECISION)
    if scale is not None:
        y *= tl.load(scale + row)[:, None]
    mask = (n < outputs)[:, None] & there
    tl.store(out + t.to(tl.int64)[None, :] * stride + n[:, None], y.to(out.dtype.element_ty), mask=mask)

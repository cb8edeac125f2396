"""Products of few rows with a weight matrix: each weight is read once, at the memory's speed.

A program owns a few outputs. Its warps take different parts of the inputs (a batched product, one batch per warp),
so that even 16 outputs keep a program's tensor cores busy and their sums meet once, at the end, in a fixed order. The
weights are the product's M operand and the rows of x, padded to 8 or more, its N operand. Copies run ``stages`` - 1
tiles ahead. What follows the product goes into the same kernel: the gated activation or the addition to a residual.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from tenfold.ops.cuda.fused.norms import quantized
from tenfold.ops.cuda.plain.norms import FP8
from tenfold.ops.spec import Activation

MOST_ROWS = 64  # of x
_PROGRAMS = 128  # programs that keep a large GPU busy


@dataclass(frozen=True, slots=True)
class Tile:
    """What one program takes: ``rows`` outputs, ``depth`` inputs at a time; powers of two."""

    rows: int
    depth: int
    warps: int
    stages: int


def padded(rows: int) -> int:
    """The rows of x as the tensor cores see them: 8, 16, 32 or 64."""
    assert 1 <= rows <= MOST_ROWS, rows
    return max(8, triton.next_power_of_2(rows))


def widened(x: Tensor) -> bool:
    """Whether operands are multiplied as float32: in tests, and in the interpreter, which cannot multiply bfloat16."""
    return x.dtype == torch.float32 or not x.is_cuda


def tile_for(rows: int, outputs: int, inputs: int, itemsize: int) -> Tile:
    """The tile for x of ``rows`` rows and weights of ``itemsize`` bytes.

    Every program reads all of x (from L2): more rows need more outputs per program to keep that below half of the
    weights' traffic, as far as programs for all multiprocessors remain. Three programs' buffers fit into one
    multiprocessor (76 KB each), 32 to 48 KB of each being weights under way: more than the 64 KB per multiprocessor
    that hide the memory's latency.
    """
    wide = padded(rows)
    if itemsize == 4:
        tile = Tile(16, 128, 4, 3)
    elif wide == 8:
        tile = Tile(16, 512, 4, 5 if itemsize == 1 else 4)
    elif wide == 16:
        tile = Tile(32 if outputs >= 32 * _PROGRAMS else 16, 256, 4, 5 if itemsize == 1 else 4)
    else:
        tile = Tile(32, 256 if wide == 32 else 128, 4, 4)
    return _shallow(tile, inputs)


def _shallow(tile: Tile, inputs: int) -> Tile:
    """``tile`` without more depth than ``inputs`` need."""
    depth = min(tile.depth, max(32 * tile.warps, triton.next_power_of_2(inputs)))
    return Tile(tile.rows, depth, tile.warps, tile.stages)


def skinny(
    x: Tensor,
    w: Tensor,
    *,
    scale: Tensor | None = None,
    out: Tensor | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """[T, N]: x [T, K] times w [N, K], transposed; T is at most ``MOST_ROWS``.

    ``w`` has x's type or is FP8 with a ``scale`` [N] float32. ``out`` [T, N] may have any type and row stride.
    """
    if out is None:
        out = x.new_empty(len(x), len(w))
    _launch(x, w, scale, out, tile, activation=None, add=False)
    return out


def skinny_gated(
    x: Tensor,
    w: Tensor,
    activation: Activation,
    *,
    scale: Tensor | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """[T, F]: activation(gate) * up, of x times w [2F, K] (the gate's rows first), transposed."""
    out = x.new_empty(len(x), len(w) // 2)
    _launch(x, w, scale, out, tile, activation=activation, add=False)
    return out


def skinny_add(
    x: Tensor,
    w: Tensor,
    residual: Tensor,
    *,
    scale: Tensor | None = None,
    tile: Tile | None = None,
) -> None:
    """Adds x times w, transposed, to ``residual`` [T, N] in place; the sum is rounded once, to its type."""
    _launch(x, w, scale, residual, tile, activation=None, add=True)


def _launch(
    x: Tensor,
    w: Tensor,
    scale: Tensor | None,
    out: Tensor,
    tile: Tile | None,
    activation: Activation | None,
    add: bool,
) -> None:
    (count, inputs), outputs = x.shape, len(w)
    assert w.shape == (outputs, inputs) and x.is_contiguous() and w.is_contiguous() and out.stride(1) == 1
    tile = tile or tile_for(count, outputs, inputs, w.element_size())
    _skinny_kernel[(triton.cdiv(outputs, tile.rows),)](
        x,
        w,
        scale,
        out,
        count,
        outputs,
        inputs,
        out.stride(0),
        INPUTS=inputs,
        WIDE=padded(count),
        ROWS=tile.rows,
        WARPS=tile.warps,
        DEPTH=tile.depth // tile.warps,
        STAGES=tile.stages,
        SCALED=scale is not None,
        ACTIVATION=activation,
        ADD=add,
        WIDEN=widened(x),
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`tenfold.ops.cuda.plain.norms.quantized`."""
    count, inputs = x.shape
    y = torch.empty(count, inputs, dtype=FP8, device=x.device)
    scale = torch.empty(count, 1, dtype=torch.float32, device=x.device)
    block = triton.next_power_of_2(inputs)
    _quantize_kernel[(count,)](x, y, scale, inputs, block, num_warps=min(32, max(1, block // 512)))
    return y, scale


@triton.jit
def output_rows(index, outputs, ROWS: tl.constexpr, GATED: tl.constexpr):
    """The rows of the weights behind a program's outputs ``index``: half of them gates, half their ups."""
    if GATED:
        HALF: tl.constexpr = ROWS // 2
        inner = tl.program_id(0) * HALF + index % HALF
        return (index // HALF) * (outputs // 2) + tl.minimum(inner, outputs // 2 - 1)
    return tl.minimum(tl.program_id(0) * ROWS + index, outputs - 1)


@triton.jit
def tile_of(rows, outputs, TOGETHER: tl.constexpr, ROWS: tl.constexpr, SIDE: tl.constexpr):
    """A program's tiles of rows of x and of outputs. Programs go in strips of SIDE tiles of x, by tiles of outputs."""
    tiles = tl.cdiv(rows, TOGETHER)
    strip = SIDE * tl.cdiv(outputs, ROWS)
    first = tl.program_id(0) // strip * SIDE
    height = tl.minimum(tiles - first, SIDE)
    return first + tl.program_id(0) % strip % height, tl.program_id(0) % strip // height


@triton.jit
def finish(
    y,
    scale,
    out,
    rows,
    outputs,
    stride,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    SCALED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ADD: tl.constexpr,
):
    """Scales, gates or adds the products y [ROWS, WIDE] and stores the first ``rows`` columns of them as rows."""
    index = tl.arange(0, ROWS)
    t = tl.arange(0, WIDE)
    if SCALED:
        y *= tl.load(scale + output_rows(index, outputs, ROWS, ACTIVATION is not None))[:, None]
    if ACTIVATION is not None:
        HALF: tl.constexpr = ROWS // 2
        gate, up = tl.split(tl.permute(tl.reshape(y, (2, HALF, WIDE)), (1, 2, 0)))
        if ACTIVATION == "silu":
            y = gate * tl.sigmoid(gate) * up
        else:
            inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
            y = gate * tl.sigmoid(2 * inner) * up  # (1 + tanh(z)) / 2 = sigmoid(2z)
        column = tl.program_id(0) * HALF + tl.arange(0, HALF)
        inside = column < outputs // 2
    else:
        column = tl.program_id(0) * ROWS + index
        inside = column < outputs
    mask = inside[:, None] & (t[None, :] < rows)
    where = out + t[None, :] * stride + column[:, None]
    if ADD:
        y += tl.load(where, mask=mask, other=0.0).to(tl.float32)
    tl.store(where, y.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows"])
def _skinny_kernel(
    x,
    w,
    scale,
    out,
    rows,
    outputs,
    inputs,
    stride,
    INPUTS: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    WARPS: tl.constexpr,
    DEPTH: tl.constexpr,
    STAGES: tl.constexpr,
    SCALED: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ADD: tl.constexpr,
    WIDEN: tl.constexpr,
):
    GATED: tl.constexpr = ACTIVATION is not None
    OPERAND: tl.constexpr = tl.float32 if WIDEN else x.dtype.element_ty
    PRECISION: tl.constexpr = "ieee" if WIDEN else "tf32"  # no matter to bfloat16
    # Tiles [warp, output, input] of the weights, [warp, input, row] of x.
    row = output_rows(tl.arange(0, ROWS), outputs, ROWS, GATED)
    t = tl.arange(0, WIDE)
    part = tl.arange(0, WARPS)[:, None, None] * DEPTH
    w_column = part + tl.arange(0, DEPTH)[None, None, :]
    x_column = part + tl.arange(0, DEPTH)[None, :, None]
    w_tile = w + row.to(tl.int64)[None, :, None] * INPUTS + w_column
    x_tile = x + t[None, None, :] * INPUTS + x_column
    there = t[None, None, :] < rows

    y = tl.zeros((WARPS, ROWS, WIDE), tl.float32)
    # The compiler unrolls loops whose length it knows; the interpreter must know it.
    for k in tl.range(0, INPUTS if WIDEN else inputs, WARPS * DEPTH, num_stages=STAGES):
        if INPUTS % (WARPS * DEPTH) == 0:
            a = tl.load(w_tile + k, eviction_policy="evict_first")
            b = tl.load(x_tile + k, mask=there, other=0.0)
        else:
            a = tl.load(w_tile + k, mask=w_column + k < INPUTS, other=0.0, eviction_policy="evict_first")
            b = tl.load(x_tile + k, mask=there & (x_column + k < INPUTS), other=0.0)
        if SCALED:  # by way of float16: the direct conversion to bfloat16 is slow
            a = a.to(tl.float16).to(tl.float32)
        y = tl.dot(a.to(OPERAND), b.to(OPERAND), y, input_precision=PRECISION)

    finish(tl.sum(y, 0), scale, out, rows, outputs, stride, WIDE, ROWS, SCALED, ACTIVATION, ADD)


@triton.jit
def _quantize_kernel(x, y, scale, N: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    value, factor = quantized(tl.load(x + row * N + column, mask=column < N, other=0.0).to(tl.float32))
    tl.store(scale + row, factor)
    tl.store(y + row * N + column, value.to(y.dtype.element_ty), mask=column < N)

"""RMS norms and residual adds: each row is read once, held in registers, and written once."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from tenfold.ops.cuda.plain.norms import FP8, Normed


def rms_norm(x: Tensor, weight: Tensor, eps: float, quantize: bool = False) -> Normed:
    """See :func:`tenfold.ops.cuda.plain.norms.rms_norm`."""
    return _launch(x, None, None, weight, eps, quantize)


def add_rms_norm(
    x: Tensor, y: Tensor, weight: Tensor, eps: float, post: Tensor | None = None, quantize: bool = False
) -> Normed:
    """See :func:`tenfold.ops.cuda.plain.norms.add_rms_norm`."""
    return _launch(x, y, post, weight, eps, quantize)


def add(x: Tensor, y: Tensor, post: Tensor | None = None, eps: float = 0.0) -> None:
    """See :func:`tenfold.ops.cuda.plain.norms.add`."""
    _launch(x, y, post, None, eps, False)


def _launch(
    x: Tensor, y: Tensor | None, post: Tensor | None, weight: Tensor | None, eps: float, quantize: bool
) -> Normed:
    rows, n = x.shape
    out = x if weight is None else torch.empty_like(x, dtype=FP8 if quantize else x.dtype)
    scale = torch.empty((rows, 1), dtype=torch.float32, device=x.device) if quantize else None
    block = triton.next_power_of_2(n)
    per_program = max(1, 2048 // block)  # not by the rows there are: it may decide in what order a row is summed
    warps = min(32, max(1, per_program * block // 512))
    if rows:
        _norm[(triton.cdiv(rows, per_program),)](
            x, y, post, weight, out, scale, rows, eps, n, block, per_program, num_warps=warps
        )
    return out if scale is None else (out, scale)


@triton.jit(do_not_specialize=["rows"])
def _norm(x, y, post, weight, out, scale, rows, eps, N: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """ROWS rows of N <= BLOCK columns: x += y (normed where ``post``), out = norm of x (where ``weight``)."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < N)
    value = tl.load(x + row * N + column, mask=inside, other=0.0).to(tl.float32)
    if y is not None:
        added = tl.load(y + row * N + column, mask=inside, other=0.0).to(tl.float32)
        if post is not None:
            added = _normed(added, post, eps, column, N)
        rounded = (value + added).to(x.dtype.element_ty)
        tl.store(x + row * N + column, rounded, mask=inside)
        value = rounded.to(tl.float32)
    if weight is not None:
        value = _normed(value, weight, eps, column, N)
        if scale is not None:
            value, factor = quantized(value)
            tl.store(scale + row, factor, mask=row < rows)
        tl.store(out + row * N + column, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _normed(value, weight, eps, column, N: tl.constexpr):
    root = tl.rsqrt(tl.sum(value * value, axis=1, keep_dims=True) / N + eps)
    return value * root * tl.load(weight + column, mask=column < N, other=0.0).to(tl.float32)


@triton.jit
def quantized(value):
    """Rows of float32 [R, N] over their scales, and the scales [R, 1]: as ``plain.norms.quantized`` before rounding."""
    largest = tl.max(tl.abs(value), axis=1, keep_dims=True)
    scale = tl.where(largest > 0, largest / 448.0, 1.0)
    return value / scale, scale

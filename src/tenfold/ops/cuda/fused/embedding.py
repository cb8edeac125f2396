"""Rows of the embedding matrix."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


def embed(tokens: Tensor, previous: Tensor, table: Tensor, scale: float) -> Tensor:
    """See :func:`tenfold.ops.cuda.plain.embedding.embed`."""
    rows, n = len(tokens), table.shape[1]
    out = torch.empty((rows, n), dtype=table.dtype, device=table.device)
    if rows:
        _embed[(rows, triton.cdiv(n, _BLOCK))](tokens, previous, table, out, scale, n, _BLOCK, num_warps=4)
    return out


@triton.jit
def _embed(tokens, previous, table, out, scale, N: tl.constexpr, BLOCK: tl.constexpr):
    """BLOCK columns of a row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    token = tl.load(tokens + row)
    drawn = tl.load(previous + (-1 - token), mask=token < 0, other=0)
    token = tl.maximum(tl.where(token < 0, drawn, token), 0).to(tl.int64)
    value = tl.load(table + token * N + column, mask=column < N).to(tl.float32) * scale
    tl.store(out + row * N + column, value.to(out.dtype.element_ty), mask=column < N)

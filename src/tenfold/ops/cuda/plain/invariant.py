"""Batch-invariant products: a row of the result depends on that row of x alone, to the bit."""

import torch
from torch import Tensor

from tenfold.ops.cuda.plain.int4 import unpack


def product(
    x: Tensor, w: Tensor, *, scale: Tensor | None = None, scales: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """[T, N]: x [T, K] times w, transposed; in the type of x, or of ``out``, whose rows may be apart.

    ``w`` [N, K] is of the type of x, or FP8 with ``scale`` [N]; or 4-bit words and their ``scales`` (``plain.int4``).
    """
    values = w.float() if scales is None else unpack(w, scales, torch.float32)
    if scale is not None:
        values = values * scale[:, None]
    y = torch.stack([values @ row for row in x.float()]) if len(x) else x.new_empty(0, len(values))
    return y.to(x.dtype) if out is None else out.copy_(y)

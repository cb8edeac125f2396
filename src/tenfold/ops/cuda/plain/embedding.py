"""Rows of the embedding matrix."""

import torch
from torch import Tensor


def embed(tokens: Tensor, previous: Tensor, table: Tensor, scale: float) -> Tensor:
    """[T, N] in the type of ``table`` [V, N]: its rows ``tokens`` [T] int32, times ``scale``.

    A token -1 - i stands for ``previous[i]``, which a step before may still be writing; a negative one there is 0.
    """
    if len(previous):
        tokens = torch.where(tokens < 0, previous[(-1 - tokens).clamp(min=0)], tokens)
    return (table[tokens.clamp(min=0)].float() * scale).to(table.dtype)

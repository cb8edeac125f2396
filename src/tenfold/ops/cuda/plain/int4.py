"""Weights of 4 bits in groups of 32 inputs: a weight is scale * code + offset, code 0 … 15.

A matrix [N, K] is kept in blocks of 16 outputs by one group, in the order in which the threads of a matrix instruction
want them: ``words`` int32 [N / 16, K / 32, 64]. Word 8i + 2j + h is of output i + 8h and holds its inputs 8j … 8j + 7
of the group, where bit 16a + 8b + 4c of the word begins the code of input 4c + 2b + a. ``scales`` int32
[N / 16, K / 32, 16]: pair 2i + h is of output i + 8h, the scale's float16 in its low half, the offset's in its high.
"""

import torch
from torch import Tensor

from tenfold.ops.cuda.plain.gated import gated
from tenfold.ops.spec import Activation

GROUP = 32
BLOCK = 16  # outputs


def skinny(x: Tensor, words: Tensor, scales: Tensor, *, out: Tensor | None = None) -> Tensor:
    """[T, N]: as ``gemm.skinny``."""
    y = x.float() @ unpack(words, scales, torch.float32).t()
    return y.to(x.dtype) if out is None else out.copy_(y)


def skinny_gated(x: Tensor, words: Tensor, scales: Tensor, activation: Activation) -> Tensor:
    """[T, F]: as ``gemm.skinny_gated``; F is a multiple of 16."""
    y = gated(x.float() @ unpack(words, scales, torch.float32).t(), activation)
    assert isinstance(y, Tensor)
    return y.to(x.dtype)


def skinny_add(x: Tensor, words: Tensor, scales: Tensor, residual: Tensor) -> None:
    """As ``gemm.skinny_add``."""
    residual.copy_(residual.float() + x.float() @ unpack(words, scales, torch.float32).t())


def tiled(x: Tensor, words: Tensor, scales: Tensor, *, out: Tensor | None = None) -> Tensor:
    """[T, N]: as ``skinny``, for any T."""
    return skinny(x, words, scales, out=out)


def unpack(words: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights [N, K] in ``dtype``, rounded once."""
    blocks, groups = words.shape[:2]
    codes = (words.view(blocks, groups, 8, 4, 2, 1, 1, 1) >> _shifts(words.device)) & 15
    codes = codes.permute(0, 4, 2, 1, 3, 5, 6, 7).reshape(BLOCK * blocks, groups, GROUP)
    pairs = scales.view(blocks, groups, 8, 2).permute(0, 3, 2, 1).reshape(BLOCK * blocks, groups, 1)
    scale, offset = pairs.view(torch.float16).float().split(1, dim=2)
    return (codes * scale + offset).flatten(1).to(dtype)


def pack(codes: Tensor, scale: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """The words and scales of ``codes`` [N, K / 32, 32] with ``scale`` and ``offset`` [N, K / 32], float16."""
    outputs, groups = scale.shape
    parts = codes.to(torch.int32).view(outputs // BLOCK, 2, 8, groups, 4, 2, 2, 2).permute(0, 3, 2, 4, 1, 5, 6, 7)
    words = (parts << _shifts(codes.device)).sum((5, 6, 7), dtype=torch.int32)
    pairs = torch.stack((scale, offset), dim=2).view(torch.int32).view(outputs // BLOCK, 2, 8, groups)
    return words.flatten(2), pairs.permute(0, 3, 2, 1).flatten(2)


def _shifts(device: torch.device) -> Tensor:
    """The bit where the code of input 4c + 2b + a begins, [c, b, a]."""
    c, b, a = (torch.arange(2, dtype=torch.int32, device=device) for _ in range(3))
    return c[:, None, None] * 4 + b[:, None] * 8 + a * 16

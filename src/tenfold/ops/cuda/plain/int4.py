"""Weights of 4 bits in groups of 32 inputs: a weight is scale * code + offset, code 0 … 15.

A group is four int32 words: word t holds inputs 4t … 4t + 3 and 16 + 4t … 16 + 4t + 3, codes of neighbouring inputs 16
bits apart: what suits the threads of a matrix instruction. Scale and offset are float16, the low and high halves of an
int32. A matrix [N, K] is ``words`` [N, K / 32, 4] and ``scales`` [K / 32, N].
"""

import torch
from torch import Tensor

from tenfold.ops.cuda.plain.gated import gated
from tenfold.ops.spec import Activation

GROUP = 32


def skinny(x: Tensor, words: Tensor, scales: Tensor, *, out: Tensor | None = None) -> Tensor:
    """[T, N]: as ``gemm.skinny``."""
    y = x.float() @ unpack(words, scales, torch.float32).t()
    return y.to(x.dtype) if out is None else out.copy_(y)


def skinny_gated(x: Tensor, words: Tensor, scales: Tensor, activation: Activation) -> Tensor:
    """[T, F]: as ``gemm.skinny_gated``."""
    y = gated(x.float() @ unpack(words, scales, torch.float32).t(), activation)
    assert isinstance(y, Tensor)
    return y.to(x.dtype)


def skinny_add(x: Tensor, words: Tensor, scales: Tensor, residual: Tensor) -> None:
    """As ``gemm.skinny_add``."""
    residual.copy_(residual.float() + x.float() @ unpack(words, scales, torch.float32).t())


def unpack(words: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights [N, K] in ``dtype``, rounded once."""
    codes = (words[:, :, None, :, None, None] >> _shifts(words.device)) & 15
    pairs = scales.t().contiguous()[:, :, None].view(torch.float16).float()  # [N, K / 32, 2]
    scale, offset = pairs[..., 0], pairs[..., 1]
    return (codes.flatten(2) * scale[:, :, None] + offset[:, :, None]).flatten(1).to(dtype)


def pack(codes: Tensor, scale: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """The words and scales of ``codes`` [N, K / 32, 32] with ``scale`` and ``offset`` [N, K / 32], float16."""
    parts = codes.to(torch.int32).reshape(*codes.shape[:2], 2, 4, 2, 2)  # half of the group, word, pair, one of it
    words = (parts << _shifts(codes.device)).sum((2, 4, 5), dtype=torch.int32)
    pairs = torch.stack((scale, offset), dim=2).view(torch.int32)
    return words, pairs.squeeze(2).t().contiguous()


def _shifts(device: torch.device) -> Tensor:
    """The bit where each code begins, [half of the group, 1, pair, one of it]."""
    half, pair, which = (torch.arange(2, dtype=torch.int32, device=device) for _ in range(3))
    return half[:, None, None, None] * 8 + pair[:, None] * 4 + which * 16

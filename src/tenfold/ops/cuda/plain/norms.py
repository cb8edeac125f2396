"""RMS norms and residual adds. All is computed in float32 and rounded once, to the type of the result."""

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0

Normed = Tensor | tuple[Tensor, Tensor]


def rms_norm(x: Tensor, weight: Tensor, eps: float, quantize: bool = False) -> Normed:
    """x [T, N] over the root of its mean square + ``eps``, times ``weight`` [N]: in x's type, or ``quantized``."""
    normed = _normed(x.float(), weight, eps)
    return quantized(normed) if quantize else normed.to(x.dtype)


def add_rms_norm(
    x: Tensor, y: Tensor, weight: Tensor, eps: float, post: Tensor | None = None, quantize: bool = False
) -> Normed:
    """``add``, then the ``rms_norm`` of what x [T, N] then holds: the sum as it was rounded to x's type."""
    add(x, y, post, eps)
    return rms_norm(x, weight, eps, quantize)


def add(x: Tensor, y: Tensor, post: Tensor | None = None, eps: float = 0.0) -> None:
    """In place: x [T, N] += y, or the norm of y with the weight ``post`` [N]."""
    added = y.float() if post is None else _normed(y.float(), post, eps)
    x.copy_(x.float() + added)


def quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """float32 x [T, N] as (FP8 E4M3, float32 scale [T, 1]): a row's largest magnitude becomes 448 (zeros: scale 1)."""
    largest = x.abs().amax(dim=1, keepdim=True)
    scale = torch.where(largest > 0, largest / FP8_MAX, 1.0)
    return (x / scale).to(FP8), scale


def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + eps) * weight.float()

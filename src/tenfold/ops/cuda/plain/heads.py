"""From projections to queries, keys and values: bias, norm of each head, rotation, and the way into the KV memory."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tenfold.ops.cuda.plain.norms import FP8, FP8_MAX


def rope_table(inv_freq: Sequence[float], max_context: int, device: torch.device | str) -> Tensor:
    """[max_context, 2 x len(inv_freq)] float32: the cosines of a position's angles, then their sines."""
    frequencies = torch.tensor(list(inv_freq), dtype=torch.float64, device=device)
    angles = torch.arange(max_context, dtype=torch.float64, device=device)[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=1).float()


def finish_heads(
    qkv: Tensor,
    q_out: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    positions: Tensor,
    slots: Tensor,
    rope: Tensor,
    heads: int,
    kv_heads: int,
    bias: Tensor | None = None,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 0.0,
    query_scale: float = 1.0,
    keep: bool = False,
) -> None:
    """Finish the rows ``qkv`` [T, (H + 2K) x D]: H = ``heads`` of queries, K = ``kv_heads`` of keys, K of values.

    ``bias`` [(H + 2K) x D], the norms ``q_norm`` and ``k_norm`` [D] of each head (both or neither) and the rotation
    by ``rope`` [>= positions, D] (of ``rope_table``, halves order) apply in this order. Queries, times
    ``query_scale``, go to ``q_out`` [T, H, D]; keys and values to their ``slots`` [T] of the blocks ``k_cache`` and
    ``v_cache`` [blocks, K, block_size, D], where slots are not negative: rounded, or clamped to +-448 where those are
    FP8. ``keep``: to ``qkv``, too.
    """
    dim, size = q_out.shape[2], k_cache.shape[2]
    x = qkv.float() if bias is None else qkv.float() + bias.float()
    q, k, v = torch.split(x.view(len(x), -1, dim), [heads, kv_heads, kv_heads], dim=1)
    if q_norm is not None and k_norm is not None:
        q, k = _normed(q, q_norm, eps), _normed(k, k_norm, eps)
    q, k = _rotated(q, rope[positions]), _rotated(k, rope[positions])
    q_out.copy_(q * query_scale)
    if keep:
        qkv[:, heads * dim :] = torch.cat((k, v), dim=1).flatten(1).to(qkv.dtype)
    written = slots >= 0
    block, slot = slots[written].long() // size, slots[written].long() % size
    for cache, value in ((k_cache, k[written]), (v_cache, v[written])):
        if cache.dtype == FP8:  # not every device knows how to scatter it, but all know bytes
            cache.view(torch.uint8)[block, :, slot] = value.clamp(-FP8_MAX, FP8_MAX).to(FP8).view(torch.uint8)
        else:
            cache[block, :, slot] = value.to(cache.dtype)


def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps) * weight.float()


def _rotated(x: Tensor, angles: Tensor) -> Tensor:
    """[T, heads, D] by cosines and sines [T, D]: RoFormer (Su et al., 2021), the pairs being those of the halves."""
    cos, sin = angles[:, None].chunk(2, dim=-1)
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

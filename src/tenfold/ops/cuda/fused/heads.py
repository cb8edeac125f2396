"""From projections to queries, keys and values, to the KV memory: one kernel, each number read and written once."""

import triton
import triton.language as tl
from torch import Tensor

from tenfold.ops.cuda.plain.heads import rope_table

__all__ = ["finish_heads", "rope_table"]

_MANY = 1024  # programs that fill a device: fewer, and each takes fewer heads


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
    """See :func:`tenfold.ops.cuda.plain.heads.finish_heads`. The blocks of ``k_cache`` may be apart from each other."""
    rows, dim, size = q_out.shape[0], q_out.shape[2], k_cache.shape[2]
    if not rows:
        return
    assert k_cache.stride() == v_cache.stride()
    every = heads + 2 * kv_heads
    half = triton.next_power_of_2(dim // 2)
    together = max(1, 1024 // half)
    if rows * triton.cdiv(every, together) < _MANY:
        together = max(1, together // 4)
    _finish[(rows, triton.cdiv(every, together))](
        qkv,
        q_out,
        k_cache,
        v_cache,
        positions,
        slots,
        rope,
        bias,
        q_norm,
        k_norm,
        eps,
        query_scale,
        k_cache.stride(0),
        H=heads,
        K=kv_heads,
        D=dim,
        SIZE=size,
        HEADS=together,
        HALF=half,
        KEEP=keep,
        num_warps=max(1, together * half // 256),
    )


@triton.jit
def _finish(
    qkv,
    q_out,
    k_cache,
    v_cache,
    positions,
    slots,
    rope,
    bias,
    q_norm,
    k_norm,
    eps,
    query_scale,
    block_stride,
    H: tl.constexpr,
    K: tl.constexpr,
    D: tl.constexpr,
    SIZE: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    KEEP: tl.constexpr,
):
    """HEADS heads of one row, of whatever kinds: the two halves of each are two tiles [HEADS, HALF]."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    first = tl.arange(0, HALF)[None, :]
    second = first + D // 2
    inside = (head < H + 2 * K) & (first < D // 2)
    slot = tl.load(slots + row).to(tl.int64)
    angles = rope + tl.load(positions + row).to(tl.int64) * D
    cos = tl.load(angles + first, mask=inside, other=0.0)
    sin = tl.load(angles + second, mask=inside, other=0.0)

    source = qkv + row * (H + 2 * K) * D + head * D
    a = tl.load(source + first, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(source + second, mask=inside, other=0.0).to(tl.float32)
    if bias is not None:
        a += tl.load(bias + head * D + first, mask=inside, other=0.0).to(tl.float32)
        b += tl.load(bias + head * D + second, mask=inside, other=0.0).to(tl.float32)
    is_query = head < H
    is_value = head >= H + K
    if q_norm is not None:
        root = tl.rsqrt((tl.sum(a * a, axis=1, keep_dims=True) + tl.sum(b * b, axis=1, keep_dims=True)) / D + eps)
        root = tl.where(is_value, 1.0, root)
        a *= root * _weight(q_norm, k_norm, first, inside, is_query, is_value)
        b *= root * _weight(q_norm, k_norm, second, inside, is_query, is_value)
    cos, sin = tl.where(is_value, 1.0, cos), tl.where(is_value, 0.0, sin)
    a, b = a * cos - b * sin, b * cos + a * sin

    queries = q_out + row * H * D + head * D
    tl.store(queries + first, (a * query_scale).to(q_out.dtype.element_ty), mask=inside & is_query)
    tl.store(queries + second, (b * query_scale).to(q_out.dtype.element_ty), mask=inside & is_query)
    if KEEP:
        tl.store(source + first, a.to(qkv.dtype.element_ty), mask=inside & (head >= H))
        tl.store(source + second, b.to(qkv.dtype.element_ty), mask=inside & (head >= H))
    written = inside & (slot + first * 0 >= 0)
    place = slot // SIZE * block_stride + slot % SIZE * D
    keys = k_cache + place + (head - H) * (SIZE * D)
    tl.store(keys + first, _stored(a, k_cache), mask=written & (head >= H) & (head < H + K))
    tl.store(keys + second, _stored(b, k_cache), mask=written & (head >= H) & (head < H + K))
    values = v_cache + place + (head - H - K) * (SIZE * D)
    tl.store(values + first, _stored(a, v_cache), mask=written & is_value)
    tl.store(values + second, _stored(b, v_cache), mask=written & is_value)


@triton.jit
def _weight(q_norm, k_norm, column, inside, is_query, is_value):
    """[HEADS, HALF]: the norm's weights of each head; 1 for values."""
    q = tl.load(q_norm + column, mask=inside, other=0.0).to(tl.float32)
    k = tl.load(k_norm + column, mask=inside, other=0.0).to(tl.float32)
    return tl.where(is_query, q, tl.where(is_value, 1.0, k))


@triton.jit
def _stored(value, cache):
    """As the cache's type holds it: FP8 E4M3 has no infinity, so what is too large becomes the largest."""
    if cache.dtype.element_ty == tl.float8e4nv:
        value = tl.clamp(value, -448.0, 448.0, propagate_nan=tl.PropagateNan.ALL)
    return value.to(cache.dtype.element_ty)

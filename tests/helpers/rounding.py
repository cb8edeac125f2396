"""Numbers as the kernels round them."""

import numpy as np

from tenfold.ops.base import Float32


def to_bf16(x: Float32) -> Float32:
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def up_to_bf16(x: Float32) -> Float32:
    """The least bf16 numbers that are not less (of positive ones)."""
    bits = x.view(np.uint32)
    return ((bits + 0xFFFF) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def to_codes(x: Float32, scale: Float32) -> Float32:
    """Multiples of ``scale``."""
    return np.rint(np.divide(x, scale, where=scale > 0, out=np.zeros_like(x))) * scale


def codes_up_to(x: Float32, top: int) -> Float32:
    """Along the last axis the largest becomes the code ``top``."""
    return to_codes(x, np.abs(x).max(axis=-1, keepdims=True) / np.float32(top))


def stored_kv(now: Float32, before: Float32, kv_type: str) -> Float32:
    """KV memory [..., head_dim] as the CPU's is, of which ``before`` is already: what was written since is rounded."""
    return np.where((now == before).all(axis=-1, keepdims=True), before, as_stored(now, kv_type))


def as_stored(x: Float32, kv_type: str) -> Float32:
    """Keys or values [..., head_dim] as the CPU's KV memory holds them."""
    if kv_type == "bf16":
        return to_bf16(x)
    return to_codes(x, up_to_bf16(np.abs(x).max(axis=-1, keepdims=True) / np.float32(127)))

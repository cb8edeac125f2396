"""Rotary frequencies, computed in float32 as the reference implementations do, so that long contexts agree."""

import math

import numpy as np
from numpy.typing import NDArray

from tenfold.ops.spec import RopeSpec


def plain(base: float, head_dim: int) -> NDArray[np.float32]:
    """[head_dim / 2] angles per position: base ** (-2 i / head_dim)."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    inv_freq: NDArray[np.float32] = np.float32(1.0) / np.power(np.float32(base), exponents)
    return inv_freq


def llama3(inv_freq: NDArray[np.float32], factor: float, low: float, high: float, original: int) -> NDArray[np.float32]:
    """Llama 3.1's scaling: waves longer than original / low slow down by ``factor``, those in between blend.

    ``original`` is the context before the extension, in tokens.
    """
    waves = np.float32(2 * math.pi) / inv_freq
    blend = (np.float32(original) / waves - np.float32(low)) / np.float32(high - low)
    slowed = inv_freq / np.float32(factor)
    mixed = (1 - blend) * slowed + blend * inv_freq
    out = np.where(waves > original / low, slowed, np.where(waves < original / high, inv_freq, mixed))
    return out.astype(np.float32)


def spec(inv_freq: NDArray[np.float32]) -> RopeSpec:
    """The frozen record of ``inv_freq``."""
    return RopeSpec(tuple(inv_freq.tolist()))

"""The arithmetic of quantized linears at levels with a tile unit, in NumPy: whole numbers, each float32 step as there.

Written from the description in native/linear/digits.hpp, not from its code: what a kernel gives must equal this to
the bit.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from tenfold.model.encodings import decode, encoding_named
from tests.helpers.fuzz import HALVES
from tests.helpers.models import LEVELS

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

TILE_LEVELS = tuple(level for level in LEVELS if level.startswith("amx"))
OTHER_LEVELS = tuple(level for level in LEVELS if level not in TILE_LEVELS)

# Bits of a packed code, its zero point as a power of two (None: an offset), inputs that share a scale.
PACKED: dict[str, tuple[int, int | None, int]] = {
    "Q4_0": (4, 3, 32), "Q4_1": (4, None, 32), "Q5_0": (5, 4, 32), "Q5_1": (5, None, 32), "Q8_0": (8, 7, 32),
    "Q2_K": (4, None, 16), "Q3_K": (4, 2, 16), "Q4_K": (4, None, 32), "Q5_K": (5, None, 32), "Q6_K": (8, 5, 16),
}  # fmt: skip
# Where a K-quant's block has its codes, and the largest that they express, less the zero point.
CODES = {"Q2_K": (16, 80, 3), "Q3_K": (0, 96, 3), "Q4_K": (16, 144, 15), "Q5_K": (16, 176, 31), "Q6_K": (0, 192, 31)}
TOP = np.float32(126.5)  # the largest weight, in units
MOST = np.float32(32512)  # the largest activation: 127 * 256
TINY = np.float32(1e-30)


def f32(x: Float64) -> Float64:
    """``x`` rounded to float32; kept as float64, in which products and sums of two such numbers are then exact."""
    with np.errstate(over="ignore"):
        return x.astype(np.float32).astype(np.float64)


@dataclass(frozen=True)
class Parts:
    """Weights [outputs, groups, inputs of a group] taken apart: w = s * code + m, s and m [outputs, groups, 1]."""

    s: Float64
    m: Float64
    codes: Int64
    bits: int
    zero_shift: int | None
    most: int  # the largest code

    @property
    def ends(self) -> Float64:
        """What the scales allow weights to reach: by the code 0, and by the largest of so many bits."""
        return np.stack([self.m, f32(self.s * self.most + self.m) if self.bits < 8 else -self.m])


def take_apart(kind: str, data: NDArray[np.uint8], cols: int) -> Parts:
    """Codes and scales of ``data``, by decoding it with others of its fields replaced."""
    bits, zero_shift, group = PACKED[kind]
    blocks = data.reshape(len(data), -1, encoding_named(kind).bytes)
    halves = [
        np.ascontiguousarray(blocks[:, :, at : at + 2]).view(np.float16).astype(np.float64) for at in HALVES[kind]
    ]

    def decoded(*values: float, codes: int | None = None) -> Float64:
        changed = blocks.copy()
        for at, value in zip(HALVES[kind], values, strict=True):
            changed[:, :, at : at + 2] = np.array([value], np.float16).view(np.uint8)
        if codes is not None:
            changed[:, :, CODES[kind][0] : CODES[kind][1]] = codes
        return decode(kind, changed.reshape(data.shape), (len(data), cols)).reshape(len(data), -1, group).astype(float)

    zero = 0 if zero_shift is None else 1 << zero_shift
    rest = (0.0,) * (len(halves) - 1)  # a K-quant's or an affine's second half
    d, *offset = (np.repeat(h, cols // group // h.shape[1], axis=1) for h in halves)
    scales = np.ones_like(d)
    if kind in CODES:
        scales = decoded(1.0, *rest, codes=255)[:, :, :1] / CODES[kind][2]
    # A code whose scale is zero says nothing.
    codes = np.divide(decoded(1.0, *rest), scales, out=np.zeros((*d.shape[:2], group)), where=scales != 0) + zero
    s = f32(d * scales)
    if zero_shift is not None:
        m = -zero * s
    else:
        m = f32(offset[0] * (decoded(0.0, 1.0)[:, :, :1] if kind in CODES else 1.0))
    assert (codes == np.rint(codes)).all() and codes.min() >= 0 and codes.max() < 1 << bits
    most = {"Q2_K": 3, "Q3_K": 7}.get(kind, (1 << bits) - 1)
    return Parts(s, m, codes.astype(np.int64), bits, zero_shift, most)


@dataclass(frozen=True)
class Whole:
    """A matrix as whole numbers: w = unit * (high + low / 256), ``high`` in -128 … 127; ``low`` is 0 if not fine."""

    high: Int64
    low: Int64
    unit: Float64  # [outputs], what one of ``high`` is worth
    fine: bool

    @property
    def values(self) -> Float64:
        return cast(Float64, (self.high + self.low / 256) * self.unit[:, None])

    def product(self, x: Float32) -> Float32:
        """x [rows, cols] @ w.T."""
        scale, high, low = digits(x)
        sums = [high @ self.high.T.astype(float), low @ self.high.T.astype(float)]
        if self.fine:
            sums[1] += high @ self.low.T.astype(float)
            sums.append(low @ self.low.T.astype(float))
        total, *others = (f32(one) for one in sums)
        for other in others:
            total = f32(total * 256 + other)
        unit = f32(self.unit / 256) if self.fine else self.unit
        with np.errstate(invalid="ignore", over="ignore"):
            return cast(Float32, f32(f32(total * unit) * scale).astype(np.float32))


def digits(x: Float32) -> tuple[Float64, Float64, Float64]:
    """Rows as scale * (256 high + low): scale [rows, 1], two signed bytes for each."""
    largest = np.abs(x).max(axis=1, keepdims=True)
    none, finite = largest < TINY, np.isfinite(largest)
    with np.errstate(all="ignore"):
        by = np.where(finite & ~none, MOST / largest, np.float32(0))
        whole = np.rint(np.where(finite, x * by, 0)).astype(np.int64)
        scale = np.where(none, np.float32(0), largest / MOST)
    high = (whole + 128) >> 8
    low = whole - 256 * high
    assert (np.abs(high) <= 127).all() and (low >= -128).all() and (low <= 127).all()
    return scale.astype(float), high.astype(float), low.astype(float)


def whole(kind: str, data: NDArray[np.uint8], cols: int, fine: bool = False) -> Whole:
    """``data`` [outputs, bytes] as whole numbers."""
    parts = take_apart(kind, data, cols)
    outputs = len(data)
    eight = parts.bits == 8
    top = np.abs(parts.ends).max(axis=(0, 2, 3)).astype(np.float32)
    there = top >= TINY
    safe = np.where(there, top, np.float32(1))
    inverse = np.where(there, np.float32(256) * TOP / safe, np.float32(0)).astype(float)[:, None, None]
    # One byte is rounded to the nearest.
    middle = 32768 if fine else 32896
    if eight:
        assert parts.zero_shift is not None
        by = np.rint(f32(f32(parts.s * inverse) * (1 << parts.zero_shift))).clip(-32768, 32767).astype(np.int64)
        signed = (parts.codes - (1 << parts.zero_shift)) << (15 - parts.zero_shift)
        words = ((signed * by + 2**14) >> 15) + middle
    else:
        by = np.rint(f32(parts.s * inverse)).astype(np.int64)
        words = parts.codes * by + np.rint(f32(parts.m * inverse + middle)).astype(np.int64)
    assert words.min() >= 0 and words.max() < 1 << 16  # nothing wraps
    words = words.reshape(outputs, cols)
    unit = np.where(there, safe / TOP, np.float32(0)).astype(float)
    if fine:  # its last place, rounded by itself
        unit = np.where(there, safe / (np.float32(256) * TOP), np.float32(0)).astype(float) * 256
    return Whole((words >> 8) - 128, words & 255 if fine else np.zeros_like(words), unit, fine)


def bound(kind: str, data: NDArray[np.uint8], x: Float32, fine: bool = False) -> Float64:
    """How far x @ w.T may be from that of the decoded weights: independent of what ``whole`` does in between."""
    cols = x.shape[1]
    parts = take_apart(kind, data, cols)
    eight = parts.bits == 8
    unit = np.abs(parts.ends).max(axis=(0, 2, 3)) / 126.5
    # Halves of a word, 1/256 unit: of the product, and of the factor times the code; or of the offset, and of those.
    rounding = (0.5 + (0.5 if eight else 0.5 * ((1 << parts.bits) - 1)) + 0.01) / 256 + (0 if fine else 0.5)
    size = np.abs(decode(kind, data, (len(data), cols)).astype(float))
    acts = np.abs(x.astype(float))
    steps = acts.max(axis=1, keepdims=True) / 32512
    moved = acts + steps  # activations as they come into the sums
    rounded = moved.sum(axis=1, keepdims=True) * unit * rounding + 0.501 * steps * size.sum(axis=1)
    return cast(Float64, rounded + 1e-6 * (moved @ (size.T + unit)))

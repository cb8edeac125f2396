"""Choosing tokens in NumPy: the definition of what the functions of the same names in the op set give."""

import numpy as np
from numpy.typing import NDArray

from tenfold.ops.base import Float32, Float64, Int32


def largest(logits: Float32) -> Int32:
    """See :meth:`tenfold.ops.base.SamplingOps.largest`."""
    if not len(logits):
        return np.empty(0, np.int32)
    best = np.argmax(logits, axis=1)
    finite = np.isfinite(np.take_along_axis(logits, best[:, None], axis=1)[:, 0])
    return np.where(finite, best, -1).astype(np.int32)


def draw(logits: Float32, rows: Int32, filters: Float64) -> Int32:
    """See :meth:`tenfold.ops.base.SamplingOps.draw`."""
    chosen = [_draw(logits[row], *each) for row, each in zip(rows.tolist(), filters.tolist(), strict=True)]
    return np.array(chosen, np.int32)


def summarize(logits: Float32, rows: Int32, count: int) -> tuple[Float64, Int32]:
    """See :meth:`tenfold.ops.base.SamplingOps.summarize`."""
    sums = np.zeros((len(rows), 2))
    ids = np.full((len(rows), count), -1, np.int32)
    for i, at in enumerate(rows.tolist()):
        row = logits[at]
        top = float(row.max())
        if np.isfinite(top):
            sums[i] = top, np.log(np.exp(row.astype(np.float64) - top).sum())
            ids[i] = _ranked(row, count)
    return sums, ids


def largest_among(logits: Float32, rows: Int32, bits: Int32) -> Int32:
    """See :meth:`tenfold.ops.base.SamplingOps.largest_among`."""
    return largest(_held(logits, rows, bits))


def draw_among(logits: Float32, rows: Int32, bits: Int32, filters: Float64) -> Int32:
    """See :meth:`tenfold.ops.base.SamplingOps.draw_among`."""
    return draw(_held(logits, rows, bits), np.arange(len(rows), dtype=np.int32), filters)


def _held(logits: Float32, rows: Int32, bits: Int32) -> Float32:
    """The ``rows``, with -infinity for what may not come."""
    allowed = np.unpackbits(bits.view(np.uint8), axis=1, count=logits.shape[1], bitorder="little")
    return np.where(allowed == 1, logits[rows], np.float32(-np.inf))


def _draw(row: Float32, temperature: float, top_k: float, top_p: float, min_p: float, at: float) -> int:
    top = float(row.max())
    if not np.isfinite(top):
        return -1
    if temperature == 0.0:
        return int(np.argmax(row))
    ids, weights = _candidates(row, temperature, int(top_k), top_p, min_p)
    cumulative = np.cumsum(weights)
    index = int(np.searchsorted(cumulative, at * cumulative[-1], side="right"))
    return int(ids[min(index, len(ids) - 1)])


def _candidates(
    row: Float32, temperature: float, top_k: int, top_p: float, min_p: float
) -> tuple[NDArray[np.intp], Float64]:
    """The tokens left after the filters and their unnormalized probabilities, the largest of which is 1."""
    weights = np.exp((row.astype(np.float64) - float(row.max())) / temperature)
    ids = np.arange(len(row))
    if 0 < top_k < len(row):
        ids = _ranked(row, top_k)
    elif top_p < 1.0:
        ids = _ranked(row, len(row))
    weights = weights[ids]
    if top_p < 1.0:
        kept = int(np.searchsorted(np.cumsum(weights), top_p * float(weights.sum()), side="left")) + 1
        ids, weights = ids[:kept], weights[:kept]
    keep = weights >= min_p
    return ids[keep], weights[keep]


def _ranked(values: Float32, count: int) -> NDArray[np.intp]:
    """Indices of the ``count`` largest values, largest first, ties by lower index."""
    return np.argsort(-values, kind="stable")[:count]

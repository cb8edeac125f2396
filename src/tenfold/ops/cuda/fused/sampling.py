"""Choosing tokens on the device without sorting, waiting for nothing.

A row is spread over programs twice: to sum, for a few distances from its largest logit, what lies within them; and
then to collect the tokens within the least distance that must hold all that may be drawn. Those are few, and one
program finds among them the exact places where top-k, top-p and the drawn number cut, digit by digit: each is a
distance between ordered integers of the logits and, among equal logits, a number of them by index. Where those
tokens are not few, it looks for the places in the whole row, which takes some ten times as long.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from tenfold.ops.cuda.fused.selection import LEVELS, collect, rank, settle, survey

_SLICE = 4096  # logits of a program, where a row has several
_ROOM = 16384  # tokens that may be collected of a row
_BLOCK = 1024  # tokens that are compared at once with several bounds
_WARPS = 8


def largest(logits: Tensor) -> Tensor:
    """See :func:`tenfold.ops.cuda.plain.sampling.largest`."""
    return _largest(logits)[0]


def choose(logits: Tensor, filters: Tensor) -> Tensor:
    """See :func:`tenfold.ops.cuda.plain.sampling.choose`."""
    found = _collected(logits, filters, 0)
    rows, vocab = logits.shape
    if rows:
        tables = (found.counts, found.masses, found.values, found.ids, found.parts, found.padded)
        settle[(rows,)](
            found.tokens, found.tops, logits, logits.stride(0), vocab, filters, *tables, _ROOM, _BLOCK, num_warps=_WARPS
        )
    return found.tokens


def summarize(logits: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See :func:`tenfold.ops.cuda.plain.sampling.summarize`. Meant for a ``count`` of tens."""
    rows, vocab = logits.shape
    count = min(count, vocab)
    found = _collected(logits, None, count)
    log_sums = torch.empty(rows, dtype=torch.float32, device=logits.device)
    ids = torch.empty((rows, count), dtype=torch.int32, device=logits.device)
    values = torch.empty((rows, count), dtype=torch.float32, device=logits.device)
    if rows:
        tables = (found.counts, found.masses, found.values, found.ids, found.parts, found.padded)
        rank[(rows,)](
            found.tokens, found.tops, logits, logits.stride(0), vocab, log_sums, ids, values, count, *tables,
            _ROOM, _BLOCK, num_warps=_WARPS,
        )  # fmt: skip
    return found.tops, log_sums, ids, values


def change(logits: Tensor, rows: Tensor, ids: Tensor, scale: Tensor, amount: Tensor) -> None:
    """See :func:`tenfold.ops.cuda.plain.sampling.change`. Three or more entries of one token add up in any order."""
    entries = len(rows)
    if entries:
        grid = (triton.cdiv(entries, 256),)
        _scale[grid](logits, logits.stride(0), rows, ids, scale, entries, 256)
        _take[grid](logits, logits.stride(0), rows, ids, amount, entries, 256)


def mask(logits: Tensor, rows: Tensor, bits: Tensor) -> None:
    """See :func:`tenfold.ops.cuda.plain.sampling.mask`."""
    vocab = logits.shape[1]
    if len(rows):
        grid = (len(rows), triton.cdiv(vocab, _SLICE))
        _mask[grid](logits, logits.stride(0), vocab, rows, bits, bits.stride(0), _SLICE, num_warps=8)


@dataclass(frozen=True, slots=True)
class _Found:
    """What the programs of rows leave for those that choose; see ``selection``."""

    tokens: Tensor
    tops: Tensor
    counts: Tensor
    masses: Tensor
    values: Tensor
    ids: Tensor
    parts: int

    @property
    def padded(self) -> int:
        return int(triton.next_power_of_2(self.parts))


def _largest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's token as ``largest`` gives it, and its logit."""
    rows, vocab = logits.shape
    assert logits.stride(1) == 1
    tokens = torch.empty(rows, dtype=torch.int32, device=logits.device)
    tops = torch.empty(rows, dtype=torch.float32, device=logits.device)
    block = min(4 * _SLICE, triton.next_power_of_2(vocab))
    if rows:
        _best[(rows,)](tokens, tops, logits, logits.stride(0), vocab, block, num_warps=max(1, block // 512))
    return tokens, tops


def _collected(logits: Tensor, filters: Tensor | None, count: int) -> _Found:
    """Rows of greedy ``filters`` and those that stand by index are chosen after this."""
    assert filters is None or filters.is_contiguous()
    rows, vocab = logits.shape
    tokens, tops = _largest(logits)
    parts = triton.cdiv(vocab, _SLICE)
    counts = torch.empty((rows, parts, LEVELS.value), dtype=torch.int32, device=logits.device)
    values = torch.empty((rows, _ROOM), dtype=torch.float32, device=logits.device)
    found = _Found(
        tokens, tops, counts, torch.empty_like(counts, dtype=torch.float32), values,
        torch.empty_like(values, dtype=torch.int32), parts,
    )  # fmt: skip
    if rows:
        read = (tokens, tops, logits, logits.stride(0), vocab, filters, count, counts, found.masses)
        survey[(rows, parts)](*read, parts, _SLICE, min(_BLOCK, _SLICE), num_warps=_WARPS)
        collect[(rows, parts)](*read, values, found.ids, parts, found.padded, _SLICE, _ROOM, num_warps=_WARPS)
    return found


@triton.jit
def _best(tokens, tops, logits, stride, VOCAB: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    first = tl.zeros([BLOCK], tl.int32)
    for start in range(0, VOCAB, BLOCK):
        at = start + tl.arange(0, BLOCK)
        value = tl.load(logits + row * stride + at, mask=at < VOCAB, other=float("-inf"))
        better = (value > best) | ((value != value) & (best == best))
        best = tl.where(better, value, best)
        first = tl.where(better, start, first)
    broken = tl.max((best != best).to(tl.int32), axis=0) > 0
    top = tl.max(tl.where(best != best, float("inf"), best), axis=0)
    token = tl.min(tl.where(best == top, first + tl.arange(0, BLOCK), 0x7FFFFFFF), axis=0)
    tl.store(tokens + row, tl.where(broken | (tl.abs(top) == float("inf")), -1, token))
    tl.store(tops + row, top)


@triton.jit(do_not_specialize=["entries"])
def _scale(logits, stride, rows, ids, scale, entries, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    factor = tl.load(scale + at, mask=at < entries, other=1.0)
    scaled = factor != 1
    where = logits + tl.load(rows + at, mask=scaled, other=0).to(tl.int64) * stride
    where += tl.load(ids + at, mask=scaled, other=0)
    value = tl.load(where, mask=scaled)
    tl.store(where, tl.where(value > 0, value / factor, value * factor), mask=scaled)


@triton.jit(do_not_specialize=["entries"])
def _take(logits, stride, rows, ids, amount, entries, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    taken = tl.load(amount + at, mask=at < entries, other=0.0)
    where = logits + tl.load(rows + at, mask=at < entries, other=0).to(tl.int64) * stride
    where += tl.load(ids + at, mask=at < entries, other=0)
    tl.atomic_add(where, -taken, mask=taken != 0, sem="relaxed")


@triton.jit
def _mask(logits, stride, vocab, rows, bits, words, BLOCK: tl.constexpr):
    part = tl.program_id(0)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    word = tl.load(bits + part * words + at // 32, mask=at < vocab, other=-1)
    forbidden = ((word >> (at % 32)) & 1) == 0
    tl.store(logits + tl.load(rows + part).to(tl.int64) * stride + at, float("-inf"), mask=forbidden)

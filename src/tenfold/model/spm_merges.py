"""Merge rules from a SentencePiece BPE vocabulary.

SentencePiece stores pieces with scores and joins, again and again, the neighbours whose joined piece scores
highest (Kudo & Richardson, 2018). Every way to cut a piece into two pieces is thus a merge rule, ranked by the
score of the whole.
"""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tenfold.core.files import write_whole

_MULTIPLIER = 0x9E3779B97F4A7C15  # odd: a polynomial hash modulo 2 ** 64
_MIXER = 0xD6E8FEB86659FD93  # odd
_EMPTY = -1


def derive_merges(pieces: list[str], scores: NDArray[np.floating], kept: Path | None = None) -> list[tuple[str, str]]:
    """The rules (left, right), best first; ``scores`` has one number per piece.

    Done on hashes of all substrings at once: a quarter of a million pieces take half a second. In the folder ``kept``,
    what was found is left for the next time, under a name that says of which pieces and scores.
    """
    path = kept / f"{_name(pieces, scores)}.merges" if kept is not None else None
    rules = _read(path, len(pieces)) if path is not None else None
    if rules is None:
        rules = _derive(pieces, scores)
        if path is not None:
            data = rules.tobytes()
            write_whole(path, _digest(data) + data)
    at = pieces.__getitem__
    return list(zip(map(at, rules[0].tolist()), map(at, rules[1].tolist()), strict=True))


def _name(pieces: list[str], scores: NDArray[np.floating]) -> str:
    digest = hashlib.blake2b("\0".join(pieces).encode("utf-8", "surrogatepass"), digest_size=16)
    digest.update(np.asarray(scores, "<f8").tobytes())
    return digest.hexdigest()


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _read(path: Path, pieces: int) -> NDArray[np.int32] | None:
    """The rules [2, n] that were kept there, by the pieces' numbers; None where nothing is, or something else."""
    try:
        kept = path.read_bytes()
    except OSError:
        return None
    data = kept[16:]
    if len(data) % 8 or kept[:16] != _digest(data):
        return None
    rules = np.frombuffer(data, "<i4").reshape(2, -1)
    return rules if not rules.size or 0 <= rules.min() <= rules.max() < pieces else None


def _derive(pieces: list[str], scores: NDArray[np.floating]) -> NDArray[np.int32]:
    """The rules [2, n], by the pieces' numbers."""
    lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
    cuts = np.maximum(lengths - 1, 0)
    if not cuts.sum():
        return np.empty((2, 0), np.int32)
    hashes = _PieceHashes(pieces, lengths)
    whole = np.repeat(np.arange(len(pieces)), cuts)
    size = np.arange(len(whole)) - np.repeat(np.cumsum(cuts) - cuts, cuts) + 1  # of the left part
    left = hashes.find(hashes.part(whole, np.zeros_like(size), size))
    kept = np.flatnonzero(left != _EMPTY)
    whole, size, left = whole[kept], size[kept], left[kept]
    right = hashes.find(hashes.part(whole, size, lengths[whole]))
    kept = np.flatnonzero(right != _EMPTY)
    whole, left, right = whole[kept], left[kept], right[kept]
    order = np.argsort(-scores[whole].astype(np.float64), kind="stable")
    return np.stack([left[order], right[order]]).astype("<i4")


class _PieceHashes:
    """Hashes of any part of any piece, and which piece has a given hash."""

    def __init__(self, pieces: list[str], lengths: NDArray[np.int64]) -> None:
        text = np.frombuffer("".join(pieces).encode("utf-32-le", "surrogatepass"), np.uint32)
        self._starts = np.cumsum(lengths) - lengths
        longest = int(lengths.max())
        self._powers = np.cumprod(np.full(longest + 1, _MULTIPLIER, np.uint64)) * np.uint64(_inverse())
        # prefix[s + n] - prefix[s] * power[n] would need the running product over the whole text; a running sum
        # of character x power of its place does as well, shifted by the place where a part begins.
        places = np.arange(len(text)) - np.repeat(self._starts, lengths)
        terms = (text.astype(np.uint64) + np.uint64(1)) * self._powers[places]
        self._sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms)])
        self._inverses = np.cumprod(np.full(longest + 1, _inverse(), np.uint64)) * np.uint64(_MULTIPLIER)
        self._table(lengths)

    def part(self, piece: NDArray[np.intp], begin: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The hashes of characters ``begin`` … ``end`` - 1 of pieces."""
        start = self._starts[piece]
        sums: NDArray[np.uint64] = (self._sums[start + end] - self._sums[start + begin]) * self._inverses[begin]
        sums ^= sums >> np.uint64(32)  # the low half knows most of the text, the high half is what is looked up
        sums *= np.uint64(_MIXER)
        return sums

    def _table(self, lengths: NDArray[np.int64]) -> None:
        every = np.arange(len(lengths))
        hashes = self.part(every, np.zeros_like(lengths), lengths)
        order = np.argsort(hashes, kind="stable")
        self._sorted, self._owners = hashes[order], order
        # Where in the sorted hashes each value of their top bits begins: a look-up then inspects one or two.
        bits = max(1, (len(lengths) * 4).bit_length())
        self._shift = np.uint64(64 - bits)
        tops = np.arange(1 << bits, dtype=np.uint64) << self._shift
        self._begins = np.searchsorted(self._sorted, tops)

    def find(self, hashes: NDArray[np.uint64]) -> NDArray[np.intp]:
        """The piece with each hash, or -1."""
        found = np.full(len(hashes), _EMPTY, np.intp)
        at = self._begins[(hashes >> self._shift).astype(np.intp)]
        pending = np.arange(len(hashes))
        while len(pending):
            inside = at < len(self._sorted)
            pending, at = pending[inside], at[inside]
            here = self._sorted[at]
            wanted = hashes[pending]
            equal = here == wanted
            found[pending[equal]] = self._owners[at[equal]]
            later = here < wanted
            pending, at = pending[later], at[later] + 1
        return found


def _inverse() -> int:
    return pow(_MULTIPLIER, -1, 1 << 64)

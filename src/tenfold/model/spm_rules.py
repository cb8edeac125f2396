"""Merge rules from a SentencePiece BPE vocabulary.

SentencePiece stores pieces with scores and joins, again and again, the two neighbours whose joined piece scores
highest, the leftmost of equal pieces (Kudo & Richardson, 2018). Every way to cut a piece in two pieces is thus a merge
rule, ranked by the score of the whole. But a piece is only ever made by one of them: until the last join nothing was
joined across its ends, so what happens between them is what happens to the piece alone. The others are left out: less
than half remain.
"""

import numpy as np
from numpy.typing import NDArray

_MULTIPLIER = 0x9E3779B97F4A7C15  # odd: a polynomial hash modulo 2 ** 64
_MIXER = 0xD6E8FEB86659FD93  # odd
_EMPTY = -1
_NEVER = np.iinfo(np.int32).max  # the rank of what is no rule
_LONG = 128  # characters; of longer pieces all cuts stay: each join of one would be a pass over all that is left


def derive_rules(pieces: list[str], scores: NDArray[np.floating]) -> NDArray[np.int32]:
    """The rules [2, n], best first, by the numbers of pieces that they join; ``scores`` has one number per piece.

    Done for all pieces at once: a quarter of a million take some two seconds.
    """
    lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
    if not len(pieces) or lengths.max() < 2:
        return np.empty((2, 0), np.int32)
    hashes = _PieceHashes(pieces, lengths)
    rules, whole = _cuts(hashes, lengths, scores)
    return rules[:, _used(hashes, lengths, rules, whole)].astype("<i4")


def _cuts(
    hashes: "_PieceHashes", lengths: NDArray[np.int64], scores: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All ways to cut pieces in two pieces [2, n], best first, and which piece is cut [n]."""
    cuts = np.maximum(lengths - 1, 0)
    whole = np.repeat(np.arange(len(lengths)), cuts)
    size = np.arange(len(whole)) - np.repeat(np.cumsum(cuts) - cuts, cuts) + 1  # of the left part
    left = hashes.find(hashes.part(whole, np.zeros_like(size), size))
    kept = np.flatnonzero(left != _EMPTY)
    whole, size, left = whole[kept], size[kept], left[kept]
    right = hashes.find(hashes.part(whole, size, lengths[whole]))
    kept = np.flatnonzero(right != _EMPTY)
    whole, left, right = whole[kept], left[kept], right[kept]
    order = np.argsort(-scores[whole].astype(np.float64), kind="stable")
    every = np.arange(len(lengths))
    first = hashes.find(hashes.part(every, np.zeros_like(lengths), lengths))  # of pieces that are there twice
    return np.stack([left[order], right[order]]), first[whole[order]]


def _used(
    hashes: "_PieceHashes", lengths: NDArray[np.int64], rules: NDArray[np.int64], whole: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The ranks of rules that make a piece when it stands alone, ascending: all pieces are made, side by side, from
    their characters, a join of each at a time; of very long ones, all ranks."""
    ranks = _Ranks(rules, len(lengths))
    short = np.flatnonzero(lengths <= _LONG)
    sizes = lengths[short]
    owner = np.repeat(short, sizes)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    token = hashes.find(hashes.part(owner, place, place + 1))
    rank = ranks.of(token, np.append(token[1:], _EMPTY))
    used = lengths[whole] > _LONG
    while True:
        rank[np.flatnonzero(np.diff(owner, append=_EMPTY))] = _NEVER  # the last of each piece has no neighbour
        begins = np.flatnonzero(np.diff(owner, prepend=_EMPTY))
        if not len(begins):
            return np.flatnonzero(used)
        best = np.minimum.reduceat(rank, begins)
        counts = np.diff(begins, append=len(owner))
        used[best[(counts == 2) & (best != _NEVER)]] = True
        goes_on = (counts > 2) & (best != _NEVER)
        at = np.flatnonzero(np.repeat(goes_on, counts) & (rank == np.repeat(best, counts)))
        at = at[np.diff(owner[at], prepend=_EMPTY) != 0]  # the leftmost of each piece
        token[at] = whole[rank[at]]
        stays = np.repeat(goes_on, counts)
        stays[at + 1] = False
        moved = np.cumsum(stays) - 1
        at = moved[at]
        owner, token, rank = owner[stays], token[stays], rank[stays]
        follows = np.append(token, _EMPTY)
        rank[at] = ranks.of(token[at], follows[at + 1])
        at = at[at > 0] - 1
        rank[at] = ranks.of(token[at], token[at + 1])


class _Ranks:
    """The rank of each pair of pieces; of the same pair twice, the later one."""

    def __init__(self, rules: NDArray[np.int64], pieces: int) -> None:
        self._pieces = pieces
        keys = rules[0] * pieces + rules[1]
        order = np.argsort(keys, kind="stable")
        last = np.diff(keys[order], append=_EMPTY) != 0
        self._keys, self._ranks = keys[order][last], order[last].astype(np.int32)

    def of(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int32]:
        """Of these pairs, ``_NEVER`` for what is no rule (and for what is no piece, -1)."""
        if not len(self._keys):
            return np.full(len(left), _NEVER, np.int32)
        keys = np.where((left < 0) | (right < 0), _EMPTY, left * self._pieces + right)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[at] == keys, self._ranks[at], np.int32(_NEVER))


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

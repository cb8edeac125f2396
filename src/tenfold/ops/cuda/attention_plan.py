"""Which program of the attention kernels does what in a step: host arithmetic on NumPy arrays, without torch.

A sequence's new rows and the query heads of one KV head are one list of *flat rows*, row x group + head: all of them
read the same keys. Two kernels share the sequences of a step:

- split-KV ("flash decoding", Dao et al., 2023) takes sequences of few flat rows. A *piece* is up to ``rows`` flat rows
  of a sequence; an *item* is a range of a piece's keys, one program per KV head. Pieces of several items are merged.
- prefill (FlashAttention-2, Dao, 2023) takes the others in *tiles* of ``tile_rows`` flat rows.

Every (flat row, visible key) pair of the step belongs to exactly one item or tile.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]

KEY_TILE = 128  # items begin at multiples of it; the kernels' tiles of keys divide it
SHORT_ROWS = 64  # flat rows of a sequence that always go to the split kernel
INVARIANT_ROWS = 32  # flat rows of a piece in batch-invariant mode
INVARIANT_KEYS = 512  # keys of a partial result in batch-invariant mode, counted from position 0
_PROGRAMS = 2  # split programs that run on one processor at once
_MANY = 8  # prefill programs per processor
_ITEM_KEYS = 64  # what beginning and ending an item costs, in keys read
_MERGE_KEYS = 96  # what the launch that merges costs
_CHUNKS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256, 384, 512, 1024)  # in tiles


@dataclass(frozen=True, slots=True)
class Padding:
    """What a step is padded to, so that a captured graph serves every step of that size."""

    rows: int
    sequences: int
    decode: bool  # a row of each sequence


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """The work of one step for layers of one window; arrays are int32, a column per entry, padded with zeros.

    ``items`` are ordered longest first. An item's slot numbers its partial result, -1 where it is its piece's only
    one; a piece's slots follow one another in the order of its keys. Only pieces of several items are in ``pieces``.
    The first ``fresh`` tiles belong to sequences without earlier context, whose keys are rows of the step.
    """

    window: int
    group: int
    kv_heads: int
    rows: int  # flat rows of a split program: 16, 32 or 64 (INVARIANT_ROWS in batch-invariant mode)
    used_rows: int  # of them at most in use: rows that merging must look at
    tile_rows: int  # flat rows of a prefill tile
    chunk: int  # batch-invariant: keys of a partial result; 0 otherwise
    item_count: int
    piece_count: int
    tile_count: int
    fresh: int
    gathered: int  # rows of the dense copy of what sequences with earlier context see
    items: Int32  # [5, capacity] sequence, first flat row, first key, end key, slot
    pieces: Int32  # [4, capacity] sequence, first flat row, first slot, items
    tiles: Int32  # [3, N] sequence, first flat row, dense row of the sequence's key 0 (may be below 0)
    copies: Int32  # [3, C] sequence, first key (a multiple of KEY_TILE), dense row of it

    def pack(self) -> Int32:
        """All that kernels need as one int32 array: how many items, pieces, tiles; 0; then the arrays in order."""
        counts = np.array((self.item_count, self.piece_count, self.tile_count, 0), np.int32)
        return np.concatenate((counts, *(a.ravel() for a in (self.items, self.pieces, self.tiles, self.copies))))


def items_capacity(sequences: int, group: int, kv_heads: int, processors: int) -> int:
    """Items that a plan of ``sequences`` sequences of one row may have: a piece each and two rounds of programs."""
    return _capacity(sequences * -(-group // SHORT_ROWS), kv_heads, processors)


def plan_attention(
    starts: Int32,
    context: Int32,
    *,
    group: int,
    kv_heads: int,
    window: int,
    processors: int,
    padding: Padding | None = None,
    invariant: bool = False,
    dense: bool = True,
    most_gathered: int | None = None,
    tile_rows: int | None = None,
) -> AttentionPlan:
    """The plan of a step: ``starts`` [S + 1] and ``context`` [S] as in :class:`tenfold.ops.base.Batch`.

    ``processors``: of the device. ``padding``: ``starts`` and ``context`` are those of so many sequences, of which some
    may have no rows, and the arrays' sizes depend on it, ``rows``, group, kv_heads, processors, window and
    ``invariant`` only; keys and values are then read where they lie, not copied. ``dense``: sequences without earlier
    context may read the step's own keys and values. ``most_gathered`` bounds the rows that are copied densely:
    sequences beyond take the split kernel. ``tile_rows``: unless told, what suits the step. A sequence with a row and a
    context of 0 gets an item without keys: its output is 0. ValueError where a step does not fit its padding.

    ``invariant``: what a row's output is, to the bit, then depends on its query and its visible keys and values alone.
    All rows take the split kernel with one tile shape. Keys are cut at multiples of INVARIANT_KEYS from position 0 and
    the partial results are added in ascending order, by one program or by the merging one, in the same arithmetic;
    masked keys, and parts a row sees nothing of, change no bit of it.
    """
    begins, seen = starts.astype(np.int64), context.astype(np.int64)
    new = np.diff(begins)
    if padding is not None:
        _check(new, padding)
    paged = padding is not None
    flat = new * group if padding is None else np.array([padding.rows * group])
    tile_rows = tile_rows or _tile_rows(flat, kv_heads, processors, window)
    tiled = np.zeros(len(new), bool)
    if not invariant and (padding is None or not padding.decode):
        tiled = _tiled(new, seen, group, kv_heads, processors, tile_rows, paged)
        if most_gathered is not None and not paged:
            copied = np.where(tiled & ~(dense & (new == seen)), seen, 0)
            tiled &= (copied == 0) | (np.cumsum(copied) <= most_gathered)
    most = int(new[~tiled].max(initial=0))
    rows = INVARIANT_ROWS if invariant else _row_tile(most * group)
    pieces = _pieces(new, seen, np.flatnonzero(~tiled & (new > 0)), group, window, rows)
    items, merged = _items(pieces, _capacity(pieces.shape[1], kv_heads, processors), kv_heads, processors, invariant)
    fresh, tiles, copies, gathered = _tiles(begins, new, seen, tiled, group, window, tile_rows, dense, paged)
    sizes = items.shape[1], merged.shape[1], tiles.shape[1]
    used_rows = max(1, min(rows, most * group))
    if padding is not None:
        most_pieces = _most_pieces(padding, group, rows, invariant)
        capacity = _capacity(most_pieces, kv_heads, processors)
        sizes = capacity, min(most_pieces, capacity - most_pieces), _most_tiles(padding, group, tile_rows)
        used_rows = min(rows, group) if padding.decode else rows
    return AttentionPlan(
        window=window,
        group=group,
        kv_heads=kv_heads,
        rows=rows,
        used_rows=used_rows,
        tile_rows=tile_rows,
        chunk=INVARIANT_KEYS if invariant else 0,
        item_count=items.shape[1],
        piece_count=merged.shape[1],
        tile_count=tiles.shape[1],
        fresh=fresh,
        gathered=gathered,
        items=_padded(items, sizes[0]),
        pieces=_padded(merged, sizes[1]),
        tiles=_padded(tiles, sizes[2]),
        copies=copies,
    )


def _check(new: Int64, padding: Padding) -> None:
    if len(new) != padding.sequences or new.sum() > padding.rows or (padding.decode and new.max(initial=0) > 1):
        raise ValueError(f"sequences of {new.tolist()} rows do not fit {padding}")


def _most_pieces(padding: Padding, group: int, rows: int, invariant: bool) -> int:
    """Pieces that a step may have: one of each sequence, and whole ones before it where ``rows`` are not as many as its
    longest sequence has."""
    if padding.decode:
        return padding.sequences * -(-group // rows)
    return padding.sequences + (padding.rows * group // rows if invariant or rows == SHORT_ROWS else 0)


def _most_tiles(padding: Padding, group: int, tile_rows: int) -> int:
    """Tiles that a step may have: whole ones, and the last of each sequence."""
    flat = padding.rows * group
    return 0 if padding.decode else flat // tile_rows + min(padding.sequences, flat // SHORT_ROWS)


def _capacity(pieces: int, kv_heads: int, processors: int) -> int:
    return pieces + max(1, 2 * _PROGRAMS * processors // kv_heads)


def _tile_rows(flat: Int64, kv_heads: int, processors: int, window: int) -> int:
    """128 flat rows, or 64: where programs of 128 would be a few rounds, so that the last ones end together sooner; and
    with a window, so that fewer of the keys that a tile reads are masked."""
    programs = int((flat[flat > SHORT_ROWS] // 128).sum()) * kv_heads
    return 64 if window or processors < programs < _MANY * processors else 128


def _tiled(
    new: Int64, context: Int64, group: int, kv_heads: int, processors: int, tile_rows: int, paged: bool
) -> NDArray[np.bool_]:
    """[S]: which sequences take the prefill kernel: many rows, and enough of them in all to occupy half the device.

    A tile of keys must fit into the context: prefill then reads no row of another sequence. Not where it reads keys
    where they lie (``paged``).
    """
    flat = new * group
    tiled: NDArray[np.bool_] = (flat > SHORT_ROWS) & (new > 1)
    if not paged:
        tiled &= context >= KEY_TILE
    programs = int((-(-flat[tiled] // tile_rows)).sum()) * kv_heads
    if 2 * programs <= processors and (context[tiled] - new[tiled]).max(initial=0) >= 8 * KEY_TILE:
        tiled = np.zeros_like(tiled)
    return tiled


def _row_tile(flat: int) -> int:
    """The least of 16, 32 and 64 that holds so many flat rows, or 64."""
    return 16 if flat <= 16 else 32 if flat <= 32 else SHORT_ROWS


def _pieces(new: Int64, context: Int64, which: Int64, group: int, window: int, rows: int) -> Int64:
    """[4, P] sequence, first flat row, first key (a multiple of KEY_TILE), end key of the pieces of sequences."""
    each = -(-new[which] * group // rows)
    sequence = np.repeat(which, each)
    flat = _within(each) * rows
    last = np.minimum((flat + rows - 1) // group, new[sequence] - 1)
    before = context[sequence] - new[sequence]
    first = before + flat // group - window + 1 if window else np.zeros_like(flat)
    first = np.maximum(first, 0) // KEY_TILE * KEY_TILE
    return np.stack((sequence, flat, first, np.maximum(before + last + 1, first)))


def _items(pieces: Int64, capacity: int, kv_heads: int, processors: int, invariant: bool) -> tuple[Int32, Int32]:
    """The items of pieces [5, I], longest first, and the pieces of several of them [4, P]."""
    sequence, flat, first, end = pieces
    places = _PROGRAMS * processors
    if invariant:
        first = first // INVARIANT_KEYS * INVARIANT_KEYS
        size = np.full(len(first), INVARIANT_KEYS)
        count = np.maximum(1, -(-(end - first) // size))
        order = np.argsort(-count, kind="stable")
        split = np.zeros(len(count), bool)
        if len(count) * kv_heads < places:
            split[order] = len(count) + np.cumsum(count[order] - 1) <= capacity
        size, count = np.where(split, size, np.maximum(end - first, 1)), np.where(split, count, 1)
    else:
        size, count = _split(end - first, capacity, kv_heads, places)
    piece = np.repeat(np.arange(len(count)), count)
    begin = first[piece] + _within(count) * size[piece]
    finish = np.minimum(begin + size[piece], end[piece])
    several = count > 1
    slots = np.cumsum(np.where(several, count, 0)) - np.where(several, count, 0)
    slot = np.where(several[piece], slots[piece] + _within(count), -1)
    order = np.argsort(begin - finish, kind="stable")
    items = np.stack((sequence[piece], flat[piece], begin, finish, slot))[:, order]
    merged = np.stack((sequence, flat, slots, count))[:, several]
    return items.astype(np.int32), merged.astype(np.int32)


def _split(keys: Int64, capacity: int, kv_heads: int, places: int) -> tuple[Int64, Int64]:
    """Keys per item and items of each piece [P]: the cut that takes least time by a small model of it.

    A piece is cut evenly into items of at most a chunk. Of two bounds of the time that ``places`` programs at once
    need, rounds of the longest item and an even share plus the longest item, the lower is taken.
    """
    tiles = np.maximum(1, -(-keys // KEY_TILE))
    longest = int(tiles.max(initial=1))
    chunks = np.array([*(c for c in _CHUNKS if c < longest), longest])[:, None]  # [C, 1], in tiles
    size = -(-tiles // -(-tiles // chunks))  # [C, P]
    count = -(-tiles // size)
    total, most = count.sum(axis=1), size.max(axis=1, initial=1) * KEY_TILE + _ITEM_KEYS
    rounds = -(-total * kv_heads // places) * most
    share = (int(keys.sum()) + total * _ITEM_KEYS) * kv_heads / places + most
    time = np.minimum(rounds, share) + np.where(total > len(keys), _MERGE_KEYS, 0)
    best = int(np.where(total <= capacity, time, np.inf).argmin())
    return size[best] * KEY_TILE, count[best]


def _tiles(
    starts: Int64,
    new: Int64,
    context: Int64,
    tiled: NDArray[np.bool_],
    group: int,
    window: int,
    tile_rows: int,
    dense: bool,
    paged: bool,
) -> tuple[int, Int32, Int32, int]:
    """Fresh tiles, all tiles [3, N], copies [3, C] and the rows that those fill; ``paged``: none are fresh or copied.

    Sequences with most keys come first and follow one another, so that programs that run together read the same keys;
    of one sequence the rows that see most come first.
    """
    fresh = tiled & (new == context) & (dense and not paged)
    first = np.zeros_like(new)
    if window:  # and at least a tile of keys, as prefill reads no less
        first = np.minimum(context - new - window + 1, context - KEY_TILE)
        first = np.maximum(first, 0) // KEY_TILE * KEY_TILE
    seen = np.where(tiled & ~fresh & (not paged), context - first, 0)
    base = np.where(fresh, starts[:-1], np.cumsum(seen) - seen - first)
    order = np.lexsort((-context, ~fresh))
    order = order[tiled[order]]
    each = -(-new[order] * group // tile_rows)
    sequence = np.repeat(order, each)
    flat = (np.repeat(each, each) - 1 - _within(each)) * tile_rows
    tiles = np.stack((sequence, flat, base[sequence])).astype(np.int32)
    copied = np.repeat(np.arange(len(new)), -(-seen // KEY_TILE))
    key = first[copied] + _within(-(-seen // KEY_TILE)) * KEY_TILE
    copies = np.stack((copied, key, base[copied] + key)).astype(np.int32)
    return int(fresh[sequence].sum()), tiles, copies, int(seen.sum())


def _within(counts: Int64) -> Int64:
    """0 … count - 1 for each of ``counts``, one after another."""
    ends = np.cumsum(counts)
    return np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - counts, counts)


def _padded(columns: Int32, capacity: int) -> Int32:
    whole = np.zeros((len(columns), capacity), np.int32)
    whole[:, : columns.shape[1]] = columns
    return whole

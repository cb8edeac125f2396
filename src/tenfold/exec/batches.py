"""From a plan's slices to the flat arrays of a batch."""

from collections.abc import Sequence

import numpy as np

from tenfold.core.plan import NEXT_TOKEN, SequenceSlice
from tenfold.ops.base import Batch


class Batches:
    """Makes each step's batch, from the one before where the same sequences each decode one more token.

    A batch's arrays never change once it is made; batches share those that stay the same.

    :data:`~tenfold.core.plan.NEXT_TOKEN` becomes -1 - i, where i counts the slices of the batch made before that
    sample, in their order, up to the same sequence's: whoever computes puts the i-th token sampled there in its place.
    """

    def __init__(self) -> None:
        self._slices: tuple[SequenceSlice, ...] = ()
        self._batch: Batch | None = None

    def make(self, slices: tuple[SequenceSlice, ...]) -> Batch:
        """The batch of ``slices``, in their order."""
        last = self._batch
        if last is not None and _continues(self._slices, slices):
            if slices and slices[0].tokens[0] == NEXT_TOKEN:  # and so has each: the plan was made ahead
                tokens = ~np.arange(len(slices), dtype=np.int32)
            else:
                tokens = np.array([part.tokens[0] for part in slices], np.int32)
            batch = Batch(
                tokens=tokens,
                positions=last.context,
                starts=last.starts,
                context=last.context + np.int32(1),
                tables=_tables(self._slices, slices, last),
                rows=last.rows,
            )
        else:
            batch = _anew(self._slices, slices)
        decodes = all(part.sample and len(part.tokens) == 1 for part in slices)
        self._slices, self._batch = slices, batch if decodes else None
        return batch


def _continues(before: Sequence[SequenceSlice], now: Sequence[SequenceSlice]) -> bool:
    """Whether ``now`` has one token each of the sequences of ``before``, at the next positions."""
    if len(before) != len(now):
        return False
    for old, new in zip(before, now, strict=True):
        if old.id != new.id or new.start != old.start + 1 or len(new.tokens) != 1 or not new.sample:
            return False
    return True


def _tables(before: Sequence[SequenceSlice], now: Sequence[SequenceSlice], last: Batch) -> np.ndarray:
    """The block tables; the same array unless some sequence got a block or another table."""
    changed = [i for i, (old, new) in enumerate(zip(before, now, strict=True)) if new.blocks is not old.blocks]
    if not changed:
        return last.tables
    width = max(len(now[i].blocks) for i in changed)
    grown = max(0, width - last.tables.shape[1])
    tables = np.pad(last.tables, ((0, 0), (0, grown))) if grown else last.tables.copy()
    for i in changed:
        tables[i, : len(now[i].blocks)] = now[i].blocks
    return tables


def _anew(before: Sequence[SequenceSlice], slices: Sequence[SequenceSlice]) -> Batch:
    counts = np.array([len(part.tokens) for part in slices], dtype=np.int32)
    begins = np.array([part.start for part in slices], dtype=np.int32)
    starts = np.zeros(len(slices) + 1, dtype=np.int32)
    np.cumsum(counts, out=starts[1:])
    tokens = np.fromiter((t for part in slices for t in part.tokens), dtype=np.int32, count=int(starts[-1]))
    awaiting = np.flatnonzero(tokens == NEXT_TOKEN)
    if len(awaiting):
        sampled = {part.id: i for i, part in enumerate([part for part in before if part.sample])}
        owners = np.searchsorted(starts, awaiting, side="right") - 1
        tokens[awaiting] = [-1 - sampled[slices[owner].id] for owner in owners]
    positions = np.arange(starts[-1], dtype=np.int32) + np.repeat(begins - starts[:-1], counts)
    tables = np.zeros((len(slices), max(len(part.blocks) for part in slices)), dtype=np.int32)
    for row, part in zip(tables, slices, strict=True):
        row[: len(part.blocks)] = part.blocks
    first = [end - 1 - part.drafted if part.sample else end for part, end in zip(slices, starts[1:], strict=True)]
    rows = np.concatenate([np.arange(at, end, dtype=np.int32) for at, end in zip(first, starts[1:], strict=True)])
    return Batch(tokens, positions.astype(np.int32), starts, begins + counts, tables, rows)

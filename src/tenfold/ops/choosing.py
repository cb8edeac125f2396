"""What is asked of rows of logits, and how it is answered where logits lie in the host's memory."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from tenfold.core.sampling import uniform

if TYPE_CHECKING:
    from tenfold.ops.base import Float32, Float64, Int32, SamplingOps


@dataclass(frozen=True, slots=True)
class Changes:
    """Logits to change before a token is chosen: E of them, each ``rows[e]``, ``ids[e]``.

    First those whose ``scale`` is not 1 are divided by it where they are above 0, else multiplied; of these a row has
    no token twice. Then ``amount`` is taken off (infinity forbids the token), once for every entry.
    """

    rows: "Int32"
    ids: "Int32"
    scale: "Float32"
    amount: "Float32"


class Masks(Protocol):
    """Which tokens may come in some rows. What costs more than to ask for one is made only where it is asked for.

    A row's token is chosen among all of them first. Where that one may not come, another one is, among those that may,
    with a second number (:func:`second_filters`). By temperature alone that is a draw from what is left of the
    distribution: the part of its mass that may come is taken at once, the rest of it is shared out among that part.
    Top-k, top-p and min-p filter each of the two by itself. Where only one may come there is nothing to choose.
    """

    @property
    def rows(self) -> "Int32":
        """[M]: the rows of logits."""
        ...

    def forced(self) -> "Int32":
        """[M]: each row's only token that may come, as far as that is known at little cost; -1: more may, or none.
        Not every backend asks: a mask has the same token."""
        ...

    def allow(self, which: NDArray[np.intp], tokens: "Int32") -> NDArray[np.bool_]:
        """[N]: whether, in N of the M rows, its one of ``tokens`` [N] may come; not sure of those that end the text."""
        ...

    def bits(self, which: NDArray[np.intp]) -> "Int32":
        """[N, vocab / 32, rounded up]: a bit for each token that may come in N of the M rows; the lowest bit of a word
        is its first token's."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """A token of each row of logits [R, vocab].

    ``filters`` [R, 5] as :meth:`tenfold.ops.base.SamplingOps.draw` takes them, always there with ``changes`` or
    ``masks``; None: each row's largest. The rows ``logprobs`` [N] are summarized, as they are before any change, with
    their ``top`` largest tokens.
    """

    filters: "Float64 | None" = None
    changes: Changes | None = None
    masks: Masks | None = None
    logprobs: "Int32 | None" = None
    top: int = 0


@dataclass(frozen=True, slots=True)
class Summary:
    """Of the N rows that were asked for, before any change: ``sums`` [N, 2] (the largest logit m, ln of the sum of
    e^(x - m)), the largest tokens' ``ids`` [N, top] and logits ``values``, and the chosen token's logit, ``own`` [N].
    """

    sums: "Float64"
    ids: "Int32"
    values: "Float32"
    own: "Float32"


@dataclass(frozen=True, slots=True)
class Chosen:
    """``tokens`` [R], -1 where there is none to choose; ``finite`` [R]: whether the row's largest logit was."""

    tokens: "Int32"
    finite: NDArray[np.bool_]
    summary: Summary | None = None


class Choosing(Protocol):
    """What :meth:`tenfold.ops.base.SamplingOps.choose` gives: perhaps not there yet."""

    def result(self) -> Chosen:
        """Waits for it."""
        ...


@dataclass(frozen=True, slots=True)
class Done:
    """It is there."""

    chosen: Chosen

    def result(self) -> Chosen:
        """At once."""
        return self.chosen


def choose(ops: "SamplingOps", logits: "Float32", wanted: Wanted) -> Done:
    """Answer ``wanted`` by ``ops``; ``logits`` may be changed."""
    first = ops.largest(logits)
    finite = first >= 0
    filters, rows = wanted.filters, wanted.logprobs
    if filters is None and rows is None:
        return Done(Chosen(first, finite))
    tokens, before = first, None
    changes, masks = wanted.changes, wanted.masks
    if rows is not None:
        sums, ids = ops.summarize(logits, rows, wanted.top)
        values = np.take_along_axis(logits[rows], np.maximum(ids, 0), axis=1)
        before = logits if changes is None else logits[rows]
    if filters is not None:
        drawn = filters[:, 0] > 0
        if changes is not None:
            _change(logits, changes)
            drawn[changes.rows] = True
        drawn &= finite
        tokens = first.copy()
        some = None if masks is None else _forced(masks, tokens, drawn)
        if drawn.any():
            which = np.flatnonzero(drawn).astype(np.int32)
            tokens[which] = ops.draw(logits, which, filters[which])
        if masks is not None and some is not None:
            _held(ops, logits, masks, some, filters, drawn, tokens)
    summary = None
    if rows is not None and before is not None:
        at = rows if before is logits else np.arange(len(rows))
        summary = Summary(sums, ids, values, before[at, np.maximum(tokens[rows], 0)])
    return Done(Chosen(tokens, finite, summary))


def second_filters(filters: "Float64") -> "Float64":
    """``filters`` [R, 5] for choosing once more: each number is hashed from the first one."""
    again = filters.copy()
    again[:, 4] = [uniform(int(first * 2.0**53), 0) for first in filters[:, 4].tolist()]
    return again


def _forced(masks: Masks, tokens: "Int32", drawn: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Put the only token that may come where it is known; that is not ``drawn``. Which of the M rows are left."""
    only, live = masks.forced(), tokens[masks.rows] >= 0
    known = live & (only >= 0)
    tokens[masks.rows[known]] = only[known]
    drawn[masks.rows[known]] = False
    return np.flatnonzero(live & ~known)


def _held(
    ops: "SamplingOps",
    logits: "Float32",
    masks: Masks,
    some: NDArray[np.intp],
    filters: "Float64",
    drawn: NDArray[np.bool_],
    tokens: "Int32",
) -> None:
    """Put others where ``tokens`` may not come in ``some`` of the M rows: drawn once more, or the largest of those that
    may."""
    some = some[tokens[masks.rows[some]] >= 0]
    some = some[~masks.allow(some, tokens[masks.rows[some]])]
    if not len(some):
        return
    rows, bits = masks.rows[some], masks.bits(some)
    refused = (bits[np.arange(len(some)), tokens[rows] >> 5] >> (tokens[rows] & 31) & 1) == 0
    largest = refused & ~drawn[rows]
    if largest.any():
        tokens[rows[largest]] = ops.largest_among(logits, rows[largest], bits[largest])
    again = refused & drawn[rows]
    if again.any():
        which = rows[again]
        tokens[which] = ops.draw_among(logits, which, bits[again], second_filters(filters[which]))


def _change(logits: "Float32", changes: Changes) -> None:
    scaled = changes.scale != 1
    if scaled.any():
        rows, ids, scale = changes.rows[scaled], changes.ids[scaled], changes.scale[scaled]
        values = logits[rows, ids]
        logits[rows, ids] = np.where(values > 0, values / scale, values * scale)
    taken = changes.amount != 0
    if taken.any():
        np.subtract.at(logits, (changes.rows[taken], changes.ids[taken]), changes.amount[taken])

"""What is asked of rows of logits, and how it is answered where logits lie in the host's memory."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

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
    """Which tokens may come in some rows. What costs more than to ask for one is made only where it is asked for."""

    @property
    def rows(self) -> "Int32":
        """[M]: the rows of logits."""
        ...

    def allow(self, which: NDArray[np.intp], tokens: "Int32") -> NDArray[np.bool_]:
        """[N]: whether, in N of the M rows, its one of ``tokens`` [N] may come."""
        ...

    def bits(self, which: NDArray[np.intp]) -> "Int32":
        """[N, vocab / 32, rounded up]: a bit for each token that may come in N of the M rows; the lowest bit of a word
        is its first token's."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """A token of each row of logits [R, vocab].

    ``filters`` [R, 5] as :meth:`tenfold.ops.base.SamplingOps.draw` takes them; None: each row's largest, unchanged. The
    rows ``logprobs`` [N] are summarized, as they are before any change, with their ``top`` largest tokens.
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
        before = logits if changes is None and masks is None else logits[rows]
    drawn = np.zeros(len(first), bool) if filters is None else filters[:, 0] > 0
    if changes is not None:
        _change(logits, changes)
        drawn[changes.rows] = True
    if masks is not None:
        tokens = first.copy()
        _hold(ops, logits, masks, drawn, tokens)
    drawn &= finite
    if drawn.any() and filters is not None:
        which = np.flatnonzero(drawn).astype(np.int32)
        tokens = tokens.copy()
        tokens[which] = ops.draw(logits, which, filters[which])
    summary = None
    if rows is not None and before is not None:
        at = rows if before is logits else np.arange(len(rows))
        summary = Summary(sums, ids, values, before[at, np.maximum(tokens[rows], 0)])
    return Done(Chosen(tokens, finite, summary))


def _hold(ops: "SamplingOps", logits: "Float32", masks: Masks, drawn: NDArray[np.bool_], tokens: "Int32") -> None:
    """Keep the rows of ``masks`` to what may come: the logits of those that are ``drawn`` from; of the others, whose
    largest are in ``tokens``, those largest."""
    rows = masks.rows
    finite = tokens[rows] >= 0
    several = np.flatnonzero(finite & drawn[rows])
    if len(several):
        ops.mask(logits, rows[several], masks.bits(several))
    one = np.flatnonzero(finite & ~drawn[rows])
    refused = one[~masks.allow(one, tokens[rows[one]])]
    if len(refused):
        tokens[rows[refused]] = ops.largest_among(logits, rows[refused], masks.bits(refused))


def _change(logits: "Float32", changes: Changes) -> None:
    scaled = changes.scale != 1
    if scaled.any():
        rows, ids, scale = changes.rows[scaled], changes.ids[scaled], changes.scale[scaled]
        values = logits[rows, ids]
        logits[rows, ids] = np.where(values > 0, values / scale, values * scale)
    taken = changes.amount != 0
    if taken.any():
        np.subtract.at(logits, (changes.rows[taken], changes.ids[taken]), changes.amount[taken])

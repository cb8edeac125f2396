"""What of a step its time depends on."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from tenfold.core.plan import StepPlan

# Rows from which a further row may cost more than before, or less: where a GPU has read its weights, or where a CPU's
# kernels take more rows at once.
BENDS = _FEW, _LOW, _MIDDLE, _HIGH = (4, 16, 64, 256)
SPANS = tuple(zip((0, *BENDS), (*BENDS, math.inf), strict=True))  # rows that cost the same each: after, up to
# What features are counted in, so that each is of a size near one.
PER_ROWS, PER_SEQUENCES, PER_DECODE_KEYS, PER_PREFILL_KEYS, PER_DRAFT_KEYS = 64, 16, 8192, 65536, 8192
PER_ASKED, PER_PASSES = 16, 4
_FIRST, _SECOND, _THIRD, _FOURTH = ((last - first) / PER_ROWS for first, last in SPANS[:-1])  # whole spans


class Attention:
    """Counts the keys that rows attend to, averaged over a model's layers.

    ``windows`` has an entry per layer: how many last keys its rows see, 0 for all.
    """

    def __init__(self, windows: Iterable[int]) -> None:
        counts = Counter(windows)
        layers = counts.total()
        self._full = counts.pop(0, 0) / layers if layers else 1.0
        self._windows = tuple((window, count / layers) for window, count in sorted(counts.items()))

    @property
    def plain(self) -> bool:
        """Whether every layer sees all keys."""
        return not self._windows

    def until_bend(self, context: int) -> float:
        """Positions after ``context`` up to which each one's row sees as many keys more than the row before it."""
        return min((window - context for window, _ in self._windows if window > context), default=math.inf)

    def keys(self, new: int, context: int) -> float:
        """Keys summed over ``new`` rows, the last of ``context`` positions: each sees its own and those before it."""
        total = self._full * _keys(new, context)
        for window, share in self._windows:
            inside = min(max(window - (context - new), 0), new)  # rows that see all there is before them
            total += share * (_keys(inside, context - new + inside) + (new - inside) * window)
        return total


def _keys(new: int, context: int) -> float:
    return new * (2 * context - new + 1) / 2


class StepShape:
    """The size of a step, added up sequence by sequence.

    ``rows`` tokens of ``sequences`` sequences, ``sampled`` of which get a token; ``decode_keys`` are attended to by
    sequences with one row, ``prefill_keys`` (summed over rows) by those with more. Rows of drafted
    tokens are apart: ``draft_keys`` are attended to by them. ``asked`` of those a draft model makes first, in
    ``passes`` passes.
    """

    __slots__ = ("asked", "decode_keys", "draft_keys", "passes", "prefill_keys", "rows", "sampled", "sequences")

    FEATURES = 8 + len(SPANS)

    def __init__(
        self,
        rows: int = 0,
        sequences: int = 0,
        sampled: int = 0,
        decode_keys: float = 0.0,
        prefill_keys: float = 0.0,
        draft_keys: float = 0.0,
        asked: int = 0,
        passes: int = 0,
    ) -> None:
        self.rows = rows
        self.sequences = sequences
        self.sampled = sampled
        self.decode_keys = decode_keys
        self.prefill_keys = prefill_keys
        self.draft_keys = draft_keys
        self.asked = asked
        self.passes = passes

    def add(self, new: int, keys: float, sample: bool) -> None:
        """A sequence with ``new`` rows that attend to ``keys`` keys in all."""
        self.rows += new
        self.sequences += 1
        self.sampled += sample
        if new == 1:
            self.decode_keys += keys
        else:
            self.prefill_keys += keys

    def remove(self, new: int, keys: float, sample: bool) -> None:
        """The reverse of :meth:`add`."""
        self.rows -= new
        self.sequences -= 1
        self.sampled -= sample
        if new == 1:
            self.decode_keys -= keys
        else:
            self.prefill_keys -= keys

    def draft(self, count: int, keys: float) -> None:
        """``count`` rows more (or fewer, below 0) for drafted tokens of a sequence that decodes, and samples."""
        self.rows += count
        self.sampled += count
        self.draft_keys += keys

    def with_more(self, new: int, keys: float, sample: bool) -> "StepShape":
        """This and one more sequence."""
        return StepShape(
            self.rows + new,
            self.sequences + 1,
            self.sampled + sample,
            self.decode_keys + keys if new == 1 else self.decode_keys,
            self.prefill_keys + keys if new != 1 else self.prefill_keys,
            self.draft_keys,
            self.asked,
            self.passes,
        )

    def with_keys(self, more: float) -> "StepShape":
        """This with ``more`` keys of decode."""
        return StepShape(
            self.rows,
            self.sequences,
            self.sampled,
            self.decode_keys + more,
            self.prefill_keys,
            self.draft_keys,
            self.asked,
            self.passes,
        )

    def features(self) -> tuple[float, ...]:
        """What step seconds are a sum over; a fixed part of every step comes first."""
        return (
            1.0,
            *rows_by_span(self.rows),
            self.sequences / PER_SEQUENCES,
            (1.0 if self.sampled else 0.0) + self.sampled / PER_SEQUENCES,
            self.decode_keys / PER_DECODE_KEYS,
            self.prefill_keys / PER_PREFILL_KEYS,
            self.draft_keys / PER_DRAFT_KEYS,
            self.asked / PER_ASKED,
            self.passes / PER_PASSES,
        )

    def seconds(self, parts: Sequence[float]) -> float:
        """The sum over :meth:`features`, each times its part: the same number, without making them."""
        fixed, row, few, low, middle, high, sequence, sample, decode, prefill, draft, asked, passes = parts
        rows, sampled = self.rows, self.sampled
        if rows <= _FEW:
            total = fixed + rows / PER_ROWS * row
        elif rows <= _LOW:
            total = fixed + _FIRST * row + (rows - _FEW) / PER_ROWS * few
        elif rows <= _MIDDLE:
            total = fixed + _FIRST * row + _SECOND * few + (rows - _LOW) / PER_ROWS * low
        else:
            total = fixed + _FIRST * row + _SECOND * few + _THIRD * low
            if rows <= _HIGH:
                total += (rows - _MIDDLE) / PER_ROWS * middle
            else:
                total = total + _FOURTH * middle + (rows - _HIGH) / PER_ROWS * high
        total += self.sequences / PER_SEQUENCES * sequence
        total += ((1.0 if sampled else 0.0) + sampled / PER_SEQUENCES) * sample
        total += self.decode_keys / PER_DECODE_KEYS * decode
        total += self.prefill_keys / PER_PREFILL_KEYS * prefill
        if self.draft_keys or self.asked or self.passes:
            total += self.draft_keys / PER_DRAFT_KEYS * draft
            total += self.asked / PER_ASKED * asked
            total += self.passes / PER_PASSES * passes
        return total


def rows_by_span(rows: int) -> list[float]:
    """How many of a step's rows are in each of ``SPANS``, in ``PER_ROWS``."""
    return [(min(rows, last) - first) / PER_ROWS if rows > first else 0.0 for first, last in SPANS]


def shape_of(plan: StepPlan, attention: Attention) -> StepShape:
    """The size of a planned step."""
    shape = StepShape()
    for part in plan.slices:
        new = len(part.tokens) - part.drafted
        end = part.start + new
        shape.add(new, attention.keys(new, end), part.sample)
        if more := part.drafted + part.asked:
            shape.draft(more, attention.keys(more, end + more))
            shape.asked += part.asked
            shape.passes = max(shape.passes, part.asked)
    return shape

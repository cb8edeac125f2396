"""Step seconds as a sum over a step's features, fitted by least squares of relative errors, no part negative.

Steps are forgotten slowly, a calibration's never; one that took far longer than it should, because the system had other
things to do, counts little (Huber, Robust Estimation of a Location Parameter, 1964). By how much the machine as a whole
is slower now than when the fit was made is one factor, followed fast; the fit learns from times freed of it.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from operator import mul
from statistics import median
from typing import NamedTuple

import msgspec

from tenfold.cost.shape import (
    PER_ASKED,
    PER_DECODE_KEYS,
    PER_DRAFT_KEYS,
    PER_PASSES,
    PER_PREFILL_KEYS,
    PER_SEQUENCES,
    SPANS,
    StepShape,
    rows_by_span,
)

_SIZE = StepShape.FEATURES
_ROWS = 1 + len(SPANS)  # features before this one, but for the first, are of rows
_PAIRS = tuple((i, j) for i in range(_SIZE) for j in range(i, _SIZE))
_AT = tuple(tuple(_PAIRS.index((min(i, j), max(i, j))) for j in range(_SIZE)) for i in range(_SIZE))
_MEMORY = 2000  # steps after which a step counts 1/e
_TRUSTED = 0.1  # relative error up to which a step counts in full
_REFIT = 16  # steps between fits
_SWEEPS = 4  # of coordinate descent per fit, which begins at the one before
_CALIBRATION_SWEEPS = 400
_ALIKE = 1e-3  # steps that it counts as that a row costs as much as in the span beside it
_KEPT = 100.0  # steps that a fit from before weighs at most, as a calibration
_DRIFT_RATE = 0.08  # how fast the machine's factor follows a step,
_DRIFT_STEP = 0.25  # and the most that one step counts, as a natural logarithm
_LEAST_SCALE = 1e-3  # of a fit beside its calibration: what is beyond is no scale
_JUDGED = 512  # steps over which the error is reported


class Moments(msgspec.Struct):
    """Sums over steps that a least-squares fit needs: of products of two features, and of features with the aim."""

    products: list[float] = msgspec.field(default_factory=lambda: [0.0] * len(_PAIRS))
    aims: list[float] = msgspec.field(default_factory=lambda: [0.0] * _SIZE)
    weight: float = 0.0  # that of all steps

    def add(self, features: Sequence[float], seconds: float, weight: float) -> None:
        """A step, so that relative errors count: features and aim are divided by its seconds."""
        held = [(i, feature / seconds) for i, feature in enumerate(features) if feature]
        products, aims = self.products, self.aims
        for at, (i, x) in enumerate(held):
            row, weighed = _AT[i], weight * x
            aims[i] += weighed
            for j, other in held[at:]:
                products[row[j]] += weighed * other
        self.weight += weight

    def slowed(self, factor: float) -> "Moments":
        """These as if each step had taken ``factor`` times as long."""
        return Moments([p / factor**2 for p in self.products], [a / factor for a in self.aims], self.weight)

    def scale(self, parts: Sequence[float]) -> float:
        """What ``parts`` are to be multiplied by to predict these steps best; 0 where they tell nothing."""
        square = sum(
            p * parts[i] * parts[j] * (1 if i == j else 2) for p, (i, j) in zip(self.products, _PAIRS, strict=True)
        )
        return _total(self.aims, parts) / square if square > 0 else 0.0

    def square(self, features: range) -> float:
        """The mean of the square of these features' sum, over the steps' seconds."""
        return sum(self.products[_AT[i][j]] for i in features for j in features) / max(self.weight, 1.0)

    def plus(self, other: "Moments", by: float) -> "Moments":
        """These and ``by`` times the others."""
        return Moments(
            [a + by * b for a, b in zip(self.products, other.products, strict=True)],
            [a + by * b for a, b in zip(self.aims, other.aims, strict=True)],
            self.weight + by * other.weight,
        )


class StepFit(msgspec.Struct, frozen=True):
    """What is known of step times: seconds per feature, and the steps behind it."""

    parts: tuple[float, ...]
    moments: Moments = msgspec.field(default_factory=Moments)

    @property
    def usable(self) -> bool:
        """Whether it has the right form (it may come from a file)."""
        numbers = (*self.parts, *self.moments.products, *self.moments.aims, self.moments.weight)
        sizes = (len(self.parts), len(self.moments.aims), len(self.moments.products)) == (_SIZE, _SIZE, len(_PAIRS))
        return (
            sizes
            and all(map(math.isfinite, numbers))
            and min(self.parts) >= 0.0
            and max(self.parts) > 0.0 <= self.moments.weight
        )


# Before anything was measured: a small model on a few cores.
FIRST_GUESS = StepFit((0.001, *[0.012] * len(SPANS), 0.0003, 0.0004, 0.0015, 0.002, 0.0005, 0.004, 0.002))
assert FIRST_GUESS.usable


class Shares(NamedTuple):
    """A step's seconds, shared out: ``fixed`` in all, whoever is in it; the others each."""

    fixed: float
    row: float
    sequence: float
    sample: float
    decode_key: float
    prefill_key: float
    draft_key: float
    asked: float


class StepCost:
    """Predicts a step's seconds, and learns from each step that was made. Owned by whoever runs the steps."""

    def __init__(self, fit: StepFit = FIRST_GUESS, drift: float = 1.0) -> None:
        assert fit.usable and drift > 0
        self._parts = list(fit.parts)
        weight = fit.moments.weight
        self._firm = Moments().plus(fit.moments, min(1.0, _KEPT / weight) if weight > 0 else 0.0)
        self._recent = Moments()
        self._gain = 1.0  # what the next step counts in _recent: growing, instead of all the others shrinking
        self._drift = math.log(drift)  # natural logarithm of the machine's factor
        self._ratios: deque[float] = deque(maxlen=_JUDGED)  # real / predicted
        self.observed = 0

    @property
    def fit(self) -> StepFit:
        """What is known, calibration and live steps together."""
        return StepFit(tuple(self._parts), self._moments())

    @property
    def error(self) -> float | None:
        """The median of |predicted - real| / real over the last steps; None before the first."""
        return median(abs(1 / ratio - 1) for ratio in self._ratios) if self._ratios else None

    @property
    def drift(self) -> float:
        """How many times as long as the fit says steps take at present."""
        return math.exp(self._drift)

    def predict(self, shape: StepShape) -> float:
        """Seconds that a step of this shape will take."""
        return shape.seconds(self._parts) * math.exp(self._drift)

    def fitted(self, shape: StepShape) -> float:
        """The same for a machine as fast as when the fit was made."""
        return shape.seconds(self._parts)

    def follow(self, fitted: float, seconds: float, steps: int = 1) -> None:
        """As many steps, each of which takes ``fitted``, took ``seconds`` each: how fast the machine is at present.

        :meth:`observe` does that too, and learns what parts take.
        """
        off = math.log(seconds / (fitted * math.exp(self._drift)))
        if abs(off) > _DRIFT_STEP:
            each = math.copysign(_DRIFT_RATE * _DRIFT_STEP, off)
            far = min(steps, math.ceil((abs(off) - _DRIFT_STEP) / abs(each)))  # steps that count as the most one does
            self._drift += far * each
            off -= far * each
            steps -= far
        self._drift += (1 - (1 - _DRIFT_RATE) ** steps) * off

    def shares(self, shape: StepShape, seconds: float) -> "Shares":
        """How a step of this shape that took so long is shared out among what was in it."""
        parts, features = self._parts, shape.features()
        fitted = _total(features, parts)
        scale = seconds / fitted if fitted > 0 else 0.0
        rows, (sequences, samples, decode, prefill, draft, asked, passes) = (
            _total(features[1:_ROWS], parts[1:_ROWS]),
            parts[_ROWS:],
        )
        return Shares(
            scale * (parts[0] + (samples if shape.sampled else 0.0)) if fitted > 0 else seconds,
            scale * rows / shape.rows if shape.rows else 0.0,
            scale * sequences / PER_SEQUENCES,
            scale * samples / PER_SEQUENCES,
            scale * decode / PER_DECODE_KEYS,
            scale * prefill / PER_PREFILL_KEYS,
            scale * draft / PER_DRAFT_KEYS,
            scale * (asked / PER_ASKED + (passes / PER_PASSES * shape.passes / shape.asked if shape.asked else 0.0)),
        )

    def draft(self, rows: int, count: int) -> tuple[float, float]:
        """Seconds that each row of ``count`` drafted tokens adds to a step of ``rows`` rows, in the mean, and each key
        that one sees."""
        parts, factor = self._parts, math.exp(self._drift)
        slopes = parts[1:_ROWS]
        row = (_total(rows_by_span(rows + count), slopes) - _total(rows_by_span(rows), slopes)) / count
        return factor * (row + parts[_ROWS + 1] / PER_SEQUENCES), factor * parts[-3] / PER_DRAFT_KEYS

    def asked(self) -> tuple[float, float]:
        """Seconds that the draft model takes for each token, and for each of its passes, whoever is in it."""
        factor = math.exp(self._drift)
        return factor * self._parts[-2] / PER_ASKED, factor * self._parts[-1] / PER_PASSES

    def observe(self, shape: StepShape, seconds: float) -> None:
        """A step of this shape took so long; one of no time at all teaches nothing."""
        if not 0 < seconds < math.inf:
            return
        features = shape.features()
        fitted = _total(features, self._parts)
        factor = math.exp(self._drift)
        if fitted > 0:
            self._ratios.append(seconds / (fitted * factor))
        self.observed += 1
        off = math.log(seconds / (fitted * factor)) if fitted > 0 else 0.0
        self._recent.add(features, seconds / factor, self._gain * _weight(fitted * factor, seconds))
        self._drift += _DRIFT_RATE * max(-_DRIFT_STEP, min(_DRIFT_STEP, off))
        self._gain *= 1 + 1 / _MEMORY
        if self._gain > 1e9:
            self._recent, self._gain = Moments().plus(self._recent, 1 / self._gain), 1.0
        if self.observed % _REFIT == 0:
            self._solve(_SWEEPS)
            self._keep_scale()

    def settle(self, steps: Iterable[tuple[StepShape, float]]) -> None:
        """Begin anew from steps measured on purpose, which will not be forgotten."""
        measured = [(shape.features(), seconds) for shape, seconds in steps if 0 < seconds < math.inf]
        if not measured:
            return
        self._recent, self._gain, self._drift = Moments(), 1.0, 0.0
        for turn in range(3):  # the better the fit, the better outliers are told
            self._firm = Moments()
            for features, seconds in measured:
                fitted = _total(features, self._parts)
                self._firm.add(features, seconds, _weight(fitted, seconds) if turn else 1.0)
            self._solve(_CALIBRATION_SWEEPS)

    def rebase(self, steps: Iterable[tuple[StepShape, float]]) -> None:
        """Take from a few steps how fast the machine is at present; what is known of steps stays."""
        ratios = [
            seconds / fitted
            for shape, seconds in steps
            if 0 < seconds < math.inf and (fitted := _total(shape.features(), self._parts)) > 0
        ]
        if ratios:
            self._drift = math.log(median(ratios))

    def _moments(self) -> Moments:
        return self._firm.plus(self._recent, 1 / self._gain)

    def _keep_scale(self) -> None:
        """Whatever part of the machine's factor was learned as the fit's is given back to the factor.

        Both follow the same steps, each in its own way: without this they drift apart without end.
        """
        scale = self._firm.scale(self._parts)
        if not _LEAST_SCALE < scale < 1 / _LEAST_SCALE:
            return  # no calibration, or nothing like one
        self._parts = [part * scale for part in self._parts]
        self._recent = self._recent.slowed(scale)
        self._drift -= math.log(scale)

    def _solve(self, sweeps: int) -> None:
        """Coordinate descent towards the least squares with no part below 0; what no step has told stays.

        But rows: where steps hardly tell what one costs, as much as where they do.
        """
        moments = self._moments()
        products, aims = moments.products, moments.aims
        alike = _ALIKE * moments.square(range(1, _ROWS))
        for i in range(1, _ROWS - 1):
            products[_AT[i][i]] += alike
            products[_AT[i + 1][i + 1]] += alike
            products[_AT[i][i + 1]] -= alike
        rows = [(i, [products[at] for at in _AT[i]]) for i in range(_SIZE) if products[_AT[i][i]] > 0]
        parts = self._parts
        for _ in range(sweeps):
            for i, row in rows:
                parts[i] = max(0.0, parts[i] + (aims[i] - _total(row, parts)) / row[i])


def _total(features: Sequence[float], parts: Sequence[float]) -> float:
    total: float = sum(map(mul, features, parts))
    return total


def _weight(predicted: float, seconds: float) -> float:
    error = abs(predicted - seconds) / seconds
    return 1.0 if error <= _TRUSTED else _TRUSTED / error

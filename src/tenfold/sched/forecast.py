"""What will become of a request: when its first token comes, and how long it runs."""

import math
from dataclasses import dataclass

from tenfold.cost.estimate import StepCost
from tenfold.cost.shape import Attention, StepShape

_FOLLOWS = 2.0  # seconds over which the rate of prefill is an average
_FIRST_OUTPUTS = 128.0  # tokens of an answer, before one was seen
_LENGTH_RATE = 0.05  # how fast the mean length of a class follows an answer
_EXPECTED = 60.0  # seconds for which more like a request are expected
_SLOWEST = 0.02  # seconds of prefill per second, at least: a forecast stays finite


@dataclass(slots=True)
class Load:
    """How things stand, in seconds. The scheduler keeps it; promises are made by it."""

    tightest: float | None = None  # TPOT bound of those that run
    decode: float = 0.0  # predicted, of the last plan's sequences in decode
    interference: float = 0.0  # spent on others' prompts, for whoever was in decode throughout
    held: float = 0.0  # of the machine, charged for each token that was held in KV memory throughout
    step: float = 0.0  # what steps took of late, on average
    ahead: int = 0  # steps that were planned beyond the one that is computed
    full: bool = False  # whether a sequence found no place in the last plan, or no blocks
    capped: bool = False  # and whether that was one which may have the last
    soonest: float = math.inf  # TTFT bound of late, the tightest,
    until: float = 0.0  # which is not expected any more from then on

    def came(self, ttft: float, now: float) -> None:
        """A request came that is promised its first token within ``ttft``."""
        if ttft <= self.soonest or now > self.until:
            self.soonest, self.until = ttft, now + _EXPECTED

    def expected(self, now: float) -> float | None:
        """The tightest TTFT bound that the next request may have; None where none is likely to have any."""
        return self.soonest if now <= self.until else None


class Forecast:
    """Predictions from the cost model and from how fast things went of late. Owned by the scheduler."""

    def __init__(self, cost: StepCost, attention: Attention, chunk: int) -> None:
        self._cost = cost
        self._attention = attention
        self.chunk = chunk  # tokens of a step
        self._rate = 1.0
        self._outputs: dict[str, float] = {}

    @property
    def rate(self) -> float:
        """Seconds of prefill that waited for it that a second does."""
        return max(self._rate, _SLOWEST)

    def prefill(self, start: int, tokens: int) -> float:
        """Seconds that positions ``start`` … ``tokens`` - 1 of a prompt take alone on the machine."""
        new = tokens - start
        if new <= 0:
            return 0.0
        steps = -(-new // self.chunk)
        keys = self._attention.keys(new, tokens) / steps
        each = StepShape(-(-new // steps), 1, 0, 0.0, keys)
        return steps * self._cost.predict(each)

    def again(self, start: int) -> float:
        """Seconds that a chunk takes which begins after ``start`` tokens: what blocks there are worth."""
        return self.prefill(start, start + self.chunk)

    def decode(self, context: int) -> float:
        """Seconds of a step with nothing but one sequence of ``context`` tokens in decode: no TPOT is below it."""
        return self._cost.predict(StepShape(1, 1, 1, self._attention.keys(1, context), 0.0))

    def progress(self, done: float, seconds: float) -> None:
        """In ``seconds``, while timely prompts waited, ``done`` seconds of their prefill were computed."""
        if seconds > 0:
            keep = math.exp(-seconds / _FOLLOWS)
            self._rate = keep * self._rate + (1 - keep) * min(1.0, done / seconds)

    def restart(self, rate: float) -> None:
        """Nothing timely waits: what comes now is computed at ``rate``, until more is known."""
        self._rate = rate

    def outputs(self, slo_class: str) -> float:
        """Tokens that an answer of this class has, on average."""
        return self._outputs.get(slo_class, _FIRST_OUTPUTS)

    def ended(self, slo_class: str, outputs: int) -> None:
        """An answer came to its own end with so many tokens."""
        mean = self.outputs(slo_class)
        self._outputs[slo_class] = mean + _LENGTH_RATE * (outputs - mean)

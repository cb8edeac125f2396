"""When one request's tokens were sent."""

from tenfold.core.clock import Clock
from tenfold.core.request import RequestOutput
from tenfold.observe.metrics import Metrics


class _Choice:
    __slots__ = ("ended", "first", "last", "tokens")

    def __init__(self) -> None:
        self.first = 0.0
        self.last = 0.0
        self.tokens = 0
        self.ended = False


class RequestTimeline:
    """Follows a request of several choices and reports to the metrics as things happen.

    TTFT, ITL, TPOT and E2E as DESIGN defines them; ``arrival`` is the clock's time of receipt.
    """

    __slots__ = ("_arrival", "_choices", "_clock", "_metrics", "_open", "_prompt_tokens", "_started")

    def __init__(self, metrics: Metrics, clock: Clock, arrival: float, *, prompt_tokens: int, choices: int) -> None:
        self._metrics = metrics
        self._clock = clock
        self._arrival = arrival
        self._prompt_tokens = prompt_tokens
        self._choices = [_Choice() for _ in range(choices)]
        self._open = choices
        self._started = False

    def sent(self, choice: int, output: RequestOutput) -> None:
        """An output has gone out."""
        now = self._clock.now()
        line = self._choices[choice]
        count = len(output.tokens)
        if count:
            if not self._started:
                self._started = True
                self._metrics.first_token(now - self._arrival, output.queue_seconds, self._prompt_tokens)
            if line.tokens:
                self._metrics.tokens(count, now - line.last)
            else:
                line.first = now
                self._metrics.tokens(count, None)
            line.last = now
            line.tokens += count
        if output.finish is not None:
            self._end(line, output.finish)
            if not self._open:
                self._metrics.request_ended(now - self._arrival)

    def close(self, reason: str) -> None:
        """No more will be sent: choices still open ended for ``reason``."""
        for line in self._choices:
            if not line.ended:
                self._end(line, reason)

    def _end(self, line: _Choice, reason: str) -> None:
        line.ended = True
        self._open -= 1
        tpot = (line.last - line.first) / (line.tokens - 1) if line.tokens > 1 else None
        self._metrics.choice_ended(reason, line.tokens, tpot)

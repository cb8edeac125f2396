"""When one request's tokens were sent, and where its time went."""

import time

from tenfold.core.clock import Clock
from tenfold.core.request import RequestOutput
from tenfold.observe.metrics import Metrics
from tenfold.observe.requests import ChoiceTimeline, RequestReport, cost_of


class _Choice:
    __slots__ = ("first", "last", "reason", "report", "tokens")

    def __init__(self) -> None:
        self.first: float | None = None
        self.last = 0.0
        self.tokens = 0
        self.reason: str | None = None  # why it ended
        self.report: ChoiceTimeline | None = None


class RequestTimeline:
    """Follows a request of several choices and reports to the metrics as things happen.

    TTFT, ITL, TPOT and E2E as DESIGN defines them; ``arrival`` is the clock's time of receipt, ``price`` that of an
    hour of the machine.
    """

    __slots__ = (
        "_arrival",
        "_choices",
        "_clock",
        "_metrics",
        "_open",
        "_price",
        "_prompt_tokens",
        "_started",
        "_submitted",
    )

    def __init__(
        self,
        metrics: Metrics,
        clock: Clock,
        arrival: float,
        *,
        prompt_tokens: int,
        choices: int,
        price: float | None = None,
    ) -> None:
        self._metrics = metrics
        self._price = price
        self._clock = clock
        self._arrival = arrival
        self._submitted = clock.now()
        self._prompt_tokens = prompt_tokens
        self._choices = [_Choice() for _ in range(choices)]
        self._open = choices
        self._started = False

    def sent(self, choice: int, output: RequestOutput) -> None:
        """An output has gone out."""
        now = self._clock.now()
        line = self._choices[choice]
        count = len(output.tokens)
        if count or output.embedding is not None:
            if not self._started:
                self._started = True
                self._metrics.first_token(now - self._arrival, output.queue_seconds, self._prompt_tokens)
            self._metrics.tokens(count, None if line.first is None else now - line.last)
            if line.first is None:
                line.first = now
            line.last = now
            line.tokens += count
        if output.finish is not None:
            line.report = self._report(line, output, now)
            if line.report is not None:
                self._metrics.where_time_went(line.report)
            self._end(line, output.finish)
            if not self._open:
                self._metrics.request_ended(now - self._arrival)

    def report(self, choice: int, output: RequestOutput) -> ChoiceTimeline | None:
        """Where the time of a choice went, whose last output (this one) is about to be sent."""
        line, now = self._choices[choice], self._clock.now()
        ending = _Choice()
        begins = line.first is None and (output.tokens or output.embedding is not None)
        ending.first = now if begins else line.first
        ending.last = now if output.tokens else line.last
        ending.tokens = line.tokens + len(output.tokens)
        return self._report(ending, output, now)

    def close(self, reason: str) -> None:
        """No more will be sent: choices still open ended for ``reason``."""
        for line in self._choices:
            if line.reason is None:
                self._end(line, reason)

    def request_report(self, answer_id: str, request_id: str) -> RequestReport:
        """The request, once all choices have ended."""
        return RequestReport(
            id=answer_id,
            request_id=request_id,
            ended=time.time(),
            finish_reasons=[line.reason or "" for line in self._choices],
            choices=[line.report for line in self._choices if line.report is not None],
            prompt_tokens=self._prompt_tokens,
        )

    def _report(self, line: _Choice, output: RequestOutput, now: float) -> ChoiceTimeline | None:
        engine = output.timeline
        if engine is None:
            return None
        tokenize = min(max(0.0, self._submitted - self._arrival), engine.queue)
        return ChoiceTimeline(
            slo_class=engine.slo_class,
            tokenize=tokenize,
            queue=engine.queue - tokenize,
            prefill=engine.prefill,
            decode=engine.decode,
            interference=engine.interference,
            preempted=engine.preempted,
            recompute=engine.recompute,
            delivery=max(0.0, now - self._arrival - engine.total),
            total=max(engine.total, now - self._arrival),
            prompt_tokens=engine.prompt_tokens,
            cached_tokens=engine.cached_tokens,
            output_tokens=engine.output_tokens,
            machine_seconds=engine.machine_seconds,
            draft_tokens=engine.draft_tokens,
            accepted_tokens=engine.accepted_tokens,
            saved_seconds=engine.saved_seconds,
            cost=cost_of(engine.machine_seconds, self._price),
            ttft=None if line.first is None else line.first - self._arrival,
            tpot=_tpot(line),
            ttft_bound=engine.ttft_bound,
            tpot_bound=engine.tpot_bound,
            preemptions=[f"after {one.at:.3f} s: {one.reason}" for one in engine.preemptions],
        )

    def _end(self, line: _Choice, reason: str) -> None:
        line.reason = reason
        self._open -= 1
        self._metrics.choice_ended(reason, line.tokens, _tpot(line))


def _tpot(line: _Choice) -> float | None:
    if line.first is None or line.tokens < 2:
        return None
    return (line.last - line.first) / (line.tokens - 1)

"""Prometheus metrics of a server: what requests saw, and what the engine reports.

Names are those of vLLM with the prefix ``tenfold_`` where the meaning is the same; those are there a second time as
vLLM writes them (:mod:`tenfold.observe.vllm_names`).
Every instance has a registry of its own.
"""

from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tenfold.core.request import EngineInfo, EngineStats
from tenfold.core.slo import DEFAULT_TARGET
from tenfold.engine.client import Health
from tenfold.observe.budget import BudgetCollector
from tenfold.observe.engine_metrics import EngineCollector
from tenfold.observe.figures import Figures, answers_of, spread_of, table_of, total_of
from tenfold.observe.requests import ChoiceTimeline
from tenfold.observe.vllm_names import BothNames

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

# Gaps between tokens: a millisecond apart where a GPU or a small model is.
_FAST = (
    *(0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.007, 0.008, 0.009, 0.01, 0.012, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05),
    *(0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5),
)
_SLOW = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0),
    *(80.0, 160.0, 320.0),
)
_TOKENS = (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)

PHASES = ("tokenize", "queue", "prefill", "decode", "interference", "preempted", "recompute", "delivery")


class Metrics:
    """Counters and histograms of one server. All times are in seconds; ``price`` is that of an hour of the machine.

    ``model`` is the name it is served under, ``slo_target`` the part of choices with bounds that shall keep them.
    """

    def __init__(self, price: float | None = None, *, model: str = "", slo_target: float = DEFAULT_TARGET) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._shown = BothNames(self.registry, model)
        self._budget = BudgetCollector(slo_target)
        self.registry.register(self._budget)
        self._engine = EngineCollector(price)
        self.registry.register(self._engine)
        self._http = self._counter("http_requests", "HTTP requests by route and status", ("route", "method", "status"))
        self._finished = self._counter("request_success", "Choices ended, by reason", ("finished_reason",))
        self._prompt = self._counter("prompt_tokens", "Prompt tokens of requests that began to be answered")
        self._generated = self._counter("generation_tokens", "Tokens generated and sent")
        self._ttft = self._histogram("time_to_first_token_seconds", "Receipt to first token sent", _SLOW)
        self._queue = self._histogram("request_queue_time_seconds", "Receipt to first step", _SLOW)
        self._itl = self._histogram("inter_token_latency_seconds", "Gap between a choice's outputs", _FAST)
        self._tpot = self._histogram("request_time_per_output_token_seconds", "Mean gap of a choice", _FAST)
        self._e2e = self._histogram("e2e_request_latency_seconds", "Receipt to last token sent", _SLOW)
        self._inference = self._histogram("request_inference_time_seconds", "First step to a choice's end", _SLOW)
        self._prefill = self._histogram("request_prefill_time_seconds", "First step to a choice's first token", _SLOW)
        self._decode = self._histogram("request_decode_time_seconds", "First token to last of a choice", _SLOW)
        self._prompt_size = self._histogram("request_prompt_tokens", "Prompt tokens of a request", _TOKENS)
        self._output_size = self._histogram("request_generation_tokens", "Output tokens of a choice", _TOKENS)
        self._phases = Histogram(
            "tenfold_request_phase_seconds",
            "Where the time of finished choices went",
            ("slo_class", "phase"),
            buckets=_SLOW,
            registry=self.registry,
        )
        self._slo = self._counter(
            "slo_requests", "Finished choices by class, and whether bounds were kept", ("slo_class", "outcome")
        )
        self._ended: Tally[str] = Tally()  # choices, by class
        self._in_flight = Gauge(
            "tenfold_http_requests_in_flight", "HTTP requests being answered", registry=self.registry
        )

    def _counter(self, name: str, text: str, labels: Iterable[str] = ()) -> Counter:
        return Counter(f"tenfold_{name}", text, tuple(labels), registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Iterable[float]) -> Histogram:
        return Histogram(f"tenfold_{name}", text, buckets=tuple(buckets), registry=self.registry)

    def http_began(self) -> None:
        """An HTTP request came in."""
        self._in_flight.inc()

    def http_ended(self, route: str, method: str, status: int) -> None:
        """It was answered; ``status`` 499 says that its client left first."""
        self._in_flight.dec()
        self._http.labels(route, method, str(status)).inc()

    def first_token(self, seconds: float, queued: float, prompt_tokens: int) -> None:
        """A request's first token was sent, ``seconds`` after its receipt, of which it was ``queued`` so long."""
        self._ttft.observe(seconds)
        self._queue.observe(queued)
        self._prompt.inc(prompt_tokens)
        self._prompt_size.observe(prompt_tokens)

    def tokens(self, count: int, gap: float | None) -> None:
        """Tokens of one choice were sent together, ``gap`` after the ones before (None: the first)."""
        self._generated.inc(count)
        if gap is not None:
            self._itl.observe(gap)

    def choice_ended(self, reason: str, tokens: int, tpot: float | None) -> None:
        """A choice has its last token, or never will."""
        self._finished.labels(reason).inc()
        self._output_size.observe(tokens)
        if tpot is not None:
            self._tpot.observe(tpot)

    def where_time_went(self, line: ChoiceTimeline) -> None:
        """A choice has ended: its phases by class, and whether what its class promises was kept."""
        self._ended[line.slo_class] += 1
        for phase in PHASES:
            self._phases.labels(line.slo_class, phase).observe(getattr(line, phase))
        decode = line.decode + line.interference + line.preempted + line.recompute
        self._prefill.observe(line.prefill)
        self._decode.observe(decode)
        self._inference.observe(line.prefill + decode)
        if line.ttft_bound is None and line.tpot_bound is None:
            return
        late = line.ttft_bound is not None and (line.ttft is None or line.ttft > line.ttft_bound)
        slow = line.tpot_bound is not None and line.tpot is not None and line.tpot > line.tpot_bound
        outcome = ("both_missed" if slow else "ttft_missed") if late else ("tpot_missed" if slow else "met")
        self._slo.labels(line.slo_class, outcome).inc()
        self._budget.add(line.slo_class, not late and not slow)

    def request_ended(self, seconds: float) -> None:
        """All choices of a request have their last token."""
        self._e2e.observe(seconds)

    def render(self, health: Health, stats: EngineStats | None, info: EngineInfo | None, version: str) -> bytes:
        """The exposition text; ``stats`` None while there is no engine to ask."""
        self._engine.update(health, stats, info, version)
        return bytes(generate_latest(self._shown))

    def figures(self) -> Figures:
        """What the dashboard draws of it."""
        return Figures(
            ttft=spread_of(self._ttft),
            itl=spread_of(self._itl),
            prompt_tokens=total_of(self._prompt),
            output_tokens=total_of(self._generated),
            ended=dict(self._ended),
            outcomes=table_of(self._slo, "slo_class", "outcome"),
            answers=answers_of(self._http),
        )

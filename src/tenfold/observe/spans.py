"""Requests as OpenTelemetry spans, sent by OTLP over HTTP; needs ``tenfold[otel]``.

A span per request, with OpenTelemetry's conventions for generative AI
(https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/), and under it ``queued``, ``prefill`` and ``decode``
of each choice. They are made when a request has ended, from its timeline: nothing is done while it runs.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from tenfold.core.errors import ConfigError
from tenfold.observe.about import tenfold_version
from tenfold.observe.requests import ChoiceTimeline, RequestReport

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter

_OPERATIONS = {"/v1/completions": "text_completion", "/v1/embeddings": "embeddings"}  # the others: chat
_CHOICES = 16  # of a request are shown, at most
_PATIENCE = 2000  # milliseconds for what is unsent at the end
_TRACES = "/v1/traces"


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """A request that has been answered, or given up. ``began`` in Unix seconds; ``parent``: its traceparent and
    tracestate headers, as they came. Without a ``report`` it never reached the engine."""

    request_id: str
    method: str
    route: str
    model: str
    status: int
    began: float
    seconds: float
    tenant: str | None = None
    report: RequestReport | None = None
    parent: dict[str, str] = {}


class Spans:
    """Sends spans of requests to ``url``, in the background. Raises ConfigError where that cannot be.

    ``exporter`` takes the place of the one for ``url``.
    """

    def __init__(self, url: str, exporter: "SpanExporter | None" = None) -> None:
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError:
            raise ConfigError("--otlp needs OpenTelemetry: pip install 'tenfold[otel]'") from None
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "tenfold", "service.version": tenfold_version()}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter or _exporter(url)))
        self._tracer = self._provider.get_tracer("tenfold", tenfold_version())
        self._propagator = TraceContextTextMapPropagator()

    def add(self, request: Ended) -> None:
        """A request has ended."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        operation = _OPERATIONS.get(request.route, "chat")
        span = self._tracer.start_span(
            f"{operation} {request.model}",
            context=self._propagator.extract(request.parent),
            kind=SpanKind.SERVER,
            attributes=_attributes(request, operation),
            start_time=_nanoseconds(request.began),
        )
        if request.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        if request.report is not None:
            inside = set_span_in_context(span)
            for at, choice in enumerate(request.report.choices[:_CHOICES]):
                self._phases(at, choice, request.began, inside)
        span.end(_nanoseconds(request.began + request.seconds))

    def _phases(self, at: int, choice: ChoiceTimeline, began: float, inside: "Context") -> None:
        waits = {"tenfold.cached_tokens": choice.cached_tokens}
        steps = {
            "tenfold.interference_seconds": choice.interference,
            "tenfold.preempted_seconds": choice.preempted,
            "tenfold.recompute_seconds": choice.recompute,
            "tenfold.draft_tokens": choice.draft_tokens,
            "tenfold.accepted_tokens": choice.accepted_tokens,
        }
        decode = choice.decode + choice.interference + choice.preempted + choice.recompute
        begin = began + choice.tokenize
        for name, seconds, more in (
            ("queued", choice.queue, {}),
            ("prefill", choice.prefill, waits),
            ("decode", decode, steps),
        ):
            span = self._tracer.start_span(
                name, inside, attributes={"tenfold.choice": at, **more}, start_time=_nanoseconds(begin)
            )
            begin += seconds
            span.end(_nanoseconds(begin))

    def close(self) -> None:
        """Send what is unsent, for a moment; blocks."""
        self._provider.force_flush(_PATIENCE)
        self._provider.shutdown()


def _exporter(url: str) -> "SpanExporter":
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise ConfigError("--otlp needs OpenTelemetry: pip install 'tenfold[otel]'") from None
    # The exporter blocks its thread for so long where nothing answers, and the end of the server with it.
    return OTLPSpanExporter(endpoint=url if urlsplit(url).path.strip("/") else url.rstrip("/") + _TRACES, timeout=5)


def _attributes(request: Ended, operation: str) -> Mapping[str, Any]:
    told: dict[str, Any] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "tenfold",
        "gen_ai.request.model": request.model,
        "http.request.method": request.method,
        "http.route": request.route,
        "http.response.status_code": request.status,
        "tenfold.request_id": request.request_id,
    }
    if request.tenant is not None:
        told["tenfold.tenant"] = request.tenant
    if request.status >= 400:
        told["error.type"] = str(request.status)
    if (report := request.report) is not None:
        told["gen_ai.response.id"] = report.id
        told["gen_ai.response.model"] = request.model
        told["gen_ai.response.finish_reasons"] = report.finish_reasons
        if choices := report.choices:
            told["gen_ai.usage.input_tokens"] = report.prompt_tokens
            told["gen_ai.usage.output_tokens"] = sum(choice.output_tokens for choice in choices)
            told["tenfold.slo_class"] = choices[0].slo_class
            told["tenfold.machine_seconds"] = sum(choice.machine_seconds for choice in choices)
            told["tenfold.cost"] = sum(choice.cost or 0.0 for choice in choices)
            if choices[0].ttft is not None:
                told["tenfold.ttft_seconds"] = choices[0].ttft
    return told


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)

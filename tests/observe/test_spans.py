"""A request's span and its children, as an OpenTelemetry backend gets them."""

import asyncio
import sys
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tenfold.core.errors import ConfigError
from tenfold.observe.spans import Spans
from tenfold.server.app import application
from tenfold.server.config import ServerConfig
from tenfold.server.service import Service
from tenfold.server.text import TextCodec
from tests.server.fakes import INFO, ByteTokenizer, FakeEngine, PlainTemplate
from tests.server.test_objectives import LINE, TimedEngine

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BODY = {"prompt": "x", "max_tokens": 3}


def spans_of(engine: FakeEngine, path: str, body: Any, headers: dict[str, str] | None = None) -> list[ReadableSpan]:
    exporter = InMemorySpanExporter()
    spans = Spans("http://127.0.0.1:1", exporter)

    async def run() -> None:
        service = Service(ServerConfig(names=("m", "n"), price=3600.0), engine, tracer=spans)
        service.load(INFO, TextCodec(ByteTokenizer(), PlainTemplate()))
        transport = httpx.ASGITransport(application(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            await client.post(path, json=body, headers=headers)
            await client.get("/health")
            await client.get("/v1/models")

    asyncio.run(run())
    spans.close()
    return sorted(exporter.get_finished_spans(), key=lambda span: span.start_time or 0)


def test_a_span_with_its_phases_under_the_callers() -> None:
    root, *parts = spans_of(TimedEngine(), "/v1/completions", BODY, {"traceparent": PARENT, "x-request-id": "r1"})
    assert (root.name, root.kind) == ("text_completion m", SpanKind.SERVER)
    assert root.context is not None
    assert f"{root.context.trace_id:032x}" == PARENT.split("-")[1]
    assert root.parent is not None
    assert f"{root.parent.span_id:016x}" == PARENT.split("-")[2]
    told = dict(root.attributes or {})
    assert told["gen_ai.operation.name"] == "text_completion"
    assert told["gen_ai.request.model"] == told["gen_ai.response.model"] == "m"
    assert told["gen_ai.usage.input_tokens"] == 2
    assert told["gen_ai.usage.output_tokens"] == 3
    assert told["gen_ai.response.finish_reasons"] == ("length",)
    assert str(told["gen_ai.response.id"]).startswith("cmpl-")
    assert told["http.response.status_code"] == 200
    assert told["tenfold.request_id"] == "r1"
    assert told["tenfold.slo_class"] == "interactive"
    assert root.status.status_code is StatusCode.UNSET
    assert [part.name for part in parts] == ["queued", "prefill", "decode"]
    assert all(part.parent is not None and part.parent.span_id == root.context.span_id for part in parts)
    seconds = [((part.end_time or 0) - (part.start_time or 0)) / 1e9 for part in parts]
    decode = LINE.decode + LINE.interference + LINE.preempted + LINE.recompute
    assert seconds == pytest.approx([LINE.queue, LINE.prefill, decode], abs=1e-3)
    assert [part.end_time for part in parts[:2]] == [part.start_time for part in parts[1:]]
    assert dict(parts[2].attributes or {})["tenfold.interference_seconds"] == LINE.interference


def test_every_choice_has_its_phases() -> None:
    chat = {"messages": [{"role": "user", "content": "q"}], "max_tokens": 3, "n": 2}
    root, *parts = spans_of(TimedEngine(), "/v1/chat/completions", chat, {"traceparent": "nonsense"})
    assert (root.name, root.parent) == ("chat m", None)
    assert sorted(dict(part.attributes or {})["tenfold.choice"] for part in parts) == [0, 0, 0, 1, 1, 1]


def test_requests_that_failed() -> None:
    [bad] = spans_of(FakeEngine(), "/v1/completions", {"prompt": 3})
    assert dict(bad.attributes or {})["error.type"] == "400"
    assert bad.status.status_code is StatusCode.UNSET  # the client's fault, as the conventions have it
    [ours] = spans_of(FakeEngine(fail_at=0, failure=RuntimeError("x")), "/v1/completions", BODY)
    assert ours.status.status_code is StatusCode.ERROR
    assert dict(ours.attributes or {})["http.response.status_code"] == 500


def test_without_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"pip install 'tenfold\[otel\]'"):
        Spans("http://127.0.0.1:1")


def test_what_is_no_url() -> None:
    with pytest.raises(ConfigError, match="--otlp"):
        ServerConfig(names=("m",), otlp="localhost:4318")

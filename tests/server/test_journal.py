"""The log: a line per request, ids end to end, and nothing that users wrote unless that is asked for."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tenfold.core.logs import set_up, told
from tests.server.fakes import FakeEngine
from tests.server.test_objectives import TimedEngine

Ask = Callable[..., httpx.Response]
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECRET = "what-nobody-else-may-read"


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], io.StringIO]]:
    """``written(level, format)`` sets logging up anew and gives what comes of it."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    prompts = logging.getLogger("tenfold.prompts").level

    def begin(wanted: str, form: str) -> io.StringIO:
        out = io.StringIO()
        monkeypatch.setattr("sys.stderr", out)
        root.handlers.clear()
        set_up(wanted, form)
        return out

    yield begin
    root.handlers[:] = before
    root.setLevel(level)
    logging.getLogger("tenfold.prompts").setLevel(prompts)


def test_a_line_per_request(ask: Ask, written: Callable[..., io.StringIO]) -> None:
    out = written("info", "json")
    headers = {"x-request-id": "r-1", "traceparent": PARENT}
    answer = ask("POST", "/v1/completions", engine=TimedEngine(), json={"prompt": SECRET}, headers=headers).json()
    ask("POST", "/v1/completions", json={"prompt": SECRET, "n": "x"}, headers={"x-request-id": "r-2"})
    ask("GET", "/health")
    lines = [json.loads(line) for line in out.getvalue().splitlines() if '"tenfold.request"' in line]
    first, second = lines
    assert first["message"] == "POST /v1/completions 200"
    assert (first["request_id"], first["id"]) == ("r-1", answer["id"])
    assert first["trace_id"] == PARENT.split("-")[1]
    assert first["finish"] == ["length"]
    assert first["prompt_tokens"] == len(SECRET) + 1
    assert first["level"] == "info"
    assert first["time"].endswith("+00:00")
    assert (second["request_id"], second["message"]) == ("r-2", "POST /v1/completions 400")
    assert SECRET not in out.getvalue()


def test_texts_only_where_they_are_asked_for(ask: Ask, written: Callable[..., io.StringIO]) -> None:
    for settings in ({}, {"log_prompts": True}):
        out = written("debug", "text")
        ask("POST", "/v1/completions", json={"prompt": SECRET}, headers={"x-request-id": "r-3"}, settings=settings)
        ask("POST", "/tokenize", json={"prompt": SECRET}, settings=settings)
        assert out.getvalue().count(SECRET) == (2 if settings else 0)
        assert 'request_id="r-3"' in out.getvalue()


def test_our_faults_name_the_request(ask: Ask, written: Callable[..., io.StringIO]) -> None:
    out = written("warning", "json")
    engine = FakeEngine(fail_at=0, failure=RuntimeError("inside"))
    ask("POST", "/v1/completions", engine=engine, json={"prompt": "x"}, headers={"x-request-id": "r-4"})
    [line] = [json.loads(line) for line in out.getvalue().splitlines()]
    assert line["request_id"] == "r-4"
    assert "RuntimeError: inside" in line["exception"]


def test_a_value_cannot_begin_a_line(written: Callable[..., io.StringIO]) -> None:
    out = written("info", "text")
    hostile: dict[str, Any] = {"a": "x\n2026-01-01 ERROR forged", "b": None}
    logging.getLogger("tenfold.test").info("message", extra=told(**hostile))
    assert out.getvalue().count("\n") == 1
    assert 'a="x\\n2026' in out.getvalue()
    assert "b=" not in out.getvalue()

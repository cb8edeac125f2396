"""Bounds, classes and tenants in bodies and headers; where a request's time went."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import msgspec
import pytest

from tenfold.core.request import EngineRequest, Preemption, RequestOutput, Timeline
from tests.server.conftest import client_of
from tests.server.fakes import FakeEngine

Ask = Callable[..., httpx.Response]
PATH = "/v1/completions"
BODY = {"prompt": "x", "max_tokens": 3}

LINE = Timeline(
    slo_class="interactive",
    tenant="",
    queue=0.5,
    prefill=0.2,
    decode=0.3,
    interference=0.1,
    preempted=0.05,
    recompute=0.02,
    total=1.17,
    prompt_tokens=2,
    cached_tokens=0,
    output_tokens=3,
    preemptions=(Preemption(0.9, "KV blocks ran out"),),
    ttft_bound=1.0,
    tpot_bound=1e-12,
)


class TimedEngine(FakeEngine):
    """Tells a timeline with each last output."""

    async def submit(self, request: EngineRequest) -> AsyncIterator[RequestOutput]:
        async for output in super().submit(request):
            yield msgspec.structs.replace(output, timeline=LINE) if output.finish else output


def asked(ask: Ask, body: dict[str, Any], headers: dict[str, str], **more: Any) -> tuple[EngineRequest, Any]:
    engine = FakeEngine()
    response = ask("POST", PATH, engine=engine, json=BODY | body, headers=headers, **more)
    assert response.status_code == 200, response.text
    return engine.requests[0], response.json()


def test_bounds_from_the_body_and_from_headers(ask: Ask) -> None:
    plain, answer = asked(ask, {}, {})
    assert (plain.slo_class, plain.ttft, plain.tpot, plain.tenant, plain.priority) == (None, None, None, "", 0)
    assert "warnings" not in answer
    body = {"slo_class": "batch", "slo_ttft_ms": 250, "slo_tpot_ms": 30.5, "priority": -4, "queue_timeout_ms": 1500}
    body["draft_tokens"] = 3
    told, answer = asked(ask, body, {})
    assert (told.slo_class, told.ttft, told.tpot) == ("batch", 0.25, 0.0305)
    assert (told.priority, told.queue_timeout, told.draft_tokens) == (-4, 1.5, 3)
    headers = {"x-slo-class": "batch", "x-slo-ttft-ms": "250", "x-slo-tpot-ms": "30.5", "x-tenant": "acme"}
    sent, answer = asked(ask, {}, headers)
    assert (sent.slo_class, sent.ttft, sent.tpot, sent.tenant) == ("batch", 0.25, 0.0305, "acme")
    assert "warnings" not in answer


def test_the_body_counts_and_the_client_is_told(ask: Ask) -> None:
    told, answer = asked(ask, {"slo_ttft_ms": 250, "slo_tpot_ms": 30}, {"x-slo-ttft-ms": "300", "x-slo-tpot-ms": "30"})
    assert told.ttft == 0.25
    assert answer["warnings"] == [
        "slo_ttft_ms is 250.0 in the body but 300.0 in the header x-slo-ttft-ms: the body counts"
    ]
    response = ask("POST", PATH, json=BODY | {"slo_ttft_ms": 250, "stream": True}, headers={"x-slo-ttft-ms": "300"})
    first = json.loads(response.text.split("\n\n")[0].removeprefix("data: "))
    assert first["warnings"] == answer["warnings"]


@pytest.mark.parametrize(
    ("body", "headers", "param"),
    [
        ({"slo_ttft_ms": 0}, {}, "slo_ttft_ms"),
        ({"slo_tpot_ms": -1}, {}, "slo_tpot_ms"),
        ({"queue_timeout_ms": 0}, {}, "queue_timeout_ms"),
        ({"draft_tokens": -1}, {}, "draft_tokens"),
        ({"draft_tokens": 65}, {}, "draft_tokens"),
        ({"priority": 2**70}, {}, "priority"),
        ({}, {"x-slo-ttft-ms": "soon"}, "x-slo-ttft-ms"),
        ({}, {"x-slo-tpot-ms": "nan"}, "slo_tpot_ms"),
        ({}, {"x-slo-ttft-ms": "inf"}, "slo_ttft_ms"),
        ({}, {"x-tenant": "a b"}, "x-tenant"),
        ({}, {"x-tenant": "a" * 129}, "x-tenant"),
        ({}, {"x-tenant": ""}, "x-tenant"),
    ],
)
def test_what_makes_no_sense_is_a_400(ask: Ask, body: dict[str, Any], headers: dict[str, str], param: str) -> None:
    response = ask("POST", PATH, json=BODY | body, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_tenants_are_known_by_their_keys(ask: Ask) -> None:
    settings = {"api_keys": ("one", "two")}
    tenants = set()
    for key in ("one", "two"):
        headers = {"authorization": f"Bearer {key}", "x-tenant": "acme"}
        request, answer = asked(ask, {}, headers, settings=settings)
        tenants.add(request.tenant)
        assert key not in request.tenant
        assert "x-tenant is not followed" in answer["warnings"][0]
    assert len(tenants) == 2


def test_refusals_keep_their_status(ask: Ask) -> None:
    class Refuses(FakeEngine):
        async def submit(self, request: EngineRequest) -> AsyncIterator[RequestOutput]:
            yield RequestOutput(id=request.id, finish="error", error="waited too long", retry_after=2.4)

    for stream in (False, True):
        response = ask("POST", PATH, engine=Refuses(), json=BODY | {"stream": stream})
        assert response.status_code == 429
        assert response.headers["retry-after"] == "3"
        assert response.json()["error"]["message"] == "waited too long"


def test_a_choice_tells_where_its_time_went(ask: Ask) -> None:
    for extra in ({}, {"n": 2}):
        answer = ask("POST", PATH, engine=TimedEngine(), json=BODY | {"timeline": True} | extra).json()
        for choice in answer["choices"]:
            line = choice["timeline"]
            parts = ("tokenize", "queue", "prefill", "decode", "interference", "preempted", "recompute", "delivery")
            assert sum(line[part] for part in parts) == pytest.approx(line["total"])
            assert line["preemptions"] == ["after 0.900 s: KV blocks ran out"]
            assert line["slo_class"] == "interactive"
    assert "timeline" not in ask("POST", PATH, engine=TimedEngine(), json=BODY).json()["choices"][0]
    chat = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "timeline": True}
    assert ask("POST", "/v1/chat/completions", engine=TimedEngine(), json=chat).json()["choices"][0]["timeline"]
    response = ask("POST", PATH, engine=TimedEngine(), json=BODY | {"timeline": True, "stream": True})
    chunks = [json.loads(part.removeprefix("data: ")) for part in response.text.split("\n\n")[:-2]]
    assert ["timeline" in chunk["choices"][0] for chunk in chunks] == [False, False, True]


def test_finished_requests_are_found_by_either_id() -> None:
    async def run() -> None:
        async with client_of(TimedEngine()) as client:
            answer = (await client.post(PATH, json=BODY, headers={"x-request-id": "mine"})).json()
            several = (await client.post(PATH, json=BODY | {"prompt": ["a", "b"]})).json()
            for name in ("mine", answer["id"]):
                report = (await client.get(f"/debug/requests/{name}")).json()
                assert report["id"] == answer["id"]
                assert report["finish_reasons"] == ["length"]
                assert report["choices"][0]["queue"] + report["choices"][0]["tokenize"] == pytest.approx(0.5)
            assert len((await client.get(f"/debug/requests/{several['id']}")).json()["choices"]) == 2
            listed = (await client.get("/debug/requests")).json()["data"]
            assert [report["id"] for report in listed] == [several["id"], answer["id"]]
            assert (await client.get("/debug/requests/none")).status_code == 404
            text = (await client.get("/metrics")).text
            assert 'tenfold_slo_requests_total{outcome="tpot_missed",slo_class="interactive"} 3.0' in text
            assert 'tenfold_request_phase_seconds_sum{phase="preempted",slo_class="interactive"} 0.15' in text

    asyncio.run(run())


def test_tenants_do_not_see_each_other() -> None:
    async def run() -> None:
        async with client_of(TimedEngine(), api_keys=("one", "two")) as client:
            one, two = ({"authorization": f"Bearer {key}"} for key in ("one", "two"))
            name = (await client.post(PATH, json=BODY, headers=one)).json()["id"]
            assert (await client.get(f"/debug/requests/{name}", headers=one)).status_code == 200
            assert (await client.get(f"/debug/requests/{name}", headers=two)).status_code == 404
            assert (await client.get("/debug/requests", headers=two)).json()["data"] == []
            assert (await client.get("/debug/requests")).status_code == 401

    asyncio.run(run())


def test_only_the_latest_are_kept() -> None:
    from tenfold.observe.requests import RequestLog, RequestReport

    log = RequestLog(3)
    for i in range(10):
        log.add(RequestReport(id=f"{i}", request_id=f"r{i % 4}", ended=0.0, finish_reasons=[], choices=[]), None)
    assert [report.id for report in log.latest(100, None)] == ["9", "8", "7"]
    assert log.find("r1", None) is log.find("9", None)
    assert log.find("6", None) is None
    assert log.find("r2", None) is None

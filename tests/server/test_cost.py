"""What a request costs: in usage, timelines and metrics."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import msgspec
import openai
import pytest

from tenfold.core.errors import ConfigError
from tenfold.core.request import EngineRequest, EngineStats, RequestOutput
from tenfold.server.config import ServerConfig
from tests.server.conftest import client_of
from tests.server.fakes import FakeEngine
from tests.server.test_objectives import LINE

Ask = Callable[..., httpx.Response]
PATH = "/v1/completions"
CHAT = "/v1/chat/completions"
BODY = {"prompt": "x", "max_tokens": 3}
HELLO: Any = [{"role": "user", "content": "hi"}]
PRICED = {"price": 3.6}  # a second costs 0.001


class BilledEngine(FakeEngine):
    """The first sample of a prompt used half a second of the machine, the next one a whole one, and so on."""

    async def submit(self, request: EngineRequest) -> AsyncIterator[RequestOutput]:
        async for output in super().submit(request):
            line = msgspec.structs.replace(LINE, machine_seconds=0.5 + 0.5 * output.index)
            yield msgspec.structs.replace(output, timeline=line) if output.finish else output

    async def stats(self) -> EngineStats:
        billed = {"standard": {"": 1.5, "acme": 2.0}, "batch": {"acme": 4.0}}
        return EngineStats(busy_seconds_total=10.0, billed_seconds_total=billed)


def ask_usage(ask: Ask, body: dict[str, Any], path: str = PATH, **settings: Any) -> dict[str, Any]:
    response = ask("POST", path, engine=BilledEngine(), json=body, settings=settings)
    assert response.status_code == 200, response.text
    return dict(response.json()["usage"])


def events(ask: Ask, options: dict[str, bool], **more: Any) -> list[dict[str, Any]]:
    body = BODY | {"stream": True, "stream_options": options} | more
    response = ask("POST", PATH, engine=BilledEngine(), json=body, settings=PRICED)
    return [json.loads(part.removeprefix("data: ")) for part in response.text.split("\n\n")[:-2]]


def test_usage_tells_what_all_choices_cost(ask: Ask) -> None:
    one = ask_usage(ask, BODY, **PRICED)
    assert (one["machine_seconds"], one["cost"]) == pytest.approx((0.5, 0.0005))
    several = ask_usage(ask, BODY | {"n": 2, "prompt": ["x", "y"]}, **PRICED)
    assert (several["machine_seconds"], several["cost"]) == pytest.approx((3.0, 0.003))
    chat = ask_usage(ask, {"messages": HELLO, "max_tokens": 3, "n": 2}, CHAT, **PRICED)
    assert chat["cost"] == pytest.approx(0.0015)


def test_what_is_not_known_is_absent(ask: Ask) -> None:
    usage = ask_usage(ask, BODY)
    assert usage["machine_seconds"] == 0.5
    assert "cost" not in usage
    untold = ask("POST", PATH, engine=FakeEngine(), json=BODY, settings=PRICED).json()["usage"]
    assert set(untold) == {"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details"}


def test_streams_tell_it_when_all_choices_have_ended(ask: Ask) -> None:
    *chunks, last = events(ask, {"include_usage": True}, n=2)
    assert last["usage"]["cost"] == pytest.approx(0.0015)
    assert all(chunk["usage"] is None for chunk in chunks)
    running = [event["usage"] for event in events(ask, {"continuous_usage_stats": True}, n=2)]
    assert ["cost" in usage for usage in running] == [False] * 5 + [True]
    assert running[-1]["machine_seconds"] == 1.5


def test_the_official_client_sees_it(live: Callable[..., Any]) -> None:
    with (
        live(BilledEngine(), **PRICED) as server,
        openai.OpenAI(base_url=server.url + "/v1", api_key="k", max_retries=0) as api,
    ):
        answer = api.chat.completions.create(model="m", messages=HELLO, max_tokens=3)
        assert answer.usage is not None
        assert answer.usage.model_extra == {"machine_seconds": 0.5, "cost": pytest.approx(0.0005)}


@pytest.mark.parametrize(("settings", "cost"), [({}, None), (PRICED, pytest.approx(0.0005))])
def test_timelines_tell_it(settings: dict[str, float], cost: object) -> None:
    async def run() -> None:
        async with client_of(BilledEngine(), **settings) as client:
            answer = (await client.post(PATH, json=BODY | {"timeline": True})).json()
            report = (await client.get(f"/debug/requests/{answer['id']}")).json()
            for line in (answer["choices"][0]["timeline"], report["choices"][0]):
                assert (line["machine_seconds"], line["cost"]) == (0.5, cost)

    asyncio.run(run())


def test_metrics_by_class_and_tenant(ask: Ask) -> None:
    lines = ask("GET", "/metrics", engine=BilledEngine(), settings=PRICED).text.splitlines()
    for line in (
        'tenfold_request_machine_seconds_total{slo_class="standard",tenant="acme"} 2.0',
        'tenfold_request_machine_seconds_total{slo_class="standard",tenant=""} 1.5',
        'tenfold_request_cost_total{slo_class="batch",tenant="acme"} 0.004',
        "tenfold_engine_busy_seconds_total 10.0",
        "tenfold_engine_billed_seconds_total 7.5",
    ):
        assert line in lines, line
    plain = ask("GET", "/metrics", engine=BilledEngine()).text
    assert 'tenfold_request_machine_seconds_total{slo_class="batch",tenant="acme"} 4.0' in plain
    assert "tenfold_request_cost" not in plain


@pytest.mark.parametrize("price", [0.0, -1.0, float("inf"), float("nan")])
def test_what_is_no_price(price: float) -> None:
    with pytest.raises(ConfigError, match="--price must be above 0"):
        ServerConfig(names=("m",), price=price)

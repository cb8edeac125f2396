"""The small routes, and what all routes share."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tenfold.core.errors import EngineUnavailable
from tests.server.conftest import in_time
from tests.server.fakes import FakeEngine

Ask = Callable[..., httpx.Response]


def test_models(ask: Ask) -> None:
    cards = ask("GET", "/v1/models").json()
    assert cards["object"] == "list"
    assert [card["id"] for card in cards["data"]] == ["m", "m-alias"]
    assert cards["data"][0]["max_model_len"] == 256
    assert ask("GET", "/v1/models/m-alias").json()["root"] == "fake-model"
    assert ask("GET", "/v1/models/default").status_code == 200
    missing = ask("GET", "/v1/models/org/other")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("state", ["starting", "ready", "stuck", "restarting", "failed"])
def test_health_is_good_only_when_ready(ask: Ask, state: str) -> None:
    response = ask("GET", "/health", engine=FakeEngine(state=state))
    assert response.status_code == (200 if state == "ready" else 503)
    assert response.json() == {"status": state, "progress_age": 0.25, "restarts": 1, "reason": None}


def test_health_while_the_texts_load(ask: Ask) -> None:
    response = ask("GET", "/health", settings={"loaded": False})
    assert (response.status_code, response.json()["status"]) == (503, "starting")


def test_tokenize_and_back(ask: Ask) -> None:
    answer = ask("POST", "/tokenize", json={"model": "m", "prompt": "hé"}).json()
    assert answer == {"tokens": [2, 104, 195, 169], "count": 4, "max_model_len": 256}
    plain = ask("POST", "/tokenize", json={"prompt": "hé", "add_special_tokens": False}).json()
    assert plain["tokens"] == [104, 195, 169]
    assert ask("POST", "/detokenize", json={"tokens": [104, 195, 169]}).json() == {"prompt": "hé"}


def test_tokenize_a_conversation(ask: Ask) -> None:
    messages = [{"role": "user", "content": "q"}]
    ids = ask("POST", "/tokenize", json={"messages": messages}).json()["tokens"]
    assert bytes(ids) == b"user:q\nassistant:"
    ids = ask("POST", "/tokenize", json={"messages": messages, "add_generation_prompt": False}).json()["tokens"]
    assert bytes(ids) == b"user:q\n"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {}),
        ("/tokenize", {"prompt": "x", "messages": []}),
        ("/tokenize", {"prompt": "x", "text": "y"}),
        ("/detokenize", {"tokens": [256]}),
        ("/detokenize", {"tokens": ["1"]}),
        ("/detokenize", {}),
    ],
)
def test_bad_token_requests(ask: Ask, path: str, body: Any) -> None:
    response = ask("POST", path, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"]


def test_version(ask: Ask) -> None:
    answer = ask("GET", "/version").json()
    assert answer["version"]
    assert answer["backend"] == "fake (1 thread)"


def test_the_description_covers_every_route(ask: Ask) -> None:
    document = ask("GET", "/openapi.json", settings={"api_keys": ("k",)}).json()
    assert {"/v1/chat/completions", "/v1/messages", "/v1/responses", "/tokenize", "/health"} <= set(document["paths"])
    fields = document["components"]["schemas"]["ChatBody"]["properties"]
    assert {"messages", "max_completion_tokens", "stream_options", "min_p"} <= set(fields)
    refused = document["paths"]["/v1/messages"]["post"]["responses"]["default"]["content"]["application/json"]
    assert refused["schema"]["$ref"].endswith("MessageErrorResponse")
    references = [part.split('"')[0] for part in str(document).replace("'", '"').split("#/components/schemas/")[1:]]
    assert references
    assert set(references) <= set(document["components"]["schemas"])
    assert document["security"] == [{"key": []}]


def test_the_page_needs_nothing_from_elsewhere(ask: Ask) -> None:
    page = ask("GET", "/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "https://" not in page.text
    assert "http://" not in page.text


def test_request_ids(ask: Ask) -> None:
    given = ask("GET", "/health", headers={"x-request-id": "abc-1"})
    assert given.headers["x-request-id"] == "abc-1"
    made = ask("GET", "/health", headers={"x-request-id": "a b\x7f"})
    assert made.headers["x-request-id"].startswith("req-")
    assert ask("POST", "/v1/completions", content=b"{").headers["x-request-id"].startswith("req-")


def test_metrics_of_a_stream(live: Callable[..., Any]) -> None:
    engine = FakeEngine()
    with live(engine) as server, httpx.Client(base_url=server.url) as client:
        body = {"prompt": "x" * 20, "max_tokens": 5, "stream": True}
        assert client.post("/v1/completions", json=body).status_code == 200
        assert client.post("/v1/completions", json={"prompt": 1}).status_code == 400
        text = in_time(
            lambda: client.get("/metrics").text, lambda text: all(f'status="{of}"}} 1.0' in text for of in (200, 400))
        )
        head = client.head("/metrics")
    assert (head.status_code, head.content) == (200, b"")
    for line in (
        'tenfold_http_requests_total{method="POST",route="/v1/completions",status="200"} 1.0',
        'tenfold_http_requests_total{method="POST",route="/v1/completions",status="400"} 1.0',
        'tenfold_request_success_total{finished_reason="length"} 1.0',
        "tenfold_prompt_tokens_total 21.0",
        "tenfold_generation_tokens_total 5.0",
        "tenfold_time_to_first_token_seconds_count 1.0",
        "tenfold_request_queue_time_seconds_count 1.0",
        "tenfold_inter_token_latency_seconds_count 4.0",
        "tenfold_e2e_request_latency_seconds_count 1.0",
        "tenfold_http_requests_in_flight 1.0",
        "tenfold_kv_cache_usage_perc 0.0625",
        "tenfold_engine_steps_total 5.0",
        'tenfold_engine_state{state="ready"} 1.0',
        'tenfold_engine_state{state="stuck"} 0.0',
        "tenfold_engine_restarts_total 1.0",
        'tenfold_engine_finished_total{finished_reason="stop"} 2.0',
        'tenfold_spec_decode_num_draft_tokens_total{proposer="lookup"} 9.0',
        'tenfold_spec_decode_num_accepted_tokens_total{proposer="lookup"} 7.0',
        'tenfold_spec_decode_seconds_total{kind="spent"} 0.25',
    ):
        assert line in text.splitlines(), line


def test_metrics_without_an_engine(ask: Ask) -> None:
    engine = FakeEngine(state="failed", stats_error=EngineUnavailable("gone"))
    response = ask("GET", "/metrics", engine=engine)
    assert response.status_code == 200
    assert 'tenfold_engine_state{state="failed"} 1.0' in response.text
    assert "tenfold_engine_steps_total" not in response.text

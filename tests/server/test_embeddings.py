"""POST /v1/embeddings: by the official client, and what is refused."""

import base64
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from tests.server.conftest import in_time
from tests.server.fakes import FakeEngine, vector_of
from tests.server.test_openai_client import Live, client

Ask = Callable[..., httpx.Response]


def numbers(ids: tuple[int, ...]) -> list[float]:
    return np.frombuffer(vector_of(ids), "<f4").tolist()


def test_the_official_client(live: Live) -> None:
    engine = FakeEngine()
    with client(live, engine, price=3600.0) as api:
        answer = api.embeddings.create(model="m", input="ab")  # asks for base64, and decodes it
        assert answer.data[0].embedding == numbers((2, 97, 98))
        assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (3, 3)
        assert (answer.object, answer.model, answer.data[0].object) == ("list", "m", "embedding")
        several = api.embeddings.create(model="m", input=["ab", "c", "ab"], encoding_format="float")
        assert [one.index for one in several.data] == [0, 1, 2]
        assert several.data[0].embedding == several.data[2].embedding == numbers((2, 97, 98))
        assert several.data[1].embedding == numbers((2, 99))
        assert several.usage.prompt_tokens == 8
        by_ids = api.embeddings.create(model="m", input=[97, 98])
        assert by_ids.data[0].embedding == numbers((97, 98))
        lists = api.embeddings.create(model="m", input=[[97, 98], [99]])
        assert [one.embedding for one in lists.data] == [numbers((97, 98)), numbers((99,))]
        short = api.embeddings.create(model="m", input=[97, 98], dimensions=2, encoding_format="float")
        first, second = numbers((97, 98))[:2]
        length = (first**2 + second**2) ** 0.5
        assert short.data[0].embedding == pytest.approx([first / length, second / length])
        api.embeddings.create(
            model="m", input="x", extra_body={"pooling": "mean", "priority": 3, "add_special_tokens": False}
        )
        last = engine.requests[-1]
        assert (last.pooling, last.priority, last.prompt_ids) == ("mean", 3, (120,))
        assert engine.requests[0].pooling == "last"
        with pytest.raises(openai.BadRequestError) as refused:
            api.embeddings.create(model="m", input="ab", dimensions=9)
        assert refused.value.param == "dimensions"
    assert engine.open == 0


def test_base64_is_that_of_little_endian_floats(ask: Ask) -> None:
    body = ask("POST", "/v1/embeddings", json={"input": [5, 6], "encoding_format": "base64"}).json()
    assert base64.b64decode(body["data"][0]["embedding"]) == vector_of((5, 6))


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "input", "missing"),
        ({"input": ""}, "input", "is empty"),
        ({"input": []}, "input", "empty list"),
        ({"input": ["a", ""]}, "input[1]", "input[1] is empty"),
        ({"input": [[]]}, "input[0]", "input[0] is empty"),
        ({"input": ["a", 1]}, "input", "mixes kinds"),
        ({"input": 7}, "input", "expected"),
        ({"input": [256]}, "input", "256"),
        ({"input": "x" * 300}, "input", "301 tokens"),
        ({"input": "a", "dimensions": 0}, "dimensions", "from 1 to 4"),
        ({"input": "a", "dimensions": 5}, "dimensions", "from 1 to 4"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", "invalid"),
        ({"input": "a", "pooling": "max"}, "pooling", "invalid"),
        ({"input": "a", "temperature": 1}, "temperature", "unknown"),
        ({"input": ["a"] * 5000}, "input", "at most"),
    ],
)
def test_what_is_refused(ask: Ask, body: dict[str, Any], param: str, words: str) -> None:
    engine = FakeEngine()
    answer = ask("POST", "/v1/embeddings", json=body, engine=engine)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert words in error["message"].lower()
    assert engine.requests == []


def test_a_backend_that_has_none_says_so(ask: Ask) -> None:
    answer = ask("POST", "/v1/embeddings", json={"input": "a"}, settings={"embedding_size": 0})
    assert answer.status_code == 400
    assert "gives no embeddings here: this backend (fake (1 thread))" in answer.json()["error"]["message"]


def test_metrics_count_them(live: Live) -> None:
    with live(FakeEngine()) as server, httpx.Client(base_url=server.url) as http:
        assert http.post("/v1/embeddings", json={"input": ["a", "b"]}).status_code == 200
        counted = 'tenfold_http_requests_total{method="POST",route="/v1/embeddings",status="200"} 1.0'
        lines = in_time(lambda: http.get("/metrics").text.splitlines(), lambda lines: counted in lines)
    assert counted in lines
    assert "tenfold_time_to_first_token_seconds_count 1.0" in lines
    assert 'tenfold_request_success_total{finished_reason="stop"} 2.0' in lines

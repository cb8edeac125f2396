"""Bad input gets OpenAI's error object, with the status and parameter a client can act on."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tenfold.core.errors import ContextOverflow, EngineUnavailable, Overloaded
from tests.server.fakes import FakeEngine

Ask = Callable[..., httpx.Response]
PATH = "/v1/completions"


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    body = response.json()
    assert list(body) == ["error"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    return dict(body["error"])


def raw(ask: Ask, content: bytes, path: str = PATH, **more: Any) -> httpx.Response:
    return ask("POST", path, content=content, headers={"content-type": "application/json"}, **more)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b'{"prompt": "x"', "ends too early, after 14 bytes"),
        (b'{"prompt": "x", }', "byte 16"),
        (b'{"prompt": "x", "temperature": NaN}', "byte 31"),
        (b'{"prompt": "x", "temperature": Infinity}', "byte 31"),
        (b'{"prompt": "x", "temperature": -Infinity}', "byte"),
        (b'{"prompt": "\xff"}', "UTF-8"),
        (b'{"prompt": "\\ud800"}', "not valid JSON"),
        (b'["x"]', "must be a JSON object"),
        (b'{"prompt": "x", "metadata": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"prompt": ' + b"[" * 100_000, "prompt[0]"),
    ],
)
def test_broken_json(ask: Ask, content: bytes, says: str) -> None:
    error = error_of(raw(ask, content), 400)
    assert says in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("more", "param", "says"),
    [
        ({"prompt": None}, "prompt", "null"),
        ({"prompt": 3}, "prompt", "int"),
        ({"prompt": {}}, "prompt", "object"),
        ({"prompt": ""}, None, None),
        ({"prompt": []}, "prompt", "empty"),
        ({"prompt": [[]]}, "prompt[0]", "empty"),
        ({"prompt": ["a", 3]}, "prompt", "mixes"),
        ({"prompt": [3, [3]]}, "prompt", "mixes"),
        ({"prompt": [1, 256]}, "prompt", "256"),
        ({"prompt": [-1]}, "prompt", "-1"),
        ({"prompt": [10**30]}, "prompt", "255"),
        ({"prompt": [True]}, "prompt[0]", "bool"),
        ({"prompt": [["a"]]}, "prompt[0][0]", "str"),
        ({"prompt": ["x"] * 600, "n": 2}, "prompt", "1024"),
        ({"temperature": "1"}, "temperature", "str"),
        ({"temperature": -1}, "temperature", "-1"),
        ({"temperature": 1e999}, "temperature", "range"),
        ({"top_p": 0}, "top_p", "above 0"),
        ({"top_p": 1.5}, "top_p", "1.5"),
        ({"top_k": -2}, "top_k", "-2"),
        ({"top_k": 1.5}, "top_k", "float"),
        ({"min_p": 2}, "min_p", "2"),
        ({"repetition_penalty": 0}, "repetition_penalty", "0"),
        ({"presence_penalty": 3}, "presence_penalty", "3"),
        ({"frequency_penalty": -3}, "frequency_penalty", "-3"),
        ({"n": 0}, "n", "0"),
        ({"n": 129}, "n", "128"),
        ({"best_of": 2}, "best_of", "must equal n"),
        ({"max_tokens": 0}, "max_tokens", "0"),
        ({"max_tokens": -5}, "max_tokens", "-5"),
        ({"max_tokens": True}, "max_tokens", "bool"),
        ({"max_tokens": 4, "min_tokens": 5}, "min_tokens", "exceed"),
        ({"logprobs": 21}, "logprobs", "20"),
        ({"logprobs": True}, "logprobs", "bool"),
        ({"logprobs": 1, "echo": True}, "echo", "prompt logprobs"),
        ({"suffix": "x"}, "suffix", "not supported"),
        ({"stop": [""]}, "stop", "empty"),
        ({"stop": ["x"] * 65}, "stop", "64"),
        ({"stop": [1]}, "stop[0]", "int"),
        ({"stop_token_ids": [999]}, "stop_token_ids", "999"),
        ({"logit_bias": {"a": 1}}, "logit_bias", "'a'"),
        ({"logit_bias": {"-1": 1}}, "logit_bias", "'-1'"),
        ({"logit_bias": {"0" * 20 + "9" * 5000: 1}}, "logit_bias", "'000"),
        ({"repetition_penalty": 1e-39}, "repetition_penalty", "0.01"),
        ({"logit_bias": {"256": 1}}, "logit_bias", "'256'"),
        ({"logit_bias": {"9" * 5000: 1}}, "logit_bias", "token id"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "101"),
        ({"seed": 2**70}, "seed", "seed"),
        ({"stream": "yes"}, "stream", "str"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema"),
        ({"temprature": 1}, "temprature", "did you mean 'temperature'"),
        ({"wholly_unknown": 1}, "wholly_unknown", "unknown parameter"),
        ({"messages": []}, "messages", "unknown parameter"),
    ],
)
def test_bad_values_name_their_parameter(ask: Ask, more: dict[str, Any], param: str | None, says: str | None) -> None:
    import json

    engine = FakeEngine()
    body = json.dumps({"prompt": "x", **more}).replace("Infinity", "1e999").encode()
    response = raw(ask, body, engine=engine)
    if param is None:  # an empty text still has its begin-of-text token here
        assert response.status_code == 200
        return
    error = error_of(response, 400)
    assert error["param"] == param
    assert says is not None
    assert says in error["message"]
    assert engine.requests == []


def test_an_empty_text_without_special_tokens(ask: Ask) -> None:
    error = error_of(ask("POST", PATH, json={"prompt": "", "add_special_tokens": False}), 400)
    assert error["param"] == "prompt"


def test_a_missing_prompt(ask: Ask) -> None:
    assert error_of(ask("POST", PATH, json={}), 400)["param"] == "prompt"


def test_an_unknown_model(ask: Ask) -> None:
    error = error_of(ask("POST", PATH, json={"model": "gpt-5", "prompt": "x"}), 404)
    assert error["code"] == "model_not_found"
    assert "'gpt-5'" in error["message"]
    assert "'m'" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_over_long_prompt(ask: Ask, stream: bool) -> None:
    error = error_of(ask("POST", PATH, json={"prompt": "x" * 300, "stream": stream}), 400)
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "prompt"
    assert "301" in error["message"]
    assert "256" in error["message"]


def test_too_much_output_asked_for(ask: Ask) -> None:
    error = error_of(ask("POST", PATH, json={"prompt": "x" * 99, "max_tokens": 157}), 400)
    assert (error["code"], error["param"]) == ("context_length_exceeded", "max_tokens")
    assert "257" in error["message"]
    assert ask("POST", PATH, json={"prompt": "x" * 99, "max_tokens": 156}).status_code == 200


def test_a_long_prompt_is_tokenized_off_the_loop_and_refused_too(ask: Ask) -> None:
    error = error_of(ask("POST", PATH, json={"prompt": "x" * 50_000}), 400)
    assert "50001" in error["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("refusal", "status", "code", "retry"),
    [
        (Overloaded("queue full", retry_after=2.2), 429, "rate_limit_exceeded", "3"),
        (EngineUnavailable("the engine died"), 503, "engine_unavailable", "1"),
        (ContextOverflow("does not fit the KV pool"), 400, "context_length_exceeded", None),
    ],
)
def test_the_engine_refuses(ask: Ask, stream: bool, refusal: Any, status: int, code: str, retry: str | None) -> None:
    for prompt in ("x", ["x", "y"]):
        response = ask("POST", PATH, engine=FakeEngine(refuse=refusal), json={"prompt": prompt, "stream": stream})
        assert error_of(response, status)["code"] == code
        assert response.headers.get("retry-after") == retry


def test_one_refused_prompt_of_a_batch_aborts_the_others(ask: Ask) -> None:
    engine = FakeEngine(fail_at=3, failure=Overloaded("full", retry_after=1))
    assert ask("POST", PATH, engine=engine, json={"prompt": ["x", "y", "z"]}).status_code == 429
    assert len(engine.aborted) == 3
    assert engine.open == 0


def test_the_engine_dies_before_the_answer(ask: Ask) -> None:
    engine = FakeEngine(fail_at=2, failure=EngineUnavailable("the engine died"))
    assert error_of(ask("POST", PATH, engine=engine, json={"prompt": "x"}), 503)["message"] == "the engine died"


def test_an_error_in_a_stream_is_its_last_event(ask: Ask) -> None:
    engine = FakeEngine(fail_at=2, failure=EngineUnavailable("the engine died"))
    response = ask("POST", PATH, engine=engine, json={"prompt": "x", "stream": True})
    assert response.status_code == 200
    *events, last, rest = response.text.split("\n\n")
    assert (len(events), rest) == (2, "")
    assert last.startswith('data: {"error":{"message":"the engine died"')


@pytest.mark.parametrize("stream", [False, True])
def test_our_own_faults_tell_nothing_of_the_inside(ask: Ask, stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine(fail_at=1 if stream else 0, failure=RuntimeError("secret detail"))
    response = ask("POST", PATH, engine=engine, json={"prompt": "x", "stream": stream})
    assert response.status_code == (200 if stream else 500)
    assert "internal error" in response.text
    assert "secret" not in response.text
    assert "secret detail" in caplog.text


def test_before_the_model_is_loaded(ask: Ask) -> None:
    loading = {"loaded": False}
    for path, body in ((PATH, {"prompt": "x"}), ("/tokenize", {"prompt": "x"})):
        assert "loading" in error_of(ask("POST", path, settings=loading, json=body), 503)["message"]
    assert ask("GET", "/v1/models", settings=loading).status_code == 503


def test_routes_and_methods_that_are_not_there(ask: Ask) -> None:
    assert error_of(ask("GET", "/v1/nothing"), 404)["code"] == "not_found"
    wrong = ask("GET", PATH)
    assert error_of(wrong, 405)["code"] == "method_not_allowed"
    assert "POST" in wrong.headers["allow"]


def test_other_content_types(ask: Ask) -> None:
    form = ask("POST", PATH, content=b"prompt=x", headers={"content-type": "application/x-www-form-urlencoded"})
    assert error_of(form, 415)["code"] == "unsupported_media_type"
    fine = ask("POST", PATH, content=b'{"prompt":"x"}', headers={"content-type": "Application/JSON; charset=utf-8"})
    assert fine.status_code == 200


def test_a_huge_body(ask: Ask) -> None:
    body = b'{"prompt": "' + b"x" * 5000 + b'"}'
    error = error_of(raw(ask, body, settings={"body_limit": 4096}), 413)
    assert "4096" in error["message"]


def test_keys(ask: Ask) -> None:
    settings = {"api_keys": ("k1", "k2")}
    for headers in ({}, {"authorization": "Bearer nope"}, {"authorization": "Basic k1"}, {"authorization": "k1"}):
        response = ask("POST", PATH, settings=settings, json={"prompt": "x"}, headers=headers)
        assert error_of(response, 401)["code"] == "invalid_api_key"
        assert response.headers["www-authenticate"] == "Bearer"
    for key in ("k1", "k2"):
        headers = {"authorization": f"Bearer {key}"}
        assert ask("POST", PATH, settings=settings, json={"prompt": "x"}, headers=headers).status_code == 200
    for path in ("/v1/models", "/metrics", "/version"):
        assert ask("GET", path, settings=settings).status_code == 401
    assert ask("POST", "/tokenize", settings=settings, json={"prompt": "x"}).status_code == 401
    for path in ("/health", "/docs", "/openapi.json"):
        assert ask("GET", path, settings=settings).status_code == 200

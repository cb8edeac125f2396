"""/v1/completions: every form of prompt and answer."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.server.fakes import ANSWER, FakeEngine

Ask = Callable[..., httpx.Response]
PATH = "/v1/completions"


def events(response: httpx.Response) -> list[Any]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    parts = response.text.split("\n\n")
    assert parts[-1] == ""
    assert parts[-2] == "data: [DONE]"
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]


def test_a_whole_answer(ask: Ask) -> None:
    answer = ask("POST", PATH, json={"model": "m", "prompt": "x" * 20, "max_tokens": 13}).json()
    assert answer["id"].startswith("cmpl-")
    assert answer["object"] == "text_completion"
    assert answer["model"] == "m"
    assert answer["choices"] == [
        {"index": 0, "text": ANSWER, "logprobs": None, "finish_reason": "length", "stop_reason": None}
    ]
    assert answer["usage"] == {
        "prompt_tokens": 21,
        "completion_tokens": 13,
        "total_tokens": 34,
        "prompt_tokens_details": {"cached_tokens": 16},
    }


def test_sixteen_tokens_by_default_and_the_default_model(ask: Ask) -> None:
    engine = FakeEngine()
    answer = ask("POST", PATH, engine=engine, json={"prompt": "x"}).json()
    assert answer["usage"]["completion_tokens"] == 16
    assert engine.requests[0].params.max_tokens == 16
    assert ask("POST", PATH, json={"model": "default", "prompt": "x"}).status_code == 200
    assert ask("POST", PATH, json={"model": "m-alias", "prompt": "x"}).status_code == 200


def test_a_stream_has_one_event_per_token_even_when_a_character_is_incomplete(ask: Ask) -> None:
    response = ask("POST", PATH, json={"prompt": "x", "max_tokens": 13, "stream": True})
    chunks = events(response)
    assert len(chunks) == 13
    texts = [chunk["choices"][0]["text"] for chunk in chunks]
    assert "".join(texts) == ANSWER
    assert texts[7] == ""  # the first byte of the umlaut
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 12 + ["length"]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all("usage" not in chunk for chunk in chunks)


def test_tokens_of_one_step_share_an_event(ask: Ask) -> None:
    response = ask("POST", PATH, engine=FakeEngine(burst=4), json={"prompt": "x", "max_tokens": 13, "stream": True})
    assert len(events(response)) == 4


def test_usage_at_the_end_of_a_stream(ask: Ask) -> None:
    body = {"prompt": "x" * 20, "max_tokens": 3, "stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = events(ask("POST", PATH, json=body))
    assert [chunk["usage"] for chunk in chunks] == [None] * 3
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 3
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 16}


def test_usage_in_every_event(ask: Ask) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"prompt": "x", "max_tokens": 3, "stream": True, "stream_options": options}
    chunks = events(ask("POST", PATH, json=body))
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 2, 3, 3]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("ab", [(2, 97, 98)]),
        (["ab", "c"], [(2, 97, 98), (2, 99)]),
        ([5, 6, 7], [(5, 6, 7)]),
        ([[5, 6], [7]], [(5, 6), (7,)]),
    ],
)
def test_prompts_of_all_forms(ask: Ask, prompt: Any, expected: list[tuple[int, ...]]) -> None:
    engine = FakeEngine()
    answer = ask("POST", PATH, engine=engine, json={"prompt": prompt, "max_tokens": 2}).json()
    assert sorted(request.prompt_ids for request in engine.requests) == sorted(expected)
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(expected)))
    assert answer["usage"]["prompt_tokens"] == sum(map(len, expected))


def test_choices_of_a_batch_are_numbered_prompt_by_prompt(ask: Ask) -> None:
    body = {"prompt": ["aa", "b"], "n": 2, "max_tokens": 3, "echo": True}
    answer = ask("POST", PATH, json=body).json()
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [
        (0, "aaHel"),
        (1, "aaHel"),
        (2, "bHel"),
        (3, "bHel"),
    ]
    assert answer["usage"]["completion_tokens"] == 12
    chunks = events(ask("POST", PATH, json={**body, "stream": True}))
    texts = ["", "", "", ""]
    for chunk in chunks:
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert texts == ["aaHel", "aaHel", "bHel", "bHel"]
    assert len(chunks) == 12


def test_echo_of_token_ids_shows_their_text(ask: Ask) -> None:
    answer = ask("POST", PATH, json={"prompt": [104, 105], "echo": True, "max_tokens": 1}).json()
    assert answer["choices"][0]["text"] == "hiH"


def test_a_stop_string_is_named(ask: Ask) -> None:
    body = {"prompt": "x", "max_tokens": 20, "stop": "o"}
    choice = ask("POST", PATH, json=body).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("Hell", "stop", "o")
    last = events(ask("POST", PATH, json={**body, "stop": ["zz", "o"], "stream": True}))[-1]["choices"][0]
    assert (last["finish_reason"], last["stop_reason"]) == ("stop", "o")


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_in_the_legacy_form(ask: Ask, stream: bool) -> None:
    response = ask("POST", PATH, json={"prompt": "x", "max_tokens": 3, "logprobs": 2, "stream": stream})
    found: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for answer in events(response) if stream else [response.json()]:
        for name, values in answer["choices"][0]["logprobs"].items():
            found[name] += values
    assert found == {
        "tokens": ["H", "e", "l"],
        "token_logprobs": [-0.5, -0.5, -0.5],
        "top_logprobs": [{"H": -0.5, "I": -9999.0}, {"e": -0.5, "f": -9999.0}, {"l": -0.5, "m": -9999.0}],
        "text_offset": [0, 1, 2],
    }


def test_logprobs_zero_gives_the_sampled_token(ask: Ask) -> None:
    choice = ask("POST", PATH, json={"prompt": "x", "max_tokens": 1, "logprobs": 0}).json()["choices"][0]
    assert choice["logprobs"]["top_logprobs"] == [{"H": -0.5}]


def test_all_sampling_settings_arrive(ask: Ask) -> None:
    engine = FakeEngine()
    body = {
        "prompt": "x",
        "temperature": 0.5,
        "top_k": 7,
        "top_p": 0.9,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "logit_bias": {"65": -100, "66": 1.5},
        "seed": 11,
        "n": 2,
        "best_of": 2,
        "max_tokens": 9,
        "min_tokens": 3,
        "stop": ["q"],
        "stop_token_ids": [9],
        "ignore_eos": True,
        "skip_special_tokens": False,
        "include_stop_str_in_output": True,
        "logprobs": None,
        "user": "u",
        "metadata": {"a": [1]},
        "store": False,
        "service_tier": "auto",
    }
    assert ask("POST", PATH, engine=engine, json=body).status_code == 200
    params = engine.requests[0].params
    assert (params.temperature, params.top_k, params.top_p, params.min_p) == (0.5, 7, 0.9, 0.1)
    assert (params.repetition_penalty, params.presence_penalty, params.frequency_penalty) == (1.1, 0.2, 0.3)
    assert params.logit_bias == {65: -100.0, 66: 1.5}
    assert (params.seed, params.n, params.max_tokens, params.min_tokens) == (11, 2, 9, 3)
    assert (params.stop, params.stop_token_ids) == (("q",), (9,))
    assert (params.ignore_eos, params.skip_special_tokens, params.include_stop) == (True, False, True)


def test_null_means_the_default(ask: Ask) -> None:
    engine = FakeEngine()
    names = [
        "temperature",
        "top_k",
        "top_p",
        "n",
        "max_tokens",
        "stop",
        "seed",
        "logit_bias",
        "stream",
        "echo",
        "suffix",
    ]
    body = {"prompt": "x", **dict.fromkeys(names)}
    assert ask("POST", PATH, engine=engine, json=body).status_code == 200
    assert engine.requests[0].params.temperature == 1.0
    assert ask("POST", PATH, engine=engine, json={"prompt": "x", "top_k": -1}).status_code == 200
    assert engine.requests[1].params.top_k == 0


def test_max_completion_tokens(ask: Ask) -> None:
    engine = FakeEngine()
    ask("POST", PATH, engine=engine, json={"prompt": "x", "max_completion_tokens": 5})
    assert engine.requests[0].params.max_tokens == 5

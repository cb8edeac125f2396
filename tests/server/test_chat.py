"""/v1/chat/completions."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tenfold.core.constraint import ANY_OBJECT, Constraint
from tests.server.fakes import FakeEngine
from tests.server.test_completions import events

Ask = Callable[..., httpx.Response]
PATH = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hi"}]


def test_a_whole_answer(ask: Ask) -> None:
    engine = FakeEngine()
    answer = ask("POST", PATH, engine=engine, json={"messages": HELLO, "max_tokens": 5}).json()
    assert bytes(engine.requests[0].prompt_ids) == b"user:hi\nassistant:"
    assert answer["id"].startswith("chatcmpl-")
    assert answer["object"] == "chat.completion"
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello", "refusal": None},
            "logprobs": None,
            "finish_reason": "length",
            "stop_reason": None,
        }
    ]


def test_a_stream(ask: Ask) -> None:
    chunks = events(ask("POST", PATH, json={"messages": HELLO, "max_tokens": 5, "n": 2, "stream": True}))
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    for index in (0, 1):
        own = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert [choice["delta"].get("role") for choice in own] == ["assistant", None, None, None, None]
        assert "".join(choice["delta"]["content"] for choice in own) == "Hello"
        assert own[-1]["finish_reason"] == "length"


def test_without_a_limit_the_engine_may_fill_the_context(ask: Ask) -> None:
    engine = FakeEngine()
    ask("POST", PATH, engine=engine, json={"messages": HELLO})
    assert engine.requests[0].params.max_tokens is None


def test_content_as_parts_and_roles(ask: Ask) -> None:
    engine = FakeEngine()
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "be "}, {"type": "text", "text": "kind"}]},
        {"role": "assistant", "content": None, "refusal": None, "annotations": []},
        {"role": "user", "content": "hi", "name": "bob"},
    ]
    assert ask("POST", PATH, engine=engine, json={"messages": messages, "max_tokens": 1}).status_code == 200
    assert bytes(engine.requests[0].prompt_ids) == b"system:be kind\nassistant:\nuser:hi\nassistant:"


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_carry_the_tokens_bytes(ask: Ask, stream: bool) -> None:
    body = {"messages": HELLO, "max_tokens": 8, "logprobs": True, "top_logprobs": 2, "stream": stream}
    response = ask("POST", PATH, json=body)
    entries: list[Any] = []
    for answer in events(response) if stream else [response.json()]:
        entries += answer["choices"][0]["logprobs"]["content"]
    assert bytes(byte for entry in entries for byte in entry["bytes"]) == "Hello wö".encode()[:8]
    assert entries[0] == {
        "token": "H",
        "logprob": -0.5,
        "bytes": [72],
        "top_logprobs": [
            {"token": "H", "logprob": -0.5, "bytes": [72]},
            {"token": "I", "logprob": -9999.0, "bytes": [73]},
        ],
    }


def test_logprobs_without_top(ask: Ask) -> None:
    answer = ask("POST", PATH, json={"messages": HELLO, "max_tokens": 1, "logprobs": True}).json()
    assert answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


def test_harmless_fields_are_accepted(ask: Ask) -> None:
    body = {
        "messages": HELLO,
        "max_completion_tokens": 2,
        "tools": [],
        "tool_choice": "none",
        "parallel_tool_calls": True,
        "reasoning_effort": "low",
        "modalities": ["text"],
        "response_format": {"type": "text"},
        "prompt_cache_key": "k",
        "verbosity": "low",
    }
    assert ask("POST", PATH, json=body).status_code == 200


@pytest.mark.parametrize(
    ("more", "constraint"),
    [
        ({}, None),
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, ANY_OBJECT),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"a": 1}, "strict": True},
                }
            },
            Constraint("json", '{"a":1}'),
        ),
        ({"structured_outputs": {"json": {"a": 1}}}, Constraint("json", '{"a":1}')),
        ({"structured_outputs": {"json": '{"a": 1}'}}, Constraint("json", '{"a": 1}')),
        ({"structured_outputs": {"json_object": True}}, ANY_OBJECT),
        ({"structured_outputs": {"regex": "a+"}}, Constraint("regex", "a+")),
        ({"structured_outputs": {"choice": ["a", "b"]}}, Constraint("choice", '["a","b"]')),
        ({"structured_outputs": {"grammar": 'start: "a"'}}, Constraint("lark", 'start: "a"')),
        ({"structured_outputs": {"grammar": 'root ::= "a"'}}, Constraint("gbnf", 'root ::= "a"')),
    ],
)
def test_constraints_reach_the_engine(ask: Ask, more: dict[str, Any], constraint: Constraint | None) -> None:
    engine = FakeEngine()
    assert ask("POST", PATH, engine=engine, json={"messages": HELLO, **more}).status_code == 200
    assert engine.requests[-1].params.constraint == constraint


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": [1]}}}, "response_format"),
        ({"response_format": {"type": "json_object"}, "ignore_eos": True}, "ignore_eos"),
        ({"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"structured_outputs": {"json": {}, "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"xml": "a"}}, "structured_outputs.xml"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": 3}, "logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0].function"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage"),
    ],
)
def test_what_is_refused_by_name(ask: Ask, more: dict[str, Any], param: str) -> None:
    response = ask("POST", PATH, json={"messages": HELLO, **more})
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert param.split(".")[-1].split("[")[0] in error["message"] or param == "messages"


def test_an_image_part_is_named(ask: Ask) -> None:
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]
    assert "'image_url'" in ask("POST", PATH, json={"messages": messages}).json()["error"]["message"]


def test_a_model_without_a_template(ask: Ask) -> None:
    response = ask("POST", PATH, settings={"template": False}, json={"messages": HELLO})
    assert response.status_code == 400
    assert "/v1/completions" in response.json()["error"]["message"]

"""What the API's page says of answers is so, field by field. ``python -m scripts.conformance`` asks far more."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest

from tenfold.server.openapi import ROUTES

Ask = Callable[..., httpx.Response]
ASKED = {
    "/v1/completions": {"prompt": "The sky is", "max_tokens": 4, "logprobs": 2, "timeline": True},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "q"}], "max_tokens": 4, "logprobs": True},
    "/v1/messages": {"messages": [{"role": "user", "content": "q"}], "max_tokens": 4},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "q"}]},
    "/v1/responses": {"input": "q", "max_output_tokens": 16},
    "/v1/embeddings": {"input": "q"},
    "/tokenize": {"prompt": "q"},
    "/detokenize": {"tokens": [65]},
}


def check(data: bytes | str, kind: Any) -> None:
    """Of this kind, and nothing besides."""
    told = json.loads(data)
    again = msgspec.to_builtins(msgspec.json.decode(data, type=kind))
    assert keys(told) <= keys(again)


def keys(value: Any, where: str = "") -> set[str]:
    """The paths of all fields."""
    if isinstance(value, dict):
        return {where}.union(*(keys(one, f"{where}.{name}") for name, one in value.items()))
    return {where}.union(*(keys(one, f"{where}[]") for one in value)) if isinstance(value, list | tuple) else {where}


@pytest.mark.parametrize(
    ("path", "method", "kind"),
    [
        pytest.param(path, method, kind, id=path)
        for path, method, _, _, kind, _ in ROUTES
        if kind is not None and "{id}" not in path
    ],
)
def test_answers_are_what_the_page_says(ask: Ask, path: str, method: str, kind: Any) -> None:
    answer = ask(method.upper(), path.replace("{model}", "m"), json=ASKED.get(path))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    check(answer.content, kind)


@pytest.mark.parametrize(("path", "kind"), [(row[0], row[5]) for row in ROUTES if row[5] is not None])
def test_events_are_what_the_page_says(ask: Ask, path: str, kind: Any) -> None:
    answer = ask("POST", path, json={**ASKED[path], "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert len(events) > 4
    for event in events:
        if event != "[DONE]":
            check(event, kind)


def test_the_page_tells_of_events(ask: Ask) -> None:
    paths = ask("GET", "/openapi.json").json()["paths"]
    content = paths["/v1/messages"]["post"]["responses"]["200"]["content"]
    data = content["text/event-stream"]["schema"]["properties"]["data"]
    assert {"$ref": "#/components/schemas/MessageEvent"} in [kind.get("contentSchema") for kind in data["anyOf"]]

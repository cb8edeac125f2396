"""The official client: what it parses, and the exceptions it raises."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest

from tenfold.core.errors import EngineUnavailable, Overloaded
from tests.server import templates
from tests.server.fakes import ANSWER, FakeEngine

Live = Callable[..., Any]
HELLO: Any = [{"role": "user", "content": "hi"}]


@contextmanager
def client(live: Live, engine: FakeEngine | None = None, key: str = "k", **settings: Any) -> Iterator[openai.OpenAI]:
    with (
        live(engine or FakeEngine(), **settings) as server,
        openai.OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=0) as made,
    ):
        yield made


def test_what_it_parses(live: Live) -> None:
    with client(live, api_keys=("k",)) as api:
        assert [model.id for model in api.models.list()] == ["m", "m-alias"]
        whole = api.chat.completions.create(model="m", messages=HELLO, max_completion_tokens=13, n=2, seed=1)
        assert [choice.message.content for choice in whole.choices] == [ANSWER, ANSWER]
        assert whole.usage is not None
        assert whole.usage.prompt_tokens_details is not None
        assert whole.usage.prompt_tokens_details.cached_tokens == 16

        stopped = api.completions.create(model="m", prompt="x", max_tokens=13, stop=["wör"], logprobs=2)
        assert stopped.choices[0].finish_reason == "stop"
        assert stopped.choices[0].logprobs is not None
        assert stopped.choices[0].logprobs.tokens is not None
        assert stopped.choices[0].logprobs.tokens[:2] == ["H", "e"]

        stream = api.chat.completions.create(
            model="m",
            messages=HELLO,
            max_tokens=13,
            logprobs=True,
            top_logprobs=1,
            stream=True,
            stream_options={"include_usage": True},
        )
        *chunks, last = list(stream)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
        assert chunks[0].choices[0].delta.role == "assistant"
        first = chunks[0].choices[0].logprobs
        assert first is not None
        assert first.content is not None
        assert first.content[0].token == "H"
        assert (last.choices, last.usage is not None) == ([], True)

        parts = [part.choices[0].text for part in api.completions.create(model="m", prompt="x", stream=True)]
        assert "".join(parts).startswith(ANSWER)


TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
TOOL_SETTINGS: Any = {"template": templates.HERMES, "max_context": 8192}


def test_tools(live: Live) -> None:
    with client(live, FakeEngine(says="One moment. " + CALL + CALL, burst=4), **TOOL_SETTINGS) as api:
        whole = api.chat.completions.create(model="m", messages=HELLO, tools=TOOLS)
        assert whole.choices[0].finish_reason == "tool_calls"
        message = whole.choices[0].message
        assert message.content == "One moment."
        assert message.tool_calls is not None and len(message.tool_calls) == 2
        sent: Any = [*HELLO, message, {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}]
        assert api.chat.completions.create(model="m", messages=sent, tools=TOOLS).choices

        with api.chat.completions.stream(model="m", messages=HELLO, tools=TOOLS, tool_choice="required") as stream:
            kinds = {event.type for event in stream}
            last = stream.get_final_completion().choices[0]
        assert "tool_calls.function.arguments.delta" in kinds
        assert (last.finish_reason, last.message.content) == ("tool_calls", "One moment.")
        assert last.message.tool_calls is not None
        assert [call.function.arguments for call in last.message.tool_calls] == ['{"city": "Zürich"}'] * 2

        with pytest.raises(openai.BadRequestError) as caught:
            api.chat.completions.create(model="m", messages=HELLO, tools=TOOLS * 2)
        assert caught.value.param == "tools[1]"


def test_thoughts(live: Live) -> None:
    settings = {**TOOL_SETTINGS, "template": templates.THINKING}
    with client(live, FakeEngine(says="<think>Hm.</think>\n\nYes.", burst=3), **settings) as api:
        message: Any = api.chat.completions.create(model="m", messages=HELLO).choices[0].message
        assert (message.reasoning_content, message.content) == ("Hm.", "Yes.")
        deltas: list[Any] = [
            chunk.choices[0].delta for chunk in api.chat.completions.create(model="m", messages=HELLO, stream=True)
        ]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "Hm."
    assert "".join(delta.content or "" for delta in deltas) == "Yes."


def test_a_bad_request(live: Live) -> None:
    with client(live) as api:
        with pytest.raises(openai.BadRequestError) as caught:
            api.completions.create(model="m", prompt="x", temperature=-1)
        assert caught.value.param == "temperature"
        with pytest.raises(openai.BadRequestError) as caught:
            api.completions.create(model="m", prompt="x" * 999)
        assert caught.value.code == "context_length_exceeded"
        with pytest.raises(openai.NotFoundError) as missing:
            api.completions.create(model="other", prompt="x")
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.NotFoundError):
            api.moderations.create(model="m", input="x")


def test_a_wrong_key(live: Live) -> None:
    with client(live, key="wrong", api_keys=("k",)) as api, pytest.raises(openai.AuthenticationError):
        api.models.list()


def test_an_overloaded_server(live: Live) -> None:
    engine = FakeEngine(refuse=Overloaded("the queue is full", retry_after=7))
    with client(live, engine) as api, pytest.raises(openai.RateLimitError) as caught:
        api.completions.create(model="m", prompt="x")
    assert caught.value.response.headers["retry-after"] == "7"


def test_an_engine_that_is_down(live: Live) -> None:
    engine = FakeEngine(refuse=EngineUnavailable("the engine is restarting"))
    with client(live, engine) as api:
        with pytest.raises(openai.InternalServerError) as caught:
            api.chat.completions.create(model="m", messages=HELLO)
        assert caught.value.status_code == 503
        assert caught.value.request_id


def test_an_engine_that_dies_in_a_stream(live: Live) -> None:
    engine = FakeEngine(fail_at=2, failure=EngineUnavailable("the engine died"))
    with client(live, engine) as api:
        stream = api.chat.completions.create(model="m", messages=HELLO, stream=True)
        with pytest.raises(openai.APIError, match="the engine died"):
            list(stream)

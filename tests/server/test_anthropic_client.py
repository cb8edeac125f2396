"""/v1/messages with Anthropic's official client."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anthropic
import pytest

from tenfold.core.errors import EngineUnavailable, Overloaded
from tests.server import templates
from tests.server.fakes import ANSWER, FakeEngine

Live = Callable[..., Any]
HELLO: Any = [{"role": "user", "content": "hi"}]
TOOLS: Any = [
    {"name": "weather", "description": "How it is", "input_schema": {"type": "object", "properties": {}}},
    {"name": "time", "input_schema": {"type": "object"}},
]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
SAYS = f"<think>Hm.</think>One moment. {CALL}{CALL}"
ASK: Any = {"model": "m", "messages": HELLO, "max_tokens": 500}


@contextmanager
def client(
    live: Live, engine: FakeEngine | None = None, key: str = "k", **settings: Any
) -> Iterator[anthropic.Anthropic]:
    settings = {"template": templates.THINKING, "max_context": 8192, **settings}
    with (
        live(engine or FakeEngine(), **settings) as server,
        anthropic.Anthropic(base_url=server.url, api_key=key, max_retries=0) as made,
    ):
        yield made


def prompt(engine: FakeEngine) -> str:
    return bytes(engine.requests[-1].prompt_ids).decode()


def test_text(live: Live) -> None:
    engine = FakeEngine()
    with client(live, engine, template=True, api_keys=("k",)) as api:
        whole = api.messages.create(
            model="m",
            messages=HELLO,
            max_tokens=13,
            system=[{"type": "text", "text": "Be kind."}],
            extra_body={"top_k": 5, "top_p": 0.5},
        )
        assert (engine.requests[-1].params.top_k, engine.requests[-1].params.top_p) == (5, 0.5)
        assert (whole.role, whole.stop_reason, whole.model) == ("assistant", "max_tokens", "m")
        assert whole.id.startswith("msg_")
        (block,) = whole.content
        assert block.type == "text" and block.text == ANSWER
        assert prompt(engine) == "system:Be kind.\nuser:hi\nassistant:"
        tokens = len(engine.requests[-1].prompt_ids)
        assert whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0) == tokens
        assert (whole.usage.cache_read_input_tokens, whole.usage.output_tokens) == (32, 13)
        stopped = api.messages.create(**{**ASK, "stop_sequences": ["wör"]})
        assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "wör")
        assert engine.requests[-1].params.max_tokens == 500
        assert api.messages.count_tokens(model="m", messages=HELLO).input_tokens == len(b"user:hi\nassistant:")


def test_a_stream_of_text(live: Live) -> None:
    with client(live, template=True) as api, api.messages.stream(**{**ASK, "max_tokens": 13}) as stream:
        kinds = [event.type for event in stream]
        last = stream.get_final_message()
    raw = [kind for kind in kinds if kind != "text"]
    assert raw[:2] == ["message_start", "content_block_start"]
    assert raw[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(raw[2:-3]) == {"content_block_delta"}
    assert last.content[0].type == "text" and last.content[0].text == ANSWER
    assert (last.stop_reason, last.usage.output_tokens) == ("max_tokens", 13)
    assert last.usage.input_tokens > 0


@pytest.mark.parametrize("streamed", [False, True])
def test_thoughts_and_tools(live: Live, streamed: bool) -> None:
    engine = FakeEngine(says=SAYS, burst=3)
    with client(live, engine) as api:
        ask: Any = {**ASK, "tools": TOOLS, "thinking": {"type": "enabled", "budget_tokens": 1024}}
        if streamed:
            with api.messages.stream(**ask) as stream:
                indexes = [event.index for event in stream if event.type == "content_block_start"]
                answer = stream.get_final_message()
            assert indexes == [0, 1, 2, 3]
        else:
            answer = api.messages.create(**ask)
        assert [block.type for block in answer.content] == ["thinking", "text", "tool_use", "tool_use"]
        thinking, text, call, _ = answer.content
        assert thinking.type == "thinking" and thinking.thinking == "Hm."
        assert text.type == "text" and text.text == "One moment."
        assert call.type == "tool_use" and (call.name, call.input) == ("weather", {"city": "Zürich"})
        assert call.id.startswith("toolu_")
        assert answer.stop_reason == "tool_use"
        assert '"description": "How it is"' in prompt(engine)

        results: Any = [
            {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "rain"}]},
            {"type": "tool_result", "tool_use_id": call.id, "content": "none", "is_error": True},
            {"type": "text", "text": "Go on."},
        ]
        sent: Any = [*HELLO, {"role": "assistant", "content": answer.content}, {"role": "user", "content": results}]
        api.messages.create(**{**ask, "messages": sent})
        assert prompt(engine).endswith(
            'assistant:One moment.<tool_call>weather {"city": "Zürich"}<tool_call>weather {"city": "Zürich"}\n'
            f"tool:rain (weather, {call.id})\ntool:Error: none (weather, {call.id})\nuser:Go on.\n"
            "<think>Hm.</think>assistant:"
        )


def test_tool_choices(live: Live) -> None:
    engine = FakeEngine(says=CALL)
    with client(live, engine, template=templates.HERMES) as api:
        for choice, forced in (("auto", False), ("any", True), ("none", False)):
            answer = api.messages.create(**ASK, tools=TOOLS, tool_choice={"type": choice})  # type: ignore[misc]
            assert (engine.requests[-1].params.constraint is not None) == forced
            assert (answer.stop_reason == "tool_use") == (choice != "none")
        api.messages.create(**ASK, tools=TOOLS, tool_choice={"type": "tool", "name": "time"})
        constraint = engine.requests[-1].params.constraint
        assert constraint is not None and "weather" not in constraint.text
        one: Any = {"type": "any", "disable_parallel_tool_use": True}
        api.messages.create(**ASK, tools=TOOLS, tool_choice=one)
        constraint = engine.requests[-1].params.constraint
        assert constraint is not None and "{0,7}" not in constraint.text


def test_an_answer_of_a_form(live: Live) -> None:
    engine = FakeEngine(says="{}")
    with client(live, engine, template=True) as api:
        form = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
        api.messages.create(**ASK, extra_body={"output_config": form})
    constraint = engine.requests[-1].params.constraint
    assert constraint is not None and constraint.kind == "json"


def test_errors(live: Live) -> None:
    with client(live) as api:
        with pytest.raises(anthropic.BadRequestError) as caught:
            api.messages.create(**ASK, extra_body={"temperature": -1})
        assert caught.value.body == {
            "type": "error",
            "error": {"type": "invalid_request_error", "message": caught.value.body["error"]["message"]},  # type: ignore[index]
        }
        assert "temperature" in str(caught.value)
        with pytest.raises(anthropic.NotFoundError, match="not_found_error"):
            api.messages.create(**{**ASK, "model": "other"})


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"messages": []}, "at least one"),
        ({"messages": [*HELLO, {"role": "assistant", "content": "I"}]}, "the last of messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
            r"messages\[0\].content\[0\] is",
        ),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_use"}]}, *HELLO]}, "without a name"),
        ({"system": [{"type": "text"}]}, r"system\[0\] has no text"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, r"tools\[0\] is of type 'bash_20250124'"),
        ({"tools": TOOLS + TOOLS}, r"tools\[2\] has the name"),
        ({"tool_choice": {"type": "any"}}, "there are no tools"),
        ({"tools": TOOLS, "tool_choice": {"type": "tool"}}, "needs the name"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"extra_body": {"mcp_servers": []}}, "unknown parameter 'mcp_servers'"),
    ],
)
def test_what_is_refused(live: Live, more: Any, says: str) -> None:
    with client(live) as api, pytest.raises(anthropic.BadRequestError, match=says):
        api.messages.create(**{**ASK, **more})


def test_keys_and_an_engine_in_trouble(live: Live) -> None:
    with client(live, key="wrong", api_keys=("k",)) as api, pytest.raises(anthropic.AuthenticationError):
        api.messages.create(**ASK)
    with client(live, FakeEngine(refuse=Overloaded("full", retry_after=7))) as api:
        with pytest.raises(anthropic.RateLimitError) as caught:
            api.messages.create(**ASK)
        assert caught.value.response.headers["retry-after"] == "7"
    gone = FakeEngine(refuse=EngineUnavailable("gone"))
    with client(live, gone) as api, pytest.raises(anthropic.InternalServerError, match="api_error"):
        api.messages.create(**ASK)
    dies = FakeEngine(fail_at=2, failure=EngineUnavailable("the engine died"))
    with client(live, dies) as api, pytest.raises(anthropic.APIStatusError, match="the engine died"):
        list(api.messages.create(**ASK, stream=True))

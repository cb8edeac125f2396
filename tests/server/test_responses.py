"""/v1/responses with OpenAI's official client."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest

from tenfold.core.errors import EngineUnavailable
from tests.server import templates
from tests.server.fakes import ANSWER, FakeEngine

Live = Callable[..., Any]
SCHEMA: Any = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS: Any = [
    {"type": "function", "name": "weather", "description": "How it is", "parameters": SCHEMA, "strict": False},
    {"type": "function", "name": "time", "parameters": None, "strict": None},
]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
SAYS = f"<think>Hm.</think>One moment. {CALL}{CALL}"


@contextmanager
def client(live: Live, engine: FakeEngine | None = None, **settings: Any) -> Iterator[openai.OpenAI]:
    settings = {"template": templates.THINKING, "max_context": 8192, **settings}
    with (
        live(engine or FakeEngine(), **settings) as server,
        openai.OpenAI(base_url=server.url + "/v1", api_key="k", max_retries=0) as made,
    ):
        yield made


def prompt(engine: FakeEngine) -> str:
    return bytes(engine.requests[-1].prompt_ids).decode()


def test_text(live: Live) -> None:
    engine = FakeEngine()
    with client(live, engine, template=True) as api:
        whole = api.responses.create(
            model="m",
            input="hi",
            instructions="Be kind.",
            max_output_tokens=13,
            temperature=0.5,
            top_p=0.9,
            store=False,
        )
        assert (whole.output_text, whole.status) == (ANSWER, "incomplete")
        assert whole.incomplete_details is not None and whole.incomplete_details.reason == "max_output_tokens"
        assert (whole.id[:5], whole.model, whole.instructions, whole.temperature) == ("resp_", "m", "Be kind.", 0.5)
        assert prompt(engine) == "system:Be kind.\nuser:hi\nassistant:"
        params = engine.requests[-1].params
        assert (params.max_tokens, params.temperature, params.top_p) == (13, 0.5, 0.9)
        assert whole.usage is not None
        assert (whole.usage.output_tokens, whole.usage.output_tokens_details.reasoning_tokens) == (13, 0)
        engine.says = "done"
        assert api.responses.create(model="m", input="hi").status == "completed"


def test_a_stream_of_text(live: Live) -> None:
    engine = FakeEngine(says=ANSWER)
    with client(live, engine, template=True) as api, api.responses.stream(model="m", input="hi") as stream:
        events = list(stream)
        last = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[-4:] == ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert set(kinds[4:-4]) == {"output_text.delta"}
    assert (last.output_text, last.status) == (ANSWER, "completed")
    assert last.usage is not None and last.usage.output_tokens == len(ANSWER.encode())


@pytest.mark.parametrize("streamed", [False, True])
def test_thoughts_and_tools(live: Live, streamed: bool) -> None:
    engine = FakeEngine(says=SAYS, burst=3)
    with client(live, engine) as api:
        if streamed:
            with api.responses.stream(model="m", input="hi", tools=TOOLS) as stream:
                kinds = {event.type for event in stream}
                answer: Any = stream.get_final_response()
            assert {"response.reasoning_text.delta", "response.function_call_arguments.done"} <= kinds
        else:
            answer = api.responses.create(model="m", input="hi", tools=TOOLS)
        assert [item.type for item in answer.output] == ["reasoning", "message", "function_call", "function_call"]
        assert {item.status for item in answer.output} == {"completed"}
        thoughts, message, call, other = answer.output
        assert [part.text for part in thoughts.content] == ["Hm."]
        assert message.content[0].text == "One moment."
        assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Zürich"})
        assert answer.usage.output_tokens_details.reasoning_tokens > 3
        assert '"description": "How it is"' in prompt(engine)

        results = [
            {"type": "function_call_output", "call_id": call.call_id, "output": "rain"},
            {
                "type": "function_call_output",
                "call_id": other.call_id,
                "output": [{"type": "input_text", "text": "sun"}],
            },
        ]
        sent: Any = [{"role": "user", "content": "hi"}, *answer.output, *results, {"role": "user", "content": "Go on."}]
        api.responses.create(model="m", input=sent, tools=TOOLS)
        assert prompt(engine).endswith(
            'assistant:One moment.<tool_call>weather {"city": "Zürich"}<tool_call>weather {"city": "Zürich"}\n'
            f"tool:rain (weather, {call.call_id})\ntool:sun (weather, {other.call_id})\nuser:Go on.\n"
            "<think>Hm.</think>assistant:"
        )


def test_forced_calls_and_forms(live: Live) -> None:
    engine = FakeEngine(says=CALL)
    with client(live, engine, template=templates.HERMES) as api:
        choice: Any = {"type": "function", "name": "time"}
        api.responses.create(model="m", input="hi", tools=TOOLS, tool_choice=choice)
        constraint = engine.requests[-1].params.constraint
        assert constraint is not None and constraint.param == "tools" and "weather" not in constraint.text
        api.responses.create(model="m", input="hi", tools=TOOLS, tool_choice="none")
        assert engine.requests[-1].params.constraint is None
        form: Any = {"format": {"type": "json_schema", "name": "city", "schema": SCHEMA, "strict": True}}
        api.responses.create(model="m", input="hi", text=form)
        constraint = engine.requests[-1].params.constraint
        assert constraint is not None and (constraint.kind, json.loads(constraint.text)) == ("json", SCHEMA)


def test_what_max_tokens_cuts(live: Live) -> None:
    with client(live, FakeEngine(says=CALL), template=templates.HERMES) as api:
        ask: Any = {"model": "m", "input": "hi", "tools": TOOLS, "max_output_tokens": 60}
        whole = api.responses.create(**ask)
        assert (whole.status, whole.output_text) == ("incomplete", CALL[:59])
        *_, last = api.responses.create(**ask, stream=True)
        assert last.type == "response.incomplete"
        (call,) = last.response.output
        assert call.type == "function_call" and call.status == "incomplete"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"store": True}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"conversation": "c"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0]"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "function_call", "call_id": "c", "arguments": "{}"}]}, "input[0].name"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": TOOLS[:1] * 2}, "tools[1]"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"extra_body": {"top_k": 3}}, "top_k"),
    ],
)
def test_what_is_refused(live: Live, more: Any, param: str) -> None:
    with client(live) as api, pytest.raises(openai.BadRequestError) as caught:
        api.responses.create(**{"model": "m", "input": "hi", **more})
    assert caught.value.param == param


def test_an_engine_that_dies_in_a_stream(live: Live) -> None:
    engine = FakeEngine(fail_at=2, failure=EngineUnavailable("the engine died"))
    with client(live, engine) as api, pytest.raises(openai.APIError, match="the engine died"):
        list(api.responses.create(model="m", input="hi", stream=True))

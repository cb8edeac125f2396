"""Tools in /v1/chat/completions."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import pytest

from tests.server import templates
from tests.server.fakes import ByteTokenizer, FakeEngine
from tests.server.test_completions import events

Ask = Callable[..., httpx.Response]
PATH = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "How it is", "parameters": SCHEMA}}
TIME = {"type": "function", "function": {"name": "time"}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
TIME_CALL = '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'


def chat(ask: Ask, engine: FakeEngine, template: str | bool = templates.HERMES, **body: Any) -> httpx.Response:
    settings = {"template": template, "max_context": 8192}
    return ask(
        "POST", PATH, engine=engine, settings=settings, json={"messages": HELLO, "tools": [WEATHER, TIME], **body}
    )


def prompt(engine: FakeEngine) -> str:
    return bytes(engine.requests[-1].prompt_ids).decode()


def deltas(response: httpx.Response) -> list[dict[str, Any]]:
    return [event["choices"][0]["delta"] for event in events(response) if event["choices"]]


def test_a_whole_answer(ask: Ask) -> None:
    engine = FakeEngine(says=f"One moment.\n{CALL}\n{TIME_CALL}")
    choice = chat(ask, engine).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    message = choice["message"]
    ids = [call.pop("id") for call in message["tool_calls"]]
    assert message == {
        "role": "assistant",
        "content": "One moment.",
        "refusal": None,
        "tool_calls": [
            {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Zürich"}'}},
            {"type": "function", "function": {"name": "time", "arguments": "{}"}},
        ],
    }
    assert len(set(ids)) == 2 and all(name.startswith("call_") for name in ids)
    assert '"name": "weather"' in prompt(engine) and '"parameters"' in prompt(engine)
    assert engine.requests[-1].params.constraint is None


def test_content_is_null_beside_calls_alone(ask: Ask) -> None:
    message = chat(ask, FakeEngine(says=CALL)).json()["choices"][0]["message"]
    assert message["content"] is None


@pytest.mark.parametrize("burst", [1, 3, 500])
def test_a_stream(ask: Ask, burst: int) -> None:
    engine = FakeEngine(says=f"One moment.\n{CALL}\n{TIME_CALL}", burst=burst)
    response = chat(ask, engine, stream=True, stream_options={"include_usage": True})
    seen = deltas(response)
    assert [delta.get("role") for delta in seen] == ["assistant"] + [None] * (len(seen) - 1)
    assert "".join(delta.get("content", "") for delta in seen) == "One moment."
    calls: dict[int, dict[str, Any]] = {}
    for delta in seen:
        for piece in delta.get("tool_calls", []):
            call = calls.setdefault(piece["index"], {**piece, "pieces": []})
            assert ("id" in piece) == ("name" in piece["function"]) == (not call["pieces"])
            call["pieces"].append(piece["function"]["arguments"])
    assert ["".join(call["pieces"]) for call in calls.values()] == ['{"city": "Zürich"}', "{}"]
    assert (len(calls[0]["pieces"]) > 3) == (burst < 500)
    *_, last, usage = events(response)
    assert last["choices"][0]["finish_reason"] == "tool_calls"
    assert usage["usage"]["completion_tokens"] == len(engine.says.encode())  # type: ignore[union-attr]


def test_several_choices(ask: Ask) -> None:
    engine = FakeEngine(says=f"Hm {CALL}")
    whole = chat(ask, engine, n=2).json()["choices"]
    chunks = events(chat(ask, engine, n=2, stream=True))
    for index in (0, 1):
        assert len(whole[index]["message"]["tool_calls"]) == 1
        own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert [choice["delta"].get("role") for choice in own] == ["assistant"] + [None] * (len(own) - 1)
        assert sum("id" in piece for choice in own for piece in choice["delta"].get("tool_calls", [])) == 1
        assert own[-1]["finish_reason"] == "tool_calls"


def test_logprobs_of_every_token_are_streamed(ask: Ask) -> None:
    chunks = events(chat(ask, FakeEngine(says=CALL), stream=True, logprobs=True))
    tokens = [entry for chunk in chunks for entry in chunk["choices"][0]["logprobs"]["content"]]
    assert bytes(byte for entry in tokens for byte in entry["bytes"]).decode() == CALL


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_max_tokens_cuts(ask: Ask, stream: bool) -> None:
    response = chat(ask, FakeEngine(says=CALL), stream=stream, max_tokens=60)
    if stream:
        pieces = [piece for delta in deltas(response) for piece in delta.get("tool_calls", [])]
        assert "".join(piece["function"]["arguments"] for piece in pieces) == '{"city": "Züri'
        assert events(response)[-1]["choices"][0]["finish_reason"] == "length"
    else:
        choice = response.json()["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == (CALL[:59], "length")
        assert "tool_calls" not in choice["message"]


def test_what_is_no_call_is_content(ask: Ask) -> None:
    for says in ("plain", '<tool_call>{"name": "other"}</tool_call>', '<tool_call>{"name": "time", "arguments": {a}}'):
        for stream in (False, True):
            response = chat(ask, FakeEngine(says=says), stream=stream)
            if not stream:
                choice = response.json()["choices"][0]
                assert (choice["message"]["content"], choice["finish_reason"]) == (says, "stop")
            elif "{a}" not in says:
                assert "".join(delta.get("content", "") for delta in deltas(response)) == says


def test_one_call_where_they_may_not_be_parallel(ask: Ask) -> None:
    message = chat(ask, FakeEngine(says=CALL + TIME_CALL), parallel_tool_calls=False).json()["choices"][0]["message"]
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["weather"]


def test_no_tools_are_told_of_where_none_may_be_called(ask: Ask) -> None:
    engine = FakeEngine(says=CALL)
    choice = chat(ask, engine, tool_choice="none").json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (CALL, "stop")
    assert prompt(engine) == "user:hi\nassistant:"


def test_forced_calls_are_constrained(ask: Ask) -> None:
    engine = FakeEngine(says=CALL)
    assert chat(ask, engine, tool_choice="required").json()["choices"][0]["finish_reason"] == "tool_calls"
    constraint = engine.requests[-1].params.constraint
    assert constraint is not None and (constraint.kind, constraint.param) == ("lark", "tools")
    assert "weather" in constraint.text and "time" in constraint.text
    named = {"type": "function", "function": {"name": "time"}}
    assert chat(ask, engine, tool_choice=named).status_code == 200
    constraint = engine.requests[-1].params.constraint
    assert constraint is not None and "weather" not in constraint.text


def test_an_answer_of_a_form_may_be_calls_instead(ask: Ask) -> None:
    engine = FakeEngine(says=CALL)
    assert chat(ask, engine, response_format={"type": "json_object"}).status_code == 200
    constraint = engine.requests[-1].params.constraint
    assert constraint is not None and constraint.text.startswith("start: (answer | calls)")


def test_calls_and_results_come_back(ask: Ask) -> None:
    engine = FakeEngine(says="ok")
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
    odd = {"function": {"name": "time", "arguments": "broken"}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call, odd]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "rain"}]},
    ]
    assert chat(ask, engine, messages=messages).status_code == 200
    assert prompt(engine).endswith(
        'user:hi\nassistant:<tool_call>weather {"city": "Bern"}<tool_call>time "broken"\n'
        "tool:rain (weather, c1)\nassistant:"
    )


def test_a_template_that_knows_no_tools_is_told_in_plain_turns(ask: Ask) -> None:
    engine = FakeEngine(says=CALL)
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
    messages = [
        {"role": "system", "content": "Be kind."},
        *HELLO,
        {"role": "assistant", "content": "Well:", "tool_calls": [call, call]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
        {"role": "tool", "tool_call_id": "c2", "content": "sun"},
        {"role": "user", "content": "Go on."},
    ]
    answer = chat(ask, engine, template=True, messages=messages).json()
    assert answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "weather"
    written = prompt(engine)
    assert written.startswith("system:Be kind.\n\n") and '"description": "How it is"' in written
    one = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'
    results = "<tool_response>\nrain\n</tool_response>\n<tool_response>\nsun\n</tool_response>"
    assert written.endswith(f"user:hi\nassistant:Well:\n{one}\n{one}\nuser:{results}\nGo on.\nassistant:")
    assert chat(ask, engine, template=True).status_code == 200
    assert prompt(engine).startswith("system:These functions")


@pytest.mark.parametrize(
    ("template", "says", "length"),
    [
        (templates.LLAMA3, '{"name": "weather", "parameters": {"city": "Bern"}}', 29),
        (templates.MISTRAL, '[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Bern"}}]', 9),
    ],
)
def test_other_families(ask: Ask, template: str, says: str, length: int) -> None:
    message = chat(ask, FakeEngine(says=says), template=template).json()["choices"][0]["message"]
    (call,) = message["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("weather", {"city": "Bern"})
    assert len(call["id"]) == length


def test_llamas_call_one_at_a_time(ask: Ask) -> None:
    engine = FakeEngine(says='{"name": "time", "parameters": {}}; {"name": "weather", "parameters": {}}')
    answer = chat(ask, engine, template=templates.LLAMA3, tool_choice="required").json()
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "time"
    constraint = engine.requests[-1].params.constraint
    assert constraint is not None and "{0,7}" not in constraint.text


def test_several_calls_of_elsewhere_are_told_llamas_one_after_the_other(ask: Ask) -> None:
    def call(name: str, identity: str | None = None) -> dict[str, Any]:
        return {"type": "function", "function": {"name": name, "arguments": "{}"}} | (
            {"id": identity} if identity else {}
        )

    def result(identity: str, content: str) -> dict[str, Any]:
        return {"role": "tool", "tool_call_id": identity, "content": content}

    def written(*messages: dict[str, Any]) -> str:
        engine = FakeEngine(says="ok")
        assert chat(ask, engine, template=templates.LLAMA31, messages=messages).status_code == 200
        return prompt(engine)

    both = {"role": "assistant", "content": "Well:", "tool_calls": [call("time", "a"), call("weather", "b")]}
    thanks = {"role": "user", "content": "thanks"}
    assert written(*HELLO, both, result("b", "rain"), result("a", "noon"), thanks) == (
        "user:hi\nWell:<|python_tag|>time\nipython:noon\n<|python_tag|>weather\nipython:rain\nuser:thanks\nassistant:2"
    )
    unnamed = {"role": "assistant", "tool_calls": [call("time"), call("weather")]}
    assert written(*HELLO, unnamed, result("x", "noon")) == (
        "user:hi\n<|python_tag|>time\n<|python_tag|>weather\nipython:noon\nassistant:2"
    )


def test_templates_that_describe_functions_need_no_description(ask: Ask) -> None:
    engine = FakeEngine(says="ok")
    assert chat(ask, engine, template=templates.DESCRIBING).status_code == 200
    assert prompt(engine).startswith("weather - How it is;time - ;hi")
    chat(ask, engine)
    assert '"function": {"name": "time", "parameters"' in prompt(engine)  # others are told what was sent


def test_ids_of_elsewhere_fit_mistrals_template(ask: Ask) -> None:
    engine = FakeEngine(says="ok")
    call = {"id": "call_0123456789abcdef", "type": "function", "function": {"name": "time", "arguments": ""}}
    messages = [
        *HELLO,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "noon"},
    ]
    assert chat(ask, engine, template=templates.MISTRAL, messages=messages).status_code == 200
    written = prompt(engine)
    assert written.split("[TOOL_CALLS]")[1][:9] == written.split("[TOOL_RESULTS]")[1][:9]


class Marked(ByteTokenizer):
    """Byte 1 is the mark of Mistral's calls: special, so that answers do not show it unless asked to."""

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        return list(text.replace("[TOOL_CALLS]", "\1").encode())

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        return bytes(token for token in ids if token != 1 or not skip_special).decode()


def test_marks_that_are_special_tokens_are_seen_and_forced_by_id(ask: Ask) -> None:
    engine = FakeEngine(says="ok")
    settings = {"template": templates.MISTRAL, "tokenizer": Marked(), "max_context": 8192}
    body = {"messages": HELLO, "tools": [TIME], "tool_choice": "required"}
    assert ask("POST", PATH, engine=engine, settings=settings, json=body).status_code == 200
    params = engine.requests[-1].params
    assert not params.skip_special_tokens
    assert params.constraint is not None and params.constraint.text.startswith('start: (calls)\ncalls: <[1]> "["')
    assert ask("POST", PATH, engine=engine, settings=settings, json={"messages": HELLO}).status_code == 200
    assert engine.requests[-1].params.skip_special_tokens


def test_a_parser_by_option(ask: Ask) -> None:
    settings = {"template": templates.HERMES, "max_context": 8192, "tool_parser": "llama3"}
    says = '{"name": "time", "parameters": {}}'
    body = {"messages": HELLO, "tools": [TIME]}
    choice = ask("POST", PATH, engine=FakeEngine(says=says), settings=settings, json=body).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    settings["tool_parser"] = "none"
    refused = ask("POST", PATH, settings=settings, json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tools")
    assert ask("POST", PATH, settings=settings, json={**body, "tool_choice": "none"}).status_code == 200


def test_variables_of_the_template(ask: Ask) -> None:
    engine = FakeEngine(says="ok")
    template = "{{ messages[0].content }} {{ 'thinks' if think else 'answers' }}"
    assert chat(ask, engine, template=template, tools=[], chat_template_kwargs={"think": True}).status_code == 200
    assert prompt(engine) == "hi thinks"


def test_tokenize_counts_tools(ask: Ask) -> None:
    engine, settings = FakeEngine(says="ok"), {"template": templates.HERMES, "max_context": 8192}
    chat(ask, engine)
    body = {"messages": HELLO, "tools": [WEATHER, TIME]}
    assert ask("POST", "/tokenize", settings=settings, json=body).json()["tokens"] == list(
        engine.requests[0].prompt_ids
    )


def function(**fields: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "f", **fields}}]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": [{"function": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [TIME, TIME]}, "tools[1]"),
        ({"tools": function(name="no name")}, "tools[0]"),
        ({"tools": function(name="")}, "tools[0]"),
        ({"tools": function(parameters={"type": "string"})}, "tools[0]"),
        ({"tools": function(parameters=["a"])}, "tools[0]"),
        ({"tools": function(parameters={"properties": {}})}, "tools[0]"),
        ({"tool_choice": "always"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.type"),
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}, "tools": None}, "tool_choice"),
        ({"tool_choice": "required", "response_format": {"type": "json_object"}}, "response_format"),
        ({"tool_choice": "required", "structured_outputs": {"regex": "a"}}, "response_format"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"structured_outputs": {"json": "{no schema"}}, "structured_outputs"),
        ({"structured_outputs": {"json": "[" * 9999}}, "structured_outputs"),
        ({"tool_choice": "required", "ignore_eos": True}, "ignore_eos"),
        (
            {"messages": [{"role": "user", "content": "x", "tool_calls": [{"function": {"name": "f"}}]}]},
            "messages[0].tool_calls",
        ),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
    ],
)
def test_what_is_refused(ask: Ask, more: dict[str, Any], param: str) -> None:
    response = chat(ask, FakeEngine(), **more)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param

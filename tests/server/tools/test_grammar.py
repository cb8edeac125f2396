"""Whatever a constraint for calls lets through is read as calls that follow the tools' schemas."""

import json
from typing import Any

import pytest

from tenfold.core.constraint import ANY_OBJECT, Constraint
from tenfold.core.errors import InvalidRequest
from tenfold.server.parts import CallEnd, CallStart
from tenfold.server.tools.forms import FORMS, HERMES, MISTRAL, CallForm
from tenfold.server.tools.grammar import answer_or_calls, calls_constraint
from tenfold.server.tools.parser import CallParser
from tenfold.server.tools.toolbox import Tool, Toolbox
from tests.grammar.test_grammars import allowed, any_text, make

F = Tool(
    "f",
    None,
    {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/short"}},
        "$defs": {"short": {"type": "string", "maxLength": 3}},
        "required": ["a"],
        "additionalProperties": False,
    },
)
G = Tool("g", "x", {"type": "object", "properties": {}, "additionalProperties": False})


def arguments(form: CallForm, text: str) -> list[tuple[str, Any]]:
    parser = CallParser(form, {"f", "g"})
    parts = parser.push(text) + parser.finish()
    starts = [part for part in parts if isinstance(part, CallStart)]
    ends = [part for part in parts if isinstance(part, CallEnd)]
    assert all(end.whole for end in ends)
    assert {type(part).__name__ for part in parts} == {"CallStart", "CallText", "CallEnd"}
    texts = ["".join(getattr(p, "text", "") for p in parts if p.index == at) for at in range(len(starts))]  # type: ignore[union-attr]
    return [(start.name, json.loads(text)) for start, text in zip(starts, texts, strict=True)]


@pytest.mark.parametrize("form", list(FORMS.values()), ids=list(FORMS))
@pytest.mark.parametrize("parallel", [True, False])
def test_every_walk_is_calls(form: CallForm, parallel: bool) -> None:
    made, counts = make(), set()
    constraint = calls_constraint(form, Toolbox((F, G), (F, G), parallel), None)
    for seed in range(30):
        text = any_text(made.matcher(constraint), seed).decode(errors="replace")
        if text:
            calls = arguments(form, text)
            counts.add(len(calls))
            assert all(set(args) == ({"a"} if name == "f" else set()) for name, args in calls)
            assert all(len(args.get("a", "")) <= 3 for _, args in calls)
    assert counts == {1} if not parallel else max(counts) > 1


def test_only_the_named_one_may_be_called() -> None:
    made = make()
    matcher = made.matcher(calls_constraint(HERMES, Toolbox((F, G), (G,), parallel=False), None))
    assert matcher.consume(b'<tool_call>\n{"name": "f') == len(b'<tool_call>\n{"name": "')


def test_a_mark_that_text_cannot_spell_is_a_token() -> None:
    matcher = make().matcher(calls_constraint(MISTRAL, Toolbox((G,), (G,)), 259))
    assert allowed(matcher) == {259}
    assert matcher.consume((259, *b"[{")) == 3


def test_an_answer_of_a_form_or_calls() -> None:
    made = make()
    constraint = answer_or_calls(HERMES, Toolbox((G,)), None, ANY_OBJECT)
    assert made.matcher(constraint).consume(b'{"x": 1}') == 8
    assert made.matcher(constraint).consume(b'<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>') == 55
    assert made.matcher(constraint).consume(b"Hello") == 0


@pytest.mark.parametrize("schema", [{"properties": {"a": {"$ref": "#/nowhere"}}}, {"minProperties": 10**6}])
def test_an_error_is_one_of_tools(schema: dict[str, Any]) -> None:
    tool = Tool("f", None, {"type": "object", **schema})
    with pytest.raises(InvalidRequest, match="the grammar of the tools") as caught:
        make().matcher(calls_constraint(HERMES, Toolbox((tool,), (tool,)), None))
    assert caught.value.param == "tools"


def test_patterns_of_several_tools_do_not_multiply() -> None:
    tools = tuple(
        Tool(name, None, {"type": "object", "properties": {"a": {"type": "string", "pattern": "^[a-z]{1,100}$"}}})
        for name in "abc"
    )
    make().matcher(calls_constraint(HERMES, Toolbox(tools, tools), None))
    with pytest.raises(InvalidRequest, match="repeats too much"):
        make().matcher(Constraint("lark", 'start: %json {"minItems": 1000000}'))

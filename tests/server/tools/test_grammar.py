"""Whatever a constraint for calls lets through is read as calls that follow the tools' schemas; thoughts come first."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from tenfold.core.constraint import ANY_OBJECT, Constraint
from tenfold.core.errors import InvalidRequest
from tenfold.core.sampling import SamplingParams
from tenfold.server.dialect import Dialect
from tenfold.server.expectation import expect
from tenfold.server.parts import CallEnd, CallStart, CallText, Text, Thought
from tenfold.server.reading import Reading
from tenfold.server.service import Loaded
from tenfold.server.text import TextCodec
from tenfold.server.tools.forms import FORMS, HERMES, MISTRAL, CallForm
from tenfold.server.tools.toolbox import Tool, Toolbox
from tests.grammar.test_grammars import EOS, allowed, any_text, make
from tests.server.fakes import INFO, ByteTokenizer

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


THOUGHT_MARKS = {"<think>": 1, "</think>": 2}


class Marked(ByteTokenizer):
    """Marks that are special tokens."""

    def __init__(self, marks: dict[str, int]) -> None:
        self._marks = marks

    def encode(self, text: str, *, add_special: bool) -> list[int]:
        return [self._marks[text]] if text in self._marks else list(text.encode())

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        return "" if ids[0] in self._marks.values() else bytes(ids).decode()


def held(
    form: CallForm,
    toolbox: Toolbox | None,
    *,
    answer: Constraint | None = None,
    thinks: bool = False,
    opened: bool = False,
    marks: dict[str, int] | None = None,
) -> tuple[Constraint, Reading]:
    loaded = Loaded(INFO, TextCodec(Marked(marks or {}), None), Dialect(form, True, thinks), 0)
    params, reading = expect(SamplingParams(constraint=answer), loaded, toolbox, opened=opened)
    assert params.constraint is not None
    assert params.skip_special_tokens == (not marks)
    return params.constraint, reading


def arguments(reading: Reading, text: str) -> list[tuple[str, Any]]:
    parts = reading.reader().push(text, last=True)
    starts = [part for part in parts if isinstance(part, CallStart)]
    assert all(part.whole for part in parts if isinstance(part, CallEnd))
    assert not any(isinstance(part, Text) for part in parts)
    texts = ["".join(p.text for p in parts if isinstance(p, CallText) and p.index == at) for at in range(len(starts))]
    return [(start.name, json.loads(text)) for start, text in zip(starts, texts, strict=True)]


@pytest.mark.parametrize("form", list(FORMS.values()), ids=list(FORMS))
@pytest.mark.parametrize("parallel", [True, False])
def test_every_walk_is_calls(form: CallForm, parallel: bool) -> None:
    made, counts = make(), set()
    constraint, reading = held(form, Toolbox((F, G), (F, G), parallel))
    for seed in range(30):
        text = any_text(made.matcher(constraint), seed).decode(errors="replace")
        if text:
            calls = arguments(reading, text)
            counts.add(len(calls))
            assert all(set(args) == ({"a"} if name == "f" else set()) for name, args in calls)
            assert all(len(args.get("a", "")) <= 3 for _, args in calls)
    assert counts == {1} if form.single or not parallel else max(counts) > 1


def test_only_the_named_one_may_be_called() -> None:
    made = make()
    matcher = made.matcher(held(HERMES, Toolbox((F, G), (G,), parallel=False))[0])
    assert matcher.consume(b'<tool_call>\n{"name": "f') == len(b'<tool_call>\n{"name": "')


def test_a_mark_that_text_cannot_spell_is_a_token() -> None:
    matcher = make().matcher(held(MISTRAL, Toolbox((G,), (G,)), marks={"[TOOL_CALLS]": 259})[0])
    assert allowed(matcher) == {259}
    assert matcher.consume((259, *b"[{")) == 3


def test_an_answer_of_a_form_or_calls() -> None:
    made = make()
    constraint, _ = held(HERMES, Toolbox((G,)), answer=ANY_OBJECT)
    assert made.matcher(constraint).consume(b'{"x": 1}') == 8
    assert made.matcher(constraint).consume(b'<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>') == 55
    assert made.matcher(constraint).consume(b"Hello") == 0


@pytest.mark.parametrize("schema", [{"properties": {"a": {"$ref": "#/nowhere"}}}, {"minProperties": 10**6}])
def test_an_error_is_one_of_tools(schema: dict[str, Any]) -> None:
    tool = Tool("f", None, {"type": "object", **schema})
    with pytest.raises(InvalidRequest, match="the grammar of the tools") as caught:
        make().matcher(held(HERMES, Toolbox((tool,), (tool,)))[0])
    assert caught.value.param == "tools"


def test_patterns_of_several_tools_do_not_multiply() -> None:
    tools = tuple(
        Tool(name, None, {"type": "object", "properties": {"a": {"type": "string", "pattern": "^[a-z]{1,100}$"}}})
        for name in "abc"
    )
    make().matcher(held(HERMES, Toolbox(tools, tools))[0])
    with pytest.raises(InvalidRequest, match="repeats too much"):
        make().matcher(Constraint("lark", 'start: %json {"minItems": 1000000}'))


@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize("answer", [True, False])
@pytest.mark.parametrize("special", [True, False])
def test_thoughts_come_first(opened: bool, answer: bool, special: bool) -> None:
    toolbox = None if answer else Toolbox((G,), (G,))
    marks = THOUGHT_MARKS if special else None
    constraint, reading = held(
        HERMES, toolbox, answer=ANY_OBJECT if answer else None, thinks=True, opened=opened, marks=marks
    )
    assert constraint.param == ("response_format" if answer else "tools")
    made = make()
    rest = b'{"x": 1}' if answer else b'<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'
    begin = [] if opened else [1] if special else list(b"<think>")
    tokens = [*begin, *b"Hm {<", *([2] if special else b"</think>"), *b"\n\n", *rest]
    matcher = made.matcher(constraint)
    assert matcher.consume(tokens) == len(tokens)
    assert EOS in allowed(matcher)
    straight = made.matcher(constraint)
    assert straight.consume(rest) == len(rest)
    assert (EOS in allowed(straight)) == (not opened)  # in the midst of thoughts it is one
    text = "" if opened else "<think>"
    parts = reading.reader().push(text + "Hm {<</think>\n\n" + rest.decode(), last=True)
    assert parts[0] == Thought("Hm {<")
    assert isinstance(parts[1], Text if answer else CallStart)


def test_other_constraints_are_the_whole_answer() -> None:
    constraint, reading = held(HERMES, None, answer=Constraint("regex", "a+"), thinks=True, opened=True)
    assert constraint == Constraint("regex", "a+") and reading.plain

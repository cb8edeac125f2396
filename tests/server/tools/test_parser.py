"""Calls in an answer's text, whatever pieces it comes in."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold.cli.options import ReasoningParser, ToolParser
from tenfold.core.errors import ConfigError
from tenfold.server.config import REASONING_PARSERS, TOOL_PARSERS, ServerConfig
from tenfold.server.parts import CallEnd, CallStart, CallText, Part, Text
from tenfold.server.tools.forms import FORMS, HERMES, LLAMA3, MISTRAL, CallForm, form_of, knows_tools
from tenfold.server.tools.parser import CallParser
from tests.server import templates

Seen = list[tuple[str, ...]]
F = '{"name": "f", "arguments": {"a": "}\\"{", "b": [1, {"c": 2}]}}'
F_SEEN = ("call", "f", '{"a": "}\\"{", "b": [1, {"c": 2}]}')


def read(form: CallForm, pieces: list[str], most: int | None = None) -> list[Part]:
    parser = CallParser(form, {"f", "g"}, most=most)
    parts = [part for piece in pieces for part in parser.push(piece)]
    return parts + parser.finish()


def joined(parts: list[Part]) -> Seen:
    """Texts and calls, each in one piece; a call that broke is called so."""
    seen: Seen = []
    for part in parts:
        match part:
            case Text(text) if seen and seen[-1][0] == "text":
                seen[-1] = ("text", seen[-1][1] + text)
            case Text(text):
                seen.append(("text", text))
            case CallStart(index, _, name):
                assert index == sum(kind != "text" for kind, *_ in seen)
                seen.append(("call", name, ""))
            case CallText(_, text):
                seen[-1] = (*seen[-1][:2], seen[-1][2] + text)
            case CallEnd(_, _, whole):
                seen[-1] = ("call" if whole else "broken", *seen[-1][1:])
    return seen


CASES: list[tuple[CallForm, str, Seen]] = [
    (HERMES, f"Let me see.\n<tool_call>\n{F}\n</tool_call>", [("text", "Let me see."), F_SEEN]),
    (
        HERMES,
        f'<tool_call>{F}</tool_call>\n<tool_call>\n{{"name": "g"}}\n</tool_call>\nDone.',
        [F_SEEN, ("call", "g", "{}"), ("text", "\nDone.")],
    ),
    (HERMES, '<tool_call>{"arguments": {"q": 1}, "id": "x", "name": "f"}', [("call", "f", '{"q": 1}')]),
    (HERMES, '<tool_call>{"name": "f", "arguments": "{\\"q\\": 1}"}</tool_call>', [("call", "f", '{"q": 1}')]),
    (HERMES, '<tool_call>{"name": "f", "arguments": null}</tool_call>', [("call", "f", "{}")]),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"a": "1\n\t"}}', [("call", "f", '{"a": "1\\n\\t"}')]),
    (LLAMA3, '{"name": "f", "parameters": {"a": 1}}', [("call", "f", '{"a": 1}')]),
    (
        LLAMA3,
        '{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}',
        [("call", "f", "{}"), ("call", "g", "{}")],
    ),
    (LLAMA3, f'<|python_tag|>{{"type": "function", "x": -1.5e3, {F[1:]}', [F_SEEN]),
    (
        MISTRAL,
        f'[TOOL_CALLS] [{F}, {{"name": "g", "arguments": {{}}, "id": "abcdefghi"}}]',
        [F_SEEN, ("call", "g", "{}")],
    ),
    (MISTRAL, f"Well: [TOOL_CALLS][{F}]", [("text", "Well:"), F_SEEN]),
    # broken in its arguments: the call was told of, the rest comes as text
    (HERMES, '<tool_call>{"name": "f", "arguments": {"a": 1', [("broken", "f", '{"a": 1')]),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"a": ]}} x', [("broken", "f", '{"a": '), ("text", "]}} x")]),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"a": NaN}}', [("broken", "f", '{"a": NaN}')]),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"a": "\\ud800"}}', [("broken", "f", '{"a": "\\ud800"}')]),
    (HERMES, '<tool_call>{"name": "f", "arguments": {a: 1}}</tool_call>', [("broken", "f", "{a: 1}")]),
]
TEXTS: list[tuple[CallForm, str]] = [
    (HERMES, ""),
    (HERMES, "\n\n"),
    (HERMES, "a < b <tool and <tool_call> nothing\n"),
    (HERMES, 'x <tool_call>{"name": "h", "arguments": {}}</tool_call> y'),
    (HERMES, '<tool_call>{"name": 5, "arguments": {}}'),
    (HERMES, '<tool_call>{"arguments": {}}'),
    (HERMES, '<tool_call>{"arguments": [], "name": "f"}'),
    (HERMES, '<tool_call>{"name": "f", "arguments": "no object"}'),
    (HERMES, '<tool_call>{"name": "f" "arguments": {}}'),
    (HERMES, '<tool_call>{"name", "f"}'),
    (HERMES, '<tool_call>{"name": }'),
    (HERMES, "<tool_call>{x"),
    (HERMES, "<tool_call>\n"),
    (HERMES, '<tool_call>{"na'),
    (LLAMA3, '{"answer": 5, "name": 3}'),
    (LLAMA3, '  {"x": 5} '),
    (LLAMA3, 'print {"name": "f", "parameters": {}}'),
    (MISTRAL, "[TOOL_CALLS]f{}"),
    (MISTRAL, f"[TOOL_CALLS]{F}"),
    (MISTRAL, "[TOOL_CALLS] ["),
]


@pytest.mark.parametrize(("form", "text", "seen"), CASES)
def test_calls(form: CallForm, text: str, seen: Seen) -> None:
    assert joined(read(form, [text])) == seen
    assert joined(read(form, list(text))) == seen


@pytest.mark.parametrize(("form", "text"), TEXTS)
def test_what_is_no_call_is_text_to_the_last_character(form: CallForm, text: str) -> None:
    assert joined(read(form, list(text))) == ([("text", text)] if text else [])


@given(
    st.sampled_from(list(FORMS.values())),
    st.lists(
        st.sampled_from(
            [*'{}[]",: \n;x', F, '{"name": "g"}', "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>"]
        )
    ),
    st.data(),
)
def test_pieces_change_nothing(form: CallForm, tokens: list[str], data: st.DataObject) -> None:
    text = "".join(tokens)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
    assert joined(read(form, pieces)) == joined(read(form, [text]))


def test_a_name_comes_as_soon_as_it_is_certain_and_arguments_in_pieces() -> None:
    parser = CallParser(HERMES, {"f"})
    assert parser.push('Hm <tool_call>{"name": "f", "arg') == [Text("Hm")]
    first = parser.push('uments": {"a')
    assert [type(part) for part in first] == [CallStart, CallText]
    assert parser.push('": 1') == [CallText(0, '": 1')]
    end = parser.push("}}")
    assert end == [CallText(0, "}"), CallEnd(0, ' <tool_call>{"name": "f", "arguments": {"a": 1}}', whole=True)]


def test_one_call_at_most() -> None:
    assert joined(read(HERMES, [f"<tool_call>{F}</tool_call><tool_call>{F}</tool_call> x"], most=1)) == [
        F_SEEN,
        ("text", " x"),
    ]


@pytest.mark.parametrize("form", list(FORMS.values()), ids=list(FORMS))
def test_what_is_written_is_read(form: CallForm) -> None:
    written = form.write([form.call("f", {"ü": "</tool_call>"}), form.call("g", {})])
    assert joined(read(form, [written])) == [("call", "f", '{"ü": "</tool_call>"}'), ("call", "g", "{}")]


def test_which_form_a_template_shows() -> None:
    assert [form_of(text) for text in (templates.HERMES, templates.LLAMA3, templates.MISTRAL)] == [
        HERMES,
        LLAMA3,
        MISTRAL,
    ]
    assert all(knows_tools(text) for text in (templates.HERMES, templates.LLAMA3, templates.MISTRAL))
    assert form_of("{{ messages }}") is None and not knows_tools("{{ tool }}")
    for other in ("<function=", "<arg_key>", "[ARGS]", "<|python_start|>"):
        assert form_of(f"<tool_call> [TOOL_CALLS] ipython {other}") is None


def test_every_form_has_its_option() -> None:
    assert tuple(ToolParser) == TOOL_PARSERS == ("auto", *FORMS, "none")
    assert tuple(ReasoningParser) == REASONING_PARSERS
    with pytest.raises(ConfigError, match="--tool-parser must be one of auto, hermes"):
        ServerConfig(names=("m",), tool_parser="xml")
    with pytest.raises(ConfigError, match="--reasoning-parser must be one of auto, think"):
        ServerConfig(names=("m",), reasoning_parser="xml")


def test_ids() -> None:
    (mistral,) = (part for part in read(MISTRAL, [f"[TOOL_CALLS][{F}]"]) if isinstance(part, CallStart))
    assert len(mistral.id) == 9 and mistral.id.isalnum()  # Mistral's templates refuse others
    ids = {form.new_id() for form in FORMS.values() for _ in range(20)}
    assert len(ids) == 60

"""Thoughts before an answer."""

import itertools
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold.server.thinking import ThoughtSplitter
from tests.server import templates
from tests.server.fakes import FakeEngine
from tests.server.test_completions import events
from tests.server.test_tools import CALL, TIME, WEATHER

Ask = Callable[..., httpx.Response]
PATH = "/v1/chat/completions"
OPENED = {"opens": True}


def split(pieces: list[str], *, opened: bool) -> tuple[str, str]:
    splitter = ThoughtSplitter(opened=opened)
    found = [*[splitter.push(piece) for piece in pieces], splitter.finish()]
    return "".join(thought for thought, _ in found), "".join(rest for _, rest in found)


@pytest.mark.parametrize(
    ("opened", "text", "thoughts", "rest"),
    [
        (False, "<think>\nHm < so.\n</think>\n\nYes.", "Hm < so.", "Yes."),
        (False, " \n<think></think>Yes. ", "", "Yes. "),
        (False, "Yes <think>x</think>", "", "Yes <think>x</think>"),
        (False, " <thin", "", " <thin"),
        (False, "\n", "", "\n"),
        (False, "<think>Hm, </thi", "Hm, </thi", ""),
        (True, "Hm.\n</think>\n\nYes.</think>", "Hm.", "Yes.</think>"),
        (True, "Hm. \n", "Hm.", ""),
        (True, "Hm.</think>\n", "Hm.", ""),
        (True, "", "", ""),
    ],
)
def test_thoughts_and_the_rest(opened: bool, text: str, thoughts: str, rest: str) -> None:
    assert split([text], opened=opened) == (thoughts, rest)
    assert split(list(text), opened=opened) == (thoughts, rest)


@given(st.booleans(), st.lists(st.sampled_from([*"</thinkx \n>", "<think>", "</think>"])), st.data())
def test_pieces_change_nothing(opened: bool, tokens: list[str], data: st.DataObject) -> None:
    text = "".join(tokens)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
    assert split(pieces, opened=opened) == split([text], opened=opened)


def chat(ask: Ask, says: str, template: str = templates.THINKING, **body: Any) -> httpx.Response:
    settings = {"template": template, "max_context": 8192, **body.pop("settings", {})}
    messages = [{"role": "user", "content": "hi"}]
    return ask("POST", PATH, engine=FakeEngine(says=says), settings=settings, json={"messages": messages, **body})


def message(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    return dict(response.json()["choices"][0]["message"])


@pytest.mark.parametrize("opened", [True, False])
def test_whole_and_streamed(ask: Ask, opened: bool) -> None:
    says = ("" if opened else "<think>\n") + "Hm, hm.\n</think>\n\nYes."
    more = {"chat_template_kwargs": {"opens": opened}}
    whole = message(chat(ask, says, **more))
    assert (whole["reasoning_content"], whole["content"]) == ("Hm, hm.", "Yes.")
    deltas = [chunk["choices"][0]["delta"] for chunk in events(chat(ask, says, **more, stream=True))]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Hm, hm."
    assert "".join(delta.get("content", "") for delta in deltas) == "Yes."
    assert sum("reasoning_content" in delta for delta in deltas) > 3


def test_max_tokens_within_the_thoughts(ask: Ask) -> None:
    choice = chat(ask, "<think>Hm, hm.</think>Yes.", max_tokens=10).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert (choice["message"]["reasoning_content"], choice["message"]["content"]) == ("Hm,", None)


def test_calls_come_after_thoughts(ask: Ask) -> None:
    says = f"<think>\nOr <tool_call>?</think>\n\n{CALL}"
    whole = message(chat(ask, says, tools=[WEATHER, TIME]))
    assert whole["reasoning_content"] == "Or <tool_call>?"
    assert (whole["content"], len(whole["tool_calls"])) == (None, 1)
    forced = chat(ask, says, tools=[WEATHER], tool_choice="required", chat_template_kwargs=OPENED)
    assert message(forced)["tool_calls"]


def test_an_answer_without_thoughts(ask: Ask) -> None:
    whole = message(chat(ask, "Yes."))
    assert whole["content"] == "Yes." and "reasoning_content" not in whole


def test_by_option_and_template(ask: Ask) -> None:
    says = "<think>Hm</think>Yes"
    assert message(chat(ask, says, settings={"reasoning_parser": "none"}))["content"] == says
    assert message(chat(ask, says, templates.HERMES))["content"] == says
    assert message(chat(ask, says, templates.HERMES, settings={"reasoning_parser": "think"}))["content"] == "Yes"
    tools = {"settings": {"tool_parser": "none"}}
    assert message(chat(ask, says, **tools))["content"] == "Yes"


def test_thoughts_come_back_to_the_template(ask: Ask) -> None:
    engine = FakeEngine(says="ok")
    messages = [
        {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm"},
        {"role": "user", "content": "Why?"},
    ]
    settings = {"template": templates.THINKING}
    assert ask("POST", PATH, engine=engine, settings=settings, json={"messages": messages}).status_code == 200
    assert "<think>Hm</think>" in bytes(engine.requests[0].prompt_ids).decode()

"""Calls as a constraint: they always parse, and their arguments follow the tool's schema.

In llguidance's dialect of Lark: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md.
"""

import json
from collections.abc import Sequence
from typing import Any

from tenfold.core.constraint import Constraint
from tenfold.grammar.grammars import JSON_STYLE
from tenfold.server.tools.forms import CallForm
from tenfold.server.tools.toolbox import Tool, Toolbox

MOST_CALLS = 8  # a small model that may go on does
_GAP = "\0"


def calls_constraint(form: CallForm, toolbox: Toolbox, opening: int | None) -> Constraint:
    """An answer that is one of the forced calls, or several.

    ``opening`` is the id of the token that begins calls, where text cannot spell it.
    """
    return _constraint("start: calls", _calls(form, toolbox.forced, toolbox, opening))


def answer_or_calls(form: CallForm, toolbox: Toolbox, opening: int | None, answer: Constraint) -> Constraint:
    """The same of any tools, or JSON that ``answer`` describes."""
    schema = f"answer: %json {_schema(json.loads(answer.text))}"
    return _constraint("start: answer | calls", schema, _calls(form, toolbox.tools, toolbox, opening))


def _constraint(*rules: str) -> Constraint:
    return Constraint("lark", "\n".join(rules) + "\n", "tools")


def _calls(form: CallForm, tools: Sequence[Tool], toolbox: Toolbox, opening: int | None) -> str:
    more = f"({_text(form.between)} call){{0,{MOST_CALLS - 1}}}" if toolbox.parallel else ""
    rules = [f"calls: {_begin(form, opening)} call {more} {_text(form.end)}"]
    rules.append("call: " + " | ".join(f"call{at}" for at in range(len(tools))))
    for at, tool in enumerate(tools):
        before, after = form.call(tool.name, _GAP).split(json.dumps(_GAP))
        rules.append(f"call{at}: {_text(before)} arguments{at} {_text(after)}")
        rules.append(f"arguments{at}: %json {_schema(tool.parameters)}")
    return "\n".join(rules)


def _begin(form: CallForm, opening: int | None) -> str:
    if opening is None or not form.begin:
        return _text(form.begin)
    return f"<[{opening}]> {_text(form.begin.removeprefix(form.opening))}"


def _text(text: str) -> str:
    return json.dumps(text) if text else ""


def _schema(schema: Any) -> str:
    return json.dumps({**schema, "x-guidance": JSON_STYLE} if isinstance(schema, dict) else schema)

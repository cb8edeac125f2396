"""Calls as rules of a grammar: they always parse, and their arguments follow the tool's schema.

In llguidance's dialect of Lark: https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md.
"""

import json
from collections.abc import Mapping
from typing import Any

from tenfold.grammar.grammars import JSON_STYLE
from tenfold.server.tools.forms import CallForm
from tenfold.server.tools.toolbox import Toolbox

MOST_CALLS = 8  # a small model that may go on does
_GAP = "\0"


def calls_rules(form: CallForm, toolbox: Toolbox, hidden: Mapping[str, int]) -> str:
    """The rule ``calls``: one call of a forced tool (of any, where none is), or several.

    ``hidden`` has the ids of marks that text cannot spell.
    """
    tools = toolbox.forced or toolbox.tools
    more = f"({text_rule(form.between)} call){{0,{MOST_CALLS - 1}}}" if toolbox.parallel else ""
    begin = text_rule(form.begin)
    if form.opening in hidden and form.begin:
        begin = f"{mark_rule(form.opening, hidden)} {text_rule(form.begin.removeprefix(form.opening))}"
    rules = [f"calls: {begin} call {more} {text_rule(form.end)}"]
    rules.append("call: " + " | ".join(f"call{at}" for at in range(len(tools))))
    for at, tool in enumerate(tools):
        before, after = form.call(tool.name, _GAP).split(json.dumps(_GAP))
        rules.append(f"call{at}: {text_rule(before)} arguments{at} {text_rule(after)}")
        rules.append(f"arguments{at}: {json_rule(tool.parameters)}")
    return "\n".join(rules)


def text_rule(text: str) -> str:
    """Just this text."""
    return json.dumps(text) if text else ""


def mark_rule(mark: str, hidden: Mapping[str, int]) -> str:
    """A mark, by its token where text cannot spell it."""
    return f"<[{hidden[mark]}]>" if mark in hidden else text_rule(mark)


def json_rule(schema: Any) -> str:
    """JSON that follows a schema."""
    return "%json " + json.dumps({**schema, "x-guidance": JSON_STYLE} if isinstance(schema, dict) else schema)

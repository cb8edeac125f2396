"""What an answer will be: what it is held to, and how it is read."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from tenfold.core.constraint import Constraint
from tenfold.core.errors import InvalidRequest
from tenfold.core.sampling import SamplingParams
from tenfold.server.reading import Reading
from tenfold.server.service import Loaded
from tenfold.server.thinking import CLOSE, OPEN
from tenfold.server.tools.grammar import calls_rules, json_rule, mark_rule, text_rule
from tenfold.server.tools.toolbox import Toolbox


def expect(
    params: SamplingParams, loaded: Loaded, toolbox: Toolbox | None, *, opened: bool
) -> tuple[SamplingParams, Reading]:
    """The settings of an answer that may think (``opened``: the prompt began to) and call tools, and its reading.

    JSON and forced calls come after the thoughts. Under other constraints a text is the answer, whole. Raises
    InvalidRequest for constraints that tools do not go with.
    """
    calls = None if toolbox is None else loaded.dialect.calls
    if toolbox is not None and calls is not None and calls.single:
        toolbox = replace(toolbox, parallel=False)
    thinks = loaded.dialect.thinks and (params.constraint is None or params.constraint.kind == "json")
    marks = ((OPEN, CLOSE) if thinks else ()) + (() if calls is None else (calls.opening,))
    hidden = {mark: token for mark in marks if (token := loaded.codec.hidden(mark)) is not None}
    constraint = params.constraint
    rules: dict[str, str] = {}
    if constraint is not None and (toolbox is not None or thinks):
        rules["answer"] = "answer: " + json_rule(_schema(constraint, toolbox))
    if toolbox is not None and calls is not None and (toolbox.forced or rules):
        rules["calls"] = calls_rules(calls, toolbox, hidden)
    if rules:
        start = f"start: {'thoughts ' if thinks else ''}({' | '.join(rules)})"
        written = (start, *([_thoughts(opened, hidden)] if thinks else ()), *rules.values())
        param = "tools" if "calls" in rules else constraint.param if constraint is not None else "tools"
        constraint = Constraint("lark", "\n".join(written) + "\n", param)
    params = msgspec.structs.replace(
        params, constraint=constraint, skip_special_tokens=params.skip_special_tokens and not hidden
    )
    names = frozenset[str]() if toolbox is None else toolbox.names
    most = 1 if toolbox is not None and not toolbox.parallel else None
    return params, Reading(calls, names, most, ("opened" if opened else "perhaps") if thinks else "no")


def _schema(constraint: Constraint, toolbox: Toolbox | None) -> Any:
    """The JSON schema that an answer without a call has to follow."""
    if toolbox is not None and toolbox.forced:
        raise InvalidRequest(
            "tool_choice asks for a call, which cannot be of the form that the request gives an answer, too; "
            "leave response_format and structured_outputs out",
            param="response_format",
        )
    if constraint.kind != "json":
        raise InvalidRequest(
            f"tools do not go with structured_outputs of kind {constraint.kind}: only with JSON",
            param="structured_outputs",
        )
    try:
        return msgspec.json.decode(constraint.text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest(
            f"structured_outputs.json is no JSON schema: {error}", param="structured_outputs"
        ) from None


def _thoughts(opened: bool, hidden: Mapping[str, int]) -> str:
    """Anything up to the closing mark, with blanks behind it."""
    close = "thought " + mark_rule(CLOSE, hidden) if CLOSE in hidden else "closed"
    rest = f"{close} /[ \\n]{{0,2}}/"
    first = rest if opened else f"({mark_rule(OPEN, hidden)} {rest})?"
    end = "thought: /(?s:.*)/" if CLOSE in hidden else f"closed[suffix={text_rule(CLOSE)}]: /(?s:.*)/"
    return f"thoughts: {first}\n{end}"

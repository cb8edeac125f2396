"""Tools for models whose chat template knows none: everything in plain turns.

A system text names the functions and shows how a call is written; calls and results of earlier turns are written out
in the turns of assistant and user, as Hermes models have them.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tenfold.server.tools.forms import CallForm
from tenfold.server.tools.toolbox import Toolbox

Message = Mapping[str, Any]


def tell(messages: Sequence[Message], toolbox: Toolbox | None, form: CallForm) -> list[Message]:
    """The conversation without tool turns and calls, with a system text about ``toolbox`` where there is one."""
    plain: list[Message] = []
    for message in messages:
        if message["role"] == "tool":
            _add_result(plain, message["content"])
        elif message.get("tool_calls"):
            plain.append({"role": message["role"], "content": _with_calls(message, form)})
        elif message["role"] == "user" and plain and plain[-1].get("results"):
            _join(plain, message["content"])  # templates often want turns to alternate
        else:
            plain.append(message)
    if toolbox is None:
        return plain
    text = _system_text(toolbox, form)
    if plain and plain[0]["role"] == "system":
        return [{**plain[0], "content": f"{plain[0]['content']}\n\n{text}"}, *plain[1:]]
    return [{"role": "system", "content": text}, *plain]


def _system_text(toolbox: Toolbox, form: CallForm) -> str:
    functions = "\n".join(json.dumps(tool.told()["function"], ensure_ascii=False) for tool in toolbox.tools)
    example = form.write([form.call("NAME", {"PARAMETER": "VALUE"})])
    return (
        f"These functions can be called (their parameters as JSON schemas):\n<tools>\n{functions}\n</tools>\n"
        f"To call one, answer with its name and the arguments, exactly in this form:\n{example}\n"
        "The result comes between <tool_response> and </tool_response>. Call a function only where it helps; "
        "else answer as usual."
    )


def _add_result(plain: list[Message], content: str) -> None:
    text = f"<tool_response>\n{content}\n</tool_response>"
    if plain and plain[-1].get("results"):
        _join(plain, text)
    else:
        plain.append({"role": "user", "content": text, "results": True})


def _join(plain: list[Message], text: str) -> None:
    plain[-1] = {**plain[-1], "content": f"{plain[-1]['content']}\n{text}"}


def _with_calls(message: Message, form: CallForm) -> str:
    functions = [call["function"] for call in message["tool_calls"]]
    written = form.write([form.call(function["name"], function["arguments"]) for function in functions])
    return f"{message['content']}\n{written}" if message["content"] else written

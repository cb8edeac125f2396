"""From a body's messages to those a chat template takes."""

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any

import msgspec

from tenfold.core.errors import InvalidRequest
from tenfold.server.protocol import Message
from tenfold.server.tool_protocol import SentCall


def messages_of(messages: Sequence[Message], fit_id: Callable[[str], str] = str) -> list[dict[str, Any]]:
    """The conversation as Hugging Face's templates take it. Raises InvalidRequest, naming the message.

    Text parts are joined, ``developer`` is read as ``system``, arguments of calls become objects, and a tool's turn
    gets the name of the function that was called. ``fit_id`` makes ids of calls such as the template takes.
    """
    if not messages:
        raise InvalidRequest("messages must hold at least one message", param="messages")
    plain: list[dict[str, Any]] = []
    called: dict[str, str] = {}
    for at, message in enumerate(messages):
        role = "system" if message.role == "developer" else message.role
        turn: dict[str, Any] = {"role": role, "content": _content(message, at)}
        name = message.name
        if message.tool_calls:
            if role != "assistant":
                where = f"messages[{at}].tool_calls"
                raise InvalidRequest(f"{where}: only an assistant's message has calls, not one of {role}", param=where)
            turn["tool_calls"] = [_call(call, fit_id) for call in message.tool_calls]
            called.update((call.id, call.function.name) for call in message.tool_calls if call.id is not None)
        if message.tool_call_id is not None:
            turn["tool_call_id"] = fit_id(message.tool_call_id)
            name = name or called.get(message.tool_call_id)
        if message.reasoning_content is not None:
            turn["reasoning_content"] = message.reasoning_content
        if name is not None:
            turn["name"] = name
        plain.append(turn)
    return plain


def one_call_a_turn(turns: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Turns with several calls as turns of one each, with its result behind it: some templates take no more.

    A result belongs to the call of its id; others stay behind all of them.
    """
    plain: list[Mapping[str, Any]] = []
    left = list(turns)
    while left:
        turn = left.pop(0)
        calls = turn.get("tool_calls", ())
        if len(calls) < 2:
            plain.append(turn)
            continue
        results = list(takewhile(lambda one: one["role"] == "tool", left))
        del left[: len(results)]
        for call in calls:
            plain.append({**turn, "tool_calls": [call]})
            turn = {"role": turn["role"], "content": ""}  # what it said, and thought, came before the first call
            mine = [one for one in results if "id" in call and one.get("tool_call_id") == call["id"]]
            plain += mine
            results = [one for one in results if one not in mine]
        plain += results
    return plain


def _call(call: SentCall, fit_id: Callable[[str], str]) -> dict[str, Any]:
    identity = {} if call.id is None else {"id": fit_id(call.id)}
    function = {"name": call.function.name, "arguments": _arguments(call.function.arguments)}
    return {**identity, "type": "function", "function": function}


def _arguments(sent: str | dict[str, Any] | None) -> Any:
    """An object where it is one; a model's broken text stays as it was, so that the model sees it."""
    if not isinstance(sent, str):
        return sent or {}
    try:
        value = msgspec.json.decode(sent) if sent.strip() else {}
    except (msgspec.DecodeError, RecursionError):
        return sent
    return value if isinstance(value, dict) else sent


def _content(message: Message, at: int) -> str:
    content = message.content
    if content is None:
        if message.role == "assistant":
            return ""
        raise InvalidRequest(f"messages[{at}] has no content", param=f"messages[{at}].content")
    if isinstance(content, str):
        return content
    texts = []
    for number, part in enumerate(content):
        if isinstance(part, str):
            texts.append(part)
        elif part.type in ("text", "input_text", "output_text") and part.text is not None:
            texts.append(part.text)
        else:
            where = f"messages[{at}].content[{number}]"
            what = "has no text" if part.type == "text" else f"is of type {part.type[:50]!r}; only text is supported"
            raise InvalidRequest(f"{where} {what}", param=where)
    return "".join(texts)

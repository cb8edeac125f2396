"""From a body of the Messages API to that of a chat."""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from tenfold.core.errors import InvalidRequest
from tenfold.server.anthropic.protocol import Block, Choice, CountBody, CustomTool, MessagesBody, Turn
from tenfold.server.protocol import ChatBody, JsonSchema, Message, ResponseFormat
from tenfold.server.tool_protocol import FunctionName, FunctionSpec, NamedTool, SentCall, SentFunction, ToolSpec


def chat_of(body: MessagesBody) -> ChatBody:
    """The same request as a chat. Raises InvalidRequest, naming the field."""
    form = None if body.output_config is None else body.output_config.format
    return msgspec.structs.replace(
        prompt_of_chat(body),
        max_tokens=body.max_tokens,
        stop=body.stop_sequences,
        stream=body.stream,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        response_format=None if form is None else ResponseFormat("json_schema", JsonSchema(form.schema)),
    )


def prompt_of_chat(body: CountBody) -> ChatBody:
    """What of it makes the prompt. Raises InvalidRequest, naming the field."""
    if not body.messages:
        raise InvalidRequest("messages must hold at least one message", param="messages")
    if body.messages[-1].role != "user":
        raise InvalidRequest(
            "the last of messages must be the user's: an answer that is begun cannot be continued", param="messages"
        )
    messages = [Message("system", _text(body.system, "system"))] if body.system else []
    for at, turn in enumerate(body.messages):
        if turn.role == "system":
            messages.append(Message("system", _text(turn.content, f"messages[{at}].content")))
        else:
            messages += _user(turn, at) if turn.role == "user" else [_assistant(turn, at)]
    choice = body.tool_choice
    thinks = None if body.thinking is None else {"enable_thinking": body.thinking.type != "disabled"}
    return ChatBody(
        model=body.model,
        messages=messages,
        tools=[_tool(tool, at) for at, tool in enumerate(body.tools or ())],
        tool_choice=None if choice is None else _choice(choice),
        parallel_tool_calls=None if choice is None or not choice.disable_parallel_tool_use else False,
        chat_template_kwargs=thinks,
    )


def _user(turn: Turn, at: int) -> Iterator[Message]:
    """Results of tools are turns of their own, texts between them the user's."""
    where = f"messages[{at}].content"
    if isinstance(turn.content, str):
        yield Message("user", turn.content)
        return
    texts: list[Block] = []
    for number, block in enumerate(turn.content):
        if block.type != "tool_result":
            texts.append(block)
            continue
        if texts:
            yield Message("user", _text(texts, where))
            texts = []
        content = "" if block.content is None else _text(block.content, f"{where}[{number}].content")
        yield Message("tool", f"Error: {content}" if block.is_error else content, tool_call_id=block.tool_use_id)
    if texts or not turn.content:
        yield Message("user", _text(texts, where))


def _assistant(turn: Turn, at: int) -> Message:
    if isinstance(turn.content, str):
        return Message("assistant", turn.content)
    texts, calls, thoughts = [], [], ""
    for number, block in enumerate(turn.content):
        if block.type == "tool_use":
            if block.name is None:
                where = f"messages[{at}].content[{number}]"
                raise InvalidRequest(f"{where} is a tool_use without a name", param=where)
            calls.append(SentCall(SentFunction(block.name, block.input or {}), block.id))
        elif block.type == "thinking":
            thoughts += block.thinking or ""
        elif block.type != "redacted_thinking":
            texts.append(block)
    content = _text(texts, f"messages[{at}].content") or None
    return Message("assistant", content, tool_calls=calls or None, reasoning_content=thoughts or None)


def _text(content: str | Sequence[Block], where: str) -> str:
    if isinstance(content, str):
        return content
    for number, block in enumerate(content):
        if block.type != "text" or block.text is None:
            what = "has no text" if block.type == "text" else f"is of type {block.type[:50]!r}; only text is supported"
            raise InvalidRequest(f"{where}[{number}] {what}", param=f"{where}[{number}]")
    return "".join(block.text or "" for block in content)


def _tool(tool: CustomTool, at: int) -> ToolSpec:
    if tool.type not in (None, "custom"):
        raise InvalidRequest(
            f"tools[{at}] is of type {str(tool.type)[:50]!r}: only tools with an input_schema are served",
            param=f"tools[{at}]",
        )
    return ToolSpec("function", FunctionSpec(tool.name, tool.description, tool.input_schema))


def _choice(choice: Choice) -> Any:
    if choice.type != "tool":
        return {"auto": "auto", "any": "required", "none": "none"}[choice.type]
    if choice.name is None:
        raise InvalidRequest("tool_choice of type 'tool' needs the name of one", param="tool_choice")
    return NamedTool("function", FunctionName(choice.name))

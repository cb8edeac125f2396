"""From a body of the Responses API to that of a chat."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tenfold.core.errors import InvalidRequest
from tenfold.core.sampling import integer
from tenfold.server.protocol import ChatBody, JsonSchema, Message, ResponseFormat
from tenfold.server.responses.protocol import FlatChoice, FlatTool, InputItem, InputPart, ResponsesBody, TextForm
from tenfold.server.tool_protocol import FunctionName, FunctionSpec, NamedTool, SentCall, SentFunction, ToolSpec

_TEXTS = ("input_text", "output_text", "text", "reasoning_text")
_STATEFUL = ("store", "background", "previous_response_id", "conversation", "prompt")


def chat_of(body: ResponsesBody) -> ChatBody:
    """The same request as a chat. Raises InvalidRequest, naming the field."""
    for name in _STATEFUL:
        if getattr(body, name):
            raise InvalidRequest(
                f"{name} is not supported: this server keeps nothing between requests; send the whole conversation as "
                "input, with store false or left out",
                param=name,
            )
    if body.truncation not in (None, "disabled"):
        raise InvalidRequest(
            f"truncation {body.truncation[:50]!r} is not supported: what does not fit is refused", param="truncation"
        )
    if body.max_output_tokens is not None:
        integer(body.max_output_tokens, "max_output_tokens", 1, 2**31 - 1)
    form = None if body.text is None else body.text.format
    return ChatBody(
        model=body.model,
        messages=_messages(body),
        tools=[_tool(tool, at) for at, tool in enumerate(body.tools or ())],
        tool_choice=_choice(body.tool_choice),
        parallel_tool_calls=body.parallel_tool_calls,
        max_tokens=body.max_output_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        stream=body.stream,
        response_format=None if form is None else _form(form),
    )


@dataclass(slots=True)
class _Assistant:
    """A turn of the assistant: items that follow one another."""

    thoughts: str = ""
    content: str = ""
    calls: list[SentCall] = field(default_factory=list)

    def message(self) -> list[Message]:
        """The turn, if there is one."""
        if not (self.content or self.calls or self.thoughts):
            return []
        calls, thoughts = self.calls or None, self.thoughts or None
        return [Message("assistant", self.content or None, tool_calls=calls, reasoning_content=thoughts)]


def _messages(body: ResponsesBody) -> list[Message]:
    messages = [] if body.instructions is None else [Message("system", body.instructions)]
    if isinstance(body.input, str):
        return [*messages, Message("user", body.input)]
    if not body.input:
        raise InvalidRequest("input must hold at least one item", param="input")
    turn = _Assistant()
    for at, item in enumerate(body.input):
        where = f"input[{at}]"
        if item.type == "reasoning":
            turn.thoughts += _text(item.content or "", f"{where}.content")
        elif item.type == "function_call":
            turn.calls.append(_call(item, where))
        elif item.type == "message" and item.role == "assistant":
            turn.content += _text(item.content, f"{where}.content")
        else:
            messages += [*turn.message(), _other(item, where)]
            turn = _Assistant()
    return [*messages, *turn.message()]


def _call(item: InputItem, where: str) -> SentCall:
    if item.name is None:
        raise _missing(f"{where}.name")
    if item.call_id is None:
        raise _missing(f"{where}.call_id")
    return SentCall(SentFunction(item.name, item.arguments), item.call_id)


def _other(item: InputItem, where: str) -> Message:
    if item.type == "function_call_output":
        if item.call_id is None:
            raise _missing(f"{where}.call_id")
        return Message("tool", _text(item.output, f"{where}.output"), tool_call_id=item.call_id)
    if item.type != "message":
        raise InvalidRequest(
            f"{where} is of type {item.type[:50]!r}, which is not supported: message, function_call, "
            "function_call_output and reasoning are",
            param=where,
        )
    if item.role is None:
        raise _missing(f"{where}.role")
    return Message(item.role, _text(item.content, f"{where}.content"))


def _missing(where: str) -> InvalidRequest:
    return InvalidRequest(f"missing parameter {where!r}", param=where)


def _text(content: str | Sequence[InputPart] | None, where: str) -> str:
    if content is None:
        raise _missing(where)
    if isinstance(content, str):
        return content
    for at, part in enumerate(content):
        if part.type not in _TEXTS or part.text is None:
            what = "has no text" if part.type in _TEXTS else f"is of type {part.type[:50]!r}; only text is supported"
            raise InvalidRequest(f"{where}[{at}] {what}", param=f"{where}[{at}]")
    return "".join(part.text or "" for part in content)


def _tool(tool: FlatTool, at: int) -> ToolSpec:
    function = None if tool.name is None else FunctionSpec(tool.name, tool.description, tool.parameters)
    return ToolSpec(tool.type, function)


def _choice(choice: str | FlatChoice | None) -> str | NamedTool | None:
    return NamedTool("function", FunctionName(choice.name)) if isinstance(choice, FlatChoice) else choice


def _form(form: TextForm) -> ResponseFormat:
    if form.type not in ("text", "json_object", "json_schema"):
        raise InvalidRequest(
            f"text.format {form.type[:50]!r} is not known: use 'text', 'json_object' or 'json_schema'",
            param="text.format",
        )
    if form.type != "json_schema":
        return ResponseFormat(form.type)
    if not isinstance(form.schema, dict):
        raise InvalidRequest("text.format 'json_schema' needs a schema", param="text.format.schema")
    return ResponseFormat("json_schema", JsonSchema(form.schema))

"""The bodies of the Responses API as schemas. ``Ignored`` fields are accepted and have no effect here."""

from typing import Any, Literal

import msgspec

from tenfold.server.protocol import StreamOptions
from tenfold.server.tool_protocol import Ignored


class InputPart(msgspec.Struct, frozen=True):
    """A part of a content: ``input_text``, ``output_text`` or, of thoughts, ``reasoning_text``."""

    type: str
    text: str | None = None


class InputItem(msgspec.Struct, frozen=True):
    """An item of the conversation; which fields there are depends on its type: ``message`` (the default; ``role``,
    ``content``), ``function_call`` (``call_id``, ``name``, ``arguments``), ``function_call_output`` (``call_id``,
    ``output``) or ``reasoning`` (``content``)."""

    type: str = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[InputPart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[InputPart] | None = None


class FlatTool(msgspec.Struct, frozen=True):
    """A function; ``parameters`` is a JSON schema of type object. ``function`` is the only type served."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: Any = None
    strict: bool | None = None


class FlatChoice(msgspec.Struct, frozen=True):
    """The function that has to be called."""

    type: Literal["function"]
    name: str


class TextForm(msgspec.Struct, frozen=True):
    """The answer's form: ``text``, ``json_object``, or ``json_schema`` with the ``schema``."""

    type: str
    name: str | msgspec.UnsetType = msgspec.UNSET
    schema: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    strict: bool | msgspec.UnsetType | None = msgspec.UNSET
    description: str | msgspec.UnsetType | None = msgspec.UNSET


class TextConfig(msgspec.Struct, frozen=True):
    """What is asked of the text."""

    format: TextForm | None = None
    verbosity: Ignored = None


class ResponsesBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/responses: answer a conversation. What would need memory is refused: ``store``, ``background``,
    ``previous_response_id``, ``conversation`` and ``prompt``."""

    input: str | list[InputItem]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: list[FlatTool] | None = None
    tool_choice: str | FlatChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    truncation: str | None = None
    metadata: dict[str, str] | None = None
    include: Ignored = None
    max_tool_calls: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_options: Ignored = None
    prompt_cache_retention: Ignored = None
    reasoning: Ignored = None
    safety_identifier: Ignored = None
    service_tier: Ignored = None
    user: Ignored = None


class OutputPart(msgspec.Struct, frozen=True, kw_only=True):
    """A text of an item: ``output_text`` or ``reasoning_text``."""

    type: str
    text: str
    annotations: list[Any] | msgspec.UnsetType = msgspec.UNSET
    logprobs: list[Any] | msgspec.UnsetType = msgspec.UNSET


class OutputItem(msgspec.Struct, frozen=True, kw_only=True):
    """An item of the answer: ``reasoning``, ``message`` or ``function_call``."""

    id: str
    type: Literal["reasoning", "message", "function_call"]
    status: Literal["in_progress", "completed", "incomplete"]
    role: Literal["assistant"] | msgspec.UnsetType = msgspec.UNSET
    summary: list[Any] | msgspec.UnsetType = msgspec.UNSET
    content: list[OutputPart] | msgspec.UnsetType = msgspec.UNSET
    call_id: str | msgspec.UnsetType = msgspec.UNSET
    name: str | msgspec.UnsetType = msgspec.UNSET
    arguments: str | msgspec.UnsetType = msgspec.UNSET


class InputTokensDetails(msgspec.Struct, frozen=True):
    """Of the prompt's tokens, those found in the prefix cache."""

    cached_tokens: int


class OutputTokensDetails(msgspec.Struct, frozen=True):
    """Of the answer's tokens, those of the thoughts."""

    reasoning_tokens: int


class ResponseUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of the request."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class IncompleteDetails(msgspec.Struct, frozen=True):
    """Why an answer is not whole."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseObject(msgspec.Struct, frozen=True, kw_only=True):
    """The answer, and what it was asked with. ``warnings`` are Tenfold's: what was sent and not followed."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    model: str
    status: Literal["in_progress", "completed", "incomplete"]
    incomplete_details: IncompleteDetails | None = None
    error: None = None
    output: list[OutputItem]
    usage: ResponseUsage | None = None
    instructions: str | None
    max_output_tokens: int | None
    temperature: float | None
    top_p: float | None
    tools: list[FlatTool]
    tool_choice: str | FlatChoice
    parallel_tool_calls: bool
    text: TextConfig | None
    metadata: dict[str, str] | None
    previous_response_id: None = None
    store: Literal[False] = False
    truncation: Literal["disabled"] = "disabled"
    warnings: list[str] | msgspec.UnsetType = msgspec.UNSET


class ResponseEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a stream; which fields it has depends on its type."""

    type: str
    sequence_number: int
    response: ResponseObject | msgspec.UnsetType = msgspec.UNSET
    output_index: int | msgspec.UnsetType = msgspec.UNSET
    item: OutputItem | msgspec.UnsetType = msgspec.UNSET
    item_id: str | msgspec.UnsetType = msgspec.UNSET
    content_index: int | msgspec.UnsetType = msgspec.UNSET
    part: OutputPart | msgspec.UnsetType = msgspec.UNSET
    delta: str | msgspec.UnsetType = msgspec.UNSET
    text: str | msgspec.UnsetType = msgspec.UNSET
    name: str | msgspec.UnsetType = msgspec.UNSET
    arguments: str | msgspec.UnsetType = msgspec.UNSET
    logprobs: list[Any] | msgspec.UnsetType = msgspec.UNSET

"""The bodies of the Messages API as schemas. ``Ignored`` fields are accepted and have no effect here."""

from typing import Any, Literal

import msgspec

from tenfold.server.tool_protocol import Ignored


class Block(msgspec.Struct, frozen=True):
    """A block of content; which fields there are depends on its type: ``text``, ``thinking``, ``tool_use`` (``id``,
    ``name``, ``input``) or ``tool_result`` (``tool_use_id``, ``content``, ``is_error``)."""

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: "str | list[Block] | None" = None
    is_error: bool | None = None


class Turn(msgspec.Struct, frozen=True):
    """One turn of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class CustomTool(msgspec.Struct, frozen=True):
    """A function; ``input_schema`` is a JSON schema of type object. ``custom`` is the only type served."""

    name: str
    input_schema: Any = None
    description: str | None = None
    type: str | None = None


class Choice(msgspec.Struct, frozen=True):
    """Whether tools may, must or must not be called, and which."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(msgspec.Struct, frozen=True):
    """Whether to think (all types but ``disabled``), told to templates that know ``enable_thinking``; without it the
    template decides."""

    type: str


class OutputFormat(msgspec.Struct, frozen=True):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct, frozen=True):
    """The answer's form."""

    format: OutputFormat | None = None
    effort: Ignored = None


class CountBody(msgspec.Struct, frozen=True, kw_only=True):
    """POST /v1/messages/count_tokens: the tokens of a conversation as the model's template writes it."""

    messages: list[Turn]
    model: str | None = None
    system: str | list[Block] | None = None
    tools: list[CustomTool] | None = None
    tool_choice: Choice | None = None
    thinking: Thinking | None = None


class MessagesBody(CountBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/messages: answer a conversation."""

    max_tokens: int
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    output_config: OutputConfig | None = None
    metadata: Ignored = None
    service_tier: Ignored = None
    cache_control: Ignored = None
    context_management: Ignored = None
    diagnostics: Ignored = None
    inference_geo: Ignored = None
    speed: Ignored = None
    user_profile_id: Ignored = None
    workspace_id: Ignored = None


class AnswerBlock(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A block of the answer: ``thinking``, ``text`` or ``tool_use``."""

    type: str
    text: str | msgspec.UnsetType = msgspec.UNSET
    thinking: str | msgspec.UnsetType = msgspec.UNSET
    signature: str | msgspec.UnsetType = msgspec.UNSET
    id: str | msgspec.UnsetType = msgspec.UNSET
    name: str | msgspec.UnsetType = msgspec.UNSET
    input: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class MessageUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens; those of the prompt that the prefix cache had are counted apart."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0


class AnswerMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. ``warnings`` are Tenfold's: what was sent and not followed."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[AnswerBlock]
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: MessageUsage
    warnings: list[str] | msgspec.UnsetType = msgspec.UNSET


class MessageEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a stream; which fields it has depends on its type."""

    type: Literal[
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "error",
    ]
    index: int | msgspec.UnsetType = msgspec.UNSET
    message: AnswerMessage | msgspec.UnsetType = msgspec.UNSET
    content_block: AnswerBlock | msgspec.UnsetType = msgspec.UNSET
    delta: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    usage: MessageUsage | msgspec.UnsetType = msgspec.UNSET
    error: "MessageError | msgspec.UnsetType" = msgspec.UNSET


class MessageError(msgspec.Struct, frozen=True):
    """What was wrong."""

    type: str
    message: str


class MessageErrorResponse(msgspec.Struct, frozen=True, kw_only=True):
    """Every answer of these routes that is not a success."""

    type: Literal["error"] = "error"
    error: MessageError


class CountResponse(msgspec.Struct, frozen=True):
    """How many tokens the prompt has."""

    input_tokens: int

"""The HTTP bodies as schemas: what is accepted, what is answered. The API page is generated from these.

Names and meanings are OpenAI's; the extensions carry the names other open servers use for them. A field of type
``Ignored`` is accepted for its clients' sake and has no effect here. ``None`` always means the default.
"""

from typing import Any, Literal

import msgspec

from tenfold.observe.requests import ChoiceTimeline
from tenfold.server.tool_protocol import Ignored, NamedTool, SentCall, ToolCall, ToolCallDelta, ToolSpec

TokenIds = list[int]
PromptItem = str | int | TokenIds


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether streams report usage: once at the end, or running totals in every chunk."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: Ignored = None


class TextPart(msgspec.Struct, frozen=True):
    """A part of a message's content; ``text`` is the only type served."""

    type: str
    text: str | None = None


class Message(msgspec.Struct, frozen=True):
    """One turn of a conversation. Other keys that clients send back with a turn are ignored."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[str | TextPart] | None = None
    name: str | None = None
    tool_calls: list[SentCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class JsonSchema(msgspec.Struct, frozen=True):
    """The schema of an answer. ``strict`` is what every answer is here."""

    schema: Any = None
    name: Ignored = None
    description: Ignored = None
    strict: Ignored = None


class ResponseFormat(msgspec.Struct, frozen=True):
    """The answer's form: ``text``, ``json_object``, or ``json_schema`` with the schema."""

    type: str
    json_schema: JsonSchema | None = None


class StructuredOutputs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the whole answer has to be, one of: of a JSON schema, matched by a regular expression, one of some texts, or
    of a grammar (Lark's notation, or llama.cpp's GBNF)."""

    json: dict[str, Any] | str | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class ServedBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all that the engine answers has in common.

    ``slo_class`` and the bounds (also as headers x-slo-class, x-slo-ttft-ms, x-slo-tpot-ms) say what the request is
    promised; a smaller ``priority`` goes first, each unit worth a second of waiting. A request that has not begun after
    ``queue_timeout_ms`` gets a 429.
    """

    model: str | None = None
    slo_class: str | None = None
    slo_ttft_ms: float | None = None
    slo_tpot_ms: float | None = None
    priority: int | None = None
    queue_timeout_ms: float | None = None
    user: Ignored = None


class SamplingBody(ServedBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What completions and chat have in common.

    ``timeline``: each choice tells where its time went. ``draft_tokens`` bounds what is drafted for it in a step, 0:
    nothing is.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    n: int | None = None
    best_of: int | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    timeline: bool | None = None
    draft_tokens: int | None = None
    metadata: Ignored = None
    store: Ignored = None
    service_tier: Ignored = None
    safety_identifier: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_retention: Ignored = None


class CompletionBody(SamplingBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/completions: continue text. ``prompt`` is a text, token ids, or a list of either."""

    prompt: str | list[PromptItem]
    echo: bool | None = None
    suffix: str | None = None
    logprobs: int | None = None
    max_completion_tokens: int | None = None
    add_special_tokens: bool | None = None


class ChatBody(SamplingBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/chat/completions: answer a conversation. ``chat_template_kwargs`` are variables of the template."""

    messages: list[Message]
    logprobs: bool | None = None
    top_logprobs: int | None = None
    max_completion_tokens: int | None = None
    add_generation_prompt: bool | None = None
    tools: list[ToolSpec] | None = None
    tool_choice: str | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    functions: list[Any] | None = None
    function_call: Any = None
    modalities: list[str] | None = None
    audio: Any = None
    web_search_options: Any = None
    prediction: Ignored = None
    reasoning_effort: Ignored = None
    verbosity: Ignored = None


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """Of the prompt tokens, those found in the prefix cache."""

    cached_tokens: int = 0


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    """Of what was drafted, the tokens that came, and those that did not."""

    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class Usage(msgspec.Struct, frozen=True):
    """Tokens of a request, all its choices together; a prompt counts once.

    ``machine_seconds`` is its part of the time that the engine's steps took, there once all choices have ended;
    ``cost`` what that costs, where the server has a price, and ``completion_tokens_details`` what was drafted.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails | msgspec.UnsetType = msgspec.UNSET
    machine_seconds: float | msgspec.UnsetType = msgspec.UNSET
    cost: float | msgspec.UnsetType = msgspec.UNSET


class EmbeddingBody(ServedBody, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /v1/embeddings: a vector of length 1 for each text. ``input`` is a text, token ids, or a list of either.

    The vectors are hidden states after the final norm, of the ``last`` token or the ``mean`` of all (``pooling``), cut
    to their first ``dimensions``. ``base64`` is that of little-endian float32.
    """

    input: str | list[PromptItem]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    pooling: Literal["last", "mean"] | None = None
    add_special_tokens: bool | None = None


class Embedding(msgspec.Struct, frozen=True):
    """The vector of the ``index``-th text: numbers, or base64 of them."""

    index: int
    embedding: list[float] | str
    object: str = "embedding"


class EmbeddingResponse(msgspec.Struct, frozen=True):
    """The answer to an :class:`EmbeddingBody`, in its order."""

    data: list[Embedding]
    model: str
    usage: Usage
    object: str = "list"


class LegacyLogprobs(msgspec.Struct, frozen=True):
    """Log-probabilities as completions give them: parallel lists, one entry per token.

    ``top_logprobs`` maps a token's text to its logprob, the sampled one included; ``text_offset`` is in characters.
    """

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One continuation; ``stop_reason`` is the stop string or token id that ended it, if one did."""

    index: int
    text: str
    logprobs: LegacyLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    timeline: ChoiceTimeline | msgspec.UnsetType = msgspec.UNSET


class CompletionResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of /v1/completions. Streams send the same shape, piece by piece."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
    warnings: list[str] | msgspec.UnsetType = msgspec.UNSET


class TopLogprob(msgspec.Struct, frozen=True):
    """One of the most likely tokens at a position."""

    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(msgspec.Struct, frozen=True):
    """A sampled token and the most likely ones at its position."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """Log-probabilities as chat gives them."""

    content: list[ChatLogprob]
    refusal: None = None


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The answer's turn; ``reasoning_content`` is what the model thought before it."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[ToolCall] | msgspec.UnsetType = msgspec.UNSET


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One answer; ``stop_reason`` is the stop string or token id that ended it, if one did."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | None = None
    timeline: ChoiceTimeline | msgspec.UnsetType = msgspec.UNSET


class ChatResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage | None = None
    warnings: list[str] | msgspec.UnsetType = msgspec.UNSET


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """What is new of an answer; the first one of a choice names the role."""

    role: Literal["assistant"] | msgspec.UnsetType = msgspec.UNSET
    content: str | msgspec.UnsetType = msgspec.UNSET
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: list[ToolCallDelta] | msgspec.UnsetType = msgspec.UNSET


class ChatChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One choice's part of a stream event."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: str | int | msgspec.UnsetType | None = msgspec.UNSET
    timeline: ChoiceTimeline | msgspec.UnsetType = msgspec.UNSET


class ChatChunk(msgspec.Struct, frozen=True, kw_only=True):
    """One server-sent event of a chat stream. The usage event has no choices."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
    warnings: list[str] | msgspec.UnsetType = msgspec.UNSET


class ErrorObject(msgspec.Struct, frozen=True):
    """What was wrong, and with which parameter."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorResponse(msgspec.Struct, frozen=True):
    """Every answer that is not a success has this shape, but for what the HTTP parser itself refuses (plain text)."""

    error: ErrorObject

"""The bodies of the small routes, as schemas like those of :mod:`tenfold.server.protocol`."""

from typing import Literal

import msgspec

from tenfold.core.config import SchedulerConfig
from tenfold.engine.inspection import StepRecord
from tenfold.observe.requests import RequestReport
from tenfold.server.protocol import Message
from tenfold.server.tool_protocol import ToolSpec


class TokenizeBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /tokenize: the token ids of a text, or of a conversation as the model's template writes it."""

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = None
    tools: list[ToolSpec] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None


class DetokenizeBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """POST /detokenize: the text of token ids."""

    tokens: list[int]
    model: str | None = None


class RequestReports(msgspec.Struct, frozen=True, kw_only=True):
    """The requests that finished last, the latest first."""

    object: Literal["list"] = "list"
    data: list[RequestReport]


class StepReports(msgspec.Struct, frozen=True, kw_only=True):
    """The engine's last steps, the latest at the end; ``now`` is its clock, ``calibrated`` whether their predictions
    come from measurements on this machine, ``limits`` how it schedules."""

    object: Literal["list"] = "list"
    now: float
    calibrated: bool
    limits: SchedulerConfig
    data: list[StepRecord]


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """One served model name; ``root`` is what it stands for, ``max_model_len`` its context in tokens."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "tenfold"
    root: str
    max_model_len: int


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """All names under which the model is served."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class TokenizeResponse(msgspec.Struct, frozen=True):
    """Token ids, how many, and the model's context in tokens."""

    tokens: list[int]
    count: int
    max_model_len: int


class DetokenizeResponse(msgspec.Struct, frozen=True):
    """The text."""

    prompt: str


class HealthResponse(msgspec.Struct, frozen=True):
    """The engine's state; only ``ready`` is healthy. ``progress_age`` is in seconds."""

    status: str
    progress_age: float
    restarts: int
    reason: str | None = None


class VersionResponse(msgspec.Struct, frozen=True):
    """Tenfold's version, and what runs."""

    version: str
    model: str | None = None
    backend: str | None = None

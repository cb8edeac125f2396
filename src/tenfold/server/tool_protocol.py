"""Tools in chat, as schemas: what a request offers, what an answer calls."""

from typing import Any, Literal

import msgspec

Ignored = Any


class FunctionSpec(msgspec.Struct, frozen=True):
    """A function; ``parameters`` is a JSON schema of type object. ``strict`` holds in forced calls only, and always."""

    name: str
    description: str | None = None
    parameters: Any = None
    strict: Ignored = None


class ToolSpec(msgspec.Struct, frozen=True):
    """A tool; ``function`` is the only type served."""

    type: str
    function: FunctionSpec | None = None


class FunctionName(msgspec.Struct, frozen=True):
    """Which function."""

    name: str


class NamedTool(msgspec.Struct, frozen=True):
    """The function that has to be called."""

    type: Literal["function"]
    function: FunctionName


class FunctionCall(msgspec.Struct, frozen=True):
    """A function and its arguments: JSON as a text."""

    name: str
    arguments: str


class SentFunction(msgspec.Struct, frozen=True):
    """A call that comes back with a conversation; arguments that are an object already are taken, too."""

    name: str
    arguments: str | dict[str, Any] | None = None


class SentCall(msgspec.Struct, frozen=True):
    """A call of an earlier turn."""

    function: SentFunction
    id: str | None = None
    type: Ignored = None


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call in an answer."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class FunctionDelta(msgspec.Struct, frozen=True, kw_only=True):
    """The name, in a call's first piece, and more of its arguments."""

    name: str | msgspec.UnsetType = msgspec.UNSET
    arguments: str = ""


class ToolCallDelta(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a call in a stream; the first one has its ``id``, ``type`` and the function's name."""

    index: int
    id: str | msgspec.UnsetType = msgspec.UNSET
    type: Literal["function"] | msgspec.UnsetType = msgspec.UNSET
    function: FunctionDelta

"""What a request offers to call, checked."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tenfold.core.errors import InvalidRequest
from tenfold.server.tool_protocol import NamedTool, ToolSpec

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_NOTHING: dict[str, Any] = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class Tool:
    """A function; ``parameters`` is a JSON schema of type object."""

    name: str
    description: str | None
    parameters: dict[str, Any]

    def told(self, *, described: bool = False) -> dict[str, Any]:
        """As chat templates take it; ``described``: with a description in any case, if an empty one."""
        told = "" if described and self.description is None else self.description
        description = {} if told is None else {"description": told}
        return {"type": "function", "function": {"name": self.name, **description, "parameters": self.parameters}}


@dataclass(frozen=True, slots=True)
class Toolbox:
    """What may be called; ``forced``: one of these has to be. Without ``parallel`` there is at most one call."""

    tools: tuple[Tool, ...]
    forced: tuple[Tool, ...] = ()
    parallel: bool = True

    @property
    def names(self) -> frozenset[str]:
        """What they are called."""
        return frozenset(tool.name for tool in self.tools)


def toolbox_of(
    specs: Sequence[ToolSpec] | None, choice: str | NamedTool | None, *, parallel: bool | None
) -> Toolbox | None:
    """None where nothing may be called. Raises InvalidRequest, naming the field."""
    if not specs:
        if choice in (None, "none", "auto"):
            return None
        raise InvalidRequest("tool_choice asks for a call, but there are no tools", param="tool_choice")
    tools = tuple(_tool(spec, f"tools[{at}]") for at, spec in enumerate(specs))
    known: set[str] = set()
    for at, tool in enumerate(tools):
        if tool.name in known:
            raise InvalidRequest(f"tools[{at}] has the name {tool.name!r} of another one", param=f"tools[{at}]")
        known.add(tool.name)
    if choice == "none":
        return None
    several = parallel is not False
    if choice is None or choice == "auto":
        return Toolbox(tools, parallel=several)
    if choice == "required":
        return Toolbox(tools, tools, several)
    if isinstance(choice, str):
        raise InvalidRequest(
            f"tool_choice {choice[:50]!r} is not known: use 'auto', 'none', 'required' or the function to call",
            param="tool_choice",
        )
    named = tuple(tool for tool in tools if tool.name == choice.function.name)
    if not named:
        raise InvalidRequest(
            f"tool_choice names {choice.function.name[:100]!r}, which is none of the tools", param="tool_choice"
        )
    return Toolbox(tools, named, parallel=False)


def _tool(spec: ToolSpec, where: str) -> Tool:
    if spec.type != "function" or spec.function is None:
        raise InvalidRequest(
            f"{where} must be of type 'function' and have one, got {spec.type[:50]!r}: no others are served",
            param=where,
        )
    function = spec.function
    if not _NAME.fullmatch(function.name):
        raise InvalidRequest(
            f"{where} has the name {function.name[:150]!r}: use 1 to 128 letters, digits and '_-.:'", param=where
        )
    schema = function.parameters
    if schema is None or schema == {}:
        return Tool(function.name, function.description, _NOTHING)
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise InvalidRequest(
            f"{where} ({function.name}): parameters must be a JSON schema of type 'object', for arguments are one",
            param=where,
        )
    return Tool(function.name, function.description, schema)

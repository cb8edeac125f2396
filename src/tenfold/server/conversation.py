"""From a chat's body to what the engine takes and how its answer is read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from tenfold.core.errors import InvalidRequest
from tenfold.core.sampling import SamplingParams
from tenfold.server.messages import messages_of
from tenfold.server.params import chat_params, check_context
from tenfold.server.protocol import ChatBody, Message
from tenfold.server.reading import Reading
from tenfold.server.service import Loaded, require_prompt
from tenfold.server.tools.forms import CallForm
from tenfold.server.tools.grammar import answer_or_calls, calls_constraint
from tenfold.server.tools.telling import tell
from tenfold.server.tools.toolbox import Toolbox, toolbox_of

_TAKEN = frozenset(("self", "messages", "add_generation_prompt", "tools"))


@dataclass(frozen=True, slots=True)
class Conversation:
    """A prompt, how to go on from it, and how to read what comes."""

    ids: tuple[int, ...]
    params: SamplingParams
    reading: Reading


async def conversation_of(body: ChatBody, loaded: Loaded) -> Conversation:
    """What ``body`` asks for. Raises InvalidRequest, naming the field."""
    params = chat_params(body, loaded.info.vocab_size)
    toolbox = toolbox_of(body.tools, body.tool_choice, parallel=body.parallel_tool_calls)
    ids = await prompt_ids(
        loaded,
        body.messages,
        toolbox,
        add_generation_prompt=body.add_generation_prompt is not False,
        variables=body.chat_template_kwargs or {},
    )
    reading = Reading()
    if toolbox is not None:
        form = _form(loaded)
        params = _with_tools(params, loaded, form, toolbox)
        reading = Reading(form, toolbox.names, None if toolbox.parallel else 1)
    check_context(len(require_prompt(ids, "messages")), params, loaded.info, param="messages")
    return Conversation(ids, params, reading)


async def prompt_ids(
    loaded: Loaded,
    messages: Sequence[Message],
    toolbox: Toolbox | None,
    *,
    add_generation_prompt: bool,
    variables: Mapping[str, Any],
) -> tuple[int, ...]:
    """The conversation as the model's template writes it, with the tools as it knows them."""
    form = loaded.dialect.calls if toolbox is None else _form(loaded)
    turns: Sequence[Mapping[str, Any]] = messages_of(messages, str if form is None else form.fit_id)
    told = dict(variables)
    if taken := _TAKEN & told.keys():
        raise InvalidRequest(
            f"chat_template_kwargs must not have {min(taken)!r}: the request's own fields say that",
            param="chat_template_kwargs",
        )
    if loaded.dialect.native:
        told |= {} if toolbox is None else {"tools": [tool.told() for tool in toolbox.tools]}
    elif form is not None:
        turns = tell(turns, toolbox, form)
    return await loaded.codec.encode_chat(turns, add_generation_prompt=add_generation_prompt, variables=told)


def _form(loaded: Loaded) -> CallForm:
    if loaded.dialect.calls is None:
        raise InvalidRequest(
            "this server reads no tool calls (it was started with --tool-parser none): leave tools out", param="tools"
        )
    return loaded.dialect.calls


def _with_tools(params: SamplingParams, loaded: Loaded, form: CallForm, toolbox: Toolbox) -> SamplingParams:
    """Forced calls are a constraint, and marks of calls have to be seen even where they are special tokens."""
    opening = loaded.codec.hidden(form.opening)
    constraint = params.constraint
    if toolbox.forced:
        if constraint is not None:
            raise InvalidRequest(
                "tool_choice asks for a call, which cannot be of the form that the request gives an answer, too; "
                "leave response_format and structured_outputs out",
                param="response_format",
            )
        constraint = calls_constraint(form, toolbox, opening)
    elif constraint is not None:
        if constraint.kind != "json":
            raise InvalidRequest(
                f"tools do not go with structured_outputs of kind {constraint.kind}: only with JSON",
                param="structured_outputs",
            )
        constraint = answer_or_calls(form, toolbox, opening, constraint)
    shown = params.skip_special_tokens and opening is None
    return msgspec.structs.replace(params, constraint=constraint, skip_special_tokens=shown)

"""From a chat's body to what the engine takes and how its answer is read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tenfold.core.errors import InvalidRequest
from tenfold.core.sampling import SamplingParams
from tenfold.server.expectation import expect
from tenfold.server.messages import messages_of, one_call_a_turn
from tenfold.server.params import chat_params, check_context
from tenfold.server.protocol import ChatBody, Message
from tenfold.server.reading import Reading
from tenfold.server.service import Loaded, require_prompt
from tenfold.server.thinking import OPEN
from tenfold.server.tools.forms import CallForm
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
    text = await prompt_of(
        loaded,
        body.messages,
        toolbox,
        add_generation_prompt=body.add_generation_prompt is not False,
        variables=body.chat_template_kwargs or {},
    )
    params, reading = expect(params, loaded, toolbox, opened=text.rstrip().endswith(OPEN))
    ids = await loaded.codec.encode(text, add_special=False)
    check_context(len(require_prompt(ids, "messages")), params, loaded.info, param="messages")
    return Conversation(ids, params, reading)


async def prompt_of(
    loaded: Loaded,
    messages: Sequence[Message],
    toolbox: Toolbox | None,
    *,
    add_generation_prompt: bool,
    variables: Mapping[str, Any],
) -> str:
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
        described = loaded.dialect.describes
        told |= {} if toolbox is None else {"tools": [tool.told(described=described) for tool in toolbox.tools]}
        if form is not None and form.single:
            turns = one_call_a_turn(turns)
    elif form is not None:
        turns = tell(turns, toolbox, form)
    return await loaded.codec.write_chat(turns, add_generation_prompt=add_generation_prompt, variables=told)


def _form(loaded: Loaded) -> CallForm:
    if loaded.dialect.calls is None:
        raise InvalidRequest(
            "this server reads no tool calls (it was started with --tool-parser none): leave tools out", param="tools"
        )
    return loaded.dialect.calls

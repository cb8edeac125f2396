"""Answers of /v1/messages: blocks, stream events, errors.

The events are those of https://docs.anthropic.com/en/docs/build-with-claude/streaming.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tenfold.core.request import RequestOutput
from tenfold.observe.requests import ChoiceTimeline
from tenfold.server.anthropic.protocol import (
    AnswerBlock,
    AnswerMessage,
    MessageError,
    MessageErrorResponse,
    MessageUsage,
)
from tenfold.server.errors import ApiError
from tenfold.server.formats import NO_TIMELINES, Head
from tenfold.server.parts import CallEnd, CallStart, CallText, Part, Text, Thought
from tenfold.server.protocol import Usage
from tenfold.server.reading import Reading
from tenfold.server.whole import whole_answer

_encode = msgspec.json.Encoder().encode
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large"}
_STOPS = {"length": "max_tokens", "stop": "end_turn"}


def error_body(told: ApiError) -> bytes:
    """An error in Anthropic's form."""
    kind = "invalid_request_error" if told.status < 500 else "api_error"
    if told.status == 429:
        kind = "rate_limit_error"
    return _encode(MessageErrorResponse(error=MessageError(_TYPES.get(told.status, kind), told.error.message)))


class MessagesFormat:
    """``prompt_tokens`` are told at a stream's beginning."""

    def __init__(self, head: Head, *, reading: Reading, prompt_tokens: int) -> None:
        self._head = head
        self._reader = reading.reader()
        self._prompt_tokens = prompt_tokens
        self._begun = False
        self._block = -1  # the index of the last one
        self._open = ""  # its type, while it is open
        self._stop: tuple[str, str | None] = ("end_turn", None)

    def event(
        self, choice: int, output: RequestOutput, usage: Usage | None, timeline: ChoiceTimeline | None = None
    ) -> bytes:
        """See :class:`Format`; several events, or none."""
        events: list[bytes] = []
        if not self._begun:
            self._begun = True
            events.append(self._start(output))
        for part in self._reader.push(output.text, last=output.finish is not None):
            self._part(part, events)
        if output.finish is not None:
            self._close(events)
            self._stop = _stop(output, called=self._reader.called)
        return b"".join(events)

    def end(self, usage: Usage) -> bytes:
        """See :class:`Format`."""
        reason, sequence = self._stop
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        return _event("message_delta", delta=delta, usage=_usage(usage)) + _event("message_stop")

    def failure(self, told: ApiError) -> bytes:
        """See :class:`Format`."""
        return b"event: error\ndata: " + error_body(told) + b"\n\n"

    def whole(
        self,
        choices: Sequence[Sequence[RequestOutput]],
        usage: Usage,
        timelines: Mapping[int, ChoiceTimeline] = NO_TIMELINES,
    ) -> bytes:
        """See :class:`Format`."""
        (outputs,) = choices
        answer = whole_answer(self._reader, outputs)
        blocks = [AnswerBlock(type="thinking", thinking=answer.thoughts, signature="")] if answer.thoughts else []
        blocks += [AnswerBlock(type="text", text=answer.text)] if answer.text else []
        for call in answer.calls:
            arguments = json.loads(call.arguments)
            blocks.append(AnswerBlock(type="tool_use", id=_id(call.id), name=call.name, input=arguments))
        reason, sequence = _stop(outputs[-1], called=bool(answer.calls))
        return _encode(self._message(blocks, _usage(usage), reason, sequence))

    def _message(
        self, blocks: list[AnswerBlock], usage: MessageUsage, reason: str | None = None, sequence: str | None = None
    ) -> AnswerMessage:
        return AnswerMessage(
            id=self._head.id,
            model=self._head.model,
            content=blocks,
            stop_reason=reason,
            stop_sequence=sequence,
            usage=usage,
            warnings=list(self._head.warnings) or msgspec.UNSET,
        )

    def _start(self, output: RequestOutput) -> bytes:
        cached = output.cached_tokens
        usage = MessageUsage(input_tokens=self._prompt_tokens - cached, output_tokens=0, cache_read_input_tokens=cached)
        return _event("message_start", message=self._message([], usage))

    def _part(self, part: Part, events: list[bytes]) -> None:
        match part:
            case Thought(text):
                self._enter(AnswerBlock(type="thinking", thinking="", signature=""), events)
                self._delta({"type": "thinking_delta", "thinking": text}, events)
            case Text(text):
                self._enter(AnswerBlock(type="text", text=""), events)
                self._delta({"type": "text_delta", "text": text}, events)
            case CallStart(_, identity, name):
                self._enter(AnswerBlock(type="tool_use", id=_id(identity), name=name, input={}), events)
            case CallText(_, text):
                self._delta({"type": "input_json_delta", "partial_json": text}, events)
            case CallEnd():
                self._close(events)

    def _enter(self, block: AnswerBlock, events: list[bytes]) -> None:
        if self._open == block.type:
            return
        self._close(events)
        self._block += 1
        self._open = block.type
        events.append(_event("content_block_start", index=self._block, content_block=block))

    def _delta(self, delta: dict[str, str], events: list[bytes]) -> None:
        events.append(_event("content_block_delta", index=self._block, delta=delta))

    def _close(self, events: list[bytes]) -> None:
        if self._open:
            self._open = ""
            events.append(_event("content_block_stop", index=self._block))


def _event(kind: str, **members: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + _encode({"type": kind, **members}) + b"\n\n"


def _stop(output: RequestOutput, *, called: bool) -> tuple[str, str | None]:
    """(stop_reason, stop_sequence)."""
    if called and output.finish == "stop":
        return "tool_use", None
    if isinstance(output.stop, str):
        return "stop_sequence", output.stop
    return _STOPS.get(output.finish or "", "end_turn"), None


def _usage(usage: Usage) -> MessageUsage:
    cached = usage.prompt_tokens_details.cached_tokens
    return MessageUsage(
        input_tokens=usage.prompt_tokens - cached,
        output_tokens=usage.completion_tokens,
        cache_read_input_tokens=cached,
    )


def _id(identity: str) -> str:
    return identity.replace("call_", "toolu_", 1)

"""Answers of /v1/responses: items, and the events of a stream.

The events are those of https://platform.openai.com/docs/api-reference/responses-streaming.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from tenfold.core.request import RequestOutput
from tenfold.observe.requests import ChoiceTimeline
from tenfold.server.errors import ApiError
from tenfold.server.formats import NO_TIMELINES, Head
from tenfold.server.parts import CallEnd, CallStart, CallText, Part, Text, Thought
from tenfold.server.protocol import Usage
from tenfold.server.reading import Reading
from tenfold.server.responses.items import Status, call_item, done, message_item, text_part, thought_item
from tenfold.server.responses.protocol import (
    IncompleteDetails,
    InputTokensDetails,
    OutputItem,
    OutputTokensDetails,
    ResponseObject,
    ResponsesBody,
    ResponseUsage,
)
from tenfold.server.whole import whole_answer

_encode = msgspec.json.Encoder().encode


class ResponsesFormat:
    """``body`` is what was asked, which answers repeat."""

    def __init__(self, head: Head, body: ResponsesBody, *, reading: Reading) -> None:
        self._head = head
        self._body = body
        self._reader = reading.reader()
        self._sequence = 0
        self._begun = False
        self._items: list[OutputItem] = []  # those that are done
        self._open: OutputItem | None = None
        self._text = ""  # of the open one, or its arguments
        self._finish: str | None = None
        self._thought_tokens = 0

    def event(
        self, choice: int, output: RequestOutput, usage: Usage | None, timeline: ChoiceTimeline | None = None
    ) -> bytes:
        """See :class:`Format`; several events, or none."""
        events: list[bytes] = []
        if not self._begun:
            self._begun = True
            response = self._response([], "in_progress")
            events += [self._event(f"response.{kind}", response=response) for kind in ("created", "in_progress")]
        for part in self._reader.push(output.text, last=output.finish is not None):
            self._part(part, events)
        self._thought_tokens += len(output.tokens) if self._reader.thinking else 0
        if output.finish is not None:
            self._finish = output.finish
            self._close(events, whole=output.finish != "length")
        return b"".join(events)

    def end(self, usage: Usage) -> bytes:
        """See :class:`Format`."""
        status = _status(self._finish)
        response = self._response(self._items, status, _usage(usage, self._thought_tokens))
        return self._event(f"response.{status}", response=response)

    def failure(self, told: ApiError) -> bytes:
        """See :class:`Format`. What was wrong is said twice: documented is one form, clients look for the other."""
        error = told.error
        return self._event("error", code=error.code, message=error.message, param=error.param, error=error)

    def whole(
        self,
        choices: Sequence[Sequence[RequestOutput]],
        usage: Usage,
        timelines: Mapping[int, ChoiceTimeline] = NO_TIMELINES,
    ) -> bytes:
        """See :class:`Format`."""
        (outputs,) = choices
        answer = whole_answer(self._reader, outputs)
        finish = outputs[-1].finish
        status = _status(finish)
        items = [done(thought_item(_id("rs")), answer.thoughts, "completed")] if answer.thoughts else []
        if answer.text:
            items.append(done(message_item(_id("msg")), answer.text, status))
        items += [done(call_item(_id("fc"), call.id, call.name), call.arguments, "completed") for call in answer.calls]
        return _encode(self._response(items, status, _usage(usage, answer.thought_tokens)))

    def _response(
        self, items: list[OutputItem], status: Status | Literal["in_progress"], usage: ResponseUsage | None = None
    ) -> ResponseObject:
        body = self._body
        return ResponseObject(
            id=self._head.id,
            created_at=self._head.created,
            model=self._head.model,
            status=status,
            incomplete_details=IncompleteDetails() if status == "incomplete" else None,
            output=items,
            usage=usage,
            instructions=body.instructions,
            max_output_tokens=body.max_output_tokens,
            temperature=body.temperature,
            top_p=body.top_p,
            tools=body.tools or [],
            tool_choice=body.tool_choice or "auto",
            parallel_tool_calls=body.parallel_tool_calls is not False,
            text=body.text,
            metadata=body.metadata,
            warnings=list(self._head.warnings) or msgspec.UNSET,
        )

    def _part(self, part: Part, events: list[bytes]) -> None:
        match part:
            case Thought(text):
                self._enter(thought_item(_id("rs")), events)
                self._delta("response.reasoning_text.delta", text, events, content_index=0)
            case Text(text):
                self._enter(message_item(_id("msg")), events)
                self._delta("response.output_text.delta", text, events, content_index=0, logprobs=[])
            case CallStart(_, identity, name):
                self._close(events)
                self._enter(call_item(_id("fc"), identity, name), events)
            case CallText(_, text):
                self._delta("response.function_call_arguments.delta", text, events)
            case CallEnd(_, _, whole):
                self._close(events, whole=whole)

    def _enter(self, item: OutputItem, events: list[bytes]) -> None:
        """Begin an item, unless one of its type goes on."""
        if self._open is not None and self._open.type == item.type:
            return
        self._close(events)
        self._open, self._text = item, ""
        events.append(self._event("response.output_item.added", output_index=len(self._items), item=item))
        if item.type != "function_call":
            part = text_part(item, "")
            events.append(self._event("response.content_part.added", **self._place(item), content_index=0, part=part))

    def _delta(self, kind: str, text: str, events: list[bytes], **more: Any) -> None:
        assert self._open is not None, "an item is begun before its text comes"
        self._text += text
        events.append(self._event(kind, **self._place(self._open), **more, delta=text))

    def _close(self, events: list[bytes], *, whole: bool = True) -> None:
        item, text = self._open, self._text
        if item is None:
            return
        place = self._place(item)
        if item.type == "function_call":
            kind = "response.function_call_arguments.done"
            events.append(self._event(kind, **place, name=item.name, arguments=text))
        else:
            part = text_part(item, text)
            more: dict[str, Any] = {"logprobs": []} if item.type == "message" else {}
            events.append(self._event(f"response.{part.type}.done", **place, content_index=0, text=text, **more))
            events.append(self._event("response.content_part.done", **place, content_index=0, part=part))
        ended = done(item, text, "completed" if whole else "incomplete")
        events.append(self._event("response.output_item.done", output_index=len(self._items), item=ended))
        self._items.append(ended)
        self._open = None

    def _place(self, item: OutputItem) -> dict[str, Any]:
        return {"item_id": item.id, "output_index": len(self._items)}

    def _event(self, kind: str, **members: Any) -> bytes:
        data = _encode({"type": kind, "sequence_number": self._sequence, **members})
        self._sequence += 1
        return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


def _status(finish: str | None) -> Status:
    return "incomplete" if finish == "length" else "completed"


def _usage(usage: Usage, thought_tokens: int) -> ResponseUsage:
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(usage.prompt_tokens_details.cached_tokens),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputTokensDetails(thought_tokens),
        total_tokens=usage.total_tokens,
    )


def _id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"

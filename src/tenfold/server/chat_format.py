"""Answers of /v1/chat/completions."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from tenfold.core.request import RequestOutput
from tenfold.observe.requests import ChoiceTimeline
from tenfold.server.errors import ApiError
from tenfold.server.formats import NO_TIMELINES, Frame, Head, ending, fixed
from tenfold.server.logprobs import chat_logprobs, logprobs_of
from tenfold.server.parts import CallEnd, CallStart, CallText, Part, Text, Thought
from tenfold.server.protocol import ChatChoice, ChatMessage, ChatResponse, Delta, Usage
from tenfold.server.reading import Reading
from tenfold.server.tool_protocol import FunctionCall, FunctionDelta, ToolCall, ToolCallDelta
from tenfold.server.whole import WholeAnswer, whole_answer

_encode = msgspec.json.Encoder().encode


class ChatFormat:
    """``token_bytes`` gives a token's bytes, ``reading`` how answers are read; ``reports_usage`` as for completions."""

    def __init__(
        self,
        head: Head,
        choices: int,
        *,
        token_bytes: Callable[[int], bytes],
        reading: Reading,
        reports_usage: bool = False,
    ) -> None:
        self._head = head
        self._token_bytes = token_bytes
        self._only_text = reading.plain
        self._readers = [reading.reader() for _ in range(choices)]
        self._frame = Frame(head, "chat.completion.chunk", reports_usage=reports_usage)
        self._plain = [self._frame.open + b'{"index":%d,"delta":{' % choice for choice in range(choices)]
        self._openings = [
            self._frame.open + b'{"index":%d,"delta":{"role":"assistant",' % choice for choice in range(choices)
        ]

    def event(
        self, choice: int, output: RequestOutput, usage: Usage | None, timeline: ChoiceTimeline | None = None
    ) -> bytes:
        """See :class:`Format`."""
        reason = None
        if self._only_text:
            delta = b'"content":' + _encode(output.text)
        else:
            reader = self._readers[choice]
            parts = reader.push(output.text, last=output.finish is not None)
            if not parts and output.finish is None and output.logprobs is None and usage is None:
                return b""
            delta = _encode(_delta(parts))[1:-1] or b'"content":""'
            reason = _reason(output, called=reader.called)
        opening = self._openings[choice]
        event = b"".join(
            (
                opening,
                delta,
                b'},"logprobs":',
                b"null" if output.logprobs is None else _encode(chat_logprobs(output.logprobs, self._token_bytes)),
                ending(output, timeline, reason),
                self._frame.closing(usage),
            )
        )
        self._openings[choice] = self._plain[choice]  # only a choice's first event names the role
        return event

    def end(self, usage: Usage) -> bytes:
        """See :class:`Format`."""
        return self._frame.end(usage)

    def failure(self, told: ApiError) -> bytes:
        """See :class:`Format`."""
        return self._frame.failure(told)

    def whole(
        self,
        choices: Sequence[Sequence[RequestOutput]],
        usage: Usage,
        timelines: Mapping[int, ChoiceTimeline] = NO_TIMELINES,
    ) -> bytes:
        """See :class:`Format`."""
        answers = []
        for index, outputs in enumerate(choices):
            entries = logprobs_of(outputs)
            answer = whole_answer(self._readers[index], outputs)
            answers.append(
                ChatChoice(
                    index=index,
                    message=_message(answer),
                    logprobs=None if entries is None else chat_logprobs(entries, self._token_bytes),
                    finish_reason=_reason(outputs[-1], called=bool(answer.calls)),
                    stop_reason=outputs[-1].stop,
                    timeline=timelines.get(index, msgspec.UNSET),
                )
            )
        return _encode(ChatResponse(choices=answers, usage=usage, **fixed(self._head)))


def _reason(output: RequestOutput, *, called: bool) -> str | None:
    return "tool_calls" if called and output.finish == "stop" else output.finish


def _message(answer: WholeAnswer) -> ChatMessage:
    calls = [ToolCall(id=call.id, function=FunctionCall(call.name, call.arguments)) for call in answer.calls]
    return ChatMessage(
        content=answer.text if answer.text or not (calls or answer.thoughts) else None,
        reasoning_content=answer.thoughts or msgspec.UNSET,
        tool_calls=calls or msgspec.UNSET,
    )


def _delta(parts: Iterable[Part]) -> Delta:
    """All that one output brings; pieces of one call together."""
    thoughts: list[str] = []
    texts: list[str] = []
    calls: dict[int, ToolCallDelta] = {}
    for part in parts:
        match part:
            case Thought(text):
                thoughts.append(text)
            case Text(text):
                texts.append(text)
            case CallStart(index, name_of_call, name):
                function = FunctionDelta(name=name)
                calls[index] = ToolCallDelta(index=index, id=name_of_call, type="function", function=function)
            case CallText(index, text):
                piece = calls.get(index, ToolCallDelta(index=index, function=FunctionDelta()))
                function = msgspec.structs.replace(piece.function, arguments=piece.function.arguments + text)
                calls[index] = msgspec.structs.replace(piece, function=function)
            case CallEnd():
                pass
    return Delta(
        content="".join(texts) or msgspec.UNSET,
        reasoning_content="".join(thoughts) or msgspec.UNSET,
        tool_calls=list(calls.values()) or msgspec.UNSET,
    )

"""The two shapes of an answer, completions and chat: whole bodies and stream events.

Events are spliced from bytes that are ready before the first token comes: at a thousand events per second a general
encoder would take the CPU the engine needs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import msgspec

from tenfold.core.request import RequestOutput
from tenfold.observe.requests import ChoiceTimeline, cost_of
from tenfold.server.logprobs import chat_logprobs, legacy_logprobs
from tenfold.server.protocol import (
    ChatChoice,
    ChatMessage,
    ChatResponse,
    CompletionChoice,
    CompletionResponse,
    CompletionTokensDetails,
    PromptTokensDetails,
    Usage,
)

_encode = msgspec.json.Encoder().encode
NO_TIMELINES: Mapping[int, ChoiceTimeline] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Head:
    """What all parts of an answer repeat; ``created`` is in Unix seconds."""

    id: str
    created: int
    model: str
    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class Tally:
    """Counts the tokens of a request as they come; ``prompt_tokens`` are those of all its prompts.

    What it used of the machine is known once all its ``choices`` have ended; ``price`` is that of an hour.
    """

    prompt_tokens: int
    choices: int
    price: float | None = None
    completion_tokens: int = 0
    machine_seconds: float = 0.0  # of the choices that have ended,
    drafted: int = 0  # and tokens that were drafted for them
    accepted: int = 0
    _told: int = 0  # how many those are
    _cached: dict[int, int] = field(default_factory=dict)

    def add(self, prompt: int, output: RequestOutput) -> None:
        """Take in an output of the ``prompt``-th prompt."""
        self.completion_tokens += len(output.tokens)
        if output.cached_tokens > self._cached.get(prompt, 0):
            self._cached[prompt] = output.cached_tokens
        if output.timeline is not None:
            self.machine_seconds += output.timeline.machine_seconds
            self.drafted += output.timeline.draft_tokens
            self.accepted += output.timeline.accepted_tokens
            self._told += 1

    def usage(self) -> Usage:
        """The usage so far."""
        seconds = self.machine_seconds if self._told == self.choices else None
        cost = None if seconds is None else cost_of(seconds, self.price)
        return Usage(
            self.prompt_tokens,
            self.completion_tokens,
            self.prompt_tokens + self.completion_tokens,
            PromptTokensDetails(sum(self._cached.values())),
            msgspec.UNSET if seconds is None else CompletionTokensDetails(self.accepted, self.drafted - self.accepted),
            msgspec.UNSET if seconds is None else seconds,
            msgspec.UNSET if cost is None else cost,
        )


class Format(Protocol):
    """How one kind of answer is written."""

    def event(
        self, choice: int, output: RequestOutput, usage: Usage | None, timeline: ChoiceTimeline | None = None
    ) -> bytes:
        """The stream event of an output; ``usage`` and ``timeline`` are added where given."""
        ...

    def usage_event(self, usage: Usage) -> bytes:
        """The event without choices that reports usage at a stream's end."""
        ...

    def whole(
        self,
        choices: Sequence[Sequence[RequestOutput]],
        usage: Usage,
        timelines: Mapping[int, ChoiceTimeline] = NO_TIMELINES,
    ) -> bytes:
        """The body of an answer that is not streamed, from all outputs of each choice."""
        ...


class _Frame:
    """The bytes before and after what changes from one event of a stream to the next."""

    def __init__(self, head: Head, kind: str, *, reports_usage: bool) -> None:
        fixed: dict[str, Any] = {"id": head.id, "object": kind, "created": head.created, "model": head.model}
        if head.warnings:
            fixed["warnings"] = head.warnings
        self.open = b"data: " + _encode(fixed)[:-1] + b',"choices":['
        self.close = b'],"usage":null}\n\n' if reports_usage else b"]}\n\n"

    def closing(self, usage: Usage | None) -> bytes:
        return self.close if usage is None else b'],"usage":' + _encode(usage) + b"}\n\n"

    def usage_event(self, usage: Usage) -> bytes:
        return self.open + self.closing(usage)


def _fixed(head: Head) -> dict[str, Any]:
    warnings = list(head.warnings) or msgspec.UNSET
    return {"id": head.id, "created": head.created, "model": head.model, "warnings": warnings}


def _ending(output: RequestOutput, timeline: ChoiceTimeline | None) -> bytes:
    """The members of a choice that tell why it ended, and where its time went."""
    if output.finish is None:
        return b',"finish_reason":null}'
    told = b',"timeline":' + _encode(timeline) if timeline is not None else b""
    return b',"finish_reason":' + _encode(output.finish) + b',"stop_reason":' + _encode(output.stop) + told + b"}"


class CompletionFormat:
    """Answers of /v1/completions. ``echo`` holds each choice's prompt text, or nothing.

    ``reports_usage``: every event carries a usage member, as clients that asked for usage expect.
    """

    def __init__(self, head: Head, choices: int, *, echo: Sequence[str] = (), reports_usage: bool = False) -> None:
        self._head = head
        self._frame = _Frame(head, "text_completion", reports_usage=reports_usage)
        self._openings = [self._frame.open + b'{"index":%d,"text":' % choice for choice in range(choices)]
        self._echo = list(echo)
        self._leads = list(echo)
        self._offsets = [0] * choices

    def event(
        self, choice: int, output: RequestOutput, usage: Usage | None, timeline: ChoiceTimeline | None = None
    ) -> bytes:
        """See :class:`Format`."""
        text = output.text
        if self._leads and self._leads[choice]:
            text, self._leads[choice] = self._leads[choice] + text, ""
        logprobs = b"null"
        if output.logprobs is not None:
            given = legacy_logprobs(output.logprobs, self._offsets[choice])
            self._offsets[choice] += sum(map(len, given.tokens))
            logprobs = _encode(given)
        return b"".join(
            (
                self._openings[choice],
                _encode(text),
                b',"logprobs":',
                logprobs,
                _ending(output, timeline),
                self._frame.closing(usage),
            )
        )

    def usage_event(self, usage: Usage) -> bytes:
        """See :class:`Format`."""
        return self._frame.usage_event(usage)

    def whole(
        self,
        choices: Sequence[Sequence[RequestOutput]],
        usage: Usage,
        timelines: Mapping[int, ChoiceTimeline] = NO_TIMELINES,
    ) -> bytes:
        """See :class:`Format`."""
        answers = []
        for index, outputs in enumerate(choices):
            entries = [entry for output in outputs for entry in output.logprobs or ()]
            asked = any(output.logprobs is not None for output in outputs)
            answers.append(
                CompletionChoice(
                    index=index,
                    text=(self._echo[index] if self._echo else "") + "".join(output.text for output in outputs),
                    logprobs=legacy_logprobs(entries, 0) if asked else None,
                    finish_reason=outputs[-1].finish,
                    stop_reason=outputs[-1].stop,
                    timeline=timelines.get(index, msgspec.UNSET),
                )
            )
        return _encode(CompletionResponse(choices=answers, usage=usage, **_fixed(self._head)))


class ChatFormat:
    """Answers of /v1/chat/completions. ``token_bytes`` gives a token's bytes; ``reports_usage`` as for completions."""

    def __init__(
        self, head: Head, choices: int, *, token_bytes: Callable[[int], bytes], reports_usage: bool = False
    ) -> None:
        self._head = head
        self._token_bytes = token_bytes
        self._frame = _Frame(head, "chat.completion.chunk", reports_usage=reports_usage)
        self._plain = [self._frame.open + b'{"index":%d,"delta":{"content":' % choice for choice in range(choices)]
        self._openings = [
            self._frame.open + b'{"index":%d,"delta":{"role":"assistant","content":' % choice
            for choice in range(choices)
        ]

    def event(
        self, choice: int, output: RequestOutput, usage: Usage | None, timeline: ChoiceTimeline | None = None
    ) -> bytes:
        """See :class:`Format`."""
        opening = self._openings[choice]
        event = b"".join(
            (
                opening,
                _encode(output.text),
                b'},"logprobs":',
                b"null" if output.logprobs is None else _encode(chat_logprobs(output.logprobs, self._token_bytes)),
                _ending(output, timeline),
                self._frame.closing(usage),
            )
        )
        self._openings[choice] = self._plain[choice]  # only a choice's first event names the role
        return event

    def usage_event(self, usage: Usage) -> bytes:
        """See :class:`Format`."""
        return self._frame.usage_event(usage)

    def whole(
        self,
        choices: Sequence[Sequence[RequestOutput]],
        usage: Usage,
        timelines: Mapping[int, ChoiceTimeline] = NO_TIMELINES,
    ) -> bytes:
        """See :class:`Format`."""
        answers = []
        for index, outputs in enumerate(choices):
            entries = [entry for output in outputs for entry in output.logprobs or ()]
            asked = any(output.logprobs is not None for output in outputs)
            answers.append(
                ChatChoice(
                    index=index,
                    message=ChatMessage(content="".join(output.text for output in outputs)),
                    logprobs=chat_logprobs(entries, self._token_bytes) if asked else None,
                    finish_reason=outputs[-1].finish,
                    stop_reason=outputs[-1].stop,
                    timeline=timelines.get(index, msgspec.UNSET),
                )
            )
        return _encode(ChatResponse(choices=answers, usage=usage, **_fixed(self._head)))

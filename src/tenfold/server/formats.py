"""What answers are written with, and the shape of completions: whole bodies and stream events.

Events are spliced from bytes that are ready before the first token comes: at a thousand events per second a general
encoder would take the CPU the engine needs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import msgspec

from tenfold.core.request import RequestOutput
from tenfold.observe.requests import ChoiceTimeline, cost_of
from tenfold.server.errors import ApiError
from tenfold.server.logprobs import legacy_logprobs, logprobs_of
from tenfold.server.protocol import (
    CompletionChoice,
    CompletionResponse,
    CompletionTokensDetails,
    PromptTokensDetails,
    Usage,
)

_encode = msgspec.json.Encoder().encode
_DONE = b"data: [DONE]\n\n"
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


class WholeFormat(Protocol):
    """How one kind of answer is written that is not streamed."""

    def whole(
        self,
        choices: Sequence[Sequence[RequestOutput]],
        usage: Usage,
        timelines: Mapping[int, ChoiceTimeline] = NO_TIMELINES,
    ) -> bytes:
        """The body, from all outputs of each choice."""
        ...


class Format(WholeFormat, Protocol):
    """How one kind of answer is written, whole or as a stream."""

    def event(
        self, choice: int, output: RequestOutput, usage: Usage | None, timeline: ChoiceTimeline | None = None
    ) -> bytes:
        """The stream event of an output, empty where it has nothing to tell; ``usage`` and ``timeline`` if given."""
        ...

    def end(self, usage: Usage) -> bytes:
        """What ends a stream that went well."""
        ...

    def failure(self, told: ApiError) -> bytes:
        """What ends a stream that did not."""
        ...


class Frame:
    """The bytes before and after what changes from one event of a stream to the next."""

    def __init__(self, head: Head, kind: str, *, reports_usage: bool) -> None:
        same: dict[str, Any] = {"id": head.id, "object": kind, "created": head.created, "model": head.model}
        if head.warnings:
            same["warnings"] = head.warnings
        self.open = b"data: " + _encode(same)[:-1] + b',"choices":['
        self.close = b'],"usage":null}\n\n' if reports_usage else b"]}\n\n"
        self._reports_usage = reports_usage

    def closing(self, usage: Usage | None) -> bytes:
        """The end of an event."""
        return self.close if usage is None else b'],"usage":' + _encode(usage) + b"}\n\n"

    def end(self, usage: Usage) -> bytes:
        """See :class:`Format`: an event without choices reports usage where that was asked for."""
        return (self.open + self.closing(usage) if self._reports_usage else b"") + _DONE

    def failure(self, told: ApiError) -> bytes:
        """See :class:`Format`."""
        return b"data: " + told.body() + b"\n\n"


def fixed(head: Head) -> dict[str, Any]:
    """The members of a whole answer that its head gives."""
    warnings = list(head.warnings) or msgspec.UNSET
    return {"id": head.id, "created": head.created, "model": head.model, "warnings": warnings}


def ending(output: RequestOutput, timeline: ChoiceTimeline | None, reason: str | None = None) -> bytes:
    """The members of a choice that tell why it ended (``reason``, if that is another), and where its time went."""
    if output.finish is None:
        return b',"finish_reason":null}'
    told = b',"timeline":' + _encode(timeline) if timeline is not None else b""
    return (
        b',"finish_reason":'
        + _encode(reason or output.finish)
        + b',"stop_reason":'
        + _encode(output.stop)
        + told
        + b"}"
    )


class CompletionFormat:
    """Answers of /v1/completions. ``echo`` holds each choice's prompt text, or nothing.

    ``reports_usage``: every event carries a usage member, as clients that asked for usage expect.
    """

    def __init__(self, head: Head, choices: int, *, echo: Sequence[str] = (), reports_usage: bool = False) -> None:
        self._head = head
        self._frame = Frame(head, "text_completion", reports_usage=reports_usage)
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
                ending(output, timeline),
                self._frame.closing(usage),
            )
        )

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
            answers.append(
                CompletionChoice(
                    index=index,
                    text=(self._echo[index] if self._echo else "") + "".join(output.text for output in outputs),
                    logprobs=None if entries is None else legacy_logprobs(entries, 0),
                    finish_reason=outputs[-1].finish,
                    stop_reason=outputs[-1].stop,
                    timeline=timelines.get(index, msgspec.UNSET),
                )
            )
        return _encode(CompletionResponse(choices=answers, usage=usage, **fixed(self._head)))

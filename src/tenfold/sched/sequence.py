"""One continuation being generated, as the scheduler sees it."""

from dataclasses import dataclass

import msgspec

from tenfold.core.plan import SampledToken, SequenceStart


@dataclass(frozen=True, slots=True)
class Submission:
    """A sequence to schedule: what the executor must know of it, and its limits.

    ``max_length`` bounds prompt plus output, in tokens. ``after`` names a sequence with the same prompt whose
    prefill this one waits for, to share its blocks.
    """

    start: SequenceStart
    arrival: float  # seconds
    max_length: int
    stop_ids: frozenset[int]  # end-of-text and stop ids that end it
    salt: str = ""
    after: str | None = None


class Sequence:
    """Mutable state of one submission; only the scheduler touches it."""

    __slots__ = (
        "admitted",
        "cached",
        "computed",
        "first_token",
        "id",
        "order",
        "prompt",
        "queued",
        "submission",
        "tokens",
    )

    def __init__(self, submission: Submission, order: int) -> None:
        self.submission = submission
        self.id = submission.start.id
        self.prompt = len(submission.start.prompt_ids)  # tokens
        self.order = order  # of arrival
        self.tokens = list(submission.start.prompt_ids)  # prompt, then output
        self.computed = 0  # tokens whose KV is in memory
        self.cached = 0  # prompt tokens the first admission found in the prefix cache
        self.admitted = False
        self.queued = 0.0  # seconds from arrival to the first admission
        self.first_token: float | None = None  # when its first output token came

    @property
    def outputs(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.prompt

    @property
    def pending(self) -> int:
        """Tokens to compute before the next one can be sampled: 1 in decode."""
        return len(self.tokens) - self.computed

    def finish_reason(self, token: int) -> tuple[str, int | None] | None:
        """Whether ``token``, just appended, ends the sequence: (reason, the stop id), else None."""
        params = self.submission.start.params
        if self.outputs >= params.min_tokens and token in self.submission.stop_ids:
            return "stop", token
        if len(self.tokens) >= self.submission.max_length:
            return "length", None
        return None


class TokenEvent(msgspec.Struct, frozen=True):
    """A sequence got a token; ``finish`` is set when that was its last."""

    id: str
    sample: SampledToken
    finish: str | None
    stop: int | None
    cached: int  # prompt tokens that came from the prefix cache
    queued: float  # seconds from arrival to the first admission


@dataclass(frozen=True, slots=True)
class FailEvent:
    """A sequence ended without a token: the executor could not go on with it."""

    id: str
    error: str


Event = TokenEvent | FailEvent

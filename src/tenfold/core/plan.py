"""One step: what the scheduler asks of the executor, and what comes back.

What is made per sequence and step is a msgspec struct: a frozen dataclass costs several times as much to make.
"""

from dataclasses import dataclass, field

import msgspec

from tenfold.core.request import Pooling
from tenfold.core.sampling import SamplingParams

NEXT_TOKEN = -1  # in a plan made ahead: the token that the step before gives this sequence


@dataclass(frozen=True, slots=True)
class SequenceStart:
    """A sequence the executor has not seen yet: what its sampler needs for the sequence's whole life."""

    id: str
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    seed: int  # the draw at output position p depends on (seed, p) alone
    eos_ids: tuple[int, ...]  # held back while fewer than min_tokens came out
    pooling: Pooling | None = None  # its first token comes with the prompt's pooled hidden states


class SequenceSlice(msgspec.Struct, frozen=True):
    """The tokens of one sequence to compute in a step.

    ``tokens`` go at positions ``start``, ``start`` + 1, …; ``blocks`` are the sequence's KV blocks from
    position 0 on, enough for all of them. ``sample`` says whether the last one's logits give a token.

    The last ``drafted`` of the tokens are a draft of what comes after the one before them: its logits give a token, and
    as long as that is the one drafted, the next one's do. A slice that has none may have ``asked`` the executor's draft
    model for so many.

    The only token of a slice that samples may be :data:`NEXT_TOKEN`.
    """

    id: str
    start: int
    tokens: tuple[int, ...]
    blocks: tuple[int, ...]
    sample: bool
    drafted: int = 0
    asked: int = 0


@dataclass(frozen=True, slots=True)
class StepPlan:
    """A ragged batch: decode tokens and prefill chunks together, at most one slice per sequence.

    ``ended`` comes before ``started``: an id may be used again once its sequence has ended. Without slices a plan only
    tells what has started and ended.
    """

    slices: tuple[SequenceSlice, ...]
    started: tuple[SequenceStart, ...] = ()
    ended: tuple[str, ...] = ()  # sequences whose sampler state can go

    @property
    def tokens(self) -> int:
        """Tokens computed in this step."""
        return sum(len(s.tokens) for s in self.slices)

    @property
    def prefill_tokens(self) -> int:
        """Those of sequences that have more than one in it, drafts aside."""
        return sum(count for s in self.slices if (count := len(s.tokens) - s.drafted) > 1)

    @property
    def drafted_tokens(self) -> int:
        """Those that were drafted, or asked for."""
        return sum([s.drafted + s.asked for s in self.slices])

    def accepted(self, result: "StepResult") -> int:
        """How many of those were right."""
        return len(result.sampled) + len(result.failed) - sum(s.sample for s in self.slices)


class SampledToken(msgspec.Struct, frozen=True):
    """A new token of a sequence; ``top`` holds (token, logprob) pairs, best first, when asked for; ``embedding`` the
    pooled hidden states, float32, when those are."""

    id: str
    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    embedding: bytes | None = None


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step gave, in the plan's order; ``failed`` maps a sequence to why it cannot go on.

    A sequence of whose drafted tokens some were accepted has as many tokens more, one after the other.
    """

    sampled: tuple[SampledToken, ...]
    failed: dict[str, str] = field(default_factory=dict)

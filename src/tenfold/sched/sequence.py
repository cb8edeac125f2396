"""One continuation being generated, as the scheduler sees it."""

from collections.abc import Sequence as Many
from dataclasses import dataclass

import msgspec

from tenfold.core.config import MAX_DRAFT_TOKENS
from tenfold.core.plan import NEXT_TOKEN, SampledToken, SequenceStart
from tenfold.core.request import Preemption, Timeline
from tenfold.sched.terms import NO_TERMS, Terms

# Who goes first: sequences that had a place and lost it, until they are where they were; those whose TTFT bound can be
# kept; all others: that missed it, are promised none, or are too long for it.
RETURNING, TIMELY, OTHER = 0, 1, 2
_DISPLACES = 0.5  # a waiting one may displace others when no more than this part of its time to wait is left


@dataclass(frozen=True, slots=True)
class Submission:
    """A sequence to schedule: what the executor must know of it, its limits, and its terms.

    ``max_length`` bounds prompt plus output, in tokens. ``after`` names a sequence with the same prompt whose
    prefill this one waits for, to share its blocks. ``draft_tokens`` bounds what is drafted for it in a step.
    """

    start: SequenceStart
    arrival: float  # seconds
    max_length: int
    stop_ids: frozenset[int]  # end-of-text and stop ids that end it
    salt: str = ""
    after: str | None = None
    terms: Terms = NO_TERMS
    draft_tokens: int | None = None


class Phases:
    """Where a sequence's time goes. One phase at a time; interference is told apart at the end of decode."""

    __slots__ = ("_mark", "_name", "_since", "preemptions", "seconds")

    def __init__(self, arrival: float) -> None:
        self._name = "queue"
        self._since = arrival
        self._mark = 0.0
        self.seconds = dict.fromkeys(("queue", "prefill", "decode", "interference", "preempted", "recompute"), 0.0)
        self.preemptions: list[Preemption] = []

    def until(self, now: float, interference: float) -> dict[str, float]:
        """Seconds by phase if the one it is in ended now; ``interference`` is the scheduler's running total of it."""
        seconds, spent = dict(self.seconds), max(0.0, now - self._since)
        if self._name == "decode":
            others = min(spent, interference - self._mark)
            seconds["interference"] += others
            spent -= others
        seconds[self._name] += spent
        return seconds

    def enter(self, name: str, now: float, interference: float) -> None:
        """A phase begins; ``interference`` as in :meth:`until`."""
        self.seconds = self.until(now, interference)
        self._name, self._since, self._mark = name, now, interference


class Drafting:
    """What was drafted for a sequence, and what came of it."""

    __slots__ = ("accepted", "drafted", "expected", "held", "most", "plain", "run", "saved")

    def __init__(self, most: int) -> None:
        self.most = most  # tokens in a step
        self.drafted = 0
        self.accepted = 0
        self.plain = 0.0  # seconds that its decode would have taken so far had nobody drafted, as predicted,
        self.saved = 0.0  # and by how much it was shorter; below 0: longer
        self.run = 0  # tokens that will stand behind the next draft if the run that its text is in goes on
        self.expected = 0.0  # drafted tokens of late that should have been right,
        self.held = 0.0  # and that were


class Sequence:
    """Mutable state of one submission; only the scheduler (and its queue) touches it."""

    __slots__ = (
        "admitted",
        "cached",
        "charged",
        "computed",
        "deadline",
        "drafting",
        "first_token",
        "foreseeable",
        "held_since",
        "id",
        "key",
        "longest",
        "no_room",
        "order",
        "over",
        "payer",
        "phases",
        "prompt",
        "protected",
        "queued",
        "reached",
        "returning",
        "slo",
        "stamp",
        "submission",
        "terms",
        "tier",
        "tokens",
        "waiting",
        "work",
    )

    def __init__(self, submission: Submission, order: int) -> None:
        self.submission = submission
        self.terms = submission.terms
        self.slo = submission.terms.slo
        self.id = submission.start.id
        self.prompt = len(submission.start.prompt_ids)  # tokens
        self.order = order  # of arrival
        self.longest = submission.max_length  # tokens
        self.foreseeable = submission.start.params.foreseeable
        self.tokens = list(submission.start.prompt_ids)  # prompt, then output; the last one may not be known yet
        self.computed = 0  # tokens whose KV is in memory, or will be before the next step begins
        self.reached = 0  # the most it ever was: below it, computing is recomputing
        self.cached = 0  # prompt tokens the first admission found in the prefix cache
        self.admitted = False
        self.queued = 0.0  # seconds from arrival to the first admission
        self.first_token: float | None = None  # when its first output token came
        self.work = 0.0  # seconds of prefill left, alone on the machine
        self.tier = OTHER
        self.over = False  # has a place, and its tenant was served more than others that want prefill
        self.key = 0.0  # within the tier, the smallest goes first
        self.deadline: float | None = None  # of the first token, where that is promised
        self.waiting = False
        self.returning = False  # had to give up its blocks, and has not computed them all again
        self.stamp = 0  # of its latest entry in the queue
        self.no_room = -1  # blocks there were when it last found no room
        self.protected = 0  # tokens up to which it may not be displaced again
        self.phases = Phases(submission.arrival)
        self.payer = submission.terms.tenant  # also where tenants are not told apart otherwise
        self.charged = 0.0  # seconds of the machine, all but for what it holds in memory
        self.drafting = Drafting(MAX_DRAFT_TOKENS if submission.draft_tokens is None else submission.draft_tokens)
        self.held_since = 0.0  # and what a token held since the start had been charged when that was added last

    @property
    def outputs(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.prompt

    @property
    def anew(self) -> bool:
        """Whether all of its prompt has to be computed, also what the prefix cache has."""
        return self.submission.start.pooling == "mean"

    @property
    def pending(self) -> int:
        """Tokens to compute before the next one can be sampled: 1 in decode."""
        return len(self.tokens) - self.computed

    @property
    def rank(self) -> tuple[float, int]:
        """Of two sequences, the one of the larger rank gives way when blocks run out."""
        return -self.terms.slo_class.weight, self.order

    @property
    def urgency(self) -> tuple[int, bool, float, int]:
        """Of two prompts, the one of the smaller urgency is computed first."""
        return RETURNING if self.returning else self.tier, self.over, self.key, self.order

    @property
    def phase(self) -> str:
        """What it spends its time on while it has a place."""
        if self.computed < self.reached:
            return "recompute"
        return "prefill" if self.first_token is None else "decode"

    def late(self, now: float) -> bool:
        """Whether its first token will be later than promised, if it begins now."""
        return self.first_token is None and self.deadline is not None and self.deadline - self.work < now

    @property
    def displaces_from(self) -> float:
        """When it may take another's place, so that its first token comes in time; a timely one's."""
        assert self.deadline is not None and self.slo.ttft is not None
        return self.deadline - self.work - _DISPLACES * (self.slo.ttft - self.work)

    def ahead(self, now: float) -> float:
        """By how many TPOT bounds its next token would be early; 0 where there is no bound."""
        bound = self.slo.tpot
        if bound is None or self.first_token is None:
            return 0.0
        return (self.first_token - now) / bound + self.outputs

    def settle(self, held: float) -> None:
        """Charge it for what it has held in memory; ``held`` is what that costs a token so far."""
        self.charged += self.computed * (held - self.held_since)
        self.held_since = held

    def give_up_bound(self) -> None:
        """Its TTFT bound is missed: from now on it is one of those that come after the timely ones."""
        self.tier, self.key = OTHER, self.submission.arrival + self.terms.priority

    def extend(self, samples: Many[SampledToken]) -> tuple[tuple[SampledToken, ...], str | None, int | None]:
        """Take tokens that came, up to one that ends it: (those taken, why it ended, the stop id)."""
        for count, sample in enumerate(samples, 1):
            token = sample.token
            self.tokens.append(token)
            reason = self.finish_reason(token)
            if reason is not None:
                return tuple(samples[:count]), *reason
        return tuple(samples), None, None

    def finish_reason(self, token: int) -> tuple[str, int | None] | None:
        """Whether ``token``, just appended, ends the sequence: (reason, the stop id), else None."""
        if token in self.submission.stop_ids and self.outputs >= self.submission.start.params.min_tokens:
            return "stop", token
        if len(self.tokens) >= self.longest:
            return "length", None
        return None

    def drop_unknown(self) -> None:
        """It ends: a token that is not known yet will never be one of its own."""
        if self.tokens[-1] == NEXT_TOKEN:
            self.tokens.pop()

    def timeline(self, now: float, interference: float) -> Timeline:
        """Where its time went, if it ends ``now``."""
        self.phases.enter("ended", now, interference)
        return Timeline(
            slo_class=self.terms.slo_class.name,
            tenant=self.terms.tenant,
            total=max(0.0, now - self.submission.arrival),
            prompt_tokens=self.prompt,
            cached_tokens=self.cached,
            output_tokens=self.outputs,
            machine_seconds=self.charged,
            draft_tokens=self.drafting.drafted,
            accepted_tokens=self.drafting.accepted,
            saved_seconds=self.drafting.saved,
            preemptions=tuple(self.phases.preemptions),
            ttft_bound=self.slo.ttft,
            tpot_bound=self.slo.tpot,
            **self.phases.seconds,
        )


class TokenEvent(msgspec.Struct, frozen=True):
    """A sequence got a token, or several; ``finish`` is set, and ``timeline``, when the last was its last."""

    id: str
    samples: tuple[SampledToken, ...]
    finish: str | None
    stop: int | None
    cached: int  # prompt tokens that came from the prefix cache
    queued: float  # seconds from arrival to the first admission
    timeline: Timeline | None = None


@dataclass(frozen=True, slots=True)
class FailEvent:
    """A sequence ended without a token: the executor could not go on with it, or (``retry_after``, in seconds) it was
    given up because it had waited too long."""

    id: str
    error: str
    retry_after: float | None = None
    timeline: Timeline | None = None


Event = TokenEvent | FailEvent

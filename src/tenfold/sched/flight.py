"""A step in flight: its plan was given out, and what it gives is not applied yet."""

from collections.abc import Sequence as Many
from dataclasses import dataclass, field

from tenfold.core.plan import NEXT_TOKEN, SampledToken, StepPlan, StepResult
from tenfold.cost.shape import StepShape
from tenfold.sched.sequence import Sequence
from tenfold.sched.speculation import Drafted


@dataclass(slots=True)
class Flight:
    """What is to be remembered of a plan until its result is applied.

    The next step can be planned before that, on top of it (:meth:`presume`): each of its sequences that samples then
    has one token that is not known yet, ``NEXT_TOKEN``, and its KV counts as computed. Only what is found in the prefix
    cache waits for the true tokens.
    """

    plan: StepPlan
    sequences: list[Sequence]  # of its slices
    shape: StepShape
    began: float  # when it was planned, or when the step before had ended, if that was later
    predicted: float  # seconds
    prefill_part: float  # of those
    backlog: bool  # whether timely prompts, but for those held back, wanted more of it
    drafts: Drafted
    wanting: bool  # whether somebody found no room in it who may take it from others: the next plan sees to that
    left: list[Sequence] = field(default_factory=list)  # of its sequences, those that have ended meanwhile
    presumed: bool = False

    @property
    def followable(self) -> bool:
        """Whether the next step can be planned on top of it: how many tokens it gives each sequence is known, and
        nothing in the next one's logits depends on which."""
        if self.presumed or self.wanting or self.drafts.offers:
            return False
        bound = [(s, part) for s, part in zip(self.sequences, self.plan.slices, strict=True) if not s.foreseeable]
        return not any(part.sample and len(s.tokens) + 1 < s.longest and s not in self.left for s, part in bound)

    def presume(self, held: float) -> list[Sequence]:
        """Advance its sequences as if it were applied, all but those that have ended. Returns those that the token
        they get will end, for their length. ``held``: see :meth:`Sequence.settle`."""
        self.presumed = True
        ending: list[Sequence] = []
        for sequence, part in zip(self.sequences, self.plan.slices, strict=True):
            if self.left and sequence in self.left:
                continue
            if sequence.held_since != held:
                sequence.settle(held)  # as long as it held no more than before
            sequence.computed = part.start + len(part.tokens)
            if part.sample:
                tokens = sequence.tokens
                tokens.append(NEXT_TOKEN)
                if len(tokens) >= sequence.longest:
                    ending.append(sequence)
        return ending

    def samples(self, result: StepResult) -> dict[str, Many[SampledToken]]:
        """What it gave, by sequence."""
        if not self.drafts.offers:
            return {sample.id: (sample,) for sample in result.sampled}
        samples: dict[str, list[SampledToken]] = {}
        for sample in result.sampled:
            samples.setdefault(sample.id, []).append(sample)
        return {**samples}

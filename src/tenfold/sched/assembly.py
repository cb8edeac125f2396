"""A step while it is put together."""

from tenfold.core.plan import SequenceSlice
from tenfold.sched.budget import StepBudget
from tenfold.sched.sequence import Sequence


class Assembly:
    """What the next step holds so far, who else wants prefill, and when it is.

    One that is planned ``ahead``, while the step before it is computed, takes nothing from anybody: whoever would need
    that is left out, and ``wanting`` tells the next plan. ``begins`` is when the step before will have ended.
    """

    __slots__ = ("ahead", "begins", "budget", "decoding", "ending", "now", "prefilling", "resting", "slices", "wanting")

    def __init__(self, budget: StepBudget, now: float, begins: float | None = None) -> None:
        self.budget = budget
        self.now = now
        self.ahead = begins is not None
        self.begins = now if begins is None else begins
        self.ending: list[Sequence] = []  # those that have a place yet, but end with the step before
        self.wanting = False
        self.slices: dict[str, SequenceSlice] = {}
        self.decoding: list[Sequence] = []  # those that get their next token in it
        self.prefilling: list[Sequence] = []  # those that have a place and more than one token to compute
        self.resting: list[Sequence] = []  # those that could decode, but let others' prompts go first

    def put(self, sequence: Sequence, count: int, blocks: tuple[int, ...]) -> None:
        """The next ``count`` tokens of a sequence, whose KV goes to ``blocks``."""
        start, end = sequence.computed, sequence.computed + count
        sample = end == len(sequence.tokens)
        self.budget.take(start, count, sample=sample)
        self.slices[sequence.id] = SequenceSlice(
            id=sequence.id,
            start=start,
            tokens=tuple(sequence.tokens[start:end]),
            blocks=blocks,
            sample=sample,
        )

    def draft(self, sequence: Sequence, tokens: tuple[int, ...], asked: int, blocks: tuple[int, ...]) -> None:
        """What may come after the next token of a sequence that decodes in this step, to be checked in it: these
        tokens, or as many as the draft model is ``asked`` for."""
        part = self.slices[sequence.id]
        self.budget.draft(part.start + 1, len(tokens) + asked)
        self.slices[sequence.id] = SequenceSlice(
            part.id, part.start, (*part.tokens, *tokens), blocks, sample=True, drafted=len(tokens), asked=asked
        )
        if asked:
            self._count_asked()

    def drop(self, sequence: Sequence) -> bool:
        """A sequence loses its place: nothing of it is in this step. Returns whether something was."""
        for those in (self.prefilling, self.resting, self.decoding):
            if sequence in those:
                those.remove(sequence)
        part = self.slices.pop(sequence.id, None)
        if part is None:
            return False
        new = len(part.tokens) - part.drafted
        if more := part.drafted + part.asked:
            self.budget.draft(part.start + new, -more)
            self._count_asked()
        self.budget.give_back(part.start, new, sample=part.sample)
        return True

    def _count_asked(self) -> None:
        asked = [part.asked for part in self.slices.values()]
        self.budget.ask(sum(asked), max(asked, default=0))

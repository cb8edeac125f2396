"""Where the engine's time goes, by the cost model: what its steps held, in seconds."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from tenfold.cost.machine import Machine
from tenfold.engine.inspection import StepRecord

MEANING = {
    "weights": "reading the weights, and what else every step takes, however many are in it",
    "prompts": "computing prompts",
    "tokens": "arithmetic for the sequences in decode",
    "keys": "reading keys and values of the sequences in decode",
    "drafts": "drafting, and checking drafted tokens",
    "engine": "scheduling, detokenizing and sending, outside of the model",
}


@dataclass(frozen=True, slots=True)
class Work:
    """Seconds by :data:`MEANING`'s parts; then, per token of a sequence in decode, how long its step lasted and how
    much of that was others' prompts; and how many sequences were in decode, on average over time."""

    weights: float = 0.0
    prompts: float = 0.0
    tokens: float = 0.0
    keys: float = 0.0
    drafts: float = 0.0
    engine: float = 0.0
    gap: float = 0.0
    interference: float = 0.0
    batch: float = 0.0
    span: float = 0.0  # from the first step's begin to the last one's end

    @property
    def total(self) -> float:
        """All parts."""
        return self.weights + self.prompts + self.tokens + self.keys + self.drafts + self.engine

    @property
    def busy(self) -> float:
        """Of the time, 0 to 1."""
        return min(1.0, self.total / self.span) if self.span > 0 else 0.0

    def parts(self) -> dict[str, float]:
        """Of the total, by part; the largest first."""
        total = self.total or 1.0
        found = {one.name: getattr(self, one.name) / total for one in fields(self) if one.name in MEANING}
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def work_of(steps: Sequence[StepRecord], machine: Machine) -> Work:
    """Of these steps, in their order."""
    if not steps:
        return Work()
    cost = machine.cost()
    weights = prompts = tokens = keys = drafts = engine = 0.0
    gaps = waits = decoded = decoding = 0.0
    for step in steps:
        fixed, row, each, sample, decode_key, prefill_key, draft_key, asked = cost.shares(step.shape, step.computing)
        prefill = step.prefill * row + step.prefill_keys * prefill_key + (each if step.prefill else 0.0)
        prefill += max(0, step.sampled - step.decode - step.drafted) * sample
        weights += fixed
        prompts += prefill
        tokens += step.decode * (row + each) + min(step.sampled, step.decode) * sample
        keys += step.decode_keys * decode_key
        drafts += step.drafted * (row + sample) + step.draft_keys * draft_key + step.asked * asked
        engine += step.seconds - step.computing
        if step.decode:
            gaps += step.decode * step.seconds
            waits += step.decode * prefill
            decoded += step.decode
            decoding += step.seconds
    return Work(
        weights,
        prompts,
        tokens,
        keys,
        drafts,
        engine,
        gap=gaps / decoded if decoded else 0.0,
        interference=waits / decoded if decoded else 0.0,
        batch=gaps / decoding if decoding else 0.0,
        span=steps[-1].began + steps[-1].seconds - steps[0].began,
    )

"""What a running server tells of itself, gathered for a diagnosis."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

from tenfold.core.config import SchedulerConfig
from tenfold.cost.machine import Machine
from tenfold.engine.inspection import StepRecord
from tenfold.observe.requests import ChoiceTimeline

_FEW = 8  # steps: of fewer nothing can be said

Counts = dict[tuple[str, tuple[tuple[str, str], ...]], float]  # by name and labels


def read_counts(text: str) -> Counts:
    """The samples of a Prometheus exposition."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def steps_of(steps: Sequence[StepRecord], now: float, seconds: float) -> tuple[list[StepRecord], bool]:
    """Those of the last ``seconds``; where these are too few all of them, and True: they are from before."""
    recent = [step for step in steps if step.began >= now - seconds]
    past = len(recent) < _FEW <= len(steps)
    return (list(steps) if past else recent), past


@dataclass(frozen=True, slots=True)
class Evidence:
    """``before`` and ``after`` are the metrics at the begin and the end of ``seconds``; ``steps`` those that were made
    meanwhile, or where there were none the last ones before (``past``); ``choices`` the answers that ended last."""

    seconds: float
    machine: Machine
    limits: SchedulerConfig
    steps: list[StepRecord]
    choices: list[ChoiceTimeline]
    before: Counts = field(default_factory=dict)
    after: Counts = field(default_factory=dict)
    calibrated: bool = True
    past: bool = False
    here: bool = False  # whether it runs on this machine

    def more(self, name: str, **labels: str) -> float:
        """By how much a counter grew, over all labels but those given."""
        return sum(
            value - self.before.get(key, 0.0) for key, value in self.after.items() if _matches(key, name, labels)
        )

    def by(self, name: str, label: str) -> dict[str, float]:
        """By how much a counter grew, by one of its labels."""
        found: dict[str, float] = {}
        for key, value in self.after.items():
            if key[0] == name and (grown := value - self.before.get(key, 0.0)) > 0:
                one = dict(key[1]).get(label, "")
                found[one] = found.get(one, 0.0) + grown
        return found

    def now(self, name: str, **labels: str) -> float | None:
        """A gauge at the end."""
        return next((value for key, value in self.after.items() if _matches(key, name, labels)), None)


def _matches(key: tuple[str, tuple[tuple[str, str], ...]], name: str, labels: Mapping[str, str]) -> bool:
    return key[0] == name and labels.items() <= dict(key[1]).items()

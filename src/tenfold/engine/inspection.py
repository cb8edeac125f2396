"""The engine looked into: what it knows of its machine, and the steps it made last."""

from collections import deque
from dataclasses import dataclass
from itertools import islice

import msgspec

from tenfold.cache.map import BlockMap
from tenfold.core.config import SchedulerConfig
from tenfold.cost.machine import Machine
from tenfold.cost.shape import StepShape
from tenfold.sched.live import LiveSequence

KEPT = 16_384  # steps: a minute or more
LIVE = 256  # sequences that are told of


class Detail(msgspec.Struct, frozen=True, kw_only=True):
    """What else is asked: only steps ``after`` so many since the start, what is ``live``, the ``pool``'s blocks."""

    after: int = 0
    live: bool = False
    pool: bool = False


PLAIN = Detail()


class StepRecord(msgspec.Struct, frozen=True):
    """A step: when it began and how long it lasted, until the next one began where there was something to do; how much
    of that the executor computed, and how long it was predicted to last, all in seconds on the engine's clock. Where
    steps overlap, one begins when the one before ends, and lasts until it ends itself.

    Then what was in it. ``running``, ``waiting`` and ``held`` (KV blocks) are as they were at its end."""

    began: float
    seconds: float
    computing: float
    predicted: float
    decode: int  # sequences
    prefill: int  # tokens of prompts
    sampled: int
    decode_keys: float
    prefill_keys: float
    running: int
    waiting: int
    held: int
    drafted: int = 0  # tokens
    accepted: int = 0  # of those
    draft_keys: float = 0.0
    asked: int = 0  # of the drafted ones, those of the draft model,
    passes: int = 0  # and in how many passes

    @property
    def shape(self) -> StepShape:
        """Its size, but for prompts: how many there were is not kept, and counts little."""
        rows, sequences = self.decode + self.prefill + self.drafted, self.decode + (self.prefill > 0)
        keys = self.decode_keys, self.prefill_keys, self.draft_keys
        return StepShape(rows, sequences, self.sampled, *keys, self.asked, self.passes)


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """``machine`` is what a simulation needs; ``calibrated`` whether its step times were measured on this machine.
    ``now`` is the engine's clock; ``steps`` are the last ones, the latest at the end, of ``made`` since the start;
    ``limits`` how it schedules. ``live`` and ``pool`` are there where they were asked for."""

    now: float
    calibrated: bool
    machine: Machine
    limits: SchedulerConfig
    steps: list[StepRecord]
    made: int = 0
    live: list[LiveSequence] = []
    pool: BlockMap | None = None

    def learned(self) -> Machine:
        """The machine with what its steps tell. Takes some three milliseconds for a thousand."""
        return self.machine.learned((step.shape, step.began, step.seconds) for step in self.steps)


@dataclass(slots=True)
class Step:
    """A step under way."""

    shape: StepShape
    began: float
    predicted: float
    prefill: int
    drafted: int = 0
    accepted: int = 0
    computing: float = 0.0
    seconds: float = 0.0
    running: int = 0
    waiting: int = 0
    held: int = 0


class StepLog:
    """The last steps, at most ``KEPT``."""

    def __init__(self) -> None:
        self._steps: deque[Step] = deque(maxlen=KEPT)  # told in full when somebody looks: that is rare
        self.made = 0  # since the start

    def add(self, step: Step) -> None:
        """It has ended."""
        self._steps.append(step)
        self.made += 1

    def latest(self, count: int, after: int = 0) -> list[Step]:
        """The last ``count`` of those that came after so many; where there were not so many, somebody else counted."""
        new = self.made - after if after <= self.made else self.made
        return list(islice(reversed(self._steps), min(count, new)))[::-1]


def records_of(steps: list[Step]) -> list[StepRecord]:
    """As they travel. Takes a microsecond each: nobody should wait for it."""
    return [
        StepRecord(
            began=step.began,
            seconds=step.seconds,
            computing=step.computing,
            predicted=step.predicted,
            decode=step.shape.rows - step.prefill - step.drafted,
            prefill=step.prefill,
            sampled=step.shape.sampled,
            decode_keys=step.shape.decode_keys,
            prefill_keys=step.shape.prefill_keys,
            running=step.running,
            waiting=step.waiting,
            held=step.held,
            drafted=step.drafted,
            accepted=step.accepted,
            draft_keys=step.shape.draft_keys,
            asked=step.shape.asked,
            passes=step.shape.passes,
        )
        for step in steps
    ]

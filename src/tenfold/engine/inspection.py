"""The engine looked into: what it knows of its machine, and the steps it made last."""

from collections import deque

import msgspec

from tenfold.cost.machine import Machine
from tenfold.cost.shape import StepShape

KEPT = 4096  # steps


class StepRecord(msgspec.Struct, frozen=True):
    """A step: when it began and what it took, in seconds on the engine's clock, what that was predicted to be, and what
    was in it. ``waiting`` and ``held`` (KV blocks) are as they were at its end."""

    began: float
    seconds: float
    predicted: float
    decode: int  # sequences
    prefill: int  # tokens of prompts
    sampled: int
    decode_keys: float
    prefill_keys: float
    waiting: int
    held: int


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """``machine`` is what a simulation needs; ``calibrated`` whether its step times were measured on this machine.
    ``now`` is the engine's clock; ``steps`` are the last ones, the latest at the end."""

    now: float
    calibrated: bool
    machine: Machine
    steps: list[StepRecord]


class StepLog:
    """The last steps, at most ``KEPT``."""

    def __init__(self) -> None:
        # As plain values: made in every step, looked at rarely.
        self._steps: deque[tuple[StepShape, float, float, float, int, int, int]] = deque(maxlen=KEPT)

    def add(
        self, shape: StepShape, began: float, seconds: float, predicted: float, prefill: int, waiting: int, held: int
    ) -> None:
        """A step of this shape was made, with so many ``prefill`` tokens."""
        self._steps.append((shape, began, seconds, predicted, prefill, waiting, held))

    def latest(self, count: int) -> list[StepRecord]:
        """The last ``count``."""
        last = list(self._steps)[max(0, len(self._steps) - count) :]
        return [
            StepRecord(
                began=began,
                seconds=seconds,
                predicted=predicted,
                decode=shape.rows - prefill,
                prefill=prefill,
                sampled=shape.sampled,
                decode_keys=shape.decode_keys,
                prefill_keys=shape.prefill_keys,
                waiting=waiting,
                held=held,
            )
            for shape, began, seconds, predicted, prefill, waiting, held in last
        ]

"""Decode steps as CUDA graphs: one per padded number of sequences, captured when it is first needed.

A graph replays a step's kernels with one call from the host; it reads and writes the memory that it was captured with,
so what differs from step to step lies in an :class:`~tenfold.ops.cuda.arena.Arena`.
"""

from bisect import bisect_left
from collections.abc import Callable
from typing import Any, Protocol

import torch

Step = Callable[[], torch.Tensor]


class Capture(Protocol):
    """Makes of a step, whose result is a tensor, one that can be repeated over the same memory."""

    def __call__(self, step: Step) -> Step:
        """The repeatable step."""
        ...


def sizes_up_to(most: int) -> tuple[int, ...]:
    """The padded numbers of sequences: 1, 2, 4, 8, then every 8 up to 64, 16 up to 256, 32 beyond."""
    sizes = [1, 2, 4]
    while sizes[-1] < most:
        last = sizes[-1]
        sizes.append(last + (4 if last == 4 else 8 if last < 64 else 16 if last < 256 else 32))
    return tuple(sizes)


class Graphs:
    """Owner of the captured steps. ``step(size)`` gives the step of so many sequences."""

    def __init__(self, most: int, step: Callable[[int], Step], capture: Capture) -> None:
        self._sizes = sizes_up_to(most)
        self._step = step
        self._capture = capture
        self._captured: dict[int, Step] = {}

    def padded(self, sequences: int) -> int | None:
        """The size that a batch of ``sequences`` is padded to; None where it is larger than all."""
        at = bisect_left(self._sizes, sequences)
        return self._sizes[at] if at < len(self._sizes) else None

    def run(self, size: int) -> torch.Tensor:
        """Run the step of ``size`` sequences; the first time it is captured."""
        captured = self._captured.get(size)
        if captured is None:
            captured = self._captured[size] = self._capture(self._step(size))
        return captured()

    @property
    def captured(self) -> tuple[int, ...]:
        """The sizes captured so far."""
        return tuple(sorted(self._captured))


class CudaCapture:
    """Captures on the current device; all graphs share one pool of memory, for only one runs at a time."""

    def __init__(self) -> None:
        self._pool: Any = None
        self._stream = torch.cuda.Stream()

    def __call__(self, step: Step) -> Step:
        """Runs the step once as it is (libraries allocate at first use), then captures it."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            step()
        current.wait_stream(self._stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            result = step()
        self._pool = graph.pool()

        def replay() -> torch.Tensor:
            graph.replay()
            return result

        return replay

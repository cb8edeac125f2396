"""Steps as CUDA graphs: one per size that a step is padded to, captured when it is first needed.

A graph replays a step's kernels with one call from the host; it reads and writes the memory that it was captured with,
so what differs from step to step lies in an :class:`~tenfold.ops.cuda.arena.Arena`. Steps of decode have sizes of their
own; steps with prompts or drafts have them up to as many rows as take the device less time than their launches take the
host.
"""

from bisect import bisect_left
from collections.abc import Callable, Hashable
from typing import Any, Protocol

import torch

from tenfold.ops.cuda.attention_plan import Padding

MOST_ROWS = 1024  # of a step with prompts or drafts: with more, the device computes longer than launching takes
_SEQUENCES = (16, 64)  # with prompts or drafts: these, and as many as there may be

Step = Callable[[], torch.Tensor]


class Capture(Protocol):
    """Makes of a step, whose result is a tensor, one that can be repeated over the same memory."""

    def __call__(self, step: Step) -> Step:
        """The repeatable step."""
        ...


def sizes_up_to(most: int) -> tuple[int, ...]:
    """The padded numbers of sequences in decode: 1, 2, 4, 8, then every 8 up to 64, 16 up to 256, 32 beyond."""
    sizes = [1, 2, 4]
    while sizes[-1] < most:
        last = sizes[-1]
        sizes.append(last + (4 if last == 4 else 8 if last < 64 else 16 if last < 256 else 32))
    return tuple(sizes)


def rows_up_to(most: int) -> tuple[int, ...]:
    """The padded numbers of rows of steps with prompts or drafts: 4, 8, 16, 32, 64, then every 64 up to 512, 128 up to
    MOST_ROWS; ``most`` is the last where it is less."""
    sizes = (4, 8, 16, 32, *range(64, 513, 64), *range(640, MOST_ROWS + 1, 128))
    end = min(most, sizes[-1])
    return (*(size for size in sizes if size < end), end)


def sequences_up_to(most: int) -> tuple[int, ...]:
    """The padded numbers of sequences of such steps; as many rows' logits are computed."""
    return (*(size for size in _SEQUENCES if size < most), most)


class Graphs:
    """Owner of the captured steps, of up to ``most_rows`` rows of ``most`` sequences."""

    def __init__(self, most: int, most_rows: int, capture: Capture) -> None:
        self._sizes = sizes_up_to(most)
        self._sequences = sequences_up_to(most)
        self._rows = rows_up_to(most_rows)
        self._capture = capture
        self._captured: dict[Hashable, Step] = {}

    def decode(self, sequences: int) -> Padding | None:
        """What decode of so many sequences is padded to; None where there are more than in any graph."""
        size = _least(self._sizes, sequences)
        return None if size is None else Padding(size, size, decode=True)

    def mixed(self, rows: int, sequences: int, wanted: int) -> Padding | None:
        """What another step of so many rows, and logits of ``wanted`` of them, is padded to; None as above."""
        size, most = _least(self._rows, rows), _least(self._sequences, max(sequences, wanted))
        return None if size is None or most is None else Padding(size, min(size, most), decode=False)

    def run(self, key: Hashable, step: Step) -> torch.Tensor:
        """Run the step of ``key``: the first time ``step`` is captured, later it is taken to be the same."""
        captured = self._captured.get(key)
        if captured is None:
            captured = self._captured[key] = self._capture(step)
        return captured()

    @property
    def captured(self) -> tuple[Hashable, ...]:
        """Keys of the steps captured so far, in that order."""
        return tuple(self._captured)


def _least(sizes: tuple[int, ...], number: int) -> int | None:
    at = bisect_left(sizes, number)
    return sizes[at] if at < len(sizes) else None


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

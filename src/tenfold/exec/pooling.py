"""From hidden states to embeddings of whole texts."""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from tenfold.core.plan import SequenceSlice, SequenceStart, StepResult
from tenfold.core.request import Pooling
from tenfold.ops.base import HiddenStates


class Pooler:
    """Owner of the sums of what was computed so far of texts whose embedding is asked for.

    A text's embedding depends on its hidden states alone, not on how it was cut into chunks: the states are summed in
    double precision, in their order.
    """

    def __init__(self, ops: HiddenStates) -> None:
        self._ops = ops
        self._poolings: dict[str, Pooling] = {}
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._vectors: dict[str, bytes] = {}  # of texts that end with this step

    def start(self, start: SequenceStart) -> None:
        """Get to know a sequence, if it is one of these."""
        if start.pooling is not None:
            self._poolings[start.id] = start.pooling

    def end(self, sequence: str) -> None:
        """Forget it."""
        if self._poolings.pop(sequence, None) is not None:
            self._sums.pop(sequence, None)
            self._vectors.pop(sequence, None)

    def wants(self, slices: Sequence[SequenceSlice]) -> bool:
        """Whether hidden states of the step of these slices are to be looked at."""
        return bool(self._poolings) and any(map(self._takes, slices))

    def _takes(self, part: SequenceSlice) -> bool:
        pooling = self._poolings.get(part.id)
        return pooling == "mean" or (pooling == "last" and part.sample)

    def take(self, slices: Sequence[SequenceSlice]) -> None:
        """Look at the hidden states of the step that was computed last."""
        wanted: list[tuple[SequenceSlice, range]] = []  # and which rows of the step it takes
        end = 0
        for part in slices:
            begin, end = end, end + len(part.tokens)
            if self._takes(part):
                wanted.append((part, range(begin if self._poolings[part.id] == "mean" else end - 1, end)))
        if not wanted:
            return
        found = self._ops.final_hidden(np.concatenate([np.array(rows, np.int32) for _, rows in wanted]))
        at = 0
        for part, rows in wanted:
            at += len(rows)
            states = found[at - len(rows) : at].astype(np.float64)
            if self._poolings[part.id] == "mean":
                if part.start:  # else it begins, perhaps anew
                    states = np.concatenate((self._sums[part.id][None], states))
                states = np.add.accumulate(states, axis=0)
                self._sums[part.id] = states[-1].copy()
            if part.sample:
                self._vectors[part.id] = unit(states[-1])

    def give(self, result: StepResult) -> StepResult:
        """The same with the embeddings of the texts that ended."""
        vectors = self._vectors
        if not vectors:
            return result
        sampled = [
            msgspec.structs.replace(token, embedding=vectors[token.id]) if token.id in vectors else token
            for token in result.sampled
        ]
        self._vectors = {}
        return StepResult(tuple(sampled), result.failed)


def unit(vector: NDArray[np.float64]) -> bytes:
    """A vector made as long as 1, as little-endian float32. One of zeros stays as it is."""
    length = float(np.sqrt(np.square(vector).sum()))
    return (vector / length if length else vector).astype("<f4").tobytes()

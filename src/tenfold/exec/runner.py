"""The executor of real models: plan → flat arrays → forward pass → sampler."""

import numpy as np

from tenfold.core.laps import NO_LAPS, Laps
from tenfold.core.plan import SequenceSlice, StepPlan, StepResult
from tenfold.exec.sampler import Sampler
from tenfold.model.decoder import forward
from tenfold.ops.base import Batch, Int32, Ops


class ModelRunner:
    """Runs one model over its paged KV memory. See :class:`tenfold.exec.executor.Executor`."""

    def __init__(self, ops: Ops, blocks: int, block_size: int, laps: Laps = NO_LAPS) -> None:
        self._ops = ops
        self._laps = laps
        self._kv = ops.new_kv(blocks, block_size)
        self._sampler = Sampler(ops.spec.vocab, ops)
        self._tables: dict[str, tuple[tuple[int, ...], Int32]] = {}

    def execute(self, plan: StepPlan) -> StepResult:
        """Compute one step."""
        for sequence in plan.ended:
            self._sampler.end(sequence)
            self._tables.pop(sequence, None)
        for start in plan.started:
            self._sampler.start(start)
        sampling = tuple(part.id for part in plan.slices if part.sample)
        batch = self._batch(plan.slices)
        self._laps.lap("batch")
        logits = forward(self._ops, self._kv, batch)
        self._laps.lap("forward")
        result = self._sampler.sample(sampling, logits)
        self._laps.lap("sample")
        return result

    def _batch(self, slices: tuple[SequenceSlice, ...]) -> Batch:
        counts = np.array([len(part.tokens) for part in slices], dtype=np.int32)
        begins = np.array([part.start for part in slices], dtype=np.int32)
        starts = np.zeros(len(slices) + 1, dtype=np.int32)
        np.cumsum(counts, out=starts[1:])
        tokens = np.fromiter((t for part in slices for t in part.tokens), dtype=np.int32, count=int(starts[-1]))
        positions = np.arange(starts[-1], dtype=np.int32) + np.repeat(begins - starts[:-1], counts)
        tables = np.zeros((len(slices), max(len(part.blocks) for part in slices)), dtype=np.int32)
        for row, part in zip(tables, slices, strict=True):
            row[: len(part.blocks)] = self._table(part)
        sampled = np.array([part.sample for part in slices], dtype=bool)
        rows = (starts[1:] - 1)[sampled]
        return Batch(tokens, positions.astype(np.int32), starts, begins + counts, tables, rows)

    def _table(self, part: SequenceSlice) -> Int32:
        """The slice's block table as an array, made anew only when it changed."""
        known = self._tables.get(part.id)
        if known is None or known[0] is not part.blocks:
            known = self._tables[part.id] = (part.blocks, np.array(part.blocks, dtype=np.int32))
        return known[1]

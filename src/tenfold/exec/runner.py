"""The executor of real models: plan → flat arrays → forward pass → sampler."""

from tenfold.core.laps import NO_LAPS, Laps
from tenfold.core.plan import StepPlan, StepResult
from tenfold.exec.batches import Batches
from tenfold.exec.sampler import Sampler
from tenfold.model.decoder import forward_of
from tenfold.ops.base import Ops


class ModelRunner:
    """Runs one model over its paged KV memory. See :class:`tenfold.exec.executor.Executor`."""

    def __init__(self, ops: Ops, blocks: int, block_size: int, laps: Laps = NO_LAPS) -> None:
        self._laps = laps
        self._forward = forward_of(ops)
        self._kv = ops.new_kv(blocks, block_size)
        self._sampler = Sampler(ops.spec.vocab, ops)
        self._batches = Batches()

    def execute(self, plan: StepPlan) -> StepResult:
        """Compute one step."""
        for sequence in plan.ended:
            self._sampler.end(sequence)
        for start in plan.started:
            self._sampler.start(start)
        if not plan.slices:
            return StepResult(())
        batch = self._batches.make(plan.slices)
        self._laps.lap("batch")
        logits = self._forward(batch, self._kv)
        self._laps.lap("forward")
        result = self._sampler.sample([part for part in plan.slices if part.sample], logits)
        self._laps.lap("sample")
        return result

"""The executor of real models: plan → drafts → flat arrays → forward pass → sampler."""

from tenfold.core.laps import NO_LAPS, Laps
from tenfold.core.plan import StepPlan, StepResult
from tenfold.exec.batches import Batches
from tenfold.exec.drafter import Drafter, DraftModel
from tenfold.exec.sampler import Sampler
from tenfold.grammar.grammars import Grammars
from tenfold.model.decoder import forward_of
from tenfold.ops.base import Ops


class ModelRunner:
    """Runs one model over its paged KV memory. See :class:`tenfold.exec.executor.Executor`."""

    def __init__(
        self,
        ops: Ops,
        blocks: int,
        block_size: int,
        laps: Laps = NO_LAPS,
        draft_model: DraftModel | None = None,
        grammars: Grammars | None = None,
    ) -> None:
        self._laps = laps
        self._forward = forward_of(ops)
        self._kv = ops.new_kv(blocks, block_size)
        self._sampler = Sampler(ops.spec.vocab, ops, grammars)
        self._batches = Batches()
        self._drafter: Drafter | None = None
        if draft_model is not None:
            self._drafter = Drafter(draft_model, blocks, block_size, self._sampler)

    def execute(self, plan: StepPlan) -> StepResult:
        """Compute one step."""
        drafter, slices = self._drafter, plan.slices
        for sequence in plan.ended:
            self._sampler.end(sequence)
            if drafter is not None:
                drafter.end(sequence)
        for start in plan.started:
            self._sampler.start(start)
            if drafter is not None:
                drafter.start(start)
        if not slices:
            return StepResult(())
        if drafter is not None:
            drafter.follow(slices)
            slices = drafter.draft(slices)
            self._laps.lap("draft")
        batch = self._batches.make(slices)
        self._laps.lap("batch")
        logits = self._forward(batch, self._kv)
        self._laps.lap("forward")
        result = self._sampler.sample([part for part in slices if part.sample], logits)
        self._laps.lap("sample")
        return result

"""The executor of real models: plan → drafts → flat arrays → forward pass → sampler."""

from tenfold.core.laps import NO_LAPS, Laps
from tenfold.core.plan import StepPlan, StepResult
from tenfold.exec.batches import Batches
from tenfold.exec.drafter import Drafter, DraftModel
from tenfold.exec.executor import Launched
from tenfold.exec.pooling import Pooler
from tenfold.exec.sampler import Drawing, Sampler
from tenfold.grammar.grammars import Grammars
from tenfold.model.decoder import forward, forward_of
from tenfold.ops.base import HiddenStates, Ops


class ModelRunner:
    """Runs one model over its paged KV memory. See :class:`tenfold.exec.executor.Executor`.

    ``spare_core``: there is one that the forward pass leaves to others; masks are then made meanwhile. On a core that
    it computes on they would hold the pass up by more than they take afterwards.
    """

    def __init__(
        self,
        ops: Ops,
        blocks: int,
        block_size: int,
        laps: Laps = NO_LAPS,
        draft_model: DraftModel | None = None,
        grammars: Grammars | None = None,
        spare_core: bool = False,
    ) -> None:
        self._laps = laps
        self._spare_core = spare_core
        self._ops = ops
        self._forward = forward_of(ops)
        self._kv = ops.new_kv(blocks, block_size)
        self._sampler = Sampler(ops.spec.vocab, ops, grammars)
        self._batches = Batches()
        self._pooler = Pooler(ops) if isinstance(ops, HiddenStates) else None
        self._drafter: Drafter | None = None
        if draft_model is not None:
            self._drafter = Drafter(draft_model, blocks, block_size, self._sampler)

    @property
    def pools(self) -> bool:
        """Whether embeddings can be had."""
        return self._pooler is not None

    def execute(self, plan: StepPlan) -> StepResult:
        """Compute one step."""
        drawing = self._begin(plan)
        if drawing is None:
            return StepResult(())
        result = self._sampler.finish(drawing)
        if self._pooler is not None:
            result = self._pooler.give(result)
        self._laps.lap("sample")
        return result

    def _begin(self, plan: StepPlan) -> Drawing | None:
        """Have the ops compute a step, as far as they do that while they are waited for; None without slices."""
        drafter, pooler, slices = self._drafter, self._pooler, plan.slices
        for sequence in plan.ended:
            self._sampler.end(sequence)
            if pooler is not None:
                pooler.end(sequence)
            if drafter is not None:
                drafter.end(sequence)
        for start in plan.started:
            self._sampler.start(start)
            if pooler is not None:
                pooler.start(start)
            if drafter is not None:
                drafter.start(start)
        if not slices:
            return None
        if drafter is not None:
            drafter.follow(slices)
            slices = drafter.draft(slices)
            self._laps.lap("draft")
        batch = self._batches.make(slices)
        if self._spare_core:
            self._sampler.foresee(slices)
        self._laps.lap("batch")
        if pooler is not None and pooler.wants(slices):  # hidden states, which a whole pass does not leave
            logits = forward(self._ops, self._kv, batch)
            pooler.take(slices)
        else:
            logits = self._forward(batch, self._kv)
        self._laps.lap("forward")
        return self._sampler.begin([part for part in slices if part.sample], logits)


class LaunchingRunner(ModelRunner):
    """The same over ops that compute by themselves. See :class:`tenfold.exec.executor.Overlapping`."""

    def launch(self, plan: StepPlan) -> Launched:
        """Begin to compute one step."""
        return _Begun(self._sampler, self._begin(plan))


class _Begun:
    __slots__ = ("_drawing", "_sampler")

    def __init__(self, sampler: Sampler, drawing: Drawing | None) -> None:
        self._sampler = sampler
        self._drawing = drawing

    def result(self) -> StepResult:
        return StepResult(()) if self._drawing is None else self._sampler.finish(self._drawing)

"""Steps that are made before there are requests, so that none of them waits for a kernel to be compiled."""

from collections.abc import Iterator

from tenfold.core.config import SchedulerConfig
from tenfold.core.plan import SequenceSlice, SequenceStart, StepPlan
from tenfold.core.sampling import SamplingParams
from tenfold.exec.executor import Executor
from tenfold.ops.cuda.graphs import rows_up_to, sequences_up_to, sizes_up_to

_DRAFTED = 16  # rows of one sequence with drafts
_FEW = 40  # rows of a chunk whose keys are not worth copying
_GREEDY = SamplingParams(temperature=0.0, max_tokens=1)
_DRAWN = SamplingParams(temperature=0.8, top_k=40, top_p=0.9, max_tokens=1)
_TOLD = SamplingParams(temperature=1.0, frequency_penalty=0.1, logprobs=1, max_tokens=1)


def warm_up(executor: Executor, limits: SchedulerConfig, max_context: int, blocks: int, block_size: int) -> None:
    """Compute a step of each kind and size on the CUDA backend: of decode, then with prompts and drafts, largest first.

    What it writes to keys and values is in blocks that nobody has yet; no sequence is left.
    """
    context = min(max_context, blocks * block_size)
    for plan in _plans(limits, context, block_size):
        executor.execute(plan)
        executor.execute(StepPlan((), (), tuple(start.id for start in plan.started)))


def _plans(limits: SchedulerConfig, context: int, block_size: int) -> Iterator[StepPlan]:
    most_rows, most = min(limits.max_step_tokens, context // 2), limits.max_running
    for rows in reversed(rows_up_to(most_rows)):
        for sequences in reversed(sequences_up_to(most)):
            beside = min(sequences, most) - 1  # steps of decode beside a prompt
            if beside < rows:
                yield _plan([(0, rows - beside), *[(1, 1)] * beside], _GREEDY, block_size)
        if rows <= _DRAFTED:
            yield _plan([(1, rows)], _GREEDY, block_size)
    for size in reversed(sizes_up_to(most)):
        for params in (_GREEDY, _DRAWN, _TOLD) if size in (1, 8, 64) else (_GREEDY,):
            yield _plan([(0, 1)] * min(size, most), params, block_size)
    rows = 2 * rows_up_to(most_rows)[-1]
    while rows <= limits.max_step_tokens:  # too many for a graph: prompts, next chunks of some, a few rows beside them
        prompts = min(most, -(-rows // context))
        each = min(context, rows // prompts)
        yield _plan([(0, each)] * prompts, _DRAWN, block_size)
        yield _plan([(each // 2, each - each // 2)] * min(most, 2 * prompts), _GREEDY, block_size)
        if each > _FEW and most > 1:
            parts = [(0, each - _FEW), (each - _FEW, _FEW), *[(0, each)] * (prompts - 1)]
            yield _plan(parts[:most], _GREEDY, block_size)
        rows *= 2


def _plan(parts: list[tuple[int, int]], params: SamplingParams, block_size: int) -> StepPlan:
    """A step of sequences of so many tokens that are known, and as many new ones; all in the first blocks."""
    slices = [
        SequenceSlice(f"warming {i}", start, (0,) * new, tuple(range(-(-(start + new) // block_size))), sample=True)
        for i, (start, new) in enumerate(parts)
    ]
    return StepPlan(tuple(slices), tuple(SequenceStart(part.id, (0,), params, 0, ()) for part in slices), ())

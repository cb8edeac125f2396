"""Steps that are made before there are requests, so that hardly one of them waits for a kernel to be compiled, or a
graph to be captured.

What a step needs of the CUDA backend follows from its rows and sequences, from how many flat rows (rows x query heads
of a KV head) its sequences of few rows have, and, where it is too large for a graph, from how its prompts are cut.
"""

from collections.abc import Iterator

from tenfold.core.config import SchedulerConfig
from tenfold.core.plan import SequenceSlice, SequenceStart, StepPlan
from tenfold.core.sampling import SamplingParams
from tenfold.exec.executor import Executor
from tenfold.ops.cuda.attention_plan import KEY_TILE, SHORT_ROWS
from tenfold.ops.cuda.graphs import MOST_ROWS, rows_up_to, sequences_up_to, sizes_up_to

Parts = list[tuple[int, int]]  # of each sequence: tokens that are known, new ones

_DRAFTS = 64  # rows up to which steps are expected whose longest sequence of few rows is one with drafts
_GREEDY = SamplingParams(temperature=0.0, max_tokens=1)
_DRAWN = SamplingParams(temperature=0.8, top_k=40, top_p=0.9, max_tokens=1)
_TOLD = SamplingParams(temperature=1.0, frequency_penalty=0.1, logprobs=1, max_tokens=1)


def warm_up(
    executor: Executor, limits: SchedulerConfig, max_context: int, blocks: int, block_size: int, group: int
) -> None:
    """Compute a step of each kind and size on the CUDA backend, largest first. ``group``: query heads per KV head.

    What it writes to keys and values is in blocks that nobody has yet; no sequence is left.
    """
    context = min(max_context, blocks * block_size)
    for parts, params in steps(limits, context, group):
        plan = _plan(parts, params, block_size)
        executor.execute(plan)
        executor.execute(StepPlan((), (), tuple(start.id for start in plan.started)))


def steps(limits: SchedulerConfig, context: int, group: int) -> Iterator[tuple[Parts, SamplingParams]]:
    """All of them: with prompts or drafts in graphs, decode, prompts in steps that are too large for graphs."""
    yield from ((parts, _GREEDY) for parts in _captured(limits, context, group))
    for size in reversed(sizes_up_to(limits.max_running)):
        for params in (_GREEDY, _DRAWN, _TOLD) if size in (1, 8, 64) else (_GREEDY,):
            yield [(0, 1)] * min(size, limits.max_running), params
    yield from ((parts, _DRAWN) for parts in _launched(limits, context, group))


def _captured(limits: SchedulerConfig, context: int, group: int) -> Iterator[Parts]:
    for rows in reversed(rows_up_to(limits.max_step_tokens)):
        sizes = sequences_up_to(limits.max_running)
        for fewer, sequences in reversed(list(zip((0, *sizes), sizes, strict=False))):
            if fewer < rows:
                for flat in (16, 64, 32) if rows <= _DRAFTS else (16, 64):
                    parts = _parts(rows, range(fewer + 1, min(sequences, rows) + 1), flat, context, group)
                    if parts is not None:
                        yield parts


def _parts(rows: int, sequences: range, flat: int, context: int, group: int) -> Parts | None:
    """A step of so many rows of sequences whose split programs have ``flat`` rows: some with few rows, of which one has
    that many, and prompts or none; None where there is none."""
    least = SHORT_ROWS // group + 1  # rows of a prompt in tiles
    for few in range(min(context - 1, flat // group), flat // 2 // group if flat > 16 else 0, -1):
        for count in (count for count in sequences if count < rows):
            if few + count - 1 <= rows <= few * count:
                return [(1, few), *((1, new) for _, new in _cut(rows - few, count - 1))]
            for prompts in range(1, min(count - 1, rows // context + 1) + 1):
                left = rows - few - (count - 1 - prompts)
                if prompts * least <= left <= prompts * context:
                    return [(1, few), *[(1, 1)] * (count - 1 - prompts), *_cut(left, prompts)]
    return None


def _launched(limits: SchedulerConfig, context: int, group: int) -> Iterator[Parts]:
    """New prompts, next chunks and small ones, beside as many rows of others as make a step too large for a graph."""
    few, chunk = max(1, SHORT_ROWS // group), SHORT_ROWS // group + 1
    rows = KEY_TILE
    while rows < 2 * limits.max_step_tokens:
        rows = min(rows, limits.max_step_tokens)
        beside = [(1, few)] * -(-max(0, MOST_ROWS + 1 - rows) // few)
        prompts = -(-rows // context)
        for parts in (
            _cut(rows, prompts),
            [(new, new) for _, new in _cut(rows, 2 * prompts)],
            [*_cut(rows - chunk, prompts), (KEY_TILE, chunk)] if rows - chunk >= KEY_TILE else [],
        ):
            step = [*parts, *beside]
            if (
                parts
                and MOST_ROWS < sum(new for _, new in step) <= limits.max_step_tokens
                and len(step) <= limits.max_running
                and all(sum(part) <= context for part in step)
            ):
                yield step
        rows *= 2


def _cut(rows: int, prompts: int) -> Parts:
    """So many rows as new prompts of equal lengths."""
    return [(0, rows // prompts + (i < rows % prompts)) for i in range(prompts)]


def _plan(parts: Parts, params: SamplingParams, block_size: int) -> StepPlan:
    """The step, all of it in the first blocks."""
    slices = [
        SequenceSlice(f"warming {i}", start, (0,) * new, tuple(range(-(-(start + new) // block_size))), sample=True)
        for i, (start, new) in enumerate(parts)
    ]
    return StepPlan(tuple(slices), tuple(SequenceStart(part.id, (0,), params, 0, ()) for part in slices), ())

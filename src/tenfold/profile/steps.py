"""A forward pass of one shape, measured op by op."""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from tenfold.core.clock import Clock
from tenfold.core.errors import ConfigError
from tenfold.exec.memory import free_memory, token_bytes
from tenfold.model.decoder import forward
from tenfold.ops.base import Batch, Kv
from tenfold.ops.cpu import CpuOps
from tenfold.ops.limits import MachineLimits
from tenfold.ops.work import OPS, Matrix, OpWork, Span, matrices_of, model_matrices, step_work
from tenfold.profile.roofline import Roof, roof_of, working_set

BETWEEN = "between ops"  # calls from Python, and checking and copying the batch
BLOCK = 16
_FILL = 512  # tokens whose keys and values are written at a time
_BUDGET = 2.0  # seconds for a shape's passes; a slow one gets fewer, at least three
_FEWEST = 3


@dataclass(frozen=True, slots=True)
class Shape:
    """``decode``: ``rows`` sequences of ``context`` tokens each; ``prefill``: one prompt of ``rows`` tokens."""

    phase: str
    rows: int
    context: int

    @property
    def sequences(self) -> int:
        """How many take part."""
        return 1 if self.phase == "prefill" else self.rows

    @property
    def spans(self) -> tuple[Span, ...]:
        """What each sequence computes."""
        return (Span(self.rows // self.sequences, self.context),) * self.sequences

    @property
    def title(self) -> str:
        """For people."""
        return f"prefill {self.rows}" if self.phase == "prefill" else f"decode {self.rows} x {self.context}"


@dataclass(frozen=True, slots=True)
class OpProfile:
    """Of one op over all layers; ``seconds`` is a median, ``work`` and ``roof`` are None for what has no kernel.

    ``kernel`` says what ran, within the model's kernel level: ``int4 g32 affine, 8 rows``.
    """

    op: str
    kernel: str
    seconds: float
    work: OpWork | None = None
    roof: Roof | None = None

    @property
    def limit_share(self) -> float:
        """The part of the machine's limit that is reached, 0 … 1."""
        return self.roof.seconds / self.seconds if self.roof and self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class StepProfile:
    """One shape. ``read_rate`` is what the step's working set can be read at, in bytes per second."""

    shape: Shape
    read_rate: float
    ops: tuple[OpProfile, ...]

    @property
    def seconds(self) -> float:
        """The step: the sum of its ops' medians."""
        return sum(op.seconds for op in self.ops)

    @property
    def roof_seconds(self) -> float:
        """The sum of the ops' limits."""
        return sum(op.roof.seconds for op in self.ops if op.roof)

    @property
    def tokens_per_second(self) -> float:
        """Rows computed per second."""
        return self.shape.rows / self.seconds


def shapes(batches: Iterable[int], contexts: Iterable[int], prefills: Iterable[int], most: int) -> list[Shape]:
    """Every batch at every context, then the prompts. Raises ConfigError where one has more than ``most`` tokens."""
    found = [Shape("decode", batch, context) for batch in batches for context in contexts]
    found += [Shape("prefill", tokens, tokens) for tokens in prefills]
    if too_long := [shape for shape in found if shape.context > most]:
        raise ConfigError(f"{too_long[0].title} does not fit this model's context of {most} tokens: ask for less")
    return found


def profile_steps(
    ops: CpuOps,
    wanted: list[Shape],
    limits: MachineLimits,
    clock: Clock,
    repeats: int,
    on_step: Callable[[StepProfile], None] = lambda _: None,
) -> list[StepProfile]:
    """Measure each shape: ``repeats`` passes, medians. Raises ConfigError where memory does not hold the largest."""
    largest = max(wanted, key=blocks_of)
    blocks = blocks_of(largest)
    needed, free = blocks * BLOCK * token_bytes(ops.spec, ops.kv_type), free_memory()
    if needed > free:
        raise ConfigError(
            f"{largest.title} needs {needed / 2**30:.1f} GiB for keys and values, but {free / 2**30:.1f} GiB are free: "
            "ask for fewer sequences or tokens"
        )
    kv = ops.new_kv(blocks, BLOCK)
    fill(ops, kv, blocks)
    found = []
    for shape in wanted:
        found.append(_profile(ops, kv, shape, limits, clock, repeats))
        on_step(found[-1])
    return found


def blocks_of(shape: Shape) -> int:
    """KV blocks of ``BLOCK`` tokens that a shape's sequences take."""
    return shape.sequences * -(-shape.context // BLOCK)


def _profile(ops: CpuOps, kv: Kv, shape: Shape, limits: MachineLimits, clock: Clock, repeats: int) -> StepProfile:
    batch = batch_of(shape, ops.spec.vocab)
    timed_pass(ops, kv, batch, clock)  # warms up
    runs: list[dict[str, float]] = []
    began = clock.now()
    while len(runs) < repeats and (len(runs) < _FEWEST or clock.now() - began < _BUDGET):
        runs.append(timed_pass(ops, kv, batch, clock))
    seconds = {op: statistics.median(run[op] for run in runs) for op in (*OPS, BETWEEN)}
    matrices = model_matrices(ops.model, shape.rows, shape.sequences)
    arithmetic = ops.model.attend_arithmetic(ops.kv_type)
    work = step_work(ops.spec, matrices, shape.spans, ops.kv_type, arithmetic)
    rate = limits.read_rate(working_set(work.values()))
    kernels = {op: _linear(op, matrices) for op in OPS}
    kernels["attend"] = f"{arithmetic}, keys {ops.kv_type}"
    kernels["embed"] = f"rows of {matrices[0].format}"
    profiles = [OpProfile(op, kernels[op], seconds[op], work[op], roof_of(work[op], limits, rate)) for op in OPS]
    return StepProfile(shape, rate, (*profiles, OpProfile(BETWEEN, "Python", seconds[BETWEEN])))


def _linear(op: str, matrices: Iterable[Matrix]) -> str:
    """``int4 g32 affine, 8 rows``: the formats that the op's matrices have, and rows served by one pass over them."""
    mine = matrices_of(op, matrices)
    formats = " + ".join(dict.fromkeys(matrix.format for matrix in mine))
    at_once = min((matrix.rows_at_once for matrix in mine), default=1)
    return f"{formats}, {at_once} row{'s' if at_once > 1 else ''}"


def timed_pass(ops: CpuOps, kv: Kv, batch: Batch, clock: Clock) -> dict[str, float]:
    """Seconds of each op, and of what lies between them, in one pass."""
    ops.model.record(True)
    began = clock.now()
    forward(ops, kv, batch)
    total = clock.now() - began
    ops.model.record(False)
    spent = {op: nanoseconds * 1e-9 for op, (_, nanoseconds) in ops.model.timings().items()}
    found = {op: spent[op] for op in OPS}
    return found | {BETWEEN: max(0.0, total - sum(found.values()))}


def batch_of(shape: Shape, vocab: int) -> Batch:
    """The shape's batch, every sequence in blocks of its own."""
    sequences, blocks = shape.sequences, -(-shape.context // BLOCK)
    prefill = shape.phase == "prefill"
    starts = np.array([0, shape.rows]) if prefill else np.arange(shape.rows + 1)
    positions = np.arange(shape.rows) if prefill else np.full(shape.rows, shape.context - 1)
    return Batch(
        tokens=(np.arange(shape.rows, dtype=np.int32) * 17 + 1000) % vocab,
        positions=positions.astype(np.int32),
        starts=starts.astype(np.int32),
        context=np.full(sequences, shape.context, dtype=np.int32),
        tables=np.arange(sequences * blocks, dtype=np.int32).reshape(sequences, blocks),
        rows=(starts[1:] - 1).astype(np.int32),
    )


def fill(ops: CpuOps, kv: Kv, blocks: int, block_size: int = BLOCK) -> None:
    """Write keys and values everywhere: memory never written is not really there, and reading it costs nothing."""
    most = ops.spec.max_context
    at_once = max(1, min(_FILL, most) // block_size)
    for first in range(0, blocks, at_once):
        table = np.arange(first, min(blocks, first + at_once), dtype=np.int32).reshape(1, -1)
        count = min(table.size * block_size, most)
        batch = Batch(
            tokens=(np.arange(count, dtype=np.int32) * 17 + 1000 + first) % ops.spec.vocab,
            positions=np.arange(count, dtype=np.int32),
            starts=np.array([0, count], dtype=np.int32),
            context=np.array([count], dtype=np.int32),
            tables=table,
            rows=np.array([count - 1], dtype=np.int32),
        )
        x = ops.embed(batch)
        for layer in range(ops.spec.layers):
            ops.qkv(layer, x, batch, kv)

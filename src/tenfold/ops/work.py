"""What a step has to do at least: bytes to move and multiply-adds to make, op by op.

Counted are the weight matrices as packed in memory, keys and values once per sequence, float32 activations once in and
once out of each op, and the multiply-adds of matrices and attention. Norms, rotations, biases and softmax are left
out: they are under one percent of either.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tenfold.core.errors import ConfigError
from tenfold.ops.spec import ModelSpec

if TYPE_CHECKING:
    from tenfold import _native

OPS = ("embed", "qkv", "attend", "attn_out", "mlp", "logits")
_MATRICES = {"qkv": ("q", "k", "v"), "attn_out": ("o",), "mlp": ("gate", "up", "down"), "logits": ("head",)}
_FLOAT = 4
_NUMBER = {"bf16": 2, "fp8": 1, "int8": 1}  # of keys and values
_SCALE = 2  # of an 8-bit key, and of a value
_ATTEND_BYTES = {"int8": 2}  # of a query's value or a softmax weight; the kernel multiplies each of them apart


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight matrix [outputs, inputs] of ``size`` packed bytes, and how it is multiplied by.

    ``rows_at_once`` rows of activations are served by one pass over it; ``arithmetic`` is a key of
    :attr:`tenfold.ops.limits.MachineLimits.macs`. ``layer`` -1 is outside the layers.
    """

    layer: int
    name: str
    format: str
    arithmetic: str
    outputs: int
    inputs: int
    size: int
    rows_at_once: int

    @property
    def macs(self) -> int:
        """Multiply-adds for one row."""
        return self.outputs * self.inputs


@dataclass(frozen=True, slots=True)
class Span:
    """A sequence's part of a step: ``new`` tokens, the last ones of ``context``."""

    new: int
    context: int


@dataclass(slots=True)
class OpWork:
    """Of one op over all layers: bytes of each sort, and multiply-adds by arithmetic."""

    weights: int = 0
    kv_read: int = 0
    kv_written: int = 0
    activations: int = 0
    macs: dict[str, int] = field(default_factory=dict)

    @property
    def moved(self) -> int:
        """Bytes that come from, or go to, memory: all but the activations, which stay in a cache."""
        return self.weights + self.kv_read + self.kv_written

    def add_macs(self, arithmetic: str, macs: int) -> None:
        """Count ``macs`` more."""
        self.macs[arithmetic] = self.macs.get(arithmetic, 0) + macs


def model_matrices(model: "_native.Model", rows: int, sampled: int) -> tuple[Matrix, ...]:
    """The model's matrices as a step of ``rows`` rows uses them, of which the head takes ``sampled``; ``head`` is the
    embedding again where it is tied."""
    of_all, of_sampled = ([Matrix(*fields) for fields in model.matrices(count)] for count in (rows, sampled))
    return tuple(of_all[i] if matrix.name != "head" else matrix for i, matrix in enumerate(of_sampled))


def matrices_of(op: str, matrices: Iterable[Matrix]) -> list[Matrix]:
    """Those that ``op`` multiplies by."""
    return [matrix for matrix in matrices if matrix.name in _MATRICES.get(op, ())]


def step_work(
    spec: ModelSpec, matrices: Iterable[Matrix], spans: Iterable[Span], kv_type: str, attend_arithmetic: str
) -> dict[str, OpWork]:
    """The work of a step that computes ``spans`` and samples the last token of each, by op."""
    matrices, spans = tuple(matrices), tuple(spans)
    rows, sampled = sum(span.new for span in spans), len(spans)
    work = {op: OpWork() for op in OPS}
    for op in _MATRICES:
        for matrix in matrices_of(op, matrices):
            work[op].weights += matrix.size
            work[op].add_macs(matrix.arithmetic, matrix.macs * (sampled if op == "logits" else rows))
    embed = next(matrix for matrix in matrices if matrix.name == "embed")
    work["embed"].weights = embed.size // embed.outputs * rows
    hidden, q, kv = spec.hidden, spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    of_row = {
        "embed": hidden,
        "qkv": spec.layers * (hidden + q + 2 * kv),
        "attend": spec.layers * 2 * q,
        "attn_out": spec.layers * (q + 2 * hidden),
        "mlp": spec.layers * (3 * hidden + 2 * spec.ffn),
    }
    for op, values in of_row.items():
        work[op].activations = _FLOAT * rows * values
    work["logits"].activations = _FLOAT * sampled * (hidden + spec.vocab)
    work["qkv"].kv_written = spec.layers * rows * spec.kv_heads * slot_bytes(spec.head_dim, spec.head_dim, kv_type)
    key, value = -(-spec.head_dim // 4) * 4, -(-spec.head_dim // 16) * 16
    slot = spec.kv_heads * slot_bytes(key if kv_type == "int8" else spec.head_dim, value, kv_type)
    attend_macs = 2 * q * _ATTEND_BYTES.get(attend_arithmetic, 1)
    for window in spec.windows:
        for span in spans:
            work["attend"].kv_read += keys_seen(span, window) * slot
            work["attend"].add_macs(attend_arithmetic, attend_macs * keys_attended(span, window))
    return work


def slot_bytes(key: int, value: int, kv_type: str) -> int:
    """Bytes of one position's ``key`` and ``value`` numbers of one head (native/attention/format.hpp).

    Raises ConfigError for a type that there is not.
    """
    if kv_type not in _NUMBER:
        raise ConfigError(f"unknown KV type {kv_type!r}: choose one of {', '.join(_NUMBER)}")
    return _NUMBER[kv_type] * (key + value) + (2 * _SCALE if kv_type == "int8" else 0)


def keys_seen(span: Span, window: int) -> int:
    """Keys that some row of the span attends to; ``window`` 0 is all."""
    first = max(0, span.context - span.new - window + 1) if window else 0
    return span.context - first


def keys_attended(span: Span, window: int) -> int:
    """Keys summed over the span's rows: each its own position's and those before it, within the window."""
    first = span.context - span.new
    whole = range(first + 1, span.context + 1)  # keys of each row, without a window
    if not window or window >= span.context:
        return (whole[0] + whole[-1]) * len(whole) // 2
    return sum(min(keys, window) for keys in whole)

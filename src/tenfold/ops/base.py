"""The op set: what a backend must do for the one forward pass in ``model/decoder.py``.

Three implementations: ``reference`` (NumPy, float32, obviously right), ``cpu`` (C++), later ``cuda``.
``Hidden``, ``Query`` and ``Kv`` are opaque to callers: arrays in ``reference``, handles on C++ memory in
``cpu`` (valid until the next call of the op that made them).
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tenfold.ops.spec import ModelSpec

Hidden = Any
Query = Any
Kv = Any
Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Batch:
    """A ragged batch of T tokens of S sequences, as flat C-contiguous int32 arrays.

    Sequence s owns rows ``starts[s]`` … ``starts[s + 1]`` - 1, at consecutive positions ending at
    ``context[s]`` - 1. Its KV for position p lies in block ``tables[s, p // block_size]``, slot
    ``p % block_size``; entries past its last block are never read.
    """

    tokens: Int32  # [T] ids
    positions: Int32  # [T]
    starts: Int32  # [S + 1] row offsets, starts[0] = 0, starts[S] = T
    context: Int32  # [S] keys each sequence has once this step's are written
    tables: Int32  # [S, B] block numbers
    rows: Int32  # [R] rows whose logits are wanted, ascending


class Ops(Protocol):
    """The ops over one loaded model. Not re-entrant: one forward pass at a time."""

    spec: ModelSpec

    def describe(self) -> str:
        """Which implementation and kernel path runs, for people: ``cpu (avx512-vnni, 2 threads)``."""
        ...

    def new_kv(self, blocks: int, block_size: int) -> Kv:
        """Zeroed paged KV memory for all layers. Raises ConfigError where memory cannot be had."""
        ...

    def embed(self, batch: Batch) -> Hidden:
        """[T, hidden]: the tokens' embeddings x embed_scale."""
        ...

    def qkv(self, layer: int, x: Hidden, batch: Batch, kv: Kv) -> Query:
        """[T, heads, head_dim]: norm → Q, K, V projections (+ bias) → per-head norm → rope; writes K and V."""
        ...

    def attend(self, layer: int, q: Query, batch: Batch, kv: Kv) -> Hidden:
        """[T, heads x head_dim]: causal attention of each row over its sequence's keys, within the window."""
        ...

    def attn_out(self, layer: int, a: Hidden, x: Hidden) -> Hidden:
        """[T, hidden]: x + (post-norm of) the output projection of a."""
        ...

    def mlp(self, layer: int, x: Hidden) -> Hidden:
        """[T, hidden]: x + (post-norm of) down(activation(gate(norm(x))) * up(norm(x)))."""
        ...

    def logits(self, x: Hidden, batch: Batch) -> Float32:
        """[R, vocab] float32: final norm and head of ``batch.rows``; yours until the next call."""
        ...

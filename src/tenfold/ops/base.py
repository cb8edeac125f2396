"""The op set: what a backend must do for the one forward pass in ``model/decoder.py``.

Three implementations: ``reference`` (NumPy, float32, obviously right), ``cpu`` (C++), ``cuda`` (torch and Triton).
``Hidden``, ``Query`` and ``Kv`` are opaque to callers: arrays in ``reference``, handles on C++ memory in
``cpu`` (valid until the next call of the op that made them).
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tenfold.ops.choosing import Choosing, Wanted
from tenfold.ops.spec import ModelSpec

Hidden = Any
Query = Any
Kv = Any
Logits = Any  # [R, vocab] float32: an array, or memory of a device
Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


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


class ChoosingOps(Protocol):
    """Choosing tokens from rows of logits [R, vocab]. What a row gives depends on that row alone."""

    def choose(self, logits: Logits, wanted: Wanted) -> Choosing:
        """A token of each row, and what else is wanted; ``logits`` may be changed. Need not be there at once."""
        ...


class SamplingOps(ChoosingOps, Protocol):
    """The parts of that, over logits in the host's memory."""

    def largest(self, logits: Float32) -> Int32:
        """[R]: the index of each row's largest logit, the lowest among equals; -1 where that is not finite or NaN.

        Logits that these ops have just given must not have been changed meanwhile: the ops may know their largest.
        """
        ...

    def draw(self, logits: Float32, rows: Int32, filters: Float64) -> Int32:
        """[N]: a token from each of ``rows`` [N]; -1 as for ``largest``.

        ``filters`` [N, 5] holds temperature (0: the largest), top-k (0 or less: off), top-p and min-p, which apply in
        this order, and a number in [0, 1): where the cumulative distribution of what they leave is inverted.
        With top-k or top-p the tokens stand in it by logit and then index, else by index. top-p leaves the fewest
        that have the mass, min-p those of at least min-p times the largest probability.
        """
        ...

    def summarize(self, logits: Float32, rows: Int32, count: int) -> tuple[Float64, Int32]:
        """For each of ``rows`` [N]: (largest logit m, ln of the sum of e^(x - m)) [N, 2] and the indices of the
        ``count`` largest, best first [N, count]; 0, 0 and -1 where the largest is not finite.
        """
        ...

    def largest_among(self, logits: Float32, rows: Int32, bits: Int32) -> Int32:
        """[N]: as ``largest``, of ``rows`` [N], among the tokens whose bit is set in ``bits`` [N, vocab / 32, rounded
        up]: the lowest bit of a word is its first token's. -1 also where there is none above -infinity."""
        ...

    def draw_among(self, logits: Float32, rows: Int32, bits: Int32, filters: Float64) -> Int32:
        """[N]: as ``draw``, among the tokens whose bit is set in ``bits`` as ``largest_among`` takes them."""
        ...


class Ops(ChoosingOps, Protocol):
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

    def logits(self, x: Hidden, batch: Batch) -> Logits:
        """[R, vocab] float32: final norm and head of ``batch.rows``; yours until the next call."""
        ...


@runtime_checkable
class OwnMemory(Protocol):
    """What ops offer besides, whose keys and values lie in memory of their own: that of GPUs."""

    def kv_room(self) -> int:
        """Bytes that the keys and values of all heads may take, on all their devices together: what the weights, the
        largest step (it is tried) and the reserve leave. Asked once, before ``new_kv``. Raises ConfigError where
        nothing is left, saying what to do.
        """
        ...


@runtime_checkable
class WholePass(Protocol):
    """What ops may offer besides: the decoder's forward pass in one call; to the same bits where these do not
    depend on how many rows there are."""

    def forward(self, batch: Batch, kv: Kv) -> Logits:
        """The logits [R, vocab], as by ``embed``, the layers and ``logits``. No hidden states are left behind."""
        ...


@runtime_checkable
class HiddenStates(Protocol):
    """What ops may offer besides, from which texts' embeddings can be had."""

    def final_hidden(self, rows: Int32) -> Float32:
        """[N, hidden]: the final norm of ``rows`` [N] of the batch whose logits were computed last, op by op. A row's
        bits are those of its logits' input: where these do not depend on the batch, nor do they."""
        ...

"""The reference op set: NumPy, float32, written to be checked by eye. The oracle of all other backends.

Weights are decoded to float32 on first use and kept. Matrix products go to BLAS, whose order of summation
depends on the shapes it is given: unlike the C++ backend, the last bits of a row here may change with the
batch it is in, so tests compare against this backend with a tolerance.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np

from tenfold.core.errors import ConfigError
from tenfold.ops import choosing, reference_sampling
from tenfold.ops.base import Batch, Float32, Float64, Int32
from tenfold.ops.choosing import Choosing, Wanted
from tenfold.ops.spec import ModelSpec, RopeSpec
from tenfold.ops.tensors import Weights


@dataclass(frozen=True, slots=True)
class PagedKv:
    """Keys and values of all layers, each [layers, blocks, block_size, kv_heads, head_dim] float32."""

    k: Float32
    v: Float32


class ReferenceOps:
    """The ops of one model in NumPy. Hidden states are [T, hidden], queries [T, heads, head_dim] arrays."""

    def __init__(self, weights: Weights) -> None:
        self.spec: ModelSpec = weights.spec
        self._weights = weights
        self._decoded: dict[str, Float32] = {}
        self._hidden: Float32 | None = None  # of the last batch, after all layers

    def describe(self) -> str:
        """``reference (numpy float32)``."""
        return "reference (numpy float32)"

    def new_kv(self, blocks: int, block_size: int) -> PagedKv:
        """Zeroed float32 KV memory. Raises ConfigError when it cannot be allocated."""
        spec = self.spec
        shape = (spec.layers, blocks, block_size, spec.kv_heads, spec.head_dim)
        try:
            return PagedKv(np.zeros(shape, np.float32), np.zeros(shape, np.float32))
        except (MemoryError, ValueError) as error:
            size = 8 * int(np.prod(np.array(shape, dtype=object)))
            raise ConfigError(
                f"no memory for a KV pool of {blocks} blocks of {block_size} tokens ({size / 2**20:.0f} MiB); "
                "ask for fewer KV tokens"
            ) from error

    def embed(self, batch: Batch) -> Float32:
        """[T, hidden]: embedding rows x embed_scale."""
        return self._tensor("embed")[batch.tokens] * np.float32(self.spec.embed_scale)

    def qkv(self, layer: int, x: Float32, batch: Batch, kv: PagedKv) -> Float32:
        """Queries [T, heads, head_dim], normed and rotated; keys and values go to their slots of ``kv``."""
        spec, name = self.spec, f"layers.{layer}."
        normed = self._norm(x, name + "attn_norm")
        q, k, v = (self._linear(normed, name + which) for which in "qkv")
        if spec.qkv_bias:
            q = q + self._tensor(name + "q_bias")
            k = k + self._tensor(name + "k_bias")
            v = v + self._tensor(name + "v_bias")
        q = q.reshape(-1, spec.heads, spec.head_dim)
        k = k.reshape(-1, spec.kv_heads, spec.head_dim)
        v = v.reshape(-1, spec.kv_heads, spec.head_dim)
        if spec.qk_norm:
            q, k = self._norm(q, name + "q_norm"), self._norm(k, name + "k_norm")
        rope = spec.rope_of(layer)
        q, k = rotate(q, batch.positions, rope), rotate(k, batch.positions, rope)

        block_size = kv.k.shape[2]
        sequence = np.repeat(np.arange(len(batch.context)), np.diff(batch.starts))
        block = batch.tables[sequence, batch.positions // block_size]
        kv.k[layer, block, batch.positions % block_size] = k
        kv.v[layer, block, batch.positions % block_size] = v
        return q

    def attend(self, layer: int, q: Float32, batch: Batch, kv: PagedKv) -> Float32:
        """[T, heads x head_dim]: causal softmax attention, sequence by sequence."""
        spec = self.spec
        block_size = kv.k.shape[2]
        out = np.empty_like(q)
        for s, context in enumerate(batch.context):
            rows = slice(batch.starts[s], batch.starts[s + 1])
            positions = batch.positions[rows]
            blocks = batch.tables[s, : -(-int(context) // block_size)]
            keys = kv.k[layer, blocks].reshape(-1, spec.kv_heads, spec.head_dim)[:context]
            values = kv.v[layer, blocks].reshape(-1, spec.kv_heads, spec.head_dim)[:context]
            visible = visible_keys(positions, int(context), spec.windows[layer])
            out[rows] = self._attend_one(q[rows], keys, values, visible)
        return out.reshape(-1, spec.heads * spec.head_dim)

    def attn_out(self, layer: int, a: Float32, x: Float32) -> Float32:
        """[T, hidden]: x + (post-norm of) the output projection of a."""
        name = f"layers.{layer}."
        y = self._linear(a, name + "o")
        return x + (self._norm(y, name + "attn_post_norm") if self.spec.post_norms else y)

    def mlp(self, layer: int, x: Float32) -> Float32:
        """[T, hidden]: x + (post-norm of) the gated MLP of norm(x)."""
        name = f"layers.{layer}."
        normed = self._norm(x, name + "mlp_norm")
        activation = silu if self.spec.activation == "silu" else gelu_tanh
        gated = activation(self._linear(normed, name + "gate")) * self._linear(normed, name + "up")
        y = self._linear(gated, name + "down")
        return x + (self._norm(y, name + "mlp_post_norm") if self.spec.post_norms else y)

    def logits(self, x: Float32, batch: Batch) -> Float32:
        """[R, vocab]: final norm and head of the wanted rows; a fresh array."""
        self._hidden = x
        normed = self._norm(x[batch.rows], "norm")
        logits = self._linear(normed, "embed" if self.spec.tied_head else "head")
        cap = np.float32(self.spec.logit_softcap)
        return np.tanh(logits / cap) * cap if cap else logits

    def final_hidden(self, rows: Int32) -> Float32:
        """See :class:`tenfold.ops.base.HiddenStates`."""
        assert self._hidden is not None, "final_hidden follows logits"
        return self._norm(self._hidden[rows], "norm")

    def choose(self, logits: Float32, wanted: Wanted) -> Choosing:
        """See :class:`tenfold.ops.base.ChoosingOps`; it is there at once."""
        return choosing.choose(self, logits, wanted)

    def largest(self, logits: Float32) -> Int32:
        """See :class:`tenfold.ops.base.SamplingOps`."""
        return reference_sampling.largest(logits)

    def draw(self, logits: Float32, rows: Int32, filters: Float64) -> Int32:
        """See :class:`tenfold.ops.base.SamplingOps`."""
        return reference_sampling.draw(logits, rows, filters)

    def summarize(self, logits: Float32, rows: Int32, count: int) -> tuple[Float64, Int32]:
        """See :class:`tenfold.ops.base.SamplingOps`."""
        return reference_sampling.summarize(logits, rows, count)

    def largest_among(self, logits: Float32, rows: Int32, bits: Int32) -> Int32:
        """See :class:`tenfold.ops.base.SamplingOps`."""
        return reference_sampling.largest_among(logits, rows, bits)

    def draw_among(self, logits: Float32, rows: Int32, bits: Int32, filters: Float64) -> Int32:
        """See :class:`tenfold.ops.base.SamplingOps`."""
        return reference_sampling.draw_among(logits, rows, bits, filters)

    def _tensor(self, name: str) -> Float32:
        """The decoded tensor, kept after its first use."""
        if name not in self._decoded:
            self._decoded[name] = self._weights[name].decode()
        return self._decoded[name]

    def _linear(self, x: Float32, name: str) -> Float32:
        return cast(Float32, x @ self._tensor(name).T)

    def _norm(self, x: Float32, name: str) -> Float32:
        """RMS norm over the last axis."""
        mean = np.mean(np.square(x), axis=-1, keepdims=True)
        return cast(Float32, x / np.sqrt(mean + np.float32(self.spec.norm_eps)) * self._tensor(name))

    def _attend_one(self, q: Float32, keys: Float32, values: Float32, visible: np.ndarray) -> Float32:
        """[n, heads, head_dim] of n queries of one sequence over its keys; ``visible`` is [n, keys]."""
        n, heads, head_dim = q.shape
        groups = q.reshape(n, keys.shape[1], -1, head_dim)  # query heads by the KV head they share
        queries = groups.transpose(1, 2, 0, 3)  # [kv_heads, group, n, head_dim]
        scores = queries @ keys.transpose(1, 2, 0)[:, None] * np.float32(self.spec.query_scale)
        scores = np.where(visible, scores, np.float32(-np.inf))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed = weights @ values.transpose(1, 0, 2)[:, None]
        return cast(Float32, mixed.transpose(2, 0, 1, 3).reshape(n, heads, head_dim))


def rotate(x: Float32, positions: Int32, rope: RopeSpec) -> Float32:
    """[T, heads, head_dim] rotated by position: halves order, RoFormer (Su et al., 2021)."""
    angles = positions[:, None].astype(np.float64) * np.array(rope.inv_freq)
    cos, sin = np.cos(angles).astype(np.float32)[:, None], np.sin(angles).astype(np.float32)[:, None]
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1)


def visible_keys(positions: Int32, context: int, window: int) -> np.ndarray:
    """[n, context] bool: key j is seen from position p when j <= p, and p - j < window where there is one."""
    distance = positions[:, None] - np.arange(context)
    return (distance >= 0) & (distance < window) if window else distance >= 0


def silu(x: Float32) -> Float32:
    """x * sigmoid(x), written with tanh so that it cannot overflow."""
    return cast(Float32, np.float32(0.5) * x * (1 + np.tanh(np.float32(0.5) * x)))


def gelu_tanh(x: Float32) -> Float32:
    """The tanh approximation of GELU (Hendrycks and Gimpel, 2016)."""
    inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x**3)
    return cast(Float32, np.float32(0.5) * x * (1 + np.tanh(inner)))

"""The op set on one GPU, or on one rank of several.

Nothing here waits for the device: a forward pass is given to it and the logits are a promise. The residual stream is
kept apart from what is to be added to it, so that the next norm adds it on its way. Without ``batch_invariant`` a row's
last bits may depend on how many rows are beside it: libraries choose their kernels by shape, and a sequence's keys are
split by how many there are in all.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tenfold.core.config import CudaConfig
from tenfold.core.errors import ConfigError
from tenfold.ops.base import Batch
from tenfold.ops.choosing import Choosing, Chosen, Done, Wanted
from tenfold.ops.cuda.attention_plan import Padding
from tenfold.ops.cuda.batch import Batches, DeviceBatch, decodes
from tenfold.ops.cuda.choosing import choose
from tenfold.ops.cuda.graphs import MOST_ROWS, Capture, CudaCapture, Graphs, sizes_up_to
from tenfold.ops.cuda.kernels import Kernels, fused_kernels, plain_kernels
from tenfold.ops.cuda.linear import Linear
from tenfold.ops.cuda.parallel import ALONE, Ranks
from tenfold.ops.cuda.plain.heads import rope_table
from tenfold.ops.cuda.weights import Shard, check_shards, load
from tenfold.ops.spec import ModelSpec
from tenfold.ops.tensors import Weights

_GRAPHS = 1 << 30  # bytes that captured graphs take, beside logits and what a step computes
_LEAST_SEQUENCES = 32  # that memory is there for: logits of one with drafts, too
_CANDIDATES = 160 << 10  # bytes that choosing a row's token takes, beside its logits
KV_DTYPES = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}


@dataclass(frozen=True, slots=True)
class PagedKv:
    """Keys and values, each [layers, blocks, kv_heads, block_size, head_dim]."""

    k: Tensor
    v: Tensor


@dataclass(frozen=True, slots=True)
class Residual:
    """[T, hidden]: ``x``, to which ``y`` is to be added, or the norm of it with the weight ``post``."""

    x: Tensor
    y: Tensor | None = None
    post: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """Scaled queries [T, heads, head_dim]; this step's keys and values [T, kv_heads, head_dim] where they are read."""

    q: Tensor
    dense: tuple[Tensor, Tensor] | None


class CudaOps:
    """The ops of one model on one CUDA device, implementing :class:`tenfold.ops.base.Ops`.

    A step has at most ``max_rows`` rows of ``max_sequences`` sequences of ``max_context`` tokens. ``form`` is one of
    ``WEIGHTS["cuda"]``. ``device``, ``dtype`` and ``kernels`` are for tests: the same in plain torch on a CPU. Raises
    ConfigError, CorruptModel.
    """

    def __init__(
        self,
        weights: Weights,
        *,
        form: str = "auto",
        kv_type: str = "bf16",
        block_size: int = 16,
        max_rows: int = 512,
        max_sequences: int = 64,
        max_context: int | None = None,
        settings: CudaConfig | None = None,
        ranks: Ranks = ALONE,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.bfloat16,
        kernels: Kernels | None = None,
    ) -> None:
        spec = weights.spec
        self.spec: ModelSpec = spec
        self._settings = settings or CudaConfig()
        self._device = device or torch.device("cuda", ranks.rank)
        self._dtype = dtype
        self._ranks = ranks
        self._kernels = kernels or (fused_kernels() if self._device.type == "cuda" else plain_kernels())
        self._kv_type = kv_type
        self._kv_dtype = dtype if dtype == torch.float32 and kv_type == "bf16" else KV_DTYPES[kv_type]
        if block_size < 16 or block_size & (block_size - 1):
            raise ConfigError(f"the cuda backend needs KV blocks of 16, 32, 64 … tokens, got {block_size}")
        self._block_size = block_size
        max_sequences = max(max_sequences, _LEAST_SEQUENCES)
        self._graphed = self._settings.graphs and not self._settings.batch_invariant
        self._max_context = min(max_context or spec.max_context, spec.max_context)
        check_shards(spec, ranks.world)
        invariant = self._settings.batch_invariant
        self._weights = load(
            weights,
            form,
            self._device,
            dtype,
            Shard(ranks.rank, ranks.world),
            self._kernels.products,
            batch_invariant=invariant,
        )
        self._heads, self._kv_heads = spec.heads // ranks.world, spec.kv_heads // ranks.world
        self._ropes = {
            rope: rope_table(rope.inv_freq, self._max_context, self._device)
            for rope in {spec.rope_of(layer) for layer in range(spec.layers)}
        }
        self._batches = Batches(
            spec,
            self._device,
            kv_heads=self._kv_heads,
            block_size=block_size,
            max_rows=max(min(max_rows, 2 * max_sequences * self._max_context), 2 * max_sequences),
            max_sequences=2 * max_sequences,
            max_context=self._max_context,
            dense=self._kv_dtype == dtype,
            invariant=invariant,
            ranks=ranks,
        )
        self._previous = torch.zeros(self._batches.max_rows, dtype=torch.int32, device=self._device)
        self._here: DeviceBatch | None = None  # what is computed
        self._attended = torch.empty(0)  # [T, heads x head_dim] of the layer that is computed; 0 in rows of no sequence
        self._graphs: Graphs | None = None
        self._kv: PagedKv | None = None  # that the graphs are over
        self._kept = torch.empty(0)
        self._room: int | None = None

    def describe(self) -> str:
        """For people: ``cuda (NVIDIA H200, bf16, kv fp8)``."""
        name = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else self._kernels.name
        parts = [name, " + ".join(self._weights.kinds), f"kv {self._kv_type}"]
        if self._ranks.world > 1:
            parts[0] = f"{self._ranks.world} x {name}"
        if self._settings.batch_invariant:
            parts.append("batch-invariant")
        return f"cuda ({', '.join(parts)})"

    # Memory.

    def kv_room(self) -> int:
        """See :class:`tenfold.ops.base.OwnMemory`."""
        if self._room is None:
            from tenfold.ops.cuda.memory import room

            self._room = self._ranks.least(room(self, self._settings, self._device)) * self._ranks.world
        return self._room

    def new_kv(self, blocks: int, block_size: int) -> PagedKv:
        """Zeroed KV memory. Raises ConfigError where the GPU has no room for it."""
        assert block_size == self._block_size
        kv = self._new_kv(self._ranks.agreed(blocks))
        if self._graphed and self._device.type == "cuda":
            self.use_graphs(kv, CudaCapture())
        return kv

    def use_graphs(self, kv: PagedKv, capture: Capture) -> None:
        """Have steps over ``kv`` captured, and replayed from then on."""
        most = self._batches.max_sequences // 2
        shape = (sizes_up_to(most)[-1], self.spec.outputs)
        self._kv = kv
        self._kept = torch.empty(shape, dtype=torch.float32, device=self._device)
        self._graphs = Graphs(most, self._batches.max_rows, capture)

    @property
    def scratch_bytes(self) -> int:
        """What a step may take beside the largest of fresh prompts: dense copies of keys and values, partial results of
        attention, and logits, with copies for logprobs, of as many rows as drafts and running sequences may have."""
        batches, dim, kv_heads = self._batches, self.spec.head_dim, self._kv_heads
        copies = 2 * batches.most_gathered * kv_heads * dim * self._dtype.itemsize
        partial = batches.most_partial * kv_heads * (dim + 2) * torch.float32.itemsize
        rows = min(batches.max_rows, batches.max_rows // 2 + batches.max_sequences // 2)
        return copies + partial + rows * (2 * self.spec.outputs * torch.float32.itemsize + _CANDIDATES)

    @property
    def graph_bytes(self) -> int:
        """What captured graphs keep: what the largest step computes, its logits, and some for what they call."""
        if not self._graphed:
            return 0
        spec = self.spec
        row = self._dtype.itemsize * (4 * spec.hidden + 3 * spec.heads * spec.head_dim + 3 * spec.ffn)
        logits = sizes_up_to(self._batches.max_sequences // 2)[-1] * spec.outputs * torch.float32.itemsize
        return _GRAPHS + 2 * (logits + min(MOST_ROWS, self._batches.max_rows) * row)

    @property
    def weight_bytes(self) -> int:
        """Of what a step of decode reads."""
        return self._weights.nbytes

    def _new_kv(self, blocks: int) -> PagedKv:
        spec = self.spec
        shape = (spec.layers, blocks, self._kv_heads, self._block_size, spec.head_dim)
        try:
            return PagedKv(*(torch.zeros(shape, dtype=self._kv_dtype, device=self._device) for _ in range(2)))
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"no memory for a KV pool of {blocks} blocks of {self._block_size} tokens; ask for fewer KV tokens"
            ) from error

    # One step.

    def embed(self, batch: Batch) -> Residual:
        """[T, hidden]."""
        self._here = self._batches.upload(batch)
        return self._embed(self._here)

    def qkv(self, layer: int, x: Residual, batch: Batch, kv: PagedKv) -> Query:
        """Queries, normed, rotated and scaled; keys and values go to their slots of ``kv``."""
        assert self._here is not None, "qkv follows embed"
        return self._qkv(layer, x, self._here, kv)

    def attend(self, layer: int, q: Query, batch: Batch, kv: PagedKv) -> Tensor:
        """[T, heads x head_dim]."""
        assert self._here is not None, "attend follows embed"
        return self._attend(layer, q, self._here, kv)

    def attn_out(self, layer: int, a: Tensor, x: Residual) -> Residual:
        """[T, hidden]; the addition may still have to be done."""
        weights = self._weights.layers[layer]
        return self._added(weights.o, a, x, weights.attn_post_norm)

    def mlp(self, layer: int, x: Residual) -> Residual:
        """[T, hidden]; the addition may still have to be done."""
        weights, activation = self._weights.layers[layer], self.spec.activation
        normed = self._normed(x, weights.mlp_norm, weights.gate_up.quantizes(len(x.x)))
        if isinstance(normed, Tensor) and weights.gate_up.fuses(len(x.x)):
            inner = weights.gate_up.gated(normed, activation)
        else:
            inner = self._kernels.gated.gated(weights.gate_up(normed), activation, weights.down.quantizes(len(x.x)))
        return self._added(weights.down, inner, x, weights.mlp_post_norm)

    def logits(self, x: Residual, batch: Batch) -> Tensor:
        """[R, vocab] float32, on the device."""
        assert self._here is not None, "logits follows embed"
        wanted = self._here.wanted
        if wanted is not None and not len(wanted):
            return torch.empty(0, self.spec.outputs, device=self._device)
        return self._head(x if wanted is None else _rows_of(x, wanted))

    def forward(self, batch: Batch, kv: PagedKv) -> Tensor:
        """The whole pass, by a captured graph where there is one of its size."""
        self._ranks.tell(batch)
        padding = self._padding(batch) if kv is self._kv else None
        here = self._here = self._batches.upload(batch, padding)
        if padding is None:
            return self._pass(here, kv)
        assert self._graphs is not None
        key = (padding, *(plan.host.rows for plan in here.plans.values()))
        return self._graphs.run(key, lambda: self._kept_pass(here, kv))[: len(batch.rows)]

    def _padding(self, batch: Batch) -> Padding | None:
        """What a captured graph of its size is padded to."""
        if self._graphs is None:
            return None
        if decodes(batch):
            return self._graphs.decode(len(batch.context))
        return self._graphs.mixed(len(batch.tokens), len(batch.context), len(batch.rows))

    def choose(self, logits: Tensor, wanted: Wanted) -> Choosing:
        """See :class:`tenfold.ops.base.ChoosingOps`; it is there when the device has come to it."""
        if not len(logits):
            return Done(Chosen(np.empty(0, np.int32), np.empty(0, bool)))
        chosen = choose(self._kernels.sampling, logits, wanted, self._previous)
        self._ranks.share(self._previous[: len(logits)])
        return chosen

    def follow(self, batch: Batch, kv: PagedKv) -> None:
        """Another rank than the first: its part of a step that the first one computes."""
        self.forward(batch, kv)
        if len(batch.rows):
            self._ranks.share(self._previous[: len(batch.rows)])

    def trial_kv(self) -> PagedKv:
        """Keys and values for :meth:`largest_step`."""
        return self._new_kv(-(-self._batches.max_rows // self._block_size))

    def largest_step(self, kv: PagedKv) -> None:
        """Compute a step as large as there can be, of nothing, to see what memory it takes."""
        rows = self._batches.max_rows
        self._pass(self._batches.upload(_prompt(rows, kv.k.shape[1], self._block_size, self._max_context)), kv)

    def _kept_pass(self, here: DeviceBatch, kv: PagedKv) -> Tensor:
        """The pass as it is captured: all graphs leave their logits in the same memory."""
        logits = self._pass(here, kv)
        return self._kept[: len(logits)].copy_(logits)

    def _pass(self, here: DeviceBatch, kv: PagedKv) -> Tensor:
        """Once the last layer's keys and values are written, only rows whose logits are wanted go on."""
        x, last = self._embed(here), self.spec.layers - 1
        for layer in range(last + 1):
            q = self._qkv(layer, x, here, kv)
            if layer == last and here.wanted is not None and not len(here.wanted):
                return torch.empty(0, self.spec.outputs, device=self._device)
            a = self._attend(layer, q, here, kv)
            if layer == last and here.wanted is not None:
                a, x = a[here.wanted], _rows_of(x, here.wanted)
            x = self.attn_out(layer, a, x)
            x = self.mlp(layer, x)
        return self._head(x)

    def _embed(self, here: DeviceBatch) -> Residual:
        shape = (len(here.tokens), self._heads * self.spec.head_dim)
        self._attended = torch.zeros(shape, dtype=self._dtype, device=self._device)
        table, scale = self._weights.embed, self.spec.embed_scale
        return Residual(self._kernels.embedding.embed(here.tokens, self._previous, table, scale))

    def _qkv(self, layer: int, x: Residual, here: DeviceBatch, kv: PagedKv) -> Query:
        spec, weights = self.spec, self._weights.layers[layer]
        dim, heads, kv_heads = spec.head_dim, self._heads, self._kv_heads
        projected = weights.qkv(self._normed(x, weights.attn_norm, weights.qkv.quantizes(len(x.x))))
        q = torch.empty(len(projected), heads, dim, dtype=self._dtype, device=self._device)
        self._kernels.heads.finish_heads(
            projected,
            q,
            kv.k[layer],
            kv.v[layer],
            here.positions,
            here.slots,
            self._ropes[spec.rope_of(layer)],
            heads,
            kv_heads,
            weights.bias,
            weights.q_norm,
            weights.k_norm,
            spec.norm_eps,
            spec.query_scale,
            keep=here.fresh,
        )
        if not here.fresh:
            return Query(q, None)
        k, v = (
            projected[:, at * dim : (at + kv_heads) * dim].unflatten(1, (kv_heads, dim))
            for at in (heads, heads + kv_heads)
        )
        return Query(q, (k, v))

    def _attend(self, layer: int, q: Query, here: DeviceBatch, kv: PagedKv) -> Tensor:
        window, out = self.spec.windows[layer], self._attended
        self._kernels.attention.attend(
            q.q, kv.k[layer], kv.v[layer], here.plans[window], here, window=window, out=out, dense=q.dense
        )
        return out

    def _added(self, linear: Linear, y: Tensor | tuple[Tensor, Tensor], x: Residual, post: Tensor | None) -> Residual:
        """x and a product: added at once where the kernel does that by the way."""
        if isinstance(y, Tensor) and post is None and self._ranks.world == 1 and linear.fuses(len(x.x)):
            linear.add(y, x.x)
            return Residual(x.x)
        return Residual(x.x, self._ranks.sum(linear(y)), post)

    def _normed(self, x: Residual, weight: Tensor, quantize: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """The norm of x, to which is added what was still to be."""
        norms, eps = self._kernels.norms, self.spec.norm_eps
        if x.y is None:
            return norms.rms_norm(x.x, weight, eps, quantize)
        return norms.add_rms_norm(x.x, x.y, weight, eps, x.post, quantize)

    def _head(self, x: Residual) -> Tensor:
        """Logits of all rows of x."""
        normed = self._normed(x, self._weights.norm)
        assert isinstance(normed, Tensor)
        logits = self._ranks.joined(self._weights.head.logits(normed))
        cap = self.spec.logit_softcap
        return torch.tanh(logits / cap) * cap if cap else logits


def _rows_of(x: Residual, rows: Tensor) -> Residual:
    return Residual(x.x[rows], None if x.y is None else x.y[rows], x.post)


def _prompt(rows: int, blocks: int, block_size: int, max_context: int) -> Batch:
    """Prompts that fill a step, each as long as it may be, in the first ``blocks`` blocks."""
    lengths = [min(max_context, rows - at) for at in range(0, rows, max_context)]
    starts = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    return Batch(
        tokens=np.zeros(rows, np.int32),
        positions=np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
        starts=starts,
        context=np.array(lengths, np.int32),
        tables=np.tile(np.arange(min(blocks, -(-max_context // block_size)), dtype=np.int32), (len(lengths), 1)),
        rows=starts[1:] - 1,
    )

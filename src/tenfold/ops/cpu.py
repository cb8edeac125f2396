"""The op set in C++: packed quantized weights, paged KV, threads. See ``native/README.md`` for how it computes.

A row's outputs are a bit-exact function of that row's own inputs and keys: the same in any batch, for any
chunking of its prompt, any number of threads and any kernel level.
"""

import os
from dataclasses import dataclass

import numpy as np

from tenfold import _native
from tenfold.core.config import KV_TYPES
from tenfold.core.errors import ConfigError, CorruptModel, UnsupportedModel
from tenfold.ops import choosing
from tenfold.ops.base import Batch, Float32, Float64, Int32
from tenfold.ops.choosing import Choosing, Wanted
from tenfold.ops.cores import Placement, placement
from tenfold.ops.forms import form_of
from tenfold.ops.spec import ModelSpec
from tenfold.ops.tensors import Tensor, Weights
from tenfold.ops.work import slot_bytes

LEVEL_NAMES = {"avx512bf16": "avx512-vnni-bf16", "avx512": "avx512-vnni"}  # for people, where other than the name
MATRICES = ("q", "k", "v", "o", "gate", "up", "down")
VECTORS = (
    "attn_norm", "mlp_norm", "attn_post_norm", "mlp_post_norm", "q_norm", "k_norm", "q_bias", "k_bias", "v_bias",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RowsHandle:
    """Rows of activations in C++ memory, overwritten by the next call of the op that made them."""

    model: _native.Model
    buffer: str

    def numpy(self) -> Float32:
        """A copy, [T, width] float32."""
        return self.model.view(self.buffer)


class CpuOps:
    """The ops of one model on the CPU, implementing :class:`tenfold.ops.base.Ops`.

    ``threads`` counts the calling thread; 0 takes the physical cores this process may use. ``level`` forces a kernel
    level of :func:`available_levels` instead of the best. Weights are packed from the checkpoint's own bytes,
    exactly or rounded as ``form`` says (see :func:`tenfold.ops.forms.form_of`); the checkpoint may be closed
    afterwards. One ``beside`` another uses its threads, and its embedding where that is the same tensor, and never runs
    at the same time. Raises ConfigError for settings that do not fit, UnsupportedModel for an encoding without packing,
    CorruptModel for tensors that do not fit the model's sizes or, where they are rounded, are not finite.
    """

    def __init__(
        self,
        weights: Weights,
        *,
        threads: int = 0,
        form: str = "auto",
        kv_type: str = "bf16",
        level: str | None = None,
        beside: "CpuOps | None" = None,
    ) -> None:
        if kv_type not in KV_TYPES["cpu"]:
            raise ConfigError(f"the KV type must be one of {', '.join(KV_TYPES['cpu'])}, got {kv_type!r}")
        if level is not None and level not in available_levels() + emulated_levels():
            raise ConfigError(f"no kernels of level {level!r} here: choose from {', '.join(available_levels())}")
        if threads < 0:
            raise ConfigError(f"threads must be 0 (all the cores) or more, got {threads}")
        self.spec = weights.spec
        self.kv_type = kv_type
        where = placement(threads)
        if where.nodes:
            _native.interleave(list(where.nodes))
        self._embed = weights["embed"]
        other = beside.model if beside is not None else None
        shared = beside is not None and beside._embed is self._embed
        self.model: _native.Model = new_model(weights.spec, where, level or "", other, shared=shared)
        load(self.model, weights, form, embed=not shared)
        self._sampling = _native.Sampling(self.model)
        self._hidden = RowsHandle(self.model, "hidden")
        self._query = RowsHandle(self.model, "query")
        self._attended = RowsHandle(self.model, "attended")
        self._batch: Batch | None = None
        self._norm = weights["norm"].decode().astype(np.float64)

    def describe(self) -> str:
        """For people: ``cpu (avx512-vnni, 2 threads, int4 g32 + int8 g32, kv bf16)``."""
        threads = self.model.threads
        return (
            f"cpu ({level_name(self.model.level)}, {threads} thread{'s' if threads > 1 else ''}, "
            f"{' + '.join(self.model.weight_kinds)}, kv {self.kv_type})"
        )

    def new_kv(self, blocks: int, block_size: int) -> _native.Kv:
        """Zeroed KV memory of ``blocks`` blocks; ``block_size`` is a multiple of 16. Raises ConfigError."""
        if blocks < 1 or block_size < 16 or block_size % 16:
            raise ConfigError(
                f"the cpu backend needs KV blocks of a multiple of 16 tokens, at least one: "
                f"got {blocks} of {block_size}"
            )
        slot = slot_bytes(self.spec.head_dim, self.spec.head_dim, self.kv_type)
        size = blocks * block_size * self.spec.layers * self.spec.kv_heads * slot
        message = (
            f"no memory for a KV pool of {blocks} blocks of {block_size} tokens ({size / 2**20:.0f} MiB); "
            "ask for fewer KV tokens"
        )
        # The system hands out address space it cannot fill: ask what is really there.
        if size > physical_memory():
            raise ConfigError(message)
        try:
            return self.model.new_kv(blocks, block_size, self.kv_type)
        except MemoryError as error:
            raise ConfigError(message) from error

    def embed(self, batch: Batch) -> RowsHandle:
        """[T, hidden]. Takes the batch over; raises ValueError where an index in it is out of range."""
        self._batch = None
        self.model.upload(batch.tokens, batch.positions, batch.starts, batch.context, batch.tables, batch.rows)
        self._batch = batch
        self.model.embed()
        return self._hidden

    def qkv(self, layer: int, x: RowsHandle, batch: Batch, kv: _native.Kv) -> RowsHandle:
        """[T, heads x head_dim], times ``query_scale``; K and V go to their blocks (checked: ValueError)."""
        assert x is self._hidden and batch is self._batch, "qkv follows embed of the same batch"
        self.model.qkv(layer, kv)
        return self._query

    def attend(self, layer: int, q: RowsHandle, batch: Batch, kv: _native.Kv) -> RowsHandle:
        """[T, heads x head_dim]."""
        assert q is self._query and batch is self._batch, "attend follows qkv of the same batch"
        self.model.attend(layer, kv)
        return self._attended

    def attn_out(self, layer: int, a: RowsHandle, x: RowsHandle) -> RowsHandle:
        """[T, hidden]; x is updated in place."""
        assert a is self._attended and x is self._hidden, "attn_out follows attend"
        self.model.attn_out(layer)
        return self._hidden

    def mlp(self, layer: int, x: RowsHandle) -> RowsHandle:
        """[T, hidden]; x is updated in place."""
        assert x is self._hidden, "mlp takes the hidden rows"
        self.model.mlp(layer)
        return self._hidden

    def logits(self, x: RowsHandle, batch: Batch) -> Float32:
        """[R, vocab] float32, in memory that the next call reuses."""
        assert x is self._hidden and batch is self._batch, "logits follows the layers of the same batch"
        return self.model.logits()

    def forward(self, batch: Batch, kv: _native.Kv) -> Float32:
        """[R, vocab]: the whole pass, in three calls instead of four per layer. Raises as ``embed`` and ``qkv`` do.

        Of the last layer it computes only what ``batch.rows`` need.
        """
        self._batch = None
        self.model.upload(batch.tokens, batch.positions, batch.starts, batch.context, batch.tables, batch.rows)
        self.model.forward(kv)
        return self.model.logits()

    def final_hidden(self, rows: Int32) -> Float32:
        """[N, hidden], computed in double precision."""
        assert self._batch is not None, "final_hidden follows a pass op by op"
        x = self._hidden.numpy()[rows].astype(np.float64)
        scale = np.sqrt(np.mean(np.square(x), axis=1, keepdims=True) + self.spec.norm_eps)
        normed: Float32 = (x / scale * self._norm).astype(np.float32)
        return normed

    def choose(self, logits: Float32, wanted: Wanted) -> Choosing:
        """See :class:`tenfold.ops.base.ChoosingOps`; it is there at once."""
        return choosing.choose(self, logits, wanted)

    def largest(self, logits: Float32) -> Int32:
        """[R]; -1 where a row's largest logit is not finite."""
        return self._sampling.largest(logits)

    def draw(self, logits: Float32, rows: Int32, filters: Float64) -> Int32:
        """[N]; probabilities are double precision. Raises ValueError for a row that is not there."""
        return self._sampling.draw(logits, rows, filters)

    def summarize(self, logits: Float32, rows: Int32, count: int) -> tuple[Float64, Int32]:
        """[N, 2] and [N, count]."""
        sums, ids = self._sampling.summarize(logits, rows, count)
        return sums.reshape(-1, 2), ids.reshape(len(rows), count)

    def largest_among(self, logits: Float32, rows: Int32, bits: Int32) -> Int32:
        """[N]. Raises ValueError for a row that is not there, or bits of another size."""
        return self._sampling.largest_among(logits, rows, bits)

    def draw_among(self, logits: Float32, rows: Int32, bits: Int32, filters: Float64) -> Int32:
        """[N]. Raises ValueError as ``largest_among``, or where filters are not as many."""
        return self._sampling.draw_among(logits, rows, bits, filters)


def available_levels() -> tuple[str, ...]:
    """The kernel levels this CPU runs, best first: of ``amx``, ``avx512bf16``, ``avx512``, ``avx2``, ``portable``."""
    return tuple(_native.levels())


def level_name(level: str) -> str:
    """A level's name for people."""
    return LEVEL_NAMES.get(level, level)


def emulated_levels() -> tuple[str, ...]:
    """Levels for tests only: the kernels of hardware this CPU may lack, over an emulation in plain C++."""
    return tuple(_native.emulated_levels())


def cpu_features() -> tuple[str, ...]:
    """Instruction sets that matter to kernels, of this CPU and system, by the names of /proc/cpuinfo."""
    return tuple(_native.cpu_features())


def new_model(
    spec: ModelSpec, where: Placement, level: str, beside: _native.Model | None = None, *, shared: bool = False
) -> _native.Model:
    """A C++ model without weights yet, with the threads of one ``beside``, and its embedding where ``shared``."""
    try:
        return _native.Model(
            layers=spec.layers,
            hidden=spec.hidden,
            heads=spec.heads,
            kv_heads=spec.kv_heads,
            head_dim=spec.head_dim,
            ffn=spec.ffn,
            vocab=spec.vocab,
            max_context=spec.max_context,
            norm_eps=spec.norm_eps,
            embed_scale=spec.embed_scale,
            query_scale=spec.query_scale,
            logit_softcap=spec.logit_softcap,
            activation=spec.activation,
            qkv_bias=spec.qkv_bias,
            qk_norm=spec.qk_norm,
            post_norms=spec.post_norms,
            tied_head=spec.tied_head,
            windows=list(spec.windows),
            inv_freq=list(spec.rope.inv_freq),
            inv_freq_local=list(spec.rope_local.inv_freq) if spec.rope_local else [],
            level=level,
            threads=where.threads,
            cpus=list(where.cpus),
            head_rows=spec.outputs,
            beside=beside,
            shared=shared,
        )
    except (ValueError, TypeError) as error:
        raise CorruptModel(f"{spec.name}: {error}") from error


def load(model: _native.Model, weights: Weights, form: str, *, embed: bool = True) -> None:
    """Pack the model's tensors, one after the other, under the ``weights`` setting ``form``."""
    spec = weights.spec
    if embed:
        set_matrix(model, -1, "embed", weights["embed"], form)
    set_vector(model, -1, "norm", weights["norm"])
    if not spec.tied_head:
        set_matrix(model, -1, "head", weights["head"], form)
    for layer in range(spec.layers):
        prefix = f"layers.{layer}."
        for name in MATRICES:
            set_matrix(model, layer, name, weights[prefix + name], form)
        for name in VECTORS:
            if prefix + name in weights and needed(spec, name):
                set_vector(model, layer, name, weights[prefix + name])
    try:
        model.check_complete()
    except ValueError as error:
        raise CorruptModel(f"{spec.name}: {error}") from error


def needed(spec: ModelSpec, name: str) -> bool:
    """Whether a model of ``spec`` uses the vector ``name``."""
    if name.endswith("_bias"):
        return spec.qkv_bias
    if name.endswith("_post_norm"):
        return spec.post_norms
    return spec.qk_norm if name in ("q_norm", "k_norm") else True


def set_matrix(model: _native.Model, layer: int, name: str, tensor: Tensor, form: str) -> None:
    """Pack one matrix in the form it has under the setting ``form``."""
    if tensor.kind not in _native.encodings():
        raise UnsupportedModel(
            f"{tensor.name} is stored as {tensor.kind}; the cpu backend runs {', '.join(_native.encodings())}"
        )
    if len(tensor.shape) != 2:
        raise CorruptModel(f"{tensor.name} should be a matrix, its shape is {list(tensor.shape)}")
    try:
        data = np.ascontiguousarray(tensor.data)
        model.set_matrix(layer, name, tensor.kind, data, *tensor.shape, form_of(form, name, tensor))
    except (ValueError, TypeError) as error:
        raise CorruptModel(f"{tensor.name}: {error}") from error
    except MemoryError as error:
        raise ConfigError(f"not enough memory for the weights (at {tensor.name})") from error


def set_vector(model: _native.Model, layer: int, name: str, tensor: Tensor) -> None:
    """Copy one vector, as float32."""
    try:
        model.set_vector(layer, name, np.ascontiguousarray(tensor.decode(), dtype=np.float32))
    except (ValueError, TypeError) as error:
        raise CorruptModel(f"{tensor.name}: {error}") from error


def physical_memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

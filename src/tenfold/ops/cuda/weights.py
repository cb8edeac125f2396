"""A model's weights on the device, as one rank of a tensor-parallel group has them (Megatron-LM: Shoeybi et al., 2019).

Query, key and value projections are one matrix, gate and up another. Of ``world`` ranks each has its part of the heads,
of the MLP's inner width and of the head's vocabulary; the embedding and all norms are whole everywhere.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tenfold.core.errors import ConfigError, CorruptModel
from tenfold.ops.cuda.linear import DenseLinear, Linear, Products
from tenfold.ops.cuda.packing import form_of, invariant, join, pack
from tenfold.ops.spec import ModelSpec
from tenfold.ops.tensors import Weights


@dataclass(frozen=True, slots=True)
class Shard:
    """Part ``rank`` of ``world``."""

    rank: int = 0
    world: int = 1

    def part(self, size: int) -> slice:
        """Its part of ``size`` rows or columns."""
        return slice(size * self.rank // self.world, size * (self.rank + 1) // self.world)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer; norms and biases are float32."""

    attn_norm: Tensor
    qkv: Linear
    bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    o: Linear
    attn_post_norm: Tensor | None
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear
    mlp_post_norm: Tensor | None


@dataclass(frozen=True, slots=True)
class DeviceWeights:
    """All of a model, or one rank's part of it."""

    embed: Tensor  # [vocab, hidden]
    layers: tuple[Layer, ...]
    norm: Tensor
    head: Linear

    @property
    def nbytes(self) -> int:
        """Of all matrices that every step reads."""
        linears = [part for layer in self.layers for part in (layer.qkv, layer.o, layer.gate_up, layer.down)]
        return sum(linear.nbytes for linear in (*linears, self.head))

    @property
    def kinds(self) -> tuple[str, ...]:
        """In which forms its matrices are, the most common first."""
        found = [linear.kind for layer in self.layers for linear in (layer.qkv, layer.o, layer.gate_up, layer.down)]
        return tuple(sorted({*found, self.head.kind}, key=lambda kind: -found.count(kind)))


def check_shards(spec: ModelSpec, world: int) -> None:
    """Raise ConfigError where a model cannot be divided among ``world`` ranks."""
    for size, what in (
        (spec.heads, "query heads"),
        (spec.kv_heads, "key heads"),
        (spec.ffn, "MLP columns"),
        (spec.outputs, "tokens"),
    ):
        if size % world:
            raise ConfigError(f"{spec.name} has {size} {what}: they cannot be shared by --tensor-parallel {world} GPUs")


def load(
    weights: Weights,
    form: str,
    device: torch.device,
    dtype: torch.dtype,
    shard: Shard,
    products: Products,
    *,
    batch_invariant: bool = False,
) -> DeviceWeights:
    """Pack every matrix under the ``--weights`` setting ``form``. Raises ConfigError, CorruptModel."""
    loader = _Loader(weights, form, device, dtype, shard, products, batch_invariant)
    try:
        return loader.load()
    except torch.OutOfMemoryError as error:
        raise ConfigError(f"the GPU has no memory for the weights of {weights.spec.name}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Loader:
    weights: Weights
    form: str
    device: torch.device
    dtype: torch.dtype
    shard: Shard
    products: Products
    batch_invariant: bool

    def load(self) -> DeviceWeights:
        spec, shard = self.weights.spec, self.shard
        whole = pack(self.weights["embed"], "bf16", self.device, self.dtype, products=self.products)
        assert isinstance(whole, DenseLinear)
        name, shared = ("embed", whole.w) if spec.tied_head else ("head", None)
        head = self.matrix(name, rows=shard.part(spec.outputs), shared=shared)
        layers = tuple(map(self.layer, range(spec.layers)))
        return DeviceWeights(whole.w, layers, self.vector("norm"), self.multiplied(head))

    def layer(self, number: int) -> Layer:
        spec, shard, name = self.weights.spec, self.shard, f"layers.{number}."
        heads, kv_heads, inner = shard.part(spec.heads), shard.part(spec.kv_heads), shard.part(spec.ffn)
        parts = {"q": heads, "k": kv_heads, "v": kv_heads}
        rows = {which: slice(p.start * spec.head_dim, p.stop * spec.head_dim) for which, p in parts.items()}

        def vector(which: str, wanted: bool) -> Tensor | None:
            return self.vector(name + which) if wanted else None

        bias = None
        if spec.qkv_bias:
            bias = torch.cat([self.vector(f"{name}{which}_bias")[rows[which]] for which in "qkv"])
        return Layer(
            attn_norm=self.vector(name + "attn_norm"),
            qkv=self.multiplied(join([self.matrix(name + which, rows=rows[which]) for which in "qkv"])),
            bias=bias,
            q_norm=vector("q_norm", spec.qk_norm),
            k_norm=vector("k_norm", spec.qk_norm),
            o=self.multiplied(self.matrix(name + "o", columns=rows["q"])),
            attn_post_norm=vector("attn_post_norm", spec.post_norms),
            mlp_norm=self.vector(name + "mlp_norm"),
            gate_up=self.multiplied(join([self.matrix(name + which, rows=inner) for which in ("gate", "up")])),
            down=self.multiplied(self.matrix(name + "down", columns=inner)),
            mlp_post_norm=vector("mlp_post_norm", spec.post_norms),
        )

    def matrix(
        self, name: str, *, rows: slice | None = None, columns: slice | None = None, shared: Tensor | None = None
    ) -> Linear:
        tensor, form = self.weights[name], form_of(self.form, name)
        if len(tensor.shape) != 2:
            raise CorruptModel(f"{tensor.name} should be a matrix, its shape is {list(tensor.shape)}")
        return pack(
            tensor, form, self.device, self.dtype, rows=rows, columns=columns, shared=shared, products=self.products
        )

    def multiplied(self, linear: Linear) -> Linear:
        """The matrix, as it is multiplied by."""
        return invariant(linear) if self.batch_invariant else linear

    def vector(self, name: str) -> Tensor:
        tensor = self.weights[name]
        if len(tensor.shape) != 1:
            raise CorruptModel(f"{tensor.name} should be a vector, its shape is {list(tensor.shape)}")
        return torch.from_numpy(tensor.decode().copy()).to(self.device, torch.float32)

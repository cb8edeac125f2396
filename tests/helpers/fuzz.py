"""Random models and batches for tests of the kernels: any shape, any encoding, prefill and decode mixed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tenfold.core.config import KV_TYPES
from tenfold.model.decoder import forward
from tenfold.model.encodings import decode, encoding_named, make_tensor
from tenfold.model.layout import shapes
from tenfold.ops.base import Float32, Kv
from tenfold.ops.cpu import CpuOps
from tenfold.ops.spec import ModelSpec
from tenfold.ops.tensors import Tensor, Weights
from tests.helpers.models import LEVELS, Slice, make_batch, random_weights, rope, tiny_spec

T = TypeVar("T")

DENSE = ("F32", "F16", "BF16")
# float16 fields of each block by byte offset: random bytes there would be infinite or huge.
HALVES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82), "Q3_K": (108,),
    "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
}  # fmt: skip
QUANTIZED = tuple(HALVES)


def stored(kind: str, rows: int, cols: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random contents of a [rows, cols] matrix of ``kind``; all codes and scales occur."""
    rng = np.random.default_rng(seed)
    if kind in DENSE:
        values = rng.standard_normal((rows, cols)).astype(np.float32)
        if kind == "F16":
            return values.astype(np.float16).view(np.uint8)
        if kind == "BF16":
            return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        return values.view(np.uint8)
    encoding = encoding_named(kind)
    blocks = rng.integers(0, 256, (rows, cols // encoding.values, encoding.bytes)).astype(np.uint8)
    for at in HALVES[kind]:
        scale = (rng.standard_normal(blocks.shape[:2]) * 0.01).astype(np.float16)
        blocks[:, :, at : at + 2] = scale[..., None].view(np.uint8)
    return blocks.reshape(rows, -1)


def quantized_tensor(name: str, kind: str, shape: tuple[int, ...], deviation: float, seed: int) -> Tensor:
    """A matrix of random codes whose values have about the standard ``deviation``."""
    encoding = encoding_named(kind)
    data = stored(kind, *shape, seed=seed)
    factor = deviation / max(float(np.std(decode(kind, data, shape))), 1e-9)
    blocks = data.reshape(shape[0], -1, encoding.bytes)
    for at in HALVES[kind]:
        halves = np.ascontiguousarray(blocks[:, :, at : at + 2]).view(np.float16)
        blocks[:, :, at : at + 2] = (halves.astype(np.float32) * factor).astype(np.float16).view(np.uint8)
    return make_tensor(name, kind, shape, data)


@dataclass(frozen=True)
class Part:
    """One sequence of the tested step: ``count`` tokens from position ``start`` on, after ``start`` earlier ones."""

    start: int
    count: int
    every: int  # logits are wanted of each ``every``-th token
    shared: int  # whole blocks in common with the first sequence

    @property
    def rows(self) -> range:
        return range((self.count - 1) % self.every, self.count, self.every)


@dataclass(frozen=True)
class Case:
    """A model, a KV layout and a step."""

    spec: ModelSpec
    kinds: tuple[str, ...]  # encodings to choose from, by matrix
    parts: tuple[Part, ...]
    block_size: int
    kv_type: str
    level: str
    threads: int
    seed: int

    def weights(self) -> Weights:
        """Every matrix in one of the case's encodings that its columns allow."""
        rng = np.random.default_rng(self.seed)
        tensors = dict(random_weights(self.spec, seed=self.seed).tensors)
        for i, (name, shape) in enumerate(shapes(self.spec).items()):
            fitting = [kind for kind in self.kinds if len(shape) == 2 and shape[1] % encoding_named(kind).values == 0]
            if not fitting:
                continue
            kind = str(rng.choice(fitting))
            values = tensors[name].decode()
            if kind in DENSE:
                tensors[name] = dense_tensor(name, kind, values)
            else:
                tensors[name] = quantized_tensor(name, kind, shape, float(np.std(values)) or 0.1, self.seed + i)
        return Weights(self.spec, tensors)

    def ops(self, weights: Weights, **settings: Any) -> CpuOps:
        """The kernels, with the case's settings unless others are given."""
        chosen: dict[str, Any] = {"kv_type": self.kv_type, "level": self.level, "threads": self.threads}
        return CpuOps(weights, **chosen | settings)

    def within(self, tokens: int) -> "Case":
        """The case with as many of its sequences as have so many tokens together; at least one, cut short."""
        first = self.parts[0]
        start = min(first.start, tokens - 1)
        kept = [replace(first, start=start, count=min(first.count, tokens - start))]
        for part in self.parts[1:]:
            if sum(p.start + p.count for p in (*kept, part)) <= tokens:
                kept.append(replace(part, shared=min(part.shared, start // self.block_size)))
        return replace(self, parts=tuple(kept))

    def layout(self) -> tuple[list[list[int]], list[list[int]], int]:
        """Tokens and blocks of each sequence, and how many blocks there are."""
        rng = np.random.default_rng(self.seed + 1)
        counts = [-(-(part.start + part.count) // self.block_size) for part in self.parts]
        order = [int(block) for block in rng.permutation(sum(counts) + 1)]
        texts: list[list[int]] = []
        tables: list[list[int]] = []
        for part, count in zip(self.parts, counts, strict=True):
            shared = part.shared if texts else 0
            first, taken = (texts[0], tables[0]) if texts else ([], [])
            own = rng.integers(0, self.spec.vocab, part.start + part.count - shared * self.block_size)
            texts.append(first[: shared * self.block_size] + [int(token) for token in own])
            tables.append(taken[:shared] + [order.pop() for _ in range(count - shared)])
        return texts, tables, sum(counts) + 1

    def filled(self, ops: CpuOps, kv: Kv) -> list[Slice]:
        """Computes what precedes the tested step and gives the step's slices."""
        texts, tables, _ = self.layout()
        for part, text, table in zip(self.parts, texts, tables, strict=True):
            if part.start:
                forward(ops, kv, make_batch([Slice(text[: part.start], 0, table, [])]))
        return [
            Slice(text[part.start :], part.start, table, part.rows)
            for part, text, table in zip(self.parts, texts, tables, strict=True)
        ]

    def run(self, ops: CpuOps) -> Float32:
        """Logits of the tested step, over new KV memory."""
        kv = ops.new_kv(self.layout()[2], self.block_size)
        return forward(ops, kv, make_batch(self.filled(ops, kv))).copy()


def dense_tensor(name: str, kind: str, values: Float32) -> Tensor:
    """``values`` as F32, F16 or BF16."""
    if kind == "F32":
        data = np.ascontiguousarray(values).view(np.uint8)
    elif kind == "F16":
        data = values.astype(np.float16).view(np.uint8)
    else:
        data = np.ascontiguousarray((np.ascontiguousarray(values).view(np.uint32) >> 16).astype(np.uint16)).view(
            np.uint8
        )
    return make_tensor(name, kind, values.shape, data)


class Dice:
    """Random choices from a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def between(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return int(self.rng.integers(low, high + 1))

    def one_of(self, choices: Sequence[T]) -> T:
        return choices[self.between(0, len(choices) - 1)]

    def sometimes(self, chance: float = 0.5) -> bool:
        return bool(self.rng.random() < chance)


def random_spec(dice: Dice, kinds: tuple[str, ...]) -> ModelSpec:
    """A small decoder; its sizes mostly fit all of ``kinds``."""
    unit = max(encoding_named(kind).values for kind in kinds) if dice.sometimes(0.8) else 1
    sizes = {1: range(1, 100), 32: (32, 64, 96), 256: (256,)}[unit]
    head_dim = dice.one_of((32, 64, 96, 128)) if dice.sometimes(0.4) else 2 * dice.between(1, 65)
    kv_heads, layers = dice.between(1, 3), dice.between(1, 2)
    return tiny_spec(
        layers=layers,
        hidden=dice.one_of(sizes),
        ffn=dice.one_of(sizes),
        vocab=dice.between(1, 70),
        head_dim=head_dim,
        kv_heads=kv_heads,
        heads=kv_heads * (dice.between(1, 4) if dice.sometimes(0.7) else dice.between(5, 30 // kv_heads)),
        windows=tuple(dice.one_of((0, 0, dice.between(1, 90), dice.between(200, 400))) for _ in range(layers)),
        rope_local=rope(head_dim, 100.0) if dice.sometimes() else None,
        qkv_bias=dice.sometimes(),
        # The norm of very few values may be close to zero, where nothing is near its reference.
        qk_norm=head_dim >= 8 and dice.sometimes(),
        post_norms=dice.sometimes(),
        tied_head=dice.sometimes(),
        activation=dice.one_of(("silu", "gelu_tanh")),
        embed_scale=dice.one_of((1.0, 5.5)),
        logit_softcap=dice.one_of((0.0, 3.0)),
        max_context=4096,
    )


def random_parts(dice: Dice, block_size: int) -> tuple[Part, ...]:
    """Up to seven sequences, up to about 300 tokens: decodes, chunks of prompts, prompts that begin."""

    def before() -> int:
        return dice.one_of((0, dice.between(0, 70), dice.between(0, 70), dice.between(240, 560)))

    parts = []
    for _ in range(dice.between(1, 6)):
        count = dice.one_of((1, 1, dice.between(1, 12), dice.between(13, 90)))
        parts.append(Part(before(), count, dice.between(1, 9), 0))
    if dice.sometimes(0.15):
        parts.append(Part(before(), dice.between(150, 300), dice.between(1, 40), 0))
    if dice.sometimes():
        parts = [replace(part, shared=min(part.start, parts[0].start) // block_size) for part in parts]
    return tuple(parts)


def random_case(seed: int) -> Case:
    """Anything the kernels must serve."""
    dice = Dice(seed)
    kinds = tuple(dice.one_of(DENSE + QUANTIZED) for _ in range(dice.between(1, 4)))
    block_size = dice.one_of((16, 32, 48))
    return Case(
        spec=random_spec(dice, kinds),
        kinds=kinds,
        parts=random_parts(dice, block_size),
        block_size=block_size,
        kv_type=dice.one_of(KV_TYPES["cpu"]),
        level=dice.one_of(LEVELS),
        threads=dice.between(1, 3),
        seed=seed,
    )


def large_case(seed: int) -> Case:
    """The same in one small layer with thousands of rows in the step: two long prompts, or very many sequences."""
    case, dice = random_case(seed), Dice(seed + 2)
    if dice.sometimes():
        parts = [Part(dice.between(0, 70), dice.between(700, 1400), dice.between(50, 200), 0) for _ in range(2)]
    else:
        many = dice.between(500, 800)
        parts = [Part(dice.between(1, 40) if i % 100 == 0 else 0, dice.between(1, 6), 1, 0) for i in range(many)]
    spec = replace(case.spec, layers=1, windows=case.spec.windows[:1], heads=case.spec.kv_heads)  # little to compute
    return replace(case, spec=spec, parts=tuple(parts))

"""Tiny models and batches for tests of ops and of the forward pass."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenfold.model.layout import shapes
from tenfold.ops.base import Batch
from tenfold.ops.cpu import available_levels, emulated_levels
from tenfold.ops.spec import ModelSpec, RopeSpec
from tenfold.ops.tensors import Tensor, Weights

# Every kernel level this machine can test.
LEVELS = (*available_levels(), *emulated_levels())


def rope(head_dim: int, theta: float = 10000.0) -> RopeSpec:
    """Plain rotary frequencies."""
    return RopeSpec(tuple(float(theta ** (-i / head_dim)) for i in range(0, head_dim, 2)))


def tiny_spec(**overrides: Any) -> ModelSpec:
    """A two-layer Llama; ``overrides`` replace any field (rope, windows and query_scale follow the sizes)."""
    fields: dict[str, Any] = {
        "architecture": "llama",
        "name": "tiny",
        "layers": 2,
        "hidden": 64,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 16,
        "ffn": 96,
        "vocab": 160,
        "max_context": 512,
        "norm_eps": 1e-5,
    } | overrides
    fields.setdefault("rope", rope(fields["head_dim"]))
    fields.setdefault("windows", (0,) * fields["layers"])
    fields.setdefault("query_scale", fields["head_dim"] ** -0.5)
    return ModelSpec(**fields)


def make_tensor(name: str, values: NDArray[np.float32], kind: str = "F32") -> Tensor:
    """``values`` stored as ``kind`` (any encoding gguf can write, vectors always F32)."""
    values = np.ascontiguousarray(values, np.float32)
    if kind == "F32" or values.ndim == 1:
        kind, data = "F32", values
    elif kind == "F16":
        data = values.astype(np.float16)
    else:
        from gguf import GGMLQuantizationType
        from gguf.quants import quantize

        data = quantize(values, GGMLQuantizationType[kind])
    raw = np.ascontiguousarray(data).reshape(data.shape[0] if data.ndim > 1 else 1, -1).view(np.uint8)
    return Tensor(name, kind, values.shape, raw, partial(_decode, kind, raw, values.shape))


def _decode(kind: str, raw: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.float32]:
    if kind in ("F32", "F16"):
        return raw.view(np.float32 if kind == "F32" else np.float16).astype(np.float32).reshape(shape)
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    return np.asarray(dequantize(raw, GGMLQuantizationType[kind]), np.float32).reshape(shape)


def random_weights(spec: ModelSpec, seed: int = 0, kind: str = "F32") -> Weights:
    """Small random weights: activations stay near one, attention and logits are far from uniform.

    ``kind`` encodes the matrices: F32, F16, BF16, or one of Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 (columns must then
    be multiples of 32). Norms and biases are F32.
    """
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes(spec).items():
        values = rng.standard_normal(shape, np.float32)
        if name.endswith("norm"):
            values = 1 + 0.1 * values
        elif name.endswith("bias"):
            values = 0.2 * values
        elif name.endswith((".q", ".k")):
            values = values * 1.5 / np.sqrt(shape[-1])
        else:
            values = values / np.sqrt(shape[-1])
        tensors[name] = make_tensor(name, values.astype(np.float32), kind)
    return Weights(spec, tensors)


@dataclass(frozen=True, slots=True)
class Slice:
    """Tokens of one sequence at positions ``start``, ``start`` + 1, … over its KV ``blocks``."""

    tokens: Sequence[int]
    start: int
    blocks: Sequence[int]
    rows: Sequence[int] | None = None  # which of its tokens give logits (None: the last); may be empty


def make_batch(slices: Iterable[Slice]) -> Batch:
    """The ragged batch of ``slices``, in order."""
    slices = list(slices)
    sizes = [len(s.tokens) for s in slices]
    starts = np.concatenate(([0], np.cumsum(sizes))).astype(np.int32)
    width = max((len(s.blocks) for s in slices), default=0)
    tables = np.zeros((len(slices), width), np.int32)
    for i, s in enumerate(slices):
        tables[i, : len(s.blocks)] = s.blocks
    rows = [
        int(first) + r
        for first, s in zip(starts, slices, strict=False)
        for r in (s.rows if s.rows is not None else [len(s.tokens) - 1])
    ]
    return Batch(
        tokens=np.array([t for s in slices for t in s.tokens], np.int32),
        positions=np.array([s.start + i for s in slices for i in range(len(s.tokens))], np.int32),
        starts=starts,
        context=np.array([s.start + len(s.tokens) for s in slices], np.int32),
        tables=tables,
        rows=np.array(rows, np.int32),
    )

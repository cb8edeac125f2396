"""Weights as stored: named tensors that point into a memory-mapped checkpoint."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tenfold.ops.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor in its stored encoding.

    ``kind`` is the encoding's GGUF name (F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K … Q6_K);
    ``shape`` is logical, row-major: [rows, columns] for a matrix that maps columns to rows, [n] for a vector.
    ``data`` is uint8 [rows, bytes per row], a view of the mapped file where that is possible.
    ``decode`` gives the float32 values, shaped ``shape``.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]
    decode: Callable[[], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Weights:
    """A model's tensors under canonical names, whatever the checkpoint calls them.

    ``embed`` [vocab, hidden] · ``norm`` [hidden] · ``head`` [vocab, hidden] unless the head is tied ·
    per layer i, ``layers.{i}.`` + ``attn_norm``, ``q`` [heads x head_dim, hidden], ``k``, ``v``
    [kv_heads x head_dim, hidden], ``o`` [hidden, heads x head_dim], ``mlp_norm``, ``gate``, ``up`` [ffn, hidden],
    ``down`` [hidden, ffn]; with biases ``q_bias``, ``k_bias``, ``v_bias``; with qk_norm ``q_norm``, ``k_norm``
    [head_dim]; with post_norms ``attn_post_norm``, ``mlp_post_norm`` [hidden].
    """

    spec: ModelSpec
    tensors: Mapping[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

"""Weights as stored: named tensors that point into a memory-mapped checkpoint, or are random."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tenfold.ops.spec import ModelSpec

if TYPE_CHECKING:  # NumPy is imported by what makes arrays: a server's process reads no weights
    import numpy as np
    from numpy.typing import NDArray

_STEPS = 1 << 16  # from the lowest to the highest value of a random tensor


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
    data: "NDArray[np.uint8]"
    decode: Callable[[], "NDArray[np.float32]"]


class RandomTensor(Tensor):
    """A BF16 tensor that is stored nowhere: independent values, uniform from ``low`` to ``high``, fixed by ``seed``.

    ``data`` and ``decode`` make them anew at every use, in the host's memory. Ops that keep weights elsewhere may draw
    their own there, by ``seed``, ``low`` and ``high``.
    """

    __slots__ = ("high", "low", "seed")

    seed: int
    low: float
    high: float

    def __init__(self, name: str, shape: tuple[int, ...], *, seed: int, low: float, high: float) -> None:
        fields = {"name": name, "kind": "BF16", "shape": shape, "seed": seed, "low": low, "high": high}
        for field, value in fields.items():
            object.__setattr__(self, field, value)

    @property
    def data(self) -> "NDArray[np.uint8]":
        """[rows, bytes per row]."""
        import numpy as np

        halves = (self._steps() >> np.uint32(16)).astype(np.uint16)[self._drawn()]
        return halves.view(np.uint8).reshape(math.prod(self.shape[:-1]), -1)

    def decode(self) -> "NDArray[np.float32]":
        """The float32 values, shaped ``shape``."""
        import numpy as np

        return self._steps().view(np.float32)[self._drawn()].reshape(self.shape)

    def _drawn(self) -> "NDArray[np.uint16]":
        import numpy as np

        random = np.random.Generator(np.random.SFC64(self.seed))
        return random.integers(0, _STEPS, math.prod(self.shape), dtype=np.uint16)

    def _steps(self) -> "NDArray[np.uint32]":
        """The bits of the values there are, which BF16 holds exactly."""
        import numpy as np

        values = np.linspace(self.low, self.high, _STEPS, dtype=np.float32)
        return values.view(np.uint32) & np.uint32(0xFFFF0000)


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

"""Tensor encodings: block sizes, and decoding to float32.

The names, ids and block layouts are GGUF's (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from tenfold.ops.tensors import Tensor

if TYPE_CHECKING:  # see tenfold.ops.tensors
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Encoding:
    """How values are stored: ``values`` of them in every ``bytes`` bytes."""

    name: str
    values: int
    bytes: int


READABLE: tuple[tuple[int, Encoding], ...] = (
    (0, Encoding("F32", 1, 4)),
    (1, Encoding("F16", 1, 2)),
    (30, Encoding("BF16", 1, 2)),
    (2, Encoding("Q4_0", 32, 18)),
    (3, Encoding("Q4_1", 32, 20)),
    (6, Encoding("Q5_0", 32, 22)),
    (7, Encoding("Q5_1", 32, 24)),
    (8, Encoding("Q8_0", 32, 34)),
    (10, Encoding("Q2_K", 256, 84)),
    (11, Encoding("Q3_K", 256, 110)),
    (12, Encoding("Q4_K", 256, 144)),
    (13, Encoding("Q5_K", 256, 176)),
    (14, Encoding("Q6_K", 256, 210)),
)
# Known, so that a refusal can name them.
_OTHER_IDS = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S",
    22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0",
    35: "TQ2_0", 39: "MXFP4", 40: "NVFP4",
}  # fmt: skip
_BY_ID = dict(READABLE)
_BY_NAME = {encoding.name: encoding for _, encoding in READABLE}


def encoding_of(type_id: int) -> Encoding | None:
    """The readable encoding with GGUF id ``type_id``, or None."""
    return _BY_ID.get(type_id)


def encoding_named(name: str) -> Encoding:
    """The readable encoding called ``name``; it must exist."""
    return _BY_NAME[name]


def type_name(type_id: int) -> str:
    """A name for any GGUF tensor type id, readable or not."""
    known = _BY_ID.get(type_id)
    return known.name if known else _OTHER_IDS.get(type_id, f"type {type_id}")


def supported_names() -> str:
    """The readable encodings, for messages."""
    return ", ".join(encoding.name for _, encoding in READABLE)


def decode(kind: str, data: "NDArray[np.uint8]", shape: tuple[int, ...]) -> "NDArray[np.float32]":
    """The float32 values of ``data`` (uint8 [rows, bytes per row]) in encoding ``kind``, as ``shape``.

    A fresh array, except that F32 data is viewed in place where its alignment allows.
    """
    import numpy as np

    flat = np.ascontiguousarray(data).reshape(-1)
    if kind == "F32":
        return flat.view(np.float32).reshape(shape)
    if kind == "F16":
        return flat.view(np.float16).astype(np.float32).reshape(shape)
    if kind == "BF16":
        wide = flat.view(np.uint16).astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32).reshape(shape)
    # Imported late: it costs a quarter of a second that a start with native kernels need not pay.
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    values = dequantize(np.ascontiguousarray(data), GGMLQuantizationType[kind])
    return np.asarray(values, dtype=np.float32).reshape(shape)


def make_tensor(name: str, kind: str, shape: tuple[int, ...], data: "NDArray[np.uint8]") -> Tensor:
    """A :class:`Tensor` over ``data``, any array of exactly the encoding's bytes for ``shape``."""
    rows = math.prod(shape[:-1])
    matrix = data.reshape(rows, -1)
    return Tensor(name, kind, shape, matrix, partial(decode, kind, matrix, shape))


def float_tensor(name: str, values: "NDArray[np.float32]") -> Tensor:
    """A computed F32 :class:`Tensor`."""
    import numpy as np

    values = np.ascontiguousarray(values, dtype=np.float32)
    return make_tensor(name, "F32", values.shape, values.reshape(-1).view(np.uint8))


def take_rows(tensor: Tensor, rows: "NDArray[np.intp]") -> Tensor:
    """A copy of ``tensor`` (a matrix, or a vector of unpacked floats) with its rows in another order."""
    if len(tensor.shape) == 1:
        return float_tensor(tensor.name, tensor.decode()[rows])
    return make_tensor(tensor.name, tensor.kind, tensor.shape, tensor.data[rows])

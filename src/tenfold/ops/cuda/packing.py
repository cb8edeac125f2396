"""Weight matrices on the device, in the form that ``--weights`` asks for.

What is stored in 4 bits or fewer stays in 4 unless bf16 is asked for: Q4_0 and Q4_1 exactly, Q4_K except that scales
and offsets are rounded to float16 (by 2^-11 of them at most), Q2_K and Q3_K rounded to groups of 32. What 4 bits do
not suit, as columns that are not whole groups or rows that are not whole blocks, becomes bf16.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray

from tenfold.core.errors import ConfigError, CorruptModel
from tenfold.ops.cuda.linear import (
    DenseLinear,
    Fp8Linear,
    Int4Linear,
    InvariantLinear,
    JoinedLinear,
    Linear,
    Products,
    fused_products,
    plain_products,
)
from tenfold.ops.cuda.plain import int4
from tenfold.ops.cuda.plain.int4 import BLOCK, GROUP
from tenfold.ops.cuda.plain.norms import FP8, quantized
from tenfold.ops.cuda.rounding import round_groups
from tenfold.ops.tensors import RandomTensor, Tensor

FORMS = ("auto", "bf16", "fp8", "int4")

_FOUR_BITS = ("Q4_0", "Q4_1", "Q2_K", "Q3_K", "Q4_K")
_FP8_TYPES = (8, 9)  # the least compute capability that converts FP8
_AT_ONCE = 1 << 24  # weights whose codes are worked on together, in 4 bytes each and more
_LARGEST, _SMALLEST = 32768.0, 2.0**-12  # of a matrix's largest weight: float16 scales suit nothing beyond

Groups = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # codes [N, K / 32, 32]; float16 scales, offsets [N, K / 32]


def form_of(weights: str, name: str) -> str:
    """The form, of ``FORMS``, for the matrix ``name`` under the setting ``weights``. Raises ConfigError.

    ``int4`` spares what four bits would cost most in, for a few percent of the weights: value projections stay as they
    are (``auto``), the head, or an embedding that is one, becomes fp8.
    """
    if weights not in FORMS:
        hint = "; int8 needs --backend cpu" if weights == "int8" else ""
        raise ConfigError(f"--weights must be one of {', '.join(FORMS)} with --backend cuda, got {weights!r}{hint}")
    if weights != "int4":
        return weights
    return {"v": "auto", "head": "fp8", "embed": "fp8"}.get(name.rsplit(".", 1)[-1], "int4")


def pack(
    tensor: Tensor,
    form: str,
    device: torch.device,
    dtype: torch.dtype,
    *,
    rows: slice | None = None,
    columns: slice | None = None,
    shared: torch.Tensor | None = None,
    products: Products | None = None,
) -> Linear:
    """The matrix [N, K], or these ``rows`` and ``columns`` of it (step 1), for activations of type ``dtype``.

    ``shared`` is all of it in ``dtype`` on the device, where that is there already; as bf16 its rows are not copied.
    Raises ConfigError where the device cannot do a form, CorruptModel for weights that are no numbers.
    """
    form_of(form, tensor.name)
    products = products or (fused_products() if device.type == "cuda" else plain_products())
    rows = _whole(rows, tensor.shape[0])
    columns = _whole(columns, tensor.shape[1])
    if form != "bf16" and (form == "int4" or tensor.kind in _FOUR_BITS):
        packed = _int4(tensor, rows, columns, device, products)
        if packed is not None:
            return packed
    if form == "fp8" and tensor.kind not in _FOUR_BITS:
        return _fp8(tensor, _values(tensor, rows, columns, device), dtype, products)
    if shared is not None:
        return DenseLinear(shared[rows, columns].contiguous(), products)
    return DenseLinear(_values(tensor, rows, columns, device).to(dtype), products)


def join(parts: Sequence[Linear]) -> Linear:
    """One matrix of the outputs of ``parts``, in their order: neighbours of one kind become one piece."""
    runs = [list(run) for _, run in groupby(parts, key=lambda part: (type(part), part.kind))]
    joined = [_concatenated(run) for run in runs]
    if len(joined) == 1:
        return joined[0]
    first = joined[0]
    assert isinstance(first, DenseLinear | Fp8Linear | Int4Linear)
    return JoinedLinear(joined, first.products)


def invariant(linear: Linear) -> Linear:
    """The same weights, multiplied batch-invariantly."""
    if isinstance(linear, JoinedLinear):
        return JoinedLinear([invariant(part) for part in linear.parts], linear.products)
    assert isinstance(linear, DenseLinear | Fp8Linear | Int4Linear)
    return InvariantLinear(linear)


def _concatenated(parts: Sequence[Linear]) -> Linear:
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, DenseLinear):
        return DenseLinear(torch.cat([p.w for p in parts if isinstance(p, DenseLinear)]), first.products)
    if isinstance(first, Fp8Linear):
        fp8 = [p for p in parts if isinstance(p, Fp8Linear)]
        w = torch.cat([p.w.view(torch.uint8) for p in fp8]).view(FP8)
        return Fp8Linear(w, torch.cat([p.scale for p in fp8]), first.dtype, first.products)
    assert isinstance(first, Int4Linear)
    packed = [p for p in parts if isinstance(p, Int4Linear)]
    words, scales = torch.cat([p.words for p in packed]), torch.cat([p.scales for p in packed])
    return Int4Linear(words, scales, first.products)


def _whole(part: slice | None, size: int) -> slice:
    return slice(*(part or slice(None)).indices(size)[:2])


def _values(tensor: Tensor, rows: slice, columns: slice, device: torch.device) -> torch.Tensor:
    """[rows, columns] on the device, in the type it is stored in where torch has that, else float32."""
    if isinstance(tensor, RandomTensor) and device.type == "cuda":
        generator = torch.Generator(device).manual_seed(tensor.seed)
        drawn = torch.empty(tensor.shape, dtype=torch.bfloat16, device=device)
        drawn.uniform_(tensor.low, tensor.high, generator=generator)
        return drawn[rows, columns].contiguous()
    if tensor.kind in ("BF16", "F16"):
        halves = tensor.data.reshape(tensor.shape[0], -1)[rows, 2 * columns.start : 2 * columns.stop]
        return _sent(halves, device).view(torch.bfloat16 if tensor.kind == "BF16" else torch.float16)
    return _sent(tensor.decode()[rows, columns], device)


def _sent(array: NDArray[np.uint8] | NDArray[np.float32], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.array(array)).to(device)  # a copy: torch takes no read-only memory


def _checked(tensor: Tensor, values: torch.Tensor) -> float:
    """The largest magnitude, which must be finite."""
    largest = float(values.abs().amax()) if values.numel() else 0.0
    if not largest < float("inf"):
        raise CorruptModel(f"{tensor.name} holds weights that are infinite or no numbers")
    return largest


def _fp8(tensor: Tensor, values: torch.Tensor, dtype: torch.dtype, products: Products) -> Linear:
    """Each row by its largest magnitude."""
    if values.is_cuda and torch.cuda.get_device_capability(values.device) < _FP8_TYPES:
        raise ConfigError(f"--weights fp8 needs a GPU of compute capability 8.9 (Ada) or newer: {tensor.name}")
    _checked(tensor, values)
    w = torch.empty(values.shape, dtype=FP8, device=values.device)
    scale = torch.empty(len(values), dtype=torch.float32, device=values.device)
    for part in _chunks(values.shape):
        w[part], factors = quantized(values[part].float())
        scale[part] = factors[:, 0]
    return Fp8Linear(w, scale, dtype, products)


def _int4(tensor: Tensor, rows: slice, columns: slice, device: torch.device, products: Products) -> Int4Linear | None:
    """None where 4 bits do not suit the matrix."""
    if columns.start % GROUP or columns.stop % GROUP or (rows.stop - rows.start) % BLOCK:
        return None
    groups = slice(columns.start // GROUP, columns.stop // GROUP)
    if tensor.kind in _STORED:
        size, read = _STORED[tensor.kind]
        source = _sent(tensor.data[rows], device).reshape(rows.stop - rows.start, -1, size)
    else:
        values = _values(tensor, rows, columns, device)
        if not _SMALLEST <= _checked(tensor, values) <= _LARGEST:
            return None
        source, read, groups = values.reshape(len(values), -1, GROUP), _rounded, slice(None)
    words, scales = [], []
    for part in _chunks((rows.stop - rows.start, tensor.shape[1])):
        codes, scale, offset = (each[:, groups] for each in read(source[part]))
        if not bool((scale.isfinite() & offset.isfinite()).all()):
            return None
        packed = int4.pack(codes, scale, offset)
        words.append(packed[0])
        scales.append(packed[1])
    return Int4Linear(torch.cat(words), torch.cat(scales), products)


def _chunks(shape: Sequence[int]) -> list[slice]:
    """The rows, as many whole blocks at a time as should be worked on together."""
    size = BLOCK * max(1, _AT_ONCE // max(1, BLOCK * shape[1]))
    return [slice(first, first + size) for first in range(0, shape[0], size)]


def _rounded(groups: torch.Tensor) -> Groups:
    return round_groups(groups.float())


def _q4_0(blocks: torch.Tensor) -> Groups:
    """GGUF's blocks of 32: a float16 scale and codes that are 8 too large."""
    scale = _halves(blocks[..., :2])[..., 0]
    return _nibbles(blocks[..., 2:]), scale, -8 * scale


def _q4_1(blocks: torch.Tensor) -> Groups:
    """GGUF's blocks of 32: a float16 scale, a float16 minimum, and codes."""
    scale, offset = _halves(blocks[..., :4]).unbind(-1)
    return _nibbles(blocks[..., 4:]), scale, offset


def _q4_k(blocks: torch.Tensor) -> Groups:
    """GGUF's blocks of 256: float16 factors of the scales and minima of 8 groups, 6 bits each, and codes."""
    factor, minimum = _halves(blocks[..., :4]).float().unsqueeze(-1).unbind(-2)
    low, middle, high = torch.split(blocks[..., 4:16], 4, dim=-1)
    scales = torch.cat((low & 63, (high & 15) | (low >> 6 << 4)), dim=-1)
    minima = torch.cat((middle & 63, (high >> 4) | (middle >> 6 << 4)), dim=-1)
    codes = _nibbles(blocks[..., 16:].reshape(*blocks.shape[:2], 4, 32)).reshape(len(blocks), -1, 32)
    return codes, (factor * scales).flatten(1).half(), (minimum * minima).neg().flatten(1).half()


def _halves(data: torch.Tensor) -> torch.Tensor:
    return data.contiguous().view(torch.float16)


def _nibbles(data: torch.Tensor) -> torch.Tensor:
    """The low halves of the bytes, then the high ones."""
    return torch.cat((data & 15, data >> 4), dim=-1)


_STORED: Mapping[str, tuple[int, Callable[[torch.Tensor], Groups]]] = MappingProxyType(  # bytes per block
    {"Q4_0": (18, _q4_0), "Q4_1": (20, _q4_1), "Q4_K": (144, _q4_k)}
)

"""y = x W^T for the kinds of weights there are.

A library's product does best with many rows. With few, where reading W is all, kernels of our own do, and take along
the gating or the addition after a product (``fuses``). W is kept as [outputs, inputs].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor

from tenfold.ops.cuda.plain.int4 import BLOCK, GROUP
from tenfold.ops.spec import Activation

Rows = Tensor | tuple[Tensor, Tensor]  # [T, K] in the activations' type, or FP8 with a float32 scale per row [T, 1]

_SCRATCH = 128 << 20  # bytes of 4-bit weights that are unpacked at once
_ALIGNED = 16  # rows and columns of what torch multiplies in FP8 come in so many


@dataclass(frozen=True, slots=True)
class Products:
    """What linears are computed by: modules of ``plain`` or ``fused``, and up to how many rows of x by these.

    4-bit weights are unpacked for more than ``tiled_rows``.
    """

    gemm: ModuleType
    int4: ModuleType
    invariant: ModuleType
    gated: ModuleType
    dense_rows: int = 8
    fp8_rows: int = 16
    int4_rows: int = 16
    tiled_rows: int = 256


def plain_products() -> Products:
    """Plain torch, on any device."""
    from tenfold.ops.cuda.plain import gated, gemm, int4, invariant

    return Products(gemm, int4, invariant, gated)


def fused_products() -> Products:
    """Triton, on a GPU (or in its interpreter)."""
    from tenfold.ops.cuda.fused import gated, gemm, int4, invariant

    return Products(gemm, int4, invariant, gated)


class Linear(Protocol):
    """A weight matrix. ``kind`` is for people: ``bf16``, ``fp8``, ``int4 g32``.

    ``out`` and ``residual`` are [T, N]; their rows may be apart.
    """

    outputs: int  # N
    inputs: int  # K
    nbytes: int
    kind: str

    def fuses(self, rows: int) -> bool:
        """Whether so many rows go to kernels that do more than multiply: the only ones to give to what says so."""
        ...

    def quantizes(self, rows: int) -> bool:
        """Whether so many rows are multiplied in FP8: only then may x be a pair."""
        ...

    def __call__(self, x: Rows, out: Tensor | None = None) -> Tensor:
        """[T, N] in the activations' type, or ``out``'s."""
        ...

    def gated(self, x: Tensor, activation: Activation) -> Tensor:
        """[T, N / 2], where it ``fuses``: activation(gate) * up. The gate is the first half of N."""
        ...

    def add(self, x: Tensor, residual: Tensor) -> None:
        """Adds to ``residual`` in place, where it ``fuses``."""
        ...

    def logits(self, x: Tensor) -> Tensor:
        """[T, N] float32, not rounded to the activations' type on the way."""
        ...


class DenseLinear:
    """Weights [N, K] in the activations' type."""

    def __init__(self, w: Tensor, products: Products) -> None:
        self.w, self.products, self.most = w, products, products.dense_rows
        self.outputs, self.inputs = w.shape
        self.nbytes = w.nbytes
        self.kind = "bf16" if w.dtype == torch.bfloat16 else "f32"

    def fuses(self, rows: int) -> bool:
        """See :class:`Linear`."""
        return 0 < rows <= self.most

    def quantizes(self, rows: int) -> bool:
        """Never."""
        return False

    def __call__(self, x: Rows, out: Tensor | None = None) -> Tensor:
        """See :class:`Linear`."""
        assert isinstance(x, Tensor)
        if self.fuses(len(x)):
            y: Tensor = self.products.gemm.skinny(x, self.w, out=out)
            return y
        return _many(x, self.w, out)

    def gated(self, x: Tensor, activation: Activation) -> Tensor:
        """See :class:`Linear`."""
        assert self.fuses(len(x))
        y: Tensor = self.products.gemm.skinny_gated(x, self.w, activation)
        return y

    def add(self, x: Tensor, residual: Tensor) -> None:
        """See :class:`Linear`."""
        assert self.fuses(len(x))
        self.products.gemm.skinny_add(x, self.w, residual)

    def logits(self, x: Tensor) -> Tensor:
        """See :class:`Linear`."""
        return self(x, out=_float32(x, self)) if self.fuses(len(x)) else _mm_float32(x, self.w)


class Fp8Linear:
    """FP8 E4M3 weights [N, K] with a float32 ``scale`` per output [N], for activations of type ``dtype``.

    Few rows are multiplied as they are; many are rounded to FP8, too, with a scale per row.
    """

    def __init__(self, w: Tensor, scale: Tensor, dtype: torch.dtype, products: Products) -> None:
        self.w, self.scale, self.dtype = w, scale, dtype
        self.products, self.most = products, products.fp8_rows
        self.outputs, self.inputs = w.shape
        self.nbytes = w.nbytes + scale.nbytes
        self.kind = "fp8"

    def fuses(self, rows: int) -> bool:
        """See :class:`Linear`."""
        return 0 < rows <= self.most

    def quantizes(self, rows: int) -> bool:
        """See :class:`Linear`."""
        return rows > self.most

    def __call__(self, x: Rows, out: Tensor | None = None) -> Tensor:
        """See :class:`Linear`."""
        gemm = self.products.gemm
        if isinstance(x, Tensor):
            if self.fuses(len(x)):
                y: Tensor = gemm.skinny(x, self.w, scale=self.scale, out=out)
                return y
            x = gemm.quantize_rows(x)
        y = self._product(*x)
        return y if out is None else out.copy_(y)

    def gated(self, x: Tensor, activation: Activation) -> Tensor:
        """See :class:`Linear`."""
        assert self.fuses(len(x))
        y: Tensor = self.products.gemm.skinny_gated(x, self.w, activation, scale=self.scale)
        return y

    def add(self, x: Tensor, residual: Tensor) -> None:
        """See :class:`Linear`."""
        assert self.fuses(len(x))
        self.products.gemm.skinny_add(x, self.w, residual, scale=self.scale)

    def logits(self, x: Tensor) -> Tensor:
        """See :class:`Linear`; many rows are rounded to FP8, but not what comes of them."""
        if self.fuses(len(x)) or not self._multiplied(x.device):
            return self(x, out=_float32(x, self))
        values, scale = self.products.gemm.quantize_rows(x)
        one = torch.ones((), device=x.device)
        y = torch._scaled_mm(values, self.w.t(), one, one, out_dtype=torch.float32, use_fast_accum=False)
        return y.mul_(scale).mul_(self.scale)

    def _multiplied(self, device: torch.device) -> bool:
        """Whether torch multiplies it in FP8."""
        return multiplies_fp8(device) and not (self.outputs % _ALIGNED or self.inputs % _ALIGNED)

    def _product(self, values: Tensor, scale: Tensor) -> Tensor:
        """[T, N] of x in FP8."""
        if not len(values):
            return values.new_empty(0, self.outputs, dtype=self.dtype)
        if self._multiplied(values.device):
            across = self.scale[None, :]
            return torch._scaled_mm(values, self.w.t(), scale, across, out_dtype=self.dtype, use_fast_accum=False)
        wide = torch.bfloat16 if values.is_cuda else torch.float32  # either holds every FP8 number
        return (_mm_float32(values.to(wide), self.w.to(wide)) * scale * self.scale).to(self.dtype)


class Int4Linear:
    """Weights of 4 bits in groups of 32 inputs, as ``plain.int4`` has them; for many rows they are unpacked."""

    def __init__(self, words: Tensor, scales: Tensor, products: Products) -> None:
        self.words, self.scales = words, scales
        self.products, self.most = products, products.int4_rows
        self.outputs, self.inputs = BLOCK * len(words), GROUP * words.shape[1]
        self.nbytes = words.nbytes + scales.nbytes
        self.kind = "int4 g32"

    def fuses(self, rows: int) -> bool:
        """See :class:`Linear`."""
        return 0 < rows <= self.most

    def quantizes(self, rows: int) -> bool:
        """Never."""
        return False

    def __call__(self, x: Rows, out: Tensor | None = None) -> Tensor:
        """See :class:`Linear`."""
        assert isinstance(x, Tensor)
        int4 = self.products.int4
        if 0 < len(x) <= self.products.tiled_rows:
            product = int4.skinny if self.fuses(len(x)) else int4.tiled
            y: Tensor = product(x, self.words, self.scales, out=out)
            return y
        if out is None:
            out = x.new_empty(len(x), self.outputs)
        at_once = max(1, _SCRATCH // (BLOCK * self.inputs * x.element_size()))
        for first in range(0, len(self.words), at_once):
            part = slice(first, first + at_once)
            columns = out[:, BLOCK * first : BLOCK * (first + at_once)]
            _many(x, int4.unpack(self.words[part], self.scales[part], x.dtype), columns)
        return out

    def gated(self, x: Tensor, activation: Activation) -> Tensor:
        """See :class:`Linear`."""
        assert self.fuses(len(x))
        if self.outputs % (2 * BLOCK):
            z: Tensor = self.products.gated.gated(self(x), activation)
            return z
        y: Tensor = self.products.int4.skinny_gated(x, self.words, self.scales, activation)
        return y

    def add(self, x: Tensor, residual: Tensor) -> None:
        """See :class:`Linear`."""
        assert self.fuses(len(x))
        self.products.int4.skinny_add(x, self.words, self.scales, residual)

    def logits(self, x: Tensor) -> Tensor:
        """See :class:`Linear`."""
        return self(x, out=_float32(x, self))


class InvariantLinear:
    """The weights of ``inner``, multiplied so that the bits of a row depend on that row of x alone."""

    def __init__(self, inner: DenseLinear | Fp8Linear | Int4Linear) -> None:
        self.outputs, self.inputs, self.nbytes, self.kind = inner.outputs, inner.inputs, inner.nbytes, inner.kind
        self._products = inner.products
        self._w = inner.words if isinstance(inner, Int4Linear) else inner.w
        self._scale = inner.scale if isinstance(inner, Fp8Linear) else None
        self._scales = inner.scales if isinstance(inner, Int4Linear) else None

    def fuses(self, rows: int) -> bool:
        """Never."""
        return False

    def quantizes(self, rows: int) -> bool:
        """Never."""
        return False

    def __call__(self, x: Rows, out: Tensor | None = None) -> Tensor:
        """See :class:`Linear`."""
        assert isinstance(x, Tensor)
        if out is None:
            out = x.new_empty(len(x), self.outputs)
        if not len(x):
            return out
        y: Tensor = self._products.invariant.product(x, self._w, scale=self._scale, scales=self._scales, out=out)
        return y

    def gated(self, x: Tensor, activation: Activation) -> Tensor:
        """See :class:`Linear`; a kernel for each part, whose bits depend on a row alone, too."""
        y: Tensor = self._products.gated.gated(self(x), activation)
        return y

    def add(self, x: Tensor, residual: Tensor) -> None:
        """See :class:`Linear`; likewise."""
        residual.add_(self(x))

    def logits(self, x: Tensor) -> Tensor:
        """See :class:`Linear`."""
        return self(x, out=_float32(x, self))


class JoinedLinear:
    """Matrices of the same inputs and of several kinds, their outputs one after another."""

    def __init__(self, parts: Sequence[Linear], products: Products) -> None:
        self.parts, self.products = tuple(parts), products
        self.outputs, self.inputs = sum(part.outputs for part in parts), parts[0].inputs
        self.nbytes = sum(part.nbytes for part in parts)
        self.kind = " + ".join(dict.fromkeys(part.kind for part in parts))

    def fuses(self, rows: int) -> bool:
        """See :class:`Linear`."""
        return all(part.fuses(rows) for part in self.parts)

    def quantizes(self, rows: int) -> bool:
        """Never: some of the parts do not."""
        return False

    def __call__(self, x: Rows, out: Tensor | None = None) -> Tensor:
        """See :class:`Linear`."""
        assert isinstance(x, Tensor)
        if out is None:
            out = x.new_empty(len(x), self.outputs)
        for part, columns in self._columns(out):
            part(x, columns)
        return out

    def gated(self, x: Tensor, activation: Activation) -> Tensor:
        """See :class:`Linear`."""
        y: Tensor = self.products.gated.gated(self(x), activation)
        return y

    def add(self, x: Tensor, residual: Tensor) -> None:
        """See :class:`Linear`."""
        for part, columns in self._columns(residual):
            part.add(x, columns)

    def logits(self, x: Tensor) -> Tensor:
        """See :class:`Linear`."""
        return self(x, out=_float32(x, self))

    def _columns(self, out: Tensor) -> list[tuple[Linear, Tensor]]:
        """Each part with its columns of ``out``."""
        columns = torch.split(out, [part.outputs for part in self.parts], dim=1)
        return list(zip(self.parts, columns, strict=True))


def multiplies_fp8(device: torch.device) -> bool:
    """Whether torch multiplies FP8 with scales per row and column there."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def _many(x: Tensor, w: Tensor, out: Tensor | None) -> Tensor:
    """x times w, transposed, by torch's library."""
    if out is None or out.dtype == x.dtype:
        return torch.mm(x, w.t(), out=out)
    return out.copy_(_mm_float32(x, w))


def _mm_float32(x: Tensor, w: Tensor) -> Tensor:
    """x times w, transposed, in float32."""
    if x.is_cuda and x.dtype != torch.float32:
        return torch.mm(x, w.t(), out_dtype=torch.float32)
    return torch.mm(x.float(), w.float().t())


def _float32(x: Tensor, linear: Linear) -> Tensor:
    return x.new_empty(len(x), linear.outputs, dtype=torch.float32)

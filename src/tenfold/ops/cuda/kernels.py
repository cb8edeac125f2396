"""The fused operations that the forward pass is made of, as one record: in plain torch, or as Triton kernels."""

from dataclasses import dataclass
from types import ModuleType

from tenfold.ops.cuda.linear import Products, fused_products, plain_products


@dataclass(frozen=True, slots=True)
class Kernels:
    """Modules of the same functions, of ``plain`` or of ``fused``; ``products`` is what linears are computed by."""

    name: str
    embedding: ModuleType
    norms: ModuleType
    heads: ModuleType
    attention: ModuleType
    gated: ModuleType
    sampling: ModuleType
    products: Products


def plain_kernels() -> Kernels:
    """Plain torch, on any device."""
    from tenfold.ops.cuda.plain import attention, embedding, gated, heads, norms, sampling

    return Kernels("torch", embedding, norms, heads, attention, gated, sampling, plain_products())


def fused_kernels() -> Kernels:
    """Triton, on a GPU (or in its interpreter)."""
    from tenfold.ops.cuda.fused import attention, embedding, gated, heads, norms, sampling

    return Kernels("triton", embedding, norms, heads, attention, gated, sampling, fused_products())

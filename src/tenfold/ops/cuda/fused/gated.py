"""The activation of a gated MLP."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from tenfold.ops.cuda.fused.norms import quantized
from tenfold.ops.cuda.plain.norms import FP8
from tenfold.ops.spec import Activation

_BLOCK = 1024


def gated(gate_up: Tensor, activation: Activation, quantize: bool = False) -> Tensor | tuple[Tensor, Tensor]:
    """See :func:`tenfold.ops.cuda.plain.gated.gated`."""
    rows, ffn = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((rows, ffn), dtype=FP8 if quantize else gate_up.dtype, device=gate_up.device)
    scale = torch.empty((rows, 1), dtype=torch.float32, device=gate_up.device) if quantize else None
    block = triton.next_power_of_2(ffn) if quantize else _BLOCK  # a scale needs the whole row
    if rows:
        _gated[(rows, triton.cdiv(ffn, block))](
            gate_up, out, scale, ffn, block, activation == "silu", num_warps=min(32, max(1, block // 256))
        )
    return out if scale is None else (out, scale)


@triton.jit
def _gated(gate_up, out, scale, F: tl.constexpr, BLOCK: tl.constexpr, SILU: tl.constexpr):
    """BLOCK columns of a row."""
    row = tl.program_id(0).to(tl.int64) + tl.arange(0, 1)[:, None]
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = column < F
    gate = tl.load(gate_up + row * 2 * F + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * F + F + column, mask=inside, other=0.0).to(tl.float32)
    # GELU's (1 + tanh(z)) / 2 is the sigmoid of 2z.
    inner = gate if SILU else 1.5957691216057308 * (gate + 0.044715 * gate * gate * gate)
    product = gate * tl.sigmoid(inner) * up
    if scale is not None:
        product, factor = quantized(product)
        tl.store(scale + row, factor)
    tl.store(out + row * F + column, product.to(out.dtype.element_ty), mask=inside)

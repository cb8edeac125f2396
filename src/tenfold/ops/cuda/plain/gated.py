"""The activation of a gated MLP. Computed in float32 and rounded once."""

import torch
from torch import Tensor
from torch.nn import functional

from tenfold.ops.cuda.plain.norms import quantized
from tenfold.ops.spec import Activation


def gated(gate_up: Tensor, activation: Activation, quantize: bool = False) -> Tensor | tuple[Tensor, Tensor]:
    """[T, F]: activation(gate) * up, of [T, 2F] with the gates first; in its type, or as by ``norms.quantized``."""
    gate, up = torch.chunk(gate_up.float(), 2, dim=1)
    active = functional.silu(gate) if activation == "silu" else functional.gelu(gate, approximate="tanh")
    product = active * up
    return quantized(product) if quantize else product.to(gate_up.dtype)

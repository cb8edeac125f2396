"""Products with a weight matrix, with what surrounds them. All is computed in float32 and rounded once."""

from torch import Tensor

from tenfold.ops.cuda.plain.gated import gated
from tenfold.ops.cuda.plain.norms import quantized
from tenfold.ops.spec import Activation


def skinny(x: Tensor, w: Tensor, *, scale: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """[T, N]: x [T, K] times w [N, K], transposed; in the type of x, or of ``out`` [T, N].

    ``w`` has x's type, or is FP8 with a ``scale`` [N] float32.
    """
    y = x.float() @ _values(w, scale).t()
    return y.to(x.dtype) if out is None else out.copy_(y)


def skinny_gated(x: Tensor, w: Tensor, activation: Activation, *, scale: Tensor | None = None) -> Tensor:
    """[T, F]: activation(gate) * up, of x times w [2F, K] (the gate's rows first), transposed."""
    y = gated(x.float() @ _values(w, scale).t(), activation)
    assert isinstance(y, Tensor)
    return y.to(x.dtype)


def skinny_add(x: Tensor, w: Tensor, residual: Tensor, *, scale: Tensor | None = None) -> None:
    """Adds x times w, transposed, to ``residual`` [T, N] in place."""
    residual.copy_(residual.float() + x.float() @ _values(w, scale).t())


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [T, K] as by :func:`tenfold.ops.cuda.plain.norms.quantized`."""
    return quantized(x.float())


def _values(w: Tensor, scale: Tensor | None) -> Tensor:
    return w.float() if scale is None else w.float() * scale[:, None]

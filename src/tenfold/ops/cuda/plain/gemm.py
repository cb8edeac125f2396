"""Products with a weight matrix, with what surrounds them. All is computed in float32 and rounded once."""

from torch import Tensor

from tenfold.ops.cuda.plain.gated import gated
from tenfold.ops.cuda.plain.norms import quantized, rms_norm
from tenfold.ops.spec import Activation

Norm = tuple[Tensor, float]  # the weight of an RMS norm [K] and its epsilon


def skinny(
    x: Tensor,
    w: Tensor,
    *,
    scale: Tensor | None = None,
    norm: Norm | None = None,
    out: Tensor | None = None,
    pdl: bool = False,
) -> Tensor:
    """[T, N]: (the RMS norm of) x [T, K] times w [N, K], transposed; in the type of x, or of ``out`` [T, N].

    ``w`` has x's type, or is FP8 with a ``scale`` [N] float32. ``pdl`` changes nothing but when a kernel starts.
    """
    y = product(x, _values(w, scale), norm)
    return y.to(x.dtype) if out is None else out.copy_(y)


def skinny_gated(
    x: Tensor,
    w: Tensor,
    activation: Activation,
    *,
    scale: Tensor | None = None,
    norm: Norm | None = None,
    pdl: bool = False,
) -> Tensor:
    """[T, F]: activation(gate) * up, of x times w [2F, K] (the gate's rows first), transposed."""
    y = gated(product(x, _values(w, scale), norm), activation)
    assert isinstance(y, Tensor)
    return y.to(x.dtype)


def skinny_add(x: Tensor, w: Tensor, residual: Tensor, *, scale: Tensor | None = None, pdl: bool = False) -> None:
    """Adds x times w, transposed, to ``residual`` [T, N] in place."""
    residual.copy_(residual.float() + product(x, _values(w, scale), None))


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [T, K] as by :func:`tenfold.ops.cuda.plain.norms.quantized`."""
    return quantized(x.float())


def product(x: Tensor, w: Tensor, norm: Norm | None) -> Tensor:
    """float32 [T, N]: (the norm of) x times float32 w [N, K], transposed."""
    wide = x.float()
    if norm is not None:
        normed = rms_norm(wide, *norm)
        assert isinstance(normed, Tensor)
        wide = normed
    return wide @ w.t()


def _values(w: Tensor, scale: Tensor | None) -> Tensor:
    return w.float() if scale is None else w.float() * scale[:, None]

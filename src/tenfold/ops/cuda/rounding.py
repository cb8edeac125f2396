"""Rounding to 4 bits: codes 0 … 15 with a float16 scale and offset per group, for the least squared error."""

import torch
from torch import Tensor

_TOP = 15
_REFINED = 2

# The ranges tried for a group's codes, as (low, steps): code i at low + i / steps of the group's own range. Fewer steps
# than 15 widen it, which finds a coarser grid that the weights may be on; more clip it, at either end or both.
_RANGES = tuple((0.0, steps) for steps in range(15, 8, -1)) + tuple(
    (low * (1 - _TOP / steps), steps) for steps in (16, 17, 18, 20, 22) for low in (0.0, 0.5, 1.0)
)


def round_groups(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The codes, scales and offsets of groups x [N, G, 32] float32: uint8 [N, G, 32], float16 [N, G] and [N, G].

    Of each range tried, the least-squares line through codes and weights gives scale and offset; the best is refined.
    """
    low = x.amin(-1, keepdim=True)
    span = (x.amax(-1, keepdim=True) - low).clamp(min=1e-30)
    relative = (x - low) / span
    best = _Best(x)
    best.consider(*(part.half() for part in (span[..., 0] / _TOP, low[..., 0])))
    for start, steps in _RANGES:
        best.consider(*_line(((relative - start) * steps).round_().clamp_(0, _TOP), x))
    for _ in range(_REFINED):
        best.consider(*_line(_codes(x, best.scale, best.offset), x))
    return _codes(x, best.scale, best.offset).to(torch.uint8), best.scale, best.offset


class _Best:
    """The best scale and offset of each group so far, as they are stored."""

    def __init__(self, x: Tensor) -> None:
        self._x = x
        self.scale, self.offset = (x.new_zeros(x.shape[:-1], dtype=torch.float16) for _ in range(2))
        self._error = x.new_full(x.shape[:-1], float("inf"))

    def consider(self, scale: Tensor, offset: Tensor) -> None:
        """Take them where they leave a smaller squared error."""
        values = _codes(self._x, scale, offset) * scale.float()[..., None] + offset.float()[..., None]
        error = (values - self._x).square_().sum(-1)
        better = error < self._error
        self.scale = torch.where(better, scale, self.scale)
        self.offset = torch.where(better, offset, self.offset)
        self._error = torch.where(better, error, self._error)


def _codes(x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """The nearest codes, as floats; 0 where the scale is 0."""
    inverse = torch.where(scale == 0, 0.0, 1 / scale.float())
    return ((x - offset.float()[..., None]) * inverse[..., None]).round_().clamp_(0, _TOP)


def _line(codes: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The scale and offset of the least-squares line, in float16; scale 0 where all codes are equal."""
    count = x.shape[-1]
    code, value = codes.mean(-1), x.mean(-1)
    spread = codes.square().mean(-1) - code.square()
    scale = torch.where(spread > 0.5 / count**2, ((codes * x).mean(-1) - code * value) / spread, 0.0)
    return scale.half(), (value - scale * code).half()

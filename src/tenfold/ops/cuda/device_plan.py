"""The plan of attention as its kernels read it."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from tenfold.ops.cuda.attention_plan import AttentionPlan


class Sequences(Protocol):
    """What attention reads of a batch: int32 tensors on the device, see :class:`tenfold.ops.base.Batch`."""

    @property
    def starts(self) -> Tensor:
        """[S + 1]."""
        ...

    @property
    def context(self) -> Tensor:
        """[S]."""
        ...

    @property
    def tables(self) -> Tensor:
        """[S, B], rows perhaps further apart."""
        ...


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """A plan and its arrays on the device; a captured graph reads what they hold when it is replayed.

    Of ``host`` a launch takes the sizes only, which are the same for all padded plans of one shape.
    """

    host: AttentionPlan
    counts: Tensor  # items, pieces, tiles
    items: Tensor
    pieces: Tensor
    tiles: Tensor
    copies: Tensor

    @classmethod
    def of(cls, plan: AttentionPlan, packed: Tensor) -> "DevicePlan":
        """Views of ``packed`` int32: what ``plan.pack()`` gave, on the device (it may be longer)."""
        parts, at = [], 4
        for array in (plan.items, plan.pieces, plan.tiles, plan.copies):
            parts.append(packed[at : at + array.size].view(array.shape))
            at += array.size
        return cls(plan, packed[:4], *parts)

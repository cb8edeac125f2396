"""The shortest time the machine allows for some work, and which limit that is (roofline: Williams et al., 2009)."""

from collections.abc import Iterable
from dataclasses import dataclass

from tenfold.ops.limits import MachineLimits
from tenfold.ops.work import OpWork


@dataclass(frozen=True, slots=True)
class Roof:
    """Seconds that moving the bytes and making the multiply-adds take at least; the longer one binds."""

    bytes_seconds: float
    macs_seconds: float

    @property
    def seconds(self) -> float:
        """No kernel on this machine is faster than this."""
        return max(self.bytes_seconds, self.macs_seconds)

    @property
    def binds(self) -> str:
        """``bytes`` or ``operations``."""
        return "bytes" if self.bytes_seconds >= self.macs_seconds else "operations"


def roof_of(work: OpWork, limits: MachineLimits, read_rate: float) -> Roof:
    """Of one op in a step whose bytes can be read at ``read_rate`` bytes per second; activations are in a cache."""
    return Roof(
        work.moved / read_rate + work.activations / limits.cache,
        sum(macs / limits.macs[arithmetic].rate for arithmetic, macs in work.macs.items()),
    )


def working_set(work: Iterable[OpWork]) -> int:
    """Bytes a step touches that the next such step touches again."""
    return sum(op.moved for op in work)

"""Service objectives: bounds in seconds, and how they are written."""

import re
from dataclasses import dataclass

from tenfold.core.errors import ConfigError

_UNITS = {"ms": 1e-3, "s": 1.0}
_TIME = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(ms|s)")


@dataclass(frozen=True, slots=True)
class Slo:
    """What requests are promised. ``tpot``: seconds per output token after the first, on average; None: nothing."""

    tpot: float | None = None

    def __post_init__(self) -> None:
        if self.tpot is not None and not 0 < self.tpot < float("inf"):
            raise ConfigError(f"a TPOT bound must be above 0 seconds, got {self.tpot:g}")


NO_SLO = Slo()


def parse_slo(text: str) -> Slo:
    """``tpot=30ms``. Raises ConfigError, saying what is wrong."""
    bounds: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name == "ttft":
            raise ConfigError("--slo: a bound on TTFT is not implemented yet; give tpot alone, as in tpot=30ms")
        if name != "tpot" or name in bounds:
            raise ConfigError(f"--slo: {part.strip()!r} is not understood; write it as tpot=30ms")
        time = _TIME.fullmatch(value)
        if time is None:
            raise ConfigError(f"--slo: {value!r} is no time; write it as 30ms or 0.03s")
        bounds[name] = float(time[1]) * _UNITS[time[2]]
    return Slo(**bounds)

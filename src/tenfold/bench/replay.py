"""A trace made to fit a target, and loads of it."""

from pathlib import Path
from typing import Any

from tenfold.bench.load import Load, replayed
from tenfold.core.errors import ConfigError
from tenfold.traffic.row import Row
from tenfold.traffic.shaping import faster, piece, scaled, thinned
from tenfold.traffic.traces import read_trace


class Replay:
    """The rows of a trace, or a ``piece`` of it (``"600:300"``: 300 seconds from second 600), ``speed`` times as fast,
    their lengths times ``scale``, prompts of ``longest`` tokens at most.

    ``rate`` is the requests per second that it then has; ``note`` says which rows could not be read.
    Raises ConfigError.
    """

    def __init__(
        self,
        path: Path,
        *,
        piece: str | None = None,
        speed: float = 1.0,
        scale: float = 1.0,
        longest: int | None = None,
    ) -> None:
        for name, value in (("--speed", speed), ("--scale", scale)):
            if not 0 < value < float("inf"):
                raise ConfigError(f"{name} must be above 0, got {value:g}")
        trace = read_trace(path)
        rows = trace.rows if piece is None else _piece_of(trace.rows, piece, trace.seconds)
        self._rows = scaled(faster(rows, speed), scale, longest)
        self.name = trace.name
        self._told = {"piece": piece, "speed": speed, "scale": scale, "longest": longest, "bad_rows": trace.bad}
        span = self._rows[-1].at - self._rows[0].at
        self.rate = len(self._rows) / span if span > 0 else 0.0
        self.note = f"{trace.bad} rows of {path} were passed over: {'; '.join(trace.faults)}" if trace.bad else None

    def rows(self, rate: float | None, seed: int) -> list[Row]:
        """All of it, or so much, at random, that ``rate`` come per second."""
        return self._rows if rate is None else thinned(self._rows, rate, seed)

    def load(self, rate: float | None, seed: int) -> Load:
        """All of it, or so much, at random, that ``rate`` come per second."""
        return replayed(self.name, self.rows(rate, seed), seed, self.told(rate))

    def told(self, rate: float | None) -> dict[str, Any]:
        """How it was made, for a report."""
        return self._told | ({} if rate is None else {"rate": rate})


def _piece_of(rows: tuple[Row, ...], part: str, seconds: float) -> list[Row]:
    start, _, length = part.partition(":")
    try:
        found = piece(rows, float(start), float(length))
    except ValueError:
        raise ConfigError(f"--piece must be like 600:300 (from second 600, 300 seconds), got {part!r}") from None
    if not found:
        raise ConfigError(f"--piece {part}: the trace has nothing there; it is {seconds:.0f} seconds long")
    return found

"""What a key may still use: a token bucket per limit, and the headers that tell of it."""

from tenfold.server.errors import Headers

_MINUTE = 60.0


class Allowance:
    """So many units a minute, which come evenly; what is not used is kept for a minute.

    It may be overdrawn, for what an answer needs is known only at its end: then the next ones wait. Times are in
    seconds, of a clock that never goes back.
    """

    __slots__ = ("_at", "_level", "per_minute")

    def __init__(self, per_minute: float, now: float, level: float | None = None) -> None:
        self.per_minute = per_minute
        self._level = per_minute if level is None else min(level, per_minute)
        self._at = now

    def left(self, now: float) -> float:
        """Units that are there now; below 0 where it is overdrawn."""
        self._level = min(self.per_minute, self._level + (now - self._at) * self.per_minute / _MINUTE)
        self._at = now
        return self._level

    def take(self, count: float, now: float) -> None:
        """Use ``count`` of them, there or not; a negative count gives back."""
        self._level = min(self.per_minute, self.left(now) - count)

    def wait(self, now: float, level: float = 1.0) -> float:
        """Seconds until so many are there; 0 where they are."""
        return max(0.0, min(level, self.per_minute) - self.left(now)) * _MINUTE / self.per_minute

    def headers(self, name: bytes, now: float) -> Headers:
        """OpenAI's headers for this limit, as ``x-ratelimit-remaining-requests``; ``reset``: until it is full again."""
        return (
            (b"x-ratelimit-limit-" + name, str(int(self.per_minute)).encode()),
            (b"x-ratelimit-remaining-" + name, str(max(0, int(self.left(now)))).encode()),
            (b"x-ratelimit-reset-" + name, _duration(self.wait(now, self.per_minute)).encode()),
        )


def _duration(seconds: float) -> str:
    """As OpenAI writes it: ``120ms``, ``1.5s``, ``6m0s``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < _MINUTE:
        return f"{seconds:.3g}s"
    return f"{seconds // _MINUTE:.0f}m{seconds % _MINUTE:.0f}s"

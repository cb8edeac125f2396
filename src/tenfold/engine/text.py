"""One sample's text: incremental detokenization and stop strings."""

from collections.abc import Sequence
from typing import Protocol

from tenfold.core.sampling import SamplingParams


class Detokenizer(Protocol):
    """Gives whole characters only."""

    def push(self, tokens: Sequence[int]) -> str:
        """The text these tokens complete."""
        ...

    def flush(self) -> str:
        """What was held back, at the end."""
        ...


class StopStrings:
    """Finds the first stop string in a text that arrives in pieces, holding back what may become one."""

    def __init__(self, stops: tuple[str, ...], *, include: bool) -> None:
        self._stops = stops
        self._include = include
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """(text that is safe to show, the stop string if one was found; nothing may follow it)."""
        if not self._stops:
            return text, None
        text = self._held + text
        found = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            at, stop = min(found)
            self._held = ""
            return text[: at + len(stop) if self._include else at], stop
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], None

    def flush(self) -> str:
        """What was held back and turned out not to be a stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that is a proper beginning of ``stop``."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-size:]):
            return size
    return 0


class SampleText:
    """Tokens in, shown text out, for one sample. Stop strings count from output token ``min_tokens`` on."""

    def __init__(self, detokenizer: Detokenizer, params: SamplingParams) -> None:
        self._detokenizer = detokenizer
        self._stops = StopStrings(params.stop, include=params.include_stop)
        self._unchecked = params.min_tokens - 1

    def push(self, token: int) -> tuple[str, str | None]:
        """(new text, the stop string that ends the sample, if any)."""
        text = self._detokenizer.push((token,))
        if self._unchecked > 0:
            self._unchecked -= 1
            return text, None
        return self._stops.push(text)

    def flush(self) -> tuple[str, str | None]:
        """What is left at the end; a stop string may still be found in it."""
        text, stop = self._stops.push(self._detokenizer.flush())
        return (text, stop) if stop else (text + self._stops.flush(), None)

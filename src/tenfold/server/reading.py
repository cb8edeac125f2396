"""How an answer's text is read: into parts, as it comes."""

from dataclasses import dataclass

from tenfold.server.parts import Part, Text
from tenfold.server.tools.forms import CallForm
from tenfold.server.tools.parser import CallParser


@dataclass(frozen=True, slots=True)
class Reading:
    """``calls``: calls of the functions ``names`` are looked for, of which the first ``most`` count."""

    calls: CallForm | None = None
    names: frozenset[str] = frozenset()
    most: int | None = None

    @property
    def plain(self) -> bool:
        """Whether all is text."""
        return self.calls is None

    def reader(self) -> "AnswerReader":
        """For one answer."""
        return AnswerReader(None if self.calls is None else CallParser(self.calls, self.names, most=self.most))


class AnswerReader:
    """Reads one answer. Its parts are the same however the text was cut into pieces, but for how text is."""

    def __init__(self, calls: CallParser | None) -> None:
        self._calls = calls

    @property
    def called(self) -> bool:
        """Whether there was a call."""
        return self._calls is not None and self._calls.calls > 0

    def push(self, text: str, *, last: bool) -> list[Part]:
        """The parts that ``text`` completes; with ``last``, all that is left."""
        if self._calls is None:
            return [Text(text)] if text else []
        parts = self._calls.push(text)
        return parts + self._calls.finish() if last else parts

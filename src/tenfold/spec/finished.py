"""Drafts from texts that are finished: what followed, in the latest of them, after a sequence's last tokens.

(Suffix decoding, Oliaro et al., 2024.)
"""

from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence

from tenfold.core.plan import SequenceStart
from tenfold.spec.proposer import Proposal
from tenfold.spec.runs import MATCHED, TRIED, Runs, matched

_ORDER = 3  # tokens that have to be the same
_LONGEST = 4096  # tokens: of a longer text, its end is kept
_LEAST = 16  # tokens: a shorter one is not worth it


class FinishedTexts:
    """Owner of the last texts, prompts and outputs, of at most ``capacity`` tokens in all; some 150 bytes a token.

    A sequence is told of those with its own salt only.
    """

    name = "finished"

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._shelves: dict[str, _Shelf] = {}
        self._order: deque[str] = deque()  # whose text is how old, the oldest first
        self.tokens = 0

    def begin(self, start: SequenceStart) -> None:
        """Nothing to do: a text is read when it is drafted for."""

    def propose(self, sequence: str, tokens: Sequence[int], salt: str, most: int) -> Proposal | None:
        """As one of the texts went on, up to its end."""
        shelf = self._shelves.get(salt)
        return shelf.propose(tokens, most) if shelf is not None else None

    def end(self, sequence: str, tokens: Sequence[int], salt: str, *, finished: bool) -> None:
        """Keep a text that came to its own end; the oldest go where there is no room."""
        most = min(_LONGEST, self._capacity)
        if not finished or min(len(tokens), most) < _LEAST:
            return
        text = array("i", tokens[-most:])
        self._shelves.setdefault(salt, _Shelf()).add(text)
        self._order.append(salt)
        self.tokens += len(text)
        while self.tokens > self._capacity:
            oldest = self._order.popleft()
            shelf = self._shelves[oldest]
            self.tokens -= shelf.drop()
            if not shelf.begins:
                del self._shelves[oldest]


class _Shelf:
    """The texts of one salt, each at a place of its own in one long row of tokens."""

    def __init__(self) -> None:
        self._runs = Runs(_ORDER)
        self._texts: list[array[int]] = []
        self.begins: list[int] = []  # where each begins
        self._end = 0

    def add(self, text: "array[int]") -> None:
        self._runs.add(text, self._end)
        self._texts.append(text)
        self.begins.append(self._end)
        self._end += len(text)

    def drop(self) -> int:
        """Forget the oldest; returns its length."""
        text = self._texts.pop(0)
        self._runs.drop(text, self.begins.pop(0))
        return len(text)

    def propose(self, tokens: Sequence[int], most: int) -> Proposal | None:
        best: tuple[array[int], int] | None = None
        longest = _ORDER - 1
        place, left = self._runs.latest(tokens), TRIED
        while place is not None and left:
            which = bisect_right(self.begins, place) - 1
            text, at = self._texts[which], place - self.begins[which]
            length = matched(tokens, text, at)
            if length > longest:
                best, longest = (text, at), length
                if length == MATCHED:
                    break
            place, left = self._runs.earlier(place), left - 1
        if best is None:
            return None
        text, at = best
        return Proposal(tuple(text[at : at + most]), longest)

"""Where runs of tokens occurred before."""

from collections.abc import Iterator, Sequence

MATCHED = 32  # tokens up to which a match is followed back
_TRIED = 8  # places, the latest first, of which the longest match is taken
_BITS = 20  # of a token in a run's key; what differs above them is told apart when the match is followed back


class Runs:
    """By run of ``order`` tokens, the places of what followed it. Places are counted from 0 on, through all that is
    added."""

    def __init__(self, order: int) -> None:
        self._order = order
        self._mask = (1 << _BITS * order) - 1
        self._last: dict[int, int] = {}
        self._before: dict[int, int] = {}  # where the run before that place occurred before that
        self._floor = 0  # places below are forgotten

    def add(self, tokens: Sequence[int], begin: int, offset: int = 0) -> None:
        """Take up every run that a token from position ``begin`` on follows; places are told with ``offset`` added."""
        order, mask, last, before = self._order, self._mask, self._last, self._before
        first = max(begin, order)
        run = 0
        for token in tokens[first - order : first - 1]:
            run = run << _BITS | token & _TOKEN
        for at in range(first, len(tokens)):
            run = (run << _BITS | tokens[at - 1] & _TOKEN) & mask
            old = last.get(run)
            if old is not None:
                before[offset + at] = old
            last[run] = offset + at

    def drop(self, tokens: Sequence[int], offset: int) -> None:
        """Forget the runs of the oldest tokens, which were added from position 0 on."""
        order, mask, last, before = self._order, self._mask, self._last, self._before
        run = 0
        for at, token in enumerate(tokens, 1):
            run = (run << _BITS | token & _TOKEN) & mask
            before.pop(offset + at, None)
            if at >= order and last.get(run) == offset + at:
                del last[run]
        self._floor = offset + len(tokens)

    def places(self, tokens: Sequence[int]) -> Iterator[int]:
        """Where what followed the last tokens begins, the latest first; no more than a few."""
        order = self._order
        if len(tokens) < order:
            return
        run = 0
        for token in tokens[-order:]:
            run = run << _BITS | token & _TOKEN
        place = self._last.get(run)
        for _ in range(_TRIED):
            if place is None or place < self._floor:
                return
            yield place
            place = self._before.get(place)


_TOKEN = (1 << _BITS) - 1


def matched(tokens: Sequence[int], text: Sequence[int], at: int) -> int:
    """How many of the last tokens are those before position ``at`` of ``text``; no more than ``MATCHED``."""
    length, many = 0, min(MATCHED, at, len(tokens))
    while length < many and tokens[-1 - length] == text[at - 1 - length]:
        length += 1
    return length

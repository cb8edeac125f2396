"""Where runs of tokens occurred before."""

from collections.abc import Sequence

MATCHED = 32  # tokens up to which a match is followed back
TRIED = 8  # places, the latest first, of which the longest match is taken
_BITS = 20  # of a token in a run's key; what differs above them is told apart when the match is followed back
_TOKEN = (1 << _BITS) - 1


class Runs:
    """By run of ``order`` tokens, the places of what followed it. Places are counted from 0 on, through all that is
    added."""

    def __init__(self, order: int) -> None:
        self._order = order
        self._mask = (1 << _BITS * order) - 1
        self._last: dict[int, int] = {}
        self._before: dict[int, int] = {}  # where the run before that place occurred before that
        self._floor = 0  # places below are forgotten

    def add(self, tokens: Sequence[int], offset: int) -> None:
        """Take up every run of a text that a token of it follows; places are told with ``offset`` added."""
        order, mask, last, before = self._order, self._mask, self._last, self._before
        run = 0
        for at, token in enumerate(tokens):
            if at >= order:
                old = last.get(run)
                if old is not None:
                    before[offset + at] = old
                last[run] = offset + at
            run = (run << _BITS | token & _TOKEN) & mask

    def drop(self, tokens: Sequence[int], offset: int) -> None:
        """Forget the runs of the oldest text, which was added with this ``offset``."""
        order, mask, last, before = self._order, self._mask, self._last, self._before
        run = 0
        for at, token in enumerate(tokens, 1):
            run = (run << _BITS | token & _TOKEN) & mask
            before.pop(offset + at, None)
            if at >= order and last.get(run) == offset + at:
                del last[run]
        self._floor = offset + len(tokens)

    def latest(self, tokens: Sequence[int]) -> int | None:
        """Where what followed the last tokens begins, the last time that they occurred; None: they did not."""
        run = 0
        for token in tokens[-self._order :]:
            run = run << _BITS | token & _TOKEN
        place = self._last.get(run)
        return place if place is not None and place >= self._floor else None

    def earlier(self, place: int) -> int | None:
        """Where they occurred the time before that."""
        before = self._before.get(place)
        return before if before is not None and before >= self._floor else None


class Trail:
    """The same of one text that grows: asked after each token what followed its last ones before, it takes up what is
    new on the way."""

    __slots__ = ("_before", "_known", "_last", "_mask", "_order", "_place", "_run")

    def __init__(self, order: int) -> None:
        self._order = order
        self._mask = (1 << _BITS * order) - 1
        self._last: dict[int, int] = {}
        self._before: dict[int, int] = {}
        self._known = 0  # tokens
        self._run = 0  # the last of them
        self._place: int | None = None  # of what followed it before

    def latest(self, tokens: Sequence[int]) -> int | None:
        """As of :class:`Runs`, for the whole of the text."""
        order, mask, last, before = self._order, self._mask, self._last, self._before
        known, run, place = self._known, self._run, self._place
        for at in range(known, len(tokens)):
            if at >= order:
                if place is not None:
                    before[at] = place
                last[run] = at
            run = (run << _BITS | tokens[at] & _TOKEN) & mask
            place = last.get(run)
        self._known, self._run, self._place = len(tokens), run, place
        return place

    def earlier(self, place: int) -> int | None:
        """Likewise."""
        return self._before.get(place)


def matched(tokens: Sequence[int], text: Sequence[int], at: int) -> int:
    """How many of the last tokens are those before position ``at`` of ``text``; no more than ``MATCHED``."""
    length, many = 0, min(MATCHED, at, len(tokens))
    while length < many and tokens[-1 - length] == text[at - 1 - length]:
        length += 1
    return length

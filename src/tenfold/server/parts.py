"""What an answer is made of, as it comes: thoughts, text, and calls of tools."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Text:
    """Text for the reader."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """Text that the model wrote for itself."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """The ``index``-th call of the answer begins."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallText:
    """More of a call's arguments, which are JSON."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """A call is over: ``written`` is how the model wrote it, ``whole`` whether its arguments are a JSON object."""

    index: int
    written: str
    whole: bool


Part = Thought | Text | CallStart | CallText | CallEnd


def overlap(text: str, mark: str) -> int:
    """Length of the longest end of ``text`` that is a proper beginning of ``mark``: what may become one."""
    return next((size for size in range(min(len(text), len(mark) - 1), 0, -1) if mark.startswith(text[-size:])), 0)

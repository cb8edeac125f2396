"""What an answer is made of, as it comes: text, and calls of tools."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Text:
    """Text for the reader."""

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


Part = Text | CallStart | CallText | CallEnd

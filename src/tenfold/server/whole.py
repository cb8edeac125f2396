"""A whole answer put together from its parts."""

from collections.abc import Sequence
from dataclasses import dataclass

from tenfold.core.request import RequestOutput
from tenfold.server.parts import CallEnd, CallStart, CallText, Part, Text, Thought
from tenfold.server.reading import AnswerReader


@dataclass(frozen=True, slots=True)
class Call:
    """A function that is called; ``arguments`` is a JSON object."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """Thoughts, text and calls. A call with broken arguments is text, as the model wrote it.

    ``thought_tokens`` counts the tokens after which the text was in the midst of thoughts.
    """

    thoughts: str
    text: str
    calls: tuple[Call, ...]
    thought_tokens: int


def whole_answer(reader: AnswerReader, outputs: Sequence[RequestOutput]) -> WholeAnswer:
    """What a choice's outputs are together."""
    thoughts: list[str] = []
    texts: list[str] = []
    calls: list[Call] = []
    begun, arguments = CallStart(0, "", ""), ""
    parts: list[Part] = []
    thought_tokens = 0
    for at, output in enumerate(outputs, 1):
        parts += reader.push(output.text, last=at == len(outputs))
        thought_tokens += len(output.tokens) if reader.thinking else 0
    for part in parts:
        match part:
            case Thought(text):
                thoughts.append(text)
            case Text(text):
                texts.append(text)
            case CallStart():
                begun, arguments = part, ""
            case CallText(_, text):
                arguments += text
            case CallEnd(_, written, whole):
                if whole:
                    calls.append(Call(begun.id, begun.name, arguments))
                else:
                    texts.append(written)
    return WholeAnswer("".join(thoughts), "".join(texts), tuple(calls), thought_tokens)

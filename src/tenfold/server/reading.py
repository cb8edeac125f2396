"""How an answer's text is read: into parts, as it comes."""

from dataclasses import dataclass
from typing import Literal

from tenfold.server.parts import Part, Text, Thought
from tenfold.server.thinking import ThoughtSplitter
from tenfold.server.tools.forms import CallForm
from tenfold.server.tools.parser import CallParser


@dataclass(frozen=True, slots=True)
class Reading:
    """``calls``: calls of the functions ``names`` are looked for, of which the first ``most`` count.

    ``thoughts``: whether the answer begins with them, perhaps, or in the midst of them: the prompt has ``opened`` them.
    """

    calls: CallForm | None = None
    names: frozenset[str] = frozenset()
    most: int | None = None
    thoughts: Literal["no", "perhaps", "opened"] = "no"

    @property
    def plain(self) -> bool:
        """Whether all is text."""
        return self.calls is None and self.thoughts == "no"

    def reader(self) -> "AnswerReader":
        """For one answer."""
        thoughts = None if self.thoughts == "no" else ThoughtSplitter(opened=self.thoughts == "opened")
        calls = None if self.calls is None else CallParser(self.calls, self.names, most=self.most)
        return AnswerReader(thoughts, calls)


class AnswerReader:
    """Reads one answer: thoughts first, then calls among text. How it was cut changes only how texts are."""

    def __init__(self, thoughts: ThoughtSplitter | None, calls: CallParser | None) -> None:
        self._thoughts = thoughts
        self._calls = calls

    @property
    def called(self) -> bool:
        """Whether there was a call."""
        return self._calls is not None and self._calls.calls > 0

    @property
    def thinking(self) -> bool:
        """Whether the text is in the midst of thoughts."""
        return self._thoughts is not None and self._thoughts.inside

    def push(self, text: str, *, last: bool) -> list[Part]:
        """The parts that ``text`` completes; with ``last``, all that is left."""
        parts: list[Part] = []
        if self._thoughts is not None:
            thought, text = self._thoughts.push(text)
            if last:
                more, rest = self._thoughts.finish()
                thought, text = thought + more, text + rest
            if thought:
                parts.append(Thought(thought))
        if self._calls is not None:
            parts += self._calls.push(text)
            return parts + self._calls.finish() if last else parts
        if text:
            parts.append(Text(text))
        return parts

"""Thinking before an answer, between <think> and </think> as Qwen3, DeepSeek-R1 and others write it."""

from tenfold.server.parts import overlap

OPEN = "<think>"
CLOSE = "</think>"


def thinks(template: str) -> bool:
    """Whether a chat template is one of a model that thinks."""
    return OPEN in template or CLOSE in template


class ThoughtSplitter:
    """Parts one answer's text into thoughts and the rest, as it comes. Marks and blanks beside them are left out.

    ``opened``: the prompt ends with the opening mark; else the answer may begin with it.
    """

    def __init__(self, *, opened: bool) -> None:
        self._place = "inside" if opened else "before"
        self._buffer = ""  # what has come and is not decided
        self._shown = False  # whether there were thoughts

    @property
    def inside(self) -> bool:
        """Whether the text is in the midst of thoughts."""
        return self._place == "inside"

    def push(self, text: str) -> tuple[str, str]:
        """(more of the thoughts, more of the rest)."""
        if self._place == "rest":
            return "", text
        self._buffer += text
        if self._place == "before":
            begun = self._buffer.lstrip()
            if not begun.startswith(OPEN):
                return "", "" if OPEN.startswith(begun) else self._to_rest(self._buffer)
            self._place, self._buffer = "inside", begun.removeprefix(OPEN)
        if self._place == "after":
            return "", self._to_rest(self._buffer.lstrip())
        thought, close, after = self._buffer.partition(CLOSE)
        if close:
            self._place, self._buffer = "after", after
            return self._thought(thought.rstrip()), self._to_rest(after.lstrip())
        visible = thought[: len(thought) - overlap(thought, CLOSE)].rstrip()
        self._buffer = thought[len(visible) :]
        return self._thought(visible), ""

    def finish(self) -> tuple[str, str]:
        """What is left: the answer has ended."""
        held, self._buffer = self._buffer, ""
        return self._thought(held.rstrip()) if self._place == "inside" else "", held if self._place == "before" else ""

    def _to_rest(self, text: str) -> str:
        if text:
            self._place, self._buffer = "rest", ""
        return text

    def _thought(self, text: str) -> str:
        text = text if self._shown else text.lstrip()
        self._shown = self._shown or bool(text)
        return text

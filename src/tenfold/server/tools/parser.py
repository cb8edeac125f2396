"""Calls among an answer's text, found as it comes."""

from collections.abc import Callable, Collection

from tenfold.server.parts import CallEnd, CallStart, CallText, Part, Text, overlap
from tenfold.server.tools.forms import CallForm
from tenfold.server.tools.reader import CallReader


class CallParser:
    """Splits one answer into text and calls, at once as far as that is certain.

    What looks like a call and is none comes as text: nothing is lost but the marks around calls, blanks beside them,
    and calls beyond the first ``most``. A call that begins well and breaks in its arguments ends as not ``whole``.
    """

    def __init__(self, form: CallForm, names: Collection[str], *, most: int | None = None) -> None:
        self._form = form
        self._names = names
        self._most = most
        self._buffer = ""  # what has come and is not decided
        self._before = ""  # what belongs to the call that may be under way, before its object
        self._place: Callable[[], bool] = self._in_text
        self._reader = CallReader(names)
        self._begun = False  # whether its call was told of
        self._shown = False  # whether there was text
        self._led = not form.lead  # whether the lead was there
        self._parts: list[Part] = []
        self.calls = 0

    def push(self, text: str) -> list[Part]:
        """What ``text`` makes certain."""
        self._buffer += text
        while self._buffer and self._place():
            pass
        return self._take()

    def finish(self) -> list[Part]:
        """The rest: the answer has ended."""
        if self._place == self._in_object:
            self._break_off()
        elif self._place != self._after_object:
            self._text(self._before + self._buffer)
        self._buffer = ""
        return self._take()

    def _take(self) -> list[Part]:
        parts, self._parts = self._parts, []
        return parts

    def _in_text(self) -> bool:
        form, buffer = self._form, self._buffer
        if form.bare and not self._shown and buffer.lstrip()[:1] in ("", "{"):
            return self._before_object()
        at = buffer.find(form.opening)
        if at >= 0:
            visible, after = buffer[:at].rstrip(), at + len(form.opening)
            self._text(visible)
            self._before, self._buffer = buffer[len(visible) : after], buffer[after:]
            self._led, self._place = not form.lead, self._before_object
            return True
        visible = buffer[: len(buffer) - overlap(buffer, form.opening)].rstrip()
        self._buffer = buffer[len(visible) :]
        self._text(visible)
        return False

    def _before_object(self) -> bool:
        rest = self._buffer.lstrip()
        if not rest:
            return False
        space = self._buffer[: len(self._buffer) - len(rest)]
        if not self._led and rest[0] == self._form.lead:
            self._led, self._before, self._buffer = True, self._before + space + rest[0], rest[1:]
            return True
        if rest[0] == "{" and self._led:
            self._before, self._buffer = self._before + space, rest
            self._reader, self._begun, self._place = CallReader(self._names), False, self._in_object
            return True
        self._text(self._before)
        self._before, self._place = "", self._in_text
        return True

    def _in_object(self) -> bool:
        reader = self._reader
        self._buffer = self._buffer[reader.push(self._buffer) :]
        if reader.known and not self._begun:
            self._begun = True
            self.calls += 1
            self._call(CallStart(self.calls - 1, self._form.new_id(), reader.name or ""))
        if self._begun and (more := reader.fresh()):
            self._call(CallText(self.calls - 1, more))
        if reader.state == "open":
            return False
        if reader.state == "broken":
            self._break_off()
            self._place = self._in_text
        else:
            self._call(CallEnd(self.calls - 1, self._before + reader.written, reader.whole))
            self._before, self._place = "", self._after_object
        return True

    def _break_off(self) -> None:
        written = self._before + self._reader.written
        self._before = ""
        if self._begun:
            self._call(CallEnd(self.calls - 1, written, whole=False))
        else:
            self._text(written)

    def _after_object(self) -> bool:
        form, rest = self._form, self._buffer.lstrip()
        if not rest or (form.closing.startswith(rest) and rest != form.closing):
            return False
        if rest[0] in form.separators:
            self._before, self._buffer, self._place = rest[0], rest[1:], self._before_object
        elif form.bare and rest[0] == "{":
            self._place = self._before_object
        else:
            self._buffer, self._place = rest.removeprefix(form.closing), self._in_text
        return True

    def _text(self, text: str) -> None:
        if text.strip() or (text and not self.calls):
            self._shown = True
            self._parts.append(Text(text))

    def _call(self, part: CallStart | CallText | CallEnd) -> None:
        if self._most is None or part.index < self._most:
            self._parts.append(part)

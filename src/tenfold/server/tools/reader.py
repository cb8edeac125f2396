"""One call's JSON object, read as it comes."""

import json
from collections.abc import Callable, Collection
from typing import Any

import msgspec

_SPACE = " \t\r\n"
_PAIRS = {"{": "}", "[": "]"}
_KEYS = ("arguments", "parameters")  # models mix them up


class CallReader:
    """Reads ``{"name": …, "arguments": {…}}``: members in any order, others passed over.

    ``names`` are the functions there are. ``state`` is ``open`` until the object has ended (``done``) or cannot be a
    call of one of them (``broken``); ``written`` is what was read. Once the name and the beginning of the arguments
    are there (``known``), ``fresh`` gives the arguments' text piece by piece.
    """

    def __init__(self, names: Collection[str]) -> None:
        self.state = "open"
        self.written = ""
        self.name: str | None = None
        self._names = names
        self._arguments: list[str] | None = None  # None: they have not begun
        self._given = 0  # pieces of them that fresh gave
        self._step: Callable[[str], bool] = self._start
        self._token = ""  # of the key or value that is being read
        self._key = ""
        self._nested: list[str] = []  # what closes the brackets that are open in a value
        self._in_string = False
        self._escaped = False

    @property
    def known(self) -> bool:
        """Whether it is certain which function is called."""
        return self.name is not None and self._arguments is not None

    @property
    def whole(self) -> bool:
        """Whether it is a call whose arguments are a JSON object."""
        return self.state == "done" and isinstance(_parsed("".join(self._arguments or ())), dict)

    def push(self, text: str) -> int:
        """Read until the object ends or breaks; returns how many characters were taken."""
        taken = len(text)
        for at, character in enumerate(text):
            if not self._step(character):
                self.state, taken = "broken", at
            elif self.state == "done":
                taken = at + 1
            if self.state != "open":
                break
        self.written += text[:taken]
        return taken

    def fresh(self) -> str:
        """What has come of the arguments since the last call."""
        if self.name is None or self._arguments is None:
            return ""
        new = "".join(self._arguments[self._given :])
        self._given = len(self._arguments)
        return new

    def _start(self, character: str) -> bool:
        self._step = self._member
        return character == "{"

    def _member(self, character: str) -> bool:
        if character != '"':
            return character in _SPACE
        self._token, self._in_string, self._step = character, True, self._in_key
        return True

    def _in_key(self, character: str) -> bool:
        self._token += _spelled(character)
        if not self._inside(character):
            self._key, self._step = str(_parsed(self._token)), self._colon
        return True

    def _colon(self, character: str) -> bool:
        if character == ":":
            self._step = self._value
            return True
        return character in _SPACE

    def _value(self, character: str) -> bool:
        if character in _SPACE:
            return True
        if self._key in _KEYS and self._arguments is not None:
            return False
        self._token = character
        if character == '"':
            self._in_string, self._step = True, self._in_text
        elif character in _PAIRS:
            if self._key in _KEYS:
                if character == "[":
                    return False
                self._arguments = [character]
            self._nested, self._step = [_PAIRS[character]], self._in_nested
        else:
            self._step = self._in_scalar
            return character not in ",}]:"
        return True

    def _in_text(self, character: str) -> bool:
        self._token += _spelled(character)
        return self._inside(character) or self._close_value()

    def _in_nested(self, character: str) -> bool:
        if self._in_string:
            self._inside(character)
            character = _spelled(character)
        elif character == '"':
            self._in_string = True
        elif character in _PAIRS:
            self._nested.append(_PAIRS[character])
        elif character in "}]":
            if self._nested.pop() != character:
                return False
            if not self._nested:
                self._step = self._after
        if self._key in _KEYS and self._arguments is not None:
            self._arguments.append(character)
        return True

    def _in_scalar(self, character: str) -> bool:
        if character in ",}" or character in _SPACE:
            return self._close_value() and self._after(character)
        self._token += character
        return True

    def _close_value(self) -> bool:
        self._step = self._after
        if self._key == "name":
            name = _parsed(self._token)
            self.name = name if isinstance(name, str) and name in self._names else None
            return self.name is not None
        if self._key in _KEYS:  # an object in a text, or none at all
            inner = "{}" if self._token == "null" else _parsed(self._token)
            if not isinstance(inner, str) or not isinstance(_parsed(inner), dict):
                return False
            self._arguments = [inner]
        return True

    def _after(self, character: str) -> bool:
        if character == ",":
            self._step = self._member
            return True
        if character == "}" and self.name is not None:
            self._arguments = ["{}"] if self._arguments is None else self._arguments
            self.state = "done"
            return True
        return character in _SPACE

    def _inside(self, character: str) -> bool:
        """Whether a text goes on after ``character``."""
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._in_string = False
        return self._in_string


def _spelled(character: str) -> str:
    """A character of a text in JSON: models write line breaks as they are, which is not allowed."""
    return character if character >= " " else json.dumps(character)[1:-1]


def _parsed(text: str) -> Any:
    """JSON's value, strictly; None where it is none."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None

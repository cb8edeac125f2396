"""Text from tokens as they come: whole characters only."""

import codecs
from collections.abc import Sequence
from typing import Protocol

_LONGEST_CHARACTER = 4  # bytes of UTF-8


class TokenBytes(Protocol):
    """What detokenizing asks of a tokenizer."""

    @property
    def strips_prefix(self) -> bool:
        """Whether a text's first space is the encoder's own and not shown."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """A token's own bytes."""
        ...

    def is_special(self, token: int) -> bool:
        """Whether ``skip_special`` hides the token."""
        ...


class IncrementalDetokenizer:
    """The text of one output, following ``prompt_ids``.

    What ``push`` and ``flush`` return, joined, is the decoding of prompt and output together less the decoding
    of the prompt up to its last whole character. A byte that can start no character becomes U+FFFD as soon
    as that is certain, an unfinished character only in ``flush``. Work per token is constant.
    """

    def __init__(self, tokenizer: TokenBytes, prompt_ids: Sequence[int], skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        tail = self._tail(prompt_ids)
        self._utf8.decode(tail)  # keeps what may be the beginning of a character
        self._strip = tokenizer.strips_prefix and not tail

    def push(self, tokens: Sequence[int]) -> str:
        """The text that ``tokens`` complete; empty while a character is unfinished."""
        data = b"".join(map(self._bytes, tokens))
        if self._strip and data:
            self._strip = False
            data = data.removeprefix(b" ")
        return self._utf8.decode(data)

    def flush(self) -> str:
        """The end: U+FFFD where the output stops inside a character, else nothing."""
        return self._utf8.decode(b"", final=True)

    def _bytes(self, token: int) -> bytes:
        if self._skip_special and self._tokenizer.is_special(token):
            return b""
        return self._tokenizer.token_bytes(token)

    def _tail(self, prompt_ids: Sequence[int]) -> bytes:
        """The prompt's last bytes, enough to hold any unfinished character; empty if it shows nothing."""
        tail = b""
        for token in reversed(prompt_ids):
            tail = self._bytes(token) + tail
            if len(tail) >= _LONGEST_CHARACTER:
                break
        return tail[-_LONGEST_CHARACTER:]

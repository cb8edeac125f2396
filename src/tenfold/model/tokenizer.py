"""Text ↔ token ids, over the ``tokenizers`` library.

Encoding is the library's. Decoding is by each token's own bytes, so that streamed and whole texts agree to
the last byte whatever a model emits.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tenfold.core.errors import InvalidRequest
from tenfold.core.memory import return_freed
from tenfold.model.detokenizer import IncrementalDetokenizer

if TYPE_CHECKING:
    import tokenizers

TokenForm = Literal["byte-level", "spaces"]


@dataclass(frozen=True, slots=True)
class Pieces:
    """A vocabulary's entries as stored: ``text`` of an id, and the ids of the ``marks`` that stand for themselves.

    A mark is special (begin, end, role…) or, if its value is False, text that is found as it stands.
    """

    text: Callable[[int], str]
    marks: Mapping[int, bool]


@dataclass(frozen=True, slots=True)
class TokenizerPlan:
    """How to make a :class:`Tokenizer`: ``build`` makes the library's object, afresh on every call.

    ``form`` tells how a vocabulary entry spells its bytes: GPT-2's byte-level alphabet, or SentencePiece's
    "▁" for a space with <0xNN> for single bytes. ``add_bos`` None leaves special tokens to the library's own
    post-processor. ``pieces`` are there where they are known without the library.
    """

    build: Callable[[], "tokenizers.Tokenizer"]
    form: TokenForm
    vocab_size: int
    bos_id: int | None
    eos_ids: tuple[int, ...]
    add_bos: bool | None
    add_eos: bool | None = None
    strips_prefix: bool = False
    pieces: Pieces | None = None


class Vocabulary:
    """What a model's token ids stand for. All methods may be called from several threads at once.

    ``eos_ids`` end a text; ``vocab_size`` counts the ids from 0 to the largest. ``piece`` gives the entry of an id, or
    None.
    """

    def __init__(self, plan: TokenizerPlan, piece: Callable[[int], str | None], marks: Mapping[int, bool]) -> None:
        self.eos_ids = plan.eos_ids
        self.vocab_size = plan.vocab_size
        self.strips_prefix = plan.strips_prefix
        self._piece = piece
        self._marks = marks
        self._bytes: list[bytes | None] = [None] * plan.vocab_size
        self._bytes_of = _byte_level() if plan.form == "byte-level" else _spaces

    def detokenizer(self, prompt_ids: Sequence[int], *, skip_special: bool = True) -> IncrementalDetokenizer:
        """Incremental decoding of an output that follows ``prompt_ids``."""
        return IncrementalDetokenizer(self, prompt_ids, skip_special)

    def token_bytes(self, token: int) -> bytes:
        """A token's own bytes, maybe a part of a character; empty for an id that stands for nothing."""
        if not 0 <= token < self.vocab_size:
            return b""
        known = self._bytes[token]
        if known is None:
            piece = self._piece(token)
            known = b"" if piece is None else piece.encode() if token in self._marks else self._bytes_of(piece)
            self._bytes[token] = known  # every thread would write the same
        return known

    def token_text(self, token: int) -> str:
        """A token's own text, U+FFFD for bytes that are no whole character."""
        return self.token_bytes(token).decode("utf-8", "replace")

    def is_special(self, token: int) -> bool:
        """Whether the token is a mark (begin, end, role…) rather than text."""
        return self._marks.get(token, False)


class Tokenizer(Vocabulary):
    """A model's tokenizer; ``bos_id`` is None where the model has none."""

    def __init__(self, plan: TokenizerPlan) -> None:
        self.bos_id = plan.bos_id
        self._plan = plan
        self._library = _built(plan)
        self._plain_lock = threading.Lock()
        self._plain: tokenizers.Tokenizer | None = None
        if plan.pieces is not None:  # the very entries that an engine decodes with
            super().__init__(plan, plan.pieces.text, plan.pieces.marks)
        else:
            added = self._library.get_added_tokens_decoder()
            super().__init__(plan, self._library.id_to_token, {token: entry.special for token, entry in added.items()})

    def encode(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        """The ids of ``text``; ``add_special`` adds the marks a text begins (and ends) with, if the model has any.

        Special tokens spelled out in ``text`` become their ids, unless ``parse_special`` is off. Raises
        :class:`InvalidRequest` for text that is not valid Unicode.
        """
        library = self._library if parse_special else self._without_special()
        by_library = add_special and self._plan.add_bos is None
        try:
            # The batch call, even for one text: it lets go of the interpreter lock, ``encode`` does not.
            ids = library.encode_batch_fast([text], add_special_tokens=by_library)[0].ids
        except (UnicodeEncodeError, TypeError):
            raise InvalidRequest("the text holds half of a surrogate pair, which is not a character") from None
        if add_special and self._plan.add_bos and self.bos_id is not None:
            ids = [self.bos_id, *ids]
        if add_special and self._plan.add_eos and self.eos_ids:
            ids = [*ids, self.eos_ids[0]]
        return list(ids)

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of ``ids``; bytes that form no character become U+FFFD.

        Raises :class:`InvalidRequest` for ids outside the vocabulary.
        """
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise InvalidRequest(f"token id {token} is outside the vocabulary (0 to {self.vocab_size - 1})")
        detokenizer = self.detokenizer((), skip_special=skip_special)
        return detokenizer.push(ids) + detokenizer.flush()

    def _without_special(self) -> "tokenizers.Tokenizer":
        # The library keeps this switch on the object, so a second object is what threads can share.
        with self._plain_lock:
            if self._plain is None:
                plain = _built(self._plan)
                plain.encode_special_tokens = True
                self._plain = plain
            return self._plain


def _built(plan: TokenizerPlan) -> "tokenizers.Tokenizer":
    library = plan.build()
    return_freed()  # what only building it needed
    return library


def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes: character → byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return alphabet


def _byte_level() -> Callable[[str], bytes]:
    alphabet = byte_alphabet()

    def to_bytes(piece: str) -> bytes:
        try:
            return bytes([alphabet[character] for character in piece])
        except KeyError:  # not spelled in the alphabet: the text itself
            return piece.encode()

    return to_bytes


def byte_of_piece(piece: str) -> int | None:
    """The byte that a ``<0xNN>`` piece stands for, or None."""
    if len(piece) == 6 and piece.startswith("<0x") and piece[5] == ">":
        try:
            return int(piece[3:5], 16)
        except ValueError:
            return None
    return None


def _spaces(piece: str) -> bytes:
    byte = byte_of_piece(piece)
    return bytes([byte]) if byte is not None else piece.replace("▁", " ").encode()

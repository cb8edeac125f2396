"""Streams of text: whole characters only, and together equal to decoding at once."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.model.checkpoint import load_tokenizer
from tenfold.model.detokenizer import IncrementalDetokenizer
from tenfold.model.tokenizer import Tokenizer


class Bytes:
    """A token is a byte; 256 is special and reads <end>; 257 is a space with a letter."""

    def __init__(self, strips_prefix: bool = False) -> None:
        self.strips_prefix = strips_prefix

    def token_bytes(self, token: int) -> bytes:
        return {256: b"<end>", 257: b" a"}.get(token) or bytes([token])

    def is_special(self, token: int) -> bool:
        return token == 256


def stream(detokenizer: IncrementalDetokenizer, tokens: Sequence[int]) -> str:
    return "".join(detokenizer.push([token]) for token in tokens) + detokenizer.flush()


TOKENS = st.one_of(
    st.lists(st.integers(0, 257), max_size=24),
    st.text(max_size=12).map(lambda text: list(text.encode("utf-8", "surrogatepass"))),
    st.text("é漢😀👩‍👧a", max_size=12).map(lambda text: list(text.encode())),
)


@given(tokens=TOKENS, skip=st.booleans())
def test_any_bytes_equal_decoding_at_once(tokens: list[int], skip: bool) -> None:
    whole = b"".join(Bytes().token_bytes(t) for t in tokens if not (skip and t == 256))
    assert stream(IncrementalDetokenizer(Bytes(), [], skip), tokens) == whole.decode("utf-8", "replace")


@given(tokens=TOKENS, data=st.data())
def test_prompt_and_output_join(tokens: list[int], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(tokens)))
    prompt = b"".join(map(Bytes().token_bytes, tokens[:cut]))
    whole = (prompt + b"".join(map(Bytes().token_bytes, tokens[cut:]))).decode("utf-8", "replace")
    output = stream(IncrementalDetokenizer(Bytes(), tokens[:cut], skip_special=False), tokens[cut:])
    # The prompt's text up to its last whole character: drop what its final, unfinished one reads as.
    shown = prompt.decode("utf-8", "replace")
    unfinished = len(prompt) > 0 and any(_begins_character(prompt[-n:]) for n in (1, 2, 3) if n <= len(prompt))
    assert (shown[:-1] if unfinished else shown) + output == whole


def _begins_character(data: bytes) -> bool:
    """Whether ``data`` is a proper beginning of a character."""
    return any(
        _decodes(data + bytes(rest)) for rest in ([0x80], [0x80, 0x80], [0x80] * 3, [0xBF], [0xBF] * 2, [0xBF] * 3)
    )


def _decodes(data: bytes) -> bool:
    try:
        return len(data.decode()) == 1
    except UnicodeDecodeError:
        return False


@given(text=st.text("é漢😀👩‍👧aß\u0301", min_size=1, max_size=20))
def test_valid_text_never_shows_a_replacement(text: str) -> None:
    detokenizer = IncrementalDetokenizer(Bytes(), [])
    pieces = [detokenizer.push([byte]) for byte in text.encode()]
    assert "\ufffd" not in "".join(pieces) and "".join(pieces) == text and detokenizer.flush() == ""
    assert all(len(piece) <= 1 for piece in pieces)


def test_broken_bytes_show_as_soon_as_they_are_certain() -> None:
    detokenizer = IncrementalDetokenizer(Bytes(), [])
    assert detokenizer.push([0xE6, 0xBC]) == ""
    assert detokenizer.push([ord("x")]) == "\ufffdx"
    assert detokenizer.push([0xFF]) == "\ufffd"
    assert detokenizer.push([0xF0, 0x9F]) == "" and detokenizer.flush() == "\ufffd"


def test_a_character_begun_in_the_prompt_is_finished() -> None:
    detokenizer = IncrementalDetokenizer(Bytes(), list("漢".encode()[:2]))
    assert detokenizer.push(["漢".encode()[2]]) == "漢"


def test_the_encoders_own_space_is_stripped_once() -> None:
    assert stream(IncrementalDetokenizer(Bytes(True), []), [257, 257]) == "a a"
    assert stream(IncrementalDetokenizer(Bytes(True), [256]), [256, 257]) == "a"
    assert stream(IncrementalDetokenizer(Bytes(True), [65]), [257]) == " a"
    assert stream(IncrementalDetokenizer(Bytes(True), [256], skip_special=False), [257]) == " a"
    assert stream(IncrementalDetokenizer(Bytes(False), []), [257]) == " a"


@pytest.fixture(scope="module")
def tokenizers(smollm2_path: Path, gemma_path: Path) -> list[Tokenizer]:
    return [load_tokenizer(smollm2_path), load_tokenizer(gemma_path)]


@settings(max_examples=100, deadline=None)
@given(seeds=st.lists(st.integers(0, 2**31), max_size=20), text=st.text(max_size=20), cut=st.integers(0, 40))
def test_real_vocabularies_stream_as_they_decode(
    tokenizers: list[Tokenizer], seeds: list[int], text: str, cut: int
) -> None:
    for tokenizer in tokenizers:
        ids = tokenizer.encode(text, add_special=False) + [seed % tokenizer.vocab_size for seed in seeds]
        detokenizer = tokenizer.detokenizer([], skip_special=False)
        pieces = [detokenizer.push(ids[:cut]), *(detokenizer.push([token]) for token in ids[cut:]), detokenizer.flush()]
        assert "".join(pieces) == tokenizer.decode(ids, skip_special=False)

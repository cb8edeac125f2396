"""What an engine decodes with, made without a tokenizer, against the tokenizer."""

import pytest

from tenfold.model.checkpoint import load_checkpoint
from tenfold.model.store import resolve
from tenfold.model.tokenizer import Tokenizer


@pytest.mark.parametrize("model", ["smollm2-135m", "gemma3-270m"])
def test_the_vocabulary_of_a_file_is_the_tokenizers(model: str) -> None:
    checkpoint = load_checkpoint(resolve(model))
    vocabulary, tokenizer = checkpoint.vocabulary(), checkpoint.tokenizer()
    assert not isinstance(vocabulary, Tokenizer)
    assert vocabulary.eos_ids == tokenizer.eos_ids and vocabulary.strips_prefix == tokenizer.strips_prefix
    assert vocabulary.vocab_size == tokenizer.vocab_size
    for token in range(-1, tokenizer.vocab_size + 1):
        assert vocabulary.token_bytes(token) == tokenizer.token_bytes(token)
        assert vocabulary.is_special(token) == tokenizer.is_special(token)
    ids = tokenizer.encode("Hélas, 123 apples 🍎", add_special=True)
    for skip in (False, True):
        detokenizer = vocabulary.detokenizer((), skip_special=skip)
        assert detokenizer.push(ids) + detokenizer.flush() == tokenizer.decode(ids, skip_special=skip)

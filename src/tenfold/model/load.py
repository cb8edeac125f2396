"""A model, or its text side, by what the settings call it: ``model`` and ``load_format`` (see EngineConfig)."""

from tenfold.core.config import DUMMY
from tenfold.model.checkpoint import Checkpoint, TextModel, load_checkpoint, load_text_model, load_tokenizer
from tenfold.model.store import resolve
from tenfold.model.tokenizer import Tokenizer


def load_model(model: str, load_format: str) -> Checkpoint:
    """With weights. Raises ModelError as :func:`resolve` and :func:`load_checkpoint` do."""
    return _dummy(model) if load_format == DUMMY else load_checkpoint(resolve(model))


def text_of(model: str, load_format: str) -> TextModel:
    """What a server process needs. Raises as :func:`load_model`."""
    if load_format != DUMMY:
        return load_text_model(resolve(model))
    dummy = _dummy(model)
    return TextModel(dummy.name, dummy.tokenizer(), dummy.chat_template)


def tokenizer_of(model: str, load_format: str) -> Tokenizer:
    """The tokenizer alone. Raises as :func:`load_model`."""
    return _dummy(model).tokenizer() if load_format == DUMMY else load_tokenizer(resolve(model))


def _dummy(model: str) -> Checkpoint:
    from tenfold.model.dummy import dummy_checkpoint

    return dummy_checkpoint(model)

"""The served model's tokenizer and chat template."""

from tenfold.model.checkpoint import load_text_model
from tenfold.model.store import resolve
from tenfold.server.text import TextCodec


def load_codec(model: str) -> TextCodec:
    """Load what turns text into token ids and back; reads no weights. Raises ModelError."""
    text = load_text_model(resolve(model))
    return TextCodec(text.tokenizer, text.chat_template)

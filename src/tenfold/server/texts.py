"""The served model's tokenizer and chat template."""

import contextlib

from tenfold.core.errors import TenfoldError
from tenfold.model.checkpoint import load_text_model
from tenfold.model.store import resolve
from tenfold.server.text import TextCodec


def load_codec(model: str) -> TextCodec:
    """Load what turns text into token ids and back; reads no weights. Raises ModelError."""
    text = load_text_model(resolve(model))
    codec = TextCodec(text.tokenizer, text.chat_template)
    if codec.template is not None:
        # What is compiled at first use is compiled now, while the engine still loads.
        with contextlib.suppress(TenfoldError):
            codec.tokenizer.encode(codec.template.render([{"role": "user", "content": "warm"}]), add_special=False)
    return codec

"""The served model's tokenizer and chat template."""

import contextlib

from tenfold.core.errors import TenfoldError
from tenfold.model.load import text_of
from tenfold.server.text import TextCodec


def load_codec(model: str, load_format: str) -> TextCodec:
    """Load what turns text into token ids and back; reads no weights. Raises ModelError."""
    text = text_of(model, load_format)
    codec = TextCodec(text.tokenizer, text.chat_template)
    if codec.template is not None:
        # What is compiled at first use is compiled now, while the engine still loads.
        with contextlib.suppress(TenfoldError):
            codec.tokenizer.encode(codec.template.render([{"role": "user", "content": "warm"}]), add_special=False)
    return codec

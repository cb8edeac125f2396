"""Tokenizers and chat templates of Hugging Face directories."""

import contextlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tenfold.core.errors import CorruptModel, ModelError
from tenfold.model.chat import MAX_TEMPLATE, ChatTemplate
from tenfold.model.fields import Fields
from tenfold.model.hf_dir import HfDirectory, read_json
from tenfold.model.tokenizer import TokenForm, TokenizerPlan

if TYPE_CHECKING:
    import tokenizers

_MAX_TOKENIZER = 1 << 28  # bytes of tokenizer.json


def hf_tokenizer_plan(source: HfDirectory) -> TokenizerPlan:
    """How to build the tokenizer of ``tokenizer.json``.

    Raises :class:`ModelError` where there is none, :class:`CorruptModel` where it cannot be read,
    :class:`UnsupportedModel` for decoders other than byte-level and SentencePiece's.
    """
    path = source.path / "tokenizer.json"
    library = _read(path)
    config = _optional(source.path / "tokenizer_config.json")
    generation = _optional(source.path / "generation_config.json")
    form, strips_prefix = _form(path, library)
    bos = _mark(config, "bos_token")
    bos_id = library.token_to_id(bos) if bos else None
    if bos_id is None:
        bos_id = _id(source.config, "bos_token_id")
    # The library's own post-processor adds the marks; the configuration can overrule it.
    add_bos = config.flag("add_bos_token") if config.has("add_bos_token") else None
    with _damaged(f"{path}: its post-processor does not work"):
        own = library.encode("", add_special_tokens=True).ids
    if add_bos is not None and (bos_id is None or (bos_id in own[:1]) == add_bos):
        add_bos = None
    return TokenizerPlan(
        build=partial(_read, path),
        form=form,
        vocab_size=max(library.get_vocab(with_added_tokens=True).values(), default=-1) + 1,
        bos_id=bos_id,
        eos_ids=_end_ids(source, config, generation, library),
        add_bos=add_bos,
        strips_prefix=strips_prefix,
    )


def hf_chat_template(source: HfDirectory) -> ChatTemplate | None:
    """From ``chat_template.jinja`` or ``tokenizer_config.json``; None where there is none."""
    config = _optional(source.path / "tokenizer_config.json")
    file = source.path / "chat_template.jinja"
    text: Any = config.values.get("chat_template")
    if file.is_file():
        if file.stat().st_size > 4 * MAX_TEMPLATE:
            raise CorruptModel(f"{file}: too large for a chat template")
        try:
            text = file.read_text("utf-8")
        except UnicodeDecodeError:
            raise CorruptModel(f"{file}: not valid UTF-8; download it again") from None
    elif isinstance(text, list):  # several, by name
        named = {entry.get("name"): entry.get("template") for entry in text if isinstance(entry, dict)}
        text = named.get("default")
    if not isinstance(text, str):
        return None
    return ChatTemplate(text, _mark(config, "bos_token"), _mark(config, "eos_token"))


def _read(path: Path) -> "tokenizers.Tokenizer":
    from tokenizers import Tokenizer

    if not path.is_file():
        raise ModelError(f"{path} is missing; models with only tokenizer.model need conversion to tokenizer.json")
    if path.stat().st_size > _MAX_TOKENIZER:
        raise CorruptModel(f"{path}: larger than {_MAX_TOKENIZER} bytes; this is no tokenizer")
    with _damaged(f"{path}: not a tokenizer the library reads"):
        library = Tokenizer.from_file(str(path))
    # Settings of training: a prompt must neither be cut nor padded.
    library.no_truncation()
    library.no_padding()
    return library


@contextlib.contextmanager
def _damaged(what: str) -> Iterator[None]:
    """Whatever the library raises at a file is that file's fault: also a panic, which is no Exception."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise CorruptModel(f"{what} ({error}); download it again") from None


def _optional(path: Path) -> Fields:
    return Fields(str(path), read_json(path) if path.is_file() else {})


def _form(path: Path, library: "tokenizers.Tokenizer") -> tuple[TokenForm, bool]:
    """(how pieces spell bytes, whether a text's first space is the encoder's own)."""
    state = {} if library.decoder is None else json.loads(library.decoder.__getstate__())
    parts = {part.get("type"): part for part in state.get("decoders", [state])}
    if "ByteLevel" in parts:
        return "byte-level", False
    if "ByteFallback" in parts or "Metaspace" in parts:
        metaspace = parts.get("Metaspace", {})
        strips = metaspace.get("prepend_scheme", "never") != "never" or parts.get("Strip", {}).get("start", 0) > 0
        return "spaces", strips
    names = ", ".join(str(name) for name in parts if name) or "none"
    raise Fields(str(path), {}).unsupported(
        f"a tokenizer whose decoder is {names}", "supported: byte-level BPE and SentencePiece BPE with byte fallback"
    )


def _mark(config: Fields, key: str) -> str:
    """The text of a special token, given as a string or as an object with ``content``."""
    value = config.values.get(key)
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _id(fields: Fields, key: str) -> int | None:
    value = fields.values.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _end_ids(
    source: HfDirectory, config: Fields, generation: Fields, library: "tokenizers.Tokenizer"
) -> tuple[int, ...]:
    """The ends of text that the generation settings, the configuration and the tokenizer name, in that order."""
    found: list[int] = []
    for fields in (generation, source.config):
        value = fields.values.get("eos_token_id")
        values = value if isinstance(value, list) else [value]
        found += [v for v in values if isinstance(v, int) and not isinstance(v, bool) and v >= 0]
    eos = _mark(config, "eos_token")
    token = library.token_to_id(eos) if eos else None
    if token is not None:
        found.append(token)
    return tuple(dict.fromkeys(found))

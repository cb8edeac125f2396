"""Tokenizers from GGUF metadata: byte-level BPE ("gpt2") and SentencePiece BPE ("llama")."""

import hashlib
import math
from array import array
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

from tenfold.core.errors import CorruptModel
from tenfold.core.memory import no_collection
from tenfold.model.fields import Fields
from tenfold.model.gguf_file import GgufFile, StringArray
from tenfold.model.store import cache_folder
from tenfold.model.tokenizer import Pieces, TokenizerPlan

if TYPE_CHECKING:
    import tokenizers
    from tokenizers import normalizers, pre_tokenizers

# The pre-tokenizer each kind's original tokenizer.json names: "digits" splits off single digits before GPT-2's
# pattern; the others are a pattern of their own.
_GPT2_KINDS = ("default", "gpt-2", "gpt2")
_DIGIT_KINDS = ("smollm", "starcoder", "refact")
_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _LETTERS + r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _REST
_QWEN2 = _LETTERS + r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + _REST
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + _REST
)
_PATTERNS: Mapping[str, str] = MappingProxyType(
    {
        "llama-bpe": _LLAMA3,
        "llama3": _LLAMA3,
        "llama-v3": _LLAMA3,
        "qwen2": _QWEN2,
        "deepseek-r1-qwen": _QWEN2,
        "tekken": _TEKKEN,
    }
)
_NFC_KINDS = ("qwen2", "deepseek-r1-qwen")
_WHOLE_WORD_KINDS = ("llama-bpe", "llama3", "llama-v3", "tekken")  # a word in the vocabulary needs no merges

_UNKNOWN, _CONTROL, _USER, _BYTE = 2, 3, 4, 6  # GGUF token types
_MARKED = frozenset((_UNKNOWN, _CONTROL, _USER))
_NO_TEXT = _MARKED | {_BYTE}
# Marks that end a turn or a text, for files that name only one of them.
_END_MARKS = frozenset(
    ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<end_of_turn>", "<|end|>", "</s>")
)


def tokenizer_plan(file: GgufFile) -> TokenizerPlan:
    """How to build ``file``'s tokenizer.

    Raises :class:`CorruptModel` for damaged metadata, :class:`UnsupportedModel` for other kinds, by name.
    """
    fields = Fields(str(file.path), file.metadata)
    kind = fields.text("tokenizer.ggml.model")
    tokens = _string_array(fields, "tokenizer.ggml.tokens").kept()
    types = _types(fields, len(tokens))
    end_ids = _end_ids(fields, tokens, types)
    bos_id = _token_id(fields, "bos", len(tokens))
    marks = {token: type_ != _USER for token, type_ in enumerate(types) if type_ in _MARKED and tokens[token]}
    pieces = Pieces(tokens.__getitem__, marks)
    if kind == "gpt2":
        return TokenizerPlan(
            build=_byte_level_builder(fields, tokens, types),
            form="byte-level",
            vocab_size=len(tokens),
            bos_id=bos_id,
            eos_ids=end_ids,
            add_bos=fields.flag("tokenizer.ggml.add_bos_token", _bos_by_default(fields)),
            add_eos=fields.flag("tokenizer.ggml.add_eos_token", False),
            pieces=pieces,
        )
    if kind == "llama":
        prefix = fields.flag("tokenizer.ggml.add_space_prefix", True)
        return TokenizerPlan(
            build=_sentencepiece_builder(fields, tokens, types, prefix=prefix),
            form="spaces",
            vocab_size=len(tokens),
            bos_id=bos_id,
            eos_ids=end_ids,
            add_bos=fields.flag("tokenizer.ggml.add_bos_token", True),
            add_eos=fields.flag("tokenizer.ggml.add_eos_token", False),
            strips_prefix=prefix,
            pieces=pieces,
        )
    raise fields.unsupported(f"tokenizer kind {kind!r}", "supported: gpt2 (byte-level BPE), llama (SentencePiece BPE)")


def special_text(file: GgufFile, which: str) -> str:
    """The text of the ``which`` ("bos", "eos") token, empty where there is none."""
    fields = Fields(str(file.path), file.metadata)
    tokens = fields.values.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, StringArray):
        return ""
    index = _token_id(fields, which, len(tokens))
    return "" if index is None else tokens[index]


def _bos_by_default(fields: Fields) -> bool:
    return fields.text("tokenizer.ggml.pre", "default") in ("llama-bpe", "llama3", "llama-v3", "tekken")


def _string_array(fields: Fields, key: str) -> StringArray:
    value = fields.values.get(key)
    if not isinstance(value, StringArray):
        raise fields.wrong(key, value, "an array of strings is needed")
    return value


def _types(fields: Fields, count: int) -> list[int]:
    key = "tokenizer.ggml.token_type"
    value = fields.values.get(key)
    if value is None:
        return [1] * count
    if not isinstance(value, memoryview) or value.format in ("f", "d") or len(value) != count:
        raise fields.wrong(key, value, f"{count} integers are needed, one per token")
    types: list[int] = value.tolist()
    return types


def _token_id(fields: Fields, which: str, count: int) -> int | None:
    key = f"tokenizer.ggml.{which}_token_id"
    return fields.integer(key, low=0, high=count - 1) if fields.has(key) else None


def _end_ids(fields: Fields, tokens: StringArray, types: list[int]) -> tuple[int, ...]:
    named = [_token_id(fields, which, len(tokens)) for which in ("eos", "eot", "eom")]
    found = [index for index, kind in enumerate(types) if kind == _CONTROL and tokens[index] in _END_MARKS]
    return tuple(dict.fromkeys(index for index in (*named, *found) if index is not None))


def _vocabulary(tokens: list[str]) -> dict[str, int]:
    """Token → id, the lowest where a token appears twice."""
    vocabulary = dict(zip(tokens, range(len(tokens)), strict=True))
    if len(vocabulary) < len(tokens):
        vocabulary = dict(zip(reversed(tokens), range(len(tokens) - 1, -1, -1), strict=True))
    return vocabulary


def _add_marks(library: "tokenizers.Tokenizer", tokens: list[str], types: list[int]) -> None:
    """Control and user-defined tokens are found in text as they stand, before any other rule."""
    from tokenizers import AddedToken

    marks = [(tokens[index], kind != _USER) for index, kind in enumerate(types) if kind in _MARKED and tokens[index]]
    library.add_tokens([AddedToken(text, special=special, normalized=False) for text, special in marks])


def _byte_level_builder(fields: Fields, tokens: StringArray, types: list[int]) -> partial["tokenizers.Tokenizer"]:
    kind = fields.text("tokenizer.ggml.pre", "default")
    if kind not in (*_GPT2_KINDS, *_DIGIT_KINDS, *_PATTERNS):
        supported = ", ".join((*_GPT2_KINDS, *_DIGIT_KINDS, *_PATTERNS))
        raise fields.unsupported(f"pre-tokenizer {kind!r}", f"supported: {supported}")
    return partial(_build_byte_level, fields.where, kind, tokens, types, _string_array(fields, "tokenizer.ggml.merges"))


def _build_byte_level(
    where: str, kind: str, stored: StringArray, types: list[int], merges: StringArray
) -> "tokenizers.Tokenizer":
    from tokenizers import Tokenizer, decoders, models

    tokens = stored.to_list()
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges.to_list())]
    try:
        model = models.BPE(_vocabulary(tokens), pairs, ignore_merges=kind in _WHOLE_WORD_KINDS)
    except Exception as error:
        raise CorruptModel(f"{where}: the merges do not fit the tokens ({error}); download it again") from None
    library = Tokenizer(model)
    if (normalizer := _normalizer(kind)) is not None:
        library.normalizer = normalizer
    library.pre_tokenizer = _pre_tokenizer(kind)
    library.decoder = decoders.ByteLevel()
    _add_marks(library, tokens, types)
    return library


def _normalizer(kind: str) -> "normalizers.Normalizer | None":
    from tokenizers import normalizers

    return normalizers.NFC() if kind in _NFC_KINDS else None


def _pre_tokenizer(kind: str) -> "pre_tokenizers.PreTokenizer":
    from tokenizers import Regex, pre_tokenizers

    if kind in _GPT2_KINDS:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if kind in _DIGIT_KINDS:
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    split = pre_tokenizers.Split(Regex(_PATTERNS[kind]), behavior="isolated")
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, plain])


def _sentencepiece_builder(
    fields: Fields, tokens: StringArray, types: list[int], *, prefix: bool
) -> partial["tokenizers.Tokenizer"]:
    key = "tokenizer.ggml.scores"
    scores = fields.values.get(key)
    if not isinstance(scores, memoryview) or scores.format not in ("f", "d") or len(scores) != len(tokens):
        raise fields.wrong(key, scores, f"{len(tokens)} numbers are needed, one per token")
    if not all(map(math.isfinite, scores)):
        raise fields.wrong(key, "not finite", "finite numbers are needed")
    unknown = _token_id(fields, "unknown", len(tokens))
    if unknown is None:
        unknown = types.index(_UNKNOWN) if _UNKNOWN in types else None
    return partial(_build_sentencepiece, fields.where, tokens, types, scores, unknown, prefix)


def _build_sentencepiece(
    where: str,
    stored: StringArray,
    types: list[int],
    scores: memoryview,
    unknown: int | None,
    prefix: bool,
) -> "tokenizers.Tokenizer":
    from tokenizers import Tokenizer, decoders, models, normalizers

    from tenfold.model.spm_merges import RULES, derive_merges

    tokens = stored.to_list()
    with no_collection():
        text = [index for index, kind in enumerate(types) if kind not in _NO_TEXT]
        pieces, kept = [tokens[index] for index in text], cache_folder() / "tokenizers"
        known = stored.digest() + bytes(scores) + array("I", text).tobytes()
        name = hashlib.blake2b(known, digest_size=16, person=RULES).hexdigest()
        merges = derive_merges(pieces, [scores[index] for index in text], kept / f"{name}.merges")
        try:
            model = models.BPE(
                _vocabulary(tokens),
                merges,
                unk_token=None if unknown is None else tokens[unknown],
                fuse_unk=True,
                byte_fallback=_BYTE in types,
                cache_capacity=0,  # a whole text is one word here: nothing would be found again
            )
        except Exception as error:
            raise CorruptModel(f"{where}: the tokens do not fit together ({error}); download it again") from None
    library = Tokenizer(model)
    spaces = normalizers.Replace(" ", "▁")
    library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
    library.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    _add_marks(library, tokens, types)
    return library

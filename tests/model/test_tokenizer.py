"""Token ids equal the models' own: golden files, and independent implementations on fuzzed Unicode."""

import json
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.models import BPE

from tenfold.core.errors import InvalidRequest
from tenfold.model.checkpoint import load_tokenizer
from tenfold.model.gguf_file import StringArray, open_gguf
from tenfold.model.spm_merges import derive_merges
from tenfold.model.tokenizer import Tokenizer, byte_alphabet

from . import tiny

GOLDEN = Path(__file__).parent.parent / "golden"
SNIPPETS = st.sampled_from(
    [
        "  ",
        "   ",
        "\n\n",
        " \n",
        "\t",
        "1234",
        "don't",
        "I'LL",
        "é",
        "e\u0301",
        "😀",
        "👩‍👩‍👧",
        "漢字",
        "हिन्दी",
        "▁",
        "<|im",
        "\u00a0",
        "ﬁ",
    ]
)
TEXTS = st.lists(st.one_of(st.text(max_size=12), SNIPPETS, st.text("ab .,1\n ▁", max_size=8)), max_size=8).map("".join)


@pytest.fixture(scope="module")
def smollm2(smollm2_path: Path) -> Tokenizer:
    return load_tokenizer(smollm2_path)


@pytest.fixture(scope="module")
def gemma(gemma_path: Path) -> Tokenizer:
    return load_tokenizer(gemma_path)


@pytest.mark.parametrize("model", ["smollm2-135m", "gemma3-270m"])
def test_golden_ids(model: str, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue("smollm2" if model.startswith("smol") else "gemma")
    golden = json.loads((GOLDEN / f"{model}.json").read_text())
    assert len(golden["cases"]) >= 9
    for case in golden["cases"]:
        assert tokenizer.encode(case["text"], add_special=True) == case["prompt_ids"]
        assert tokenizer.decode(case["output_ids"], skip_special=False) == case["output_text"]
    text = (GOLDEN / "perplexity.txt").read_text()
    ids = tokenizer.encode(text, add_special=False)
    assert len(ids) == golden["perplexity"]["tokens"] and ids[:64] == golden["perplexity"]["ids_head"]
    assert tokenizer.decode(ids) == text
    assert golden["eos_token_id"] == tokenizer.eos_ids[0]


def test_special_tokens_of_the_real_models(smollm2: Tokenizer, gemma: Tokenizer) -> None:
    assert smollm2.encode("<|im_start|>a", add_special=False)[0] == 1 and smollm2.is_special(1)
    plain = smollm2.encode("<|im_start|>a", add_special=False, parse_special=False)
    assert 1 not in plain and smollm2.decode(plain) == "<|im_start|>a"
    assert smollm2.encode("<|im_start|>a", add_special=False)[0] == 1  # the switch did not stick
    assert smollm2.decode([1, *plain]) == "<|im_start|>a" and smollm2.decode([1], skip_special=False) == "<|im_start|>"
    assert gemma.bos_id == 2 and gemma.encode("", add_special=True) == [2] and gemma.encode("", add_special=False) == []
    assert gemma.eos_ids == (1, 106) and gemma.is_special(106) and not gemma.is_special(107)


class Bpe:
    """Byte-level BPE written the plain way: split by the pattern, merge the best-ranked pair until none is left."""

    def __init__(self, tokens: list[str], merges: list[str], pattern: str, *, whole_words: bool = False) -> None:
        self.ids = {token: index for index, token in enumerate(tokens)}
        self.ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
        self.pattern = regex.compile(pattern)
        self.letters = {byte: letter for letter, byte in byte_alphabet().items()}
        self.whole_words = whole_words

    def encode(self, text: str) -> list[int]:
        return [token for word in self.pattern.findall(text) for token in self.word(word)]

    def word(self, word: str) -> list[int]:
        parts = [self.letters[byte] for byte in word.encode()]
        parts = [part for part in parts if part in self.ids]  # SmolLM2 lacks a few bytes: they are dropped first
        if self.whole_words and "".join(parts) in self.ids:
            return [self.ids["".join(parts)]]
        while len(parts) > 1:
            rank, at = min((self.ranks.get(pair, 1 << 60), i) for i, pair in enumerate(pairwise(parts)))
            if rank == 1 << 60:
                break
            parts[at : at + 2] = ["".join(parts[at : at + 2])]
        return [self.ids[part] for part in parts]


GPT2 = r"'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,%d}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {"gpt-2": GPT2, "llama-bpe": WORDS % 3, "qwen2": WORDS % 1}


def strings(path: Path, key: str) -> list[str]:
    value = open_gguf(path).metadata[key]
    assert isinstance(value, StringArray)
    return value.to_list()


def digits_apart(encode: Any, text: str) -> list[int]:
    """SmolLM's rule: each digit is a word, the rest goes by GPT-2's pattern."""
    pieces = [piece for piece in regex.split(r"(\p{N})", text) if piece]
    return [token for piece in pieces for token in encode(piece)]


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_smollm2_equals_a_plain_bpe(smollm2: Tokenizer, smollm2_oracle: Bpe, text: str) -> None:
    if "<|im" in text:
        text = text.replace("<|im", "<|m")
    assert smollm2.encode(text, add_special=False) == digits_apart(smollm2_oracle.encode, text)
    if all(smollm2_oracle.letters[byte] in smollm2_oracle.ids for byte in text.encode()):
        assert smollm2.decode(smollm2.encode(text, add_special=False)) == text


@pytest.fixture(scope="module")
def smollm2_oracle(smollm2_path: Path) -> Bpe:
    return Bpe(strings(smollm2_path, "tokenizer.ggml.tokens"), strings(smollm2_path, "tokenizer.ggml.merges"), GPT2)


@pytest.fixture(scope="module")
def tiny_tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tokenizer, Bpe]]:
    folder = tmp_path_factory.mktemp("tiny")
    out = {}
    for pre, pattern in PATTERNS.items():
        path = tiny.write_byte_level(folder / f"{pre}.gguf", pre=pre)
        oracle = Bpe(tiny.VOCABULARY, tiny.MERGES, pattern, whole_words=pre == "llama-bpe")
        out[pre] = (load_tokenizer(path), oracle)
    return out


@pytest.mark.parametrize("pre", PATTERNS)
@settings(max_examples=150, deadline=None)
@given(text=st.one_of(TEXTS, st.text("helo wrd'123\n é", max_size=20)))
def test_pre_tokenizers_equal_their_patterns(
    tiny_tokenizers: dict[str, tuple[Tokenizer, Bpe]], pre: str, text: str
) -> None:
    tokenizer, oracle = tiny_tokenizers[pre]
    text = text.replace("<|end|>", "<|nd|>")  # a mark of the tiny vocabulary
    wanted = unicodedata.normalize("NFC", text) if pre == "qwen2" else text
    ids = tokenizer.encode(text, add_special=False)
    assert ids == oracle.encode(wanted)
    assert tokenizer.decode(ids) == wanted


def sentencepiece(text: str, scores: dict[str, float], marks: list[str]) -> list[str]:
    """SentencePiece's rule written the plain way: join the neighbours that score best, leftmost first."""
    if marks:
        pattern = "|".join(regex.escape(mark) for mark in sorted(marks, key=len, reverse=True))
        found = regex.split(f"({pattern})", text)
        return [p for i, part in enumerate(found) for p in ([part] if i % 2 else sentencepiece(part, scores, []))]
    parts = list(text.replace(" ", "▁"))
    while len(parts) > 1:
        pairs = [(-scores[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in scores]
        if not pairs:
            break
        _, at = min(pairs)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


@pytest.fixture(scope="module")
def gemma_pieces(gemma_path: Path) -> tuple[dict[str, float], dict[str, int], list[str]]:
    file = open_gguf(gemma_path)
    tokens = strings(gemma_path, "tokenizer.ggml.tokens")
    types: Any = file.metadata["tokenizer.ggml.token_type"]
    values: Any = file.metadata["tokenizer.ggml.scores"]
    scores = {t: s for t, s, kind in zip(tokens, values.tolist(), types.tolist(), strict=True) if kind == 1}
    marks = [t for t, kind in zip(tokens, types.tolist(), strict=True) if kind == 4]
    return scores, {token: index for index, token in enumerate(tokens)}, marks


@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_gemma_equals_a_plain_sentencepiece(
    gemma: Tokenizer, gemma_pieces: tuple[dict[str, float], dict[str, int], list[str]], text: str
) -> None:
    scores, ids, marks = gemma_pieces
    wanted = []
    for piece in sentencepiece(text, scores, marks):
        known = ids.get(piece)
        wanted += [known] if known is not None else [ids[f"<0x{byte:02X}>"] for byte in piece.encode()]
    assert gemma.encode(text, add_special=False) == wanted
    assert gemma.decode(wanted) == text.replace("▁", " ")


def all_cuts(pieces: list[str], scores: list[float]) -> list[tuple[str, str]]:
    """Every way to cut a piece in two, the best piece first."""
    known = set(pieces)
    best = sorted(range(len(pieces)), key=lambda i: -scores[i])
    cuts = [(pieces[i][:n], pieces[i][n:]) for i in best for n in range(1, len(pieces[i]))]
    return [(left, right) for left, right in cuts if left in known and right in known]


def bpe(pieces: list[str], merges: list[tuple[str, str]]) -> BPE:
    return BPE({piece: i for i, piece in enumerate(dict.fromkeys(pieces))}, merges, byte_fallback=True)


@settings(max_examples=400)
@given(
    pieces=st.lists(st.text("abé", min_size=1, max_size=5), min_size=8, max_size=40),
    scores=st.lists(st.integers(-9, 9).map(float), min_size=40, max_size=40),
    texts=st.lists(st.text("abé", min_size=4, max_size=20), min_size=5, max_size=15),
)
def test_merges_are_those_that_ever_join(pieces: list[str], scores: list[float], texts: list[str]) -> None:
    """Scores in any order, equal ones and pieces that are there twice too: tokens are those that all cuts give."""
    pieces, scores = [*"ab", *pieces], [0.0, 0.0, *scores[: len(pieces)]]
    every, merges = all_cuts(pieces, scores), derive_merges(pieces, scores)
    latest = list(dict.fromkeys(reversed(every)))[::-1]  # what holds of a rule that is there twice
    assert [cut for cut in latest if cut in set(merges)] == merges
    assert len({left + right for left, right in merges}) == len(merges)
    whole, used = bpe(pieces, every), bpe(pieces, merges)
    for text in [*texts, *pieces]:
        assert [t.value for t in used.tokenize(text)] == [t.value for t in whole.tokenize(text)]


def test_merges_of_long_pieces_and_of_none() -> None:
    rng = np.random.default_rng(5)
    pieces = list(dict.fromkeys("".join(rng.choice(list("ab"), size=rng.integers(1, 40))) for _ in range(3000)))
    pieces += [text for n in range(2, 40) if (text := "a" * n) not in pieces]
    scores = rng.permutation(len(pieces)).astype(np.float32).tolist()
    every, merges = all_cuts(pieces, scores), derive_merges(pieces, scores)
    assert 100 < len(merges) < len(every) / 2
    whole, used = bpe(pieces, every), bpe(pieces, merges)
    for size in range(0, 400, 7):
        text = "".join(rng.choice(list("ab"), size=size, p=(0.9, 0.1)))
        assert [t.id for t in used.tokenize(text)] == [t.id for t in whole.tokenize(text)]
    runs = [
        "a" * n for n in range(1, 141)
    ]  # of those beyond 128 characters all cuts stay: a file may have very long ones
    assert len(derive_merges(runs, [-float(n) for n in range(140)])) == 127 + sum(range(128, 140))
    assert derive_merges(["a", "b"], [0.0, 0.0]) == []
    assert derive_merges(["ab", "b"], [0.0, 0.0]) == []
    assert derive_merges([], []) == []


def test_merges_kept_for_the_next_time_are_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    pieces = list(dict.fromkeys("".join(rng.choice(list("ab\n "), size=rng.integers(1, 7))) for _ in range(300)))
    scores = rng.permutation(len(pieces)).astype(np.float32).tolist()
    wanted, file = derive_merges(pieces, scores), tmp_path / "new" / "merges"
    assert derive_merges(pieces, scores, file) == wanted
    kept = file.read_bytes()
    assert derive_merges(pieces, scores[::-1], file) == wanted  # from the file
    for damaged in (b"", kept[:-1], kept[:-8], kept[:20] + b"\1" + kept[21:], bytes(len(kept))):
        file.write_bytes(damaged)
        assert derive_merges(pieces, scores, file) == wanted
    assert file.read_bytes() == kept  # mended
    (tmp_path / "file").write_text("")
    assert derive_merges(pieces, scores, tmp_path / "file" / "below") == wanted


SPM_TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "▁a", "ab", "▁ab"]


def write_spm(path: Path, **changes: Any) -> Path:
    count = len(SPM_TOKENS)
    settings: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": None,
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.tokens": SPM_TOKENS,
        "tokenizer.ggml.scores": [-float(i) for i in range(count)],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * (count - 259),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    return tiny.write_byte_level(path, **(settings | changes))


def test_sentencepiece_prefix_bytes_and_marks(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_spm(tmp_path / "m.gguf"))
    name = {token: index for index, token in enumerate(SPM_TOKENS)}
    assert tokenizer.encode("ab", add_special=True) == [1, name["▁ab"]]
    assert tokenizer.decode(tokenizer.encode("ab a", add_special=True)) == "ab a"
    assert tokenizer.decode(tokenizer.encode(" é", add_special=False)) == " é"
    assert tokenizer.encode("a</s>", add_special=False)[-1] == 2
    assert tokenizer.token_bytes(name["<0xC3>"]) == b"\xc3" and tokenizer.token_text(name["<0xC3>"]) == "\ufffd"
    assert tokenizer.token_text(name["▁a"]) == " a" and tokenizer.token_bytes(10**6) == b""
    after = tokenizer.detokenizer([1, name["b"]])
    assert after.push([name["▁a"]]) == " a"  # the space is the text's own once something came before
    assert tokenizer.detokenizer([1]).push([name["▁a"]]) == "a"


def test_bad_input_is_refused(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny.write_byte_level(tmp_path / "m.gguf"))
    with pytest.raises(InvalidRequest, match="surrogate"):
        tokenizer.encode("\ud800", add_special=False)
    for ids in ([-1], [len(tiny.VOCABULARY)]):
        with pytest.raises(InvalidRequest, match="outside the vocabulary"):
            tokenizer.decode(ids)
    assert tokenizer.encode("hello", add_special=True)[0] == tokenizer.bos_id == 1


def test_one_tokenizer_serves_many_threads(smollm2: Tokenizer) -> None:
    texts = [f"Thread {i} says <|im_end|> {'x' * i}" for i in range(64)]
    wanted = [
        (smollm2.encode(t, add_special=True), smollm2.encode(t, add_special=True, parse_special=False)) for t in texts
    ]
    with ThreadPoolExecutor(8) as pool:
        parsed = list(pool.map(lambda t: smollm2.encode(t, add_special=True), texts))
        plain = list(pool.map(lambda t: smollm2.encode(t, add_special=True, parse_special=False), texts))
        decoded = list(pool.map(smollm2.decode, (ids for _, ids in wanted)))
    assert [*zip(parsed, plain, strict=True)] == wanted and decoded == texts

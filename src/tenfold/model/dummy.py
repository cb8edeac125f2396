"""Dummy models: the true shapes of published models with random weights, to measure speed where no weights are at hand.

Nothing is read and nothing stored. Activations and logits stay near one, so that a step computes with ordinary
numbers; what comes out is nonsense. The end of a text is one token of the whole vocabulary: it hardly ever comes.
"""

import hashlib
from collections.abc import Mapping
from functools import partial
from itertools import islice, product
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from tenfold.core.errors import ModelError
from tenfold.model.chat import ChatTemplate
from tenfold.model.checkpoint import Checkpoint, LazyTokenizer
from tenfold.model.fields import Fields
from tenfold.model.hf_spec import spec_from_config
from tenfold.model.layout import shapes
from tenfold.model.tokenizer import Pieces, TokenizerPlan, byte_alphabet
from tenfold.ops.spec import ModelSpec
from tenfold.ops.tensors import RandomTensor, Weights
from tenfold.traffic.words import OPENING, WORDS

if TYPE_CHECKING:
    import tokenizers

END = "<|end|>"
_CHAT = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)

_LLAMA_3 = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
_QWEN_3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
# By name: what the models' own config.json say of their shapes.
_CONFIGS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "llama-3-8b": _LLAMA_3,
        "llama-3.1-8b": {
            **_LLAMA_3,
            "max_position_embeddings": 131072,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        },
        "qwen3-8b": _QWEN_3,
        "qwen3-0.6b": {
            **_QWEN_3,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "tie_word_embeddings": True,
        },
        "smollm2-135m": {
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "vocab_size": 49152,
            "max_position_embeddings": 8192,
            "rope_theta": 100000.0,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True,
        },
    }
)


def dummy_spec(name: str) -> ModelSpec:
    """The shape of the dummy ``name``. Raises ModelError, naming those there are."""
    config = _CONFIGS.get(name.lower())
    if config is None:
        raise ModelError(f"there is no dummy model {name!r}; with --load-format dummy there are {', '.join(_CONFIGS)}")
    own = f"dummy-{name.lower()}"
    return spec_from_config(Fields(own, config), own)


def dummy_checkpoint(name: str, seed: int = 0) -> Checkpoint:
    """The dummy ``name``: the same weights for the same ``seed``, made when they are asked for.

    Raises ModelError, naming those there are.
    """
    spec = dummy_spec(name)
    tensors = {tensor: _tensor(tensor, shape, seed) for tensor, shape in shapes(spec).items()}
    lazy = LazyTokenizer(partial(dummy_tokenizer_plan, spec.vocab))
    return Checkpoint(spec.name, spec, Weights(spec, tensors), ChatTemplate(_CHAT), (), lazy)


def dummy_tokenizer_plan(vocab: int) -> TokenizerPlan:
    """A tokenizer of exactly ``vocab`` entries: the bytes, common words, words of syllables, and the end of a text.

    The words that workloads are made of are a token each, as in most vocabularies.
    """
    texts = _texts(vocab)
    return TokenizerPlan(
        build=partial(_build, texts),
        form="byte-level",
        vocab_size=vocab,
        bos_id=None,
        eos_ids=(vocab - 1,),
        add_bos=False,
        pieces=Pieces(texts.__getitem__, {vocab - 1: True}),
    )


def _tensor(name: str, shape: tuple[int, ...], seed: int) -> RandomTensor:
    """Norms around one; matrices such that inputs around one give outputs around one."""
    digest = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
    own = int.from_bytes(digest, "little") >> 1  # what fits a signed integer suits every generator
    if name.endswith("norm"):
        return RandomTensor(name, shape, seed=own, low=0.9, high=1.1)
    most = (3.0 / shape[-1]) ** 0.5
    return RandomTensor(name, shape, seed=own, low=-most, high=most)


def _texts(vocab: int) -> list[str]:
    """Every entry, in GPT-2's alphabet; each once."""
    alphabet = byte_alphabet()
    letters = sorted(alphabet, key=alphabet.__getitem__)  # a byte's id is its value
    space = letters[ord(" ")]
    common = (*WORDS, *OPENING.rstrip(":").split())
    texts = dict.fromkeys([*letters, *common, *(space + word for word in common)])
    consonants, vowels = "bcdfghjklmnpqrstvwxyz", "aeiou"
    made = (space + "".join(parts) for parts in product(consonants, vowels, consonants, vowels, consonants))
    texts |= dict.fromkeys(islice((word for word in made if word not in texts), vocab - 1 - len(texts)))
    return [*texts, END]


def _build(texts: list[str]) -> "tokenizers.Tokenizer":
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    library = Tokenizer(models.BPE({text: token for token, text in enumerate(texts)}, [], ignore_merges=True))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    return library

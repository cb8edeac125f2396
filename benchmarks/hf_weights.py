"""A model's weights under their Hugging Face names, and bf16 safetensors of them."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenfold.ops.base import Float32
from tenfold.ops.spec import ModelSpec

_LAYER = {
    "attn_norm": "input_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "mlp_norm": "post_attention_layernorm",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
# Gemma's norm before the MLP has a name of its own, and Llama's name means the norm after attention.
_GEMMA_LAYER = _LAYER | {
    "attn_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "mlp_post_norm": "post_feedforward_layernorm",
}
_WHOLE = {"embed": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}


def hf_name(name: str, *, gemma: bool = False) -> str:
    """``model.layers.3.self_attn.q_proj.weight`` for ``layers.3.q``."""
    if name in _WHOLE:
        return f"{_WHOLE[name]}.weight"
    _, layer, part = name.split(".")
    return f"model.layers.{layer}.{(_GEMMA_LAYER if gemma else _LAYER)[part]}.weight"


def sizes(spec: ModelSpec) -> dict[str, Any]:
    """What config.json says of a model's sizes, for every architecture."""
    return {
        "vocab_size": spec.vocab,
        "hidden_size": spec.hidden,
        "intermediate_size": spec.ffn,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "max_position_embeddings": spec.max_context,
        "rms_norm_eps": spec.norm_eps,
        "tie_word_embeddings": spec.tied_head,
    }


def rope_base(inv_freq: tuple[float, ...], head_dim: int) -> float:
    """The base again, from the second frequency, base ** (-2 / head_dim); rounded as bases are round numbers."""
    return float(round(inv_freq[1] ** (-head_dim / 2), -1))


def bf16(values: Float32) -> NDArray[np.uint16]:
    """Finite float32 as bf16 bits, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write_safetensors(path: Path, shapes: Mapping[str, tuple[int, ...]], values: Callable[[str], Float32]) -> None:
    """A bf16 file of the tensors named in ``shapes``; ``values`` gives one at a time.

    The format: the header's length as 8 bytes, the header as JSON, then the tensors' bytes
    (https://github.com/huggingface/safetensors#format).
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            file.write(bf16(values(name).reshape(shape)).tobytes())

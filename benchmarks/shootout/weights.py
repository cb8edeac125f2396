"""The GGUF's weights, decoded to bf16, as a Hugging Face directory: for systems that read no GGUF."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenfold.core.errors import UnsupportedModel
from tenfold.model.checkpoint import Checkpoint, load_checkpoint

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


def export(gguf: Path, folder: Path) -> None:
    """Write config.json, model.safetensors and the tokenizer. Raises UnsupportedModel for other than Llama, Gemma 3."""
    checkpoint = load_checkpoint(gguf)
    config = _config(checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    _write_safetensors(folder / "model.safetensors", checkpoint)
    _write_tokenizer(gguf, checkpoint, folder)


def bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Finite float32 as bf16 bits, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _write_safetensors(path: Path, checkpoint: Checkpoint) -> None:
    """The format: the header's length as 8 bytes, the header as JSON, then the tensors' bytes."""
    gemma = checkpoint.spec.architecture == "gemma3"
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts: list[bytes] = []
    end = 0
    for name, tensor in checkpoint.weights.tensors.items():
        values = tensor.decode()
        if gemma and name.endswith("norm"):
            values = values - 1  # stored there as the difference from one
        data = bf16(values).tobytes()
        span = [end, end + len(data)]
        header[_name(name, gemma=gemma)] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": span}
        parts.append(data)
        end = span[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.writelines([len(text).to_bytes(8, "little"), text, *parts])


def _name(name: str, *, gemma: bool) -> str:
    if name in _WHOLE:
        return f"{_WHOLE[name]}.weight"
    _, layer, part = name.split(".")
    return f"model.layers.{layer}.{(_GEMMA_LAYER if gemma else _LAYER)[part]}.weight"


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    spec = checkpoint.spec
    config: dict[str, Any] = {
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
        "bos_token_id": checkpoint.tokenizer().bos_id,
        "eos_token_id": checkpoint.eos_ids[0],
        "torch_dtype": "bfloat16",
        "attention_bias": False,
    }
    theta = _base(spec.rope.inv_freq, spec.head_dim)
    if spec.architecture == "llama":
        return config | {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "rope_theta": theta,
        }
    if spec.architecture != "gemma3" or spec.rope_local is None:
        raise UnsupportedModel(f"the shootout exports Llama and Gemma 3, {checkpoint.name} is {spec.architecture}")
    return config | {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": round(spec.query_scale**-2),
        "sliding_window": max(spec.windows),
        "layer_types": ["sliding_attention" if window else "full_attention" for window in spec.windows],
        "rope_theta": theta,
        "rope_local_base_freq": _base(spec.rope_local.inv_freq, spec.head_dim),
    }


def _base(inv_freq: tuple[float, ...], head_dim: int) -> float:
    """The base again, from the second frequency, base ** (-2 / head_dim); rounded as bases are round numbers."""
    return float(round(inv_freq[1] ** (-head_dim / 2), -1))


def _write_tokenizer(gguf: Path, checkpoint: Checkpoint, folder: Path) -> None:
    from tokenizers import processors

    from tenfold.model.gguf_file import open_gguf
    from tenfold.model.gguf_tokenizer import tokenizer_plan

    plan = tokenizer_plan(open_gguf(gguf))
    library = plan.build()
    bos = None if plan.bos_id is None else library.id_to_token(plan.bos_id)
    if plan.add_bos and bos is not None:
        library.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, plan.bos_id)]
        )
    library.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": library.id_to_token(plan.eos_ids[0]),
        "model_max_length": checkpoint.spec.max_context,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))

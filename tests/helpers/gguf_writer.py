"""Hugging Face folder → GGUF file, following llama.cpp's conversions: names, permuted rows, folded norms."""

import json
import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

_ARCH = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3_text": "gemma3"}
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_GEMMA_NAMES = _NAMES | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}


def write_gguf(folder: Path, path: Path) -> None:
    """Convert the single-file float32 model in ``folder`` to F32 GGUF at ``path``."""
    config = json.loads((folder / "config.json").read_text())
    arch = _ARCH[config["model_type"]]
    writer = gguf.GGUFWriter(path, arch)
    _metadata(writer, arch, config)
    for name, values in load_file(folder / "model.safetensors").items():
        writer.add_tensor(_gguf_name(name, arch), _converted(name, values, arch, config))
    ropes = config["rope_parameters"]
    if ropes.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", _llama3_factors(ropes, config["head_dim"]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _metadata(writer: gguf.GGUFWriter, arch: str, config: dict[str, Any]) -> None:
    writer.add_name("tiny")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if "head_dim" in config:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    ropes = config["rope_parameters"]
    writer.add_rope_freq_base(ropes.get("full_attention", ropes)["rope_theta"])
    if ropes.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(ropes["factor"])
    if arch == "gemma3":
        writer.add_sliding_window(config["sliding_window"])
        if config["final_logit_softcapping"]:
            writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    # A vocabulary of single letters, so that the file is a whole model.
    vocab = config["vocab_size"]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(chr(0x4E00 + i) for i in range(vocab - 3))])
    writer.add_token_scores([0.0] * vocab)
    writer.add_token_types([2, 3, 3, *[1] * (vocab - 3)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _gguf_name(name: str, arch: str) -> str:
    stem, kind = name.rsplit(".", 1)
    names = _GEMMA_NAMES if arch == "gemma3" else _NAMES
    if stem in names:
        return f"{names[stem]}.{kind}"
    _, _, layer, rest = stem.split(".", 3)
    return f"blk.{layer}.{names[rest]}.{kind}"


def _converted(name: str, values: NDArray[np.float32], arch: str, config: dict[str, Any]) -> NDArray[np.float32]:
    if arch == "gemma3" and name.endswith("norm.weight"):
        return values + np.float32(1)
    if arch == "llama" and ("q_proj" in name or "k_proj" in name):
        heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
        halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
    return values


def _llama3_factors(ropes: dict[str, Any], head_dim: int) -> NDArray[np.float32]:
    low, high, factor = ropes["low_freq_factor"], ropes["high_freq_factor"], ropes["factor"]
    original = ropes["original_max_position_embeddings"]
    factors = []
    for i in range(0, head_dim, 2):
        wave = 2 * math.pi * ropes["rope_theta"] ** (i / head_dim)
        smooth = (original / wave - low) / (high - low)
        if wave < original / high:
            factors.append(1.0)
        elif wave > original / low:
            factors.append(factor)
        else:
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)

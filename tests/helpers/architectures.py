"""Tiny random-weight models of every architecture, made by transformers: the oracle of loaders and ops.

Importing this module needs neither torch nor transformers; its functions do.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PROMPT = [int(t) for t in np.random.default_rng(11).integers(0, 131, 41)]

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """``config`` is the name of transformers' class; ``sizes`` its arguments over the shared tiny sizes.

    ``dtype`` is how the weights are saved, ``shard`` the largest file. ``old_config`` saves ``config.json``
    with the field names of transformers 4 (rope_theta, rope_scaling, rope_local_base_freq), as most
    published models have it.
    """

    config: str
    sizes: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    shard: str = "1GB"
    old_config: bool = False


ARCHITECTURES = {
    "llama": Architecture("LlamaConfig", {"tie_word_embeddings": True}),
    "llama, untied, sharded": Architecture("LlamaConfig", shard="40KB"),
    "llama, llama3 rope": Architecture("LlamaConfig", {"rope_parameters": LLAMA3_ROPE}, "bfloat16"),
    "llama, llama3 rope, old config": Architecture("LlamaConfig", {"rope_parameters": LLAMA3_ROPE}, old_config=True),
    "llama, linear rope": Architecture(
        "LlamaConfig", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}}, "float16"
    ),
    "llama, head size of its own": Architecture("LlamaConfig", {"head_dim": 20}, old_config=True),
    "mistral, window": Architecture("MistralConfig", {"sliding_window": 9}),
    "qwen2": Architecture("Qwen2Config", {"tie_word_embeddings": True}, "bfloat16"),
    "qwen2, window from layer 1": Architecture(
        "Qwen2Config", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}
    ),
    "qwen3": Architecture("Qwen3Config", {"head_dim": 24}),
    "gemma3": Architecture(
        "Gemma3TextConfig",
        {"num_hidden_layers": 7, "sliding_window": 8, "query_pre_attn_scalar": 24, "num_key_value_heads": 1},
    ),
    "gemma3, softcap": Architecture(
        "Gemma3TextConfig",
        {"num_hidden_layers": 7, "sliding_window": 8, "query_pre_attn_scalar": 16, "final_logit_softcapping": 3.0},
        old_config=True,
    ),
}  # fmt: skip
_SIZES: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def save(architecture: Architecture, folder: Path) -> None:
    """Save a seeded random model of ``architecture`` in Hugging Face's layout."""
    import torch
    import transformers

    config = getattr(transformers, architecture.config)(**(_SIZES | architecture.sizes))
    torch.manual_seed(5)
    model = transformers.AutoModelForCausalLM.from_config(config)
    centre = 0.0 if architecture.config.startswith("Gemma") else 1.0
    for name, parameter in model.named_parameters():
        values = torch.randn_like(parameter)
        if name.endswith("norm.weight"):
            values = centre + 0.2 * values
        elif name.endswith("bias"):
            values = 0.3 * values
        elif "embed" not in name:
            # Attention far from uniform, so that rope, windows and scales all show in the logits.
            values = values * (2.0 if "q_proj" in name or "k_proj" in name else 1.0) / parameter.shape[-1] ** 0.5
        parameter.data.copy_(values)
    model.to(getattr(torch, architecture.dtype)).save_pretrained(folder, max_shard_size=architecture.shard)
    if architecture.old_config:
        _rewrite_as_old(folder / "config.json")


def oracle_logits(folder: Path, tokens: list[int]) -> NDArray[np.float32]:
    """transformers' logits [len(tokens), vocab] in float32 for the model in ``folder``."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        logits = model.eval()(torch.tensor([tokens])).logits[0]
    return np.asarray(logits.numpy())


def _rewrite_as_old(path: Path) -> None:
    config = json.loads(path.read_text())
    ropes = config.pop("rope_parameters")
    if "full_attention" in ropes:
        config["rope_theta"] = ropes["full_attention"]["rope_theta"]
        config["rope_local_base_freq"] = ropes["sliding_attention"]["rope_theta"]
        config["rope_scaling"] = None
        config["sliding_window_pattern"] = 6
        del config["layer_types"]
    else:
        config["rope_theta"] = ropes.pop("rope_theta")
        config["rope_scaling"] = ropes if ropes["rope_type"] != "default" else None
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config))

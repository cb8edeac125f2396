"""The GGUF's weights, decoded to bf16, as a Hugging Face directory: for systems that read no GGUF."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.hf_weights import hf_name, rope_base, sizes, write_safetensors
from tenfold.core.errors import UnsupportedModel
from tenfold.model.checkpoint import Checkpoint, load_checkpoint
from tenfold.ops.base import Float32


def export(gguf: Path, folder: Path) -> None:
    """Write config.json, model.safetensors and the tokenizer. Raises UnsupportedModel for other than Llama, Gemma 3."""
    checkpoint = load_checkpoint(gguf)
    config = _config(checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    _write_weights(folder / "model.safetensors", checkpoint)
    _write_tokenizer(gguf, checkpoint, folder)


def _write_weights(path: Path, checkpoint: Checkpoint) -> None:
    gemma = checkpoint.spec.architecture == "gemma3"
    tensors = {hf_name(name, gemma=gemma): tensor for name, tensor in checkpoint.weights.tensors.items()}
    less_one = {hf_name(name, gemma=gemma) for name in checkpoint.weights.tensors if gemma and name.endswith("norm")}

    def values(name: str) -> Float32:
        found = tensors[name].decode()
        return found - np.float32(1) if name in less_one else found  # stored there as the difference from one

    write_safetensors(path, {name: tensor.shape for name, tensor in tensors.items()}, values)


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    spec = checkpoint.spec
    config: dict[str, Any] = sizes(spec) | {
        "bos_token_id": checkpoint.tokenizer().bos_id,
        "eos_token_id": checkpoint.eos_ids[0],
        "torch_dtype": "bfloat16",
        "attention_bias": False,
    }
    theta = rope_base(spec.rope.inv_freq, spec.head_dim)
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
        "rope_local_base_freq": rope_base(spec.rope_local.inv_freq, spec.head_dim),
    }


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

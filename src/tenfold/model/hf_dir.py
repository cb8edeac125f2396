"""Hugging Face model directories: ``config.json`` and safetensors → :class:`ModelSpec` and :class:`Weights`.

Both forms of the configuration are read: ``rope_parameters`` and ``layer_types`` as transformers 5 writes them,
``rope_theta``, ``rope_scaling`` and ``sliding_window_pattern`` as earlier versions did.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np

from tenfold.core.errors import CorruptModel, ModelError
from tenfold.model import layout
from tenfold.model.encodings import float_tensor
from tenfold.model.fields import Fields
from tenfold.model.hf_spec import spec_from_config
from tenfold.model.safetensors_file import open_safetensors
from tenfold.ops.spec import ModelSpec
from tenfold.ops.tensors import Tensor, Weights

_MAX_JSON = 64 << 20  # bytes of a configuration or index file
_LAYER = re.compile(r"layers\.(0|[1-9]\d{0,3})\.(.+)")
_GLOBAL: Mapping[str, str] = MappingProxyType(
    {"embed_tokens.weight": "embed", "norm.weight": "norm", "lm_head.weight": "head"}
)
_PARTS: Mapping[str, str] = MappingProxyType(
    {
        "input_layernorm.weight": "attn_norm",
        "self_attn.q_proj.weight": "q",
        "self_attn.k_proj.weight": "k",
        "self_attn.v_proj.weight": "v",
        "self_attn.o_proj.weight": "o",
        "mlp.gate_proj.weight": "gate",
        "mlp.up_proj.weight": "up",
        "mlp.down_proj.weight": "down",
        "self_attn.q_proj.bias": "q_bias",
        "self_attn.k_proj.bias": "k_bias",
        "self_attn.v_proj.bias": "v_bias",
        "self_attn.q_norm.weight": "q_norm",
        "self_attn.k_norm.weight": "k_norm",
    }
)
# The norm before the MLP goes by the name of the one after attention where there are no post-norms.
_PLAIN_NORMS: Mapping[str, str] = MappingProxyType({"post_attention_layernorm.weight": "mlp_norm"})
_SANDWICH_NORMS: Mapping[str, str] = MappingProxyType(
    {
        "post_attention_layernorm.weight": "attn_post_norm",
        "pre_feedforward_layernorm.weight": "mlp_norm",
        "post_feedforward_layernorm.weight": "mlp_post_norm",
    }
)
_ROTARY = "rotary_emb.inv_freq"  # old checkpoints store what the configuration already says


@dataclass(frozen=True, slots=True)
class HfDirectory:
    """A model directory: its configuration and the weight files to map."""

    path: Path
    config: Fields
    shards: tuple[Path, ...]
    index: Mapping[str, str] | None  # tensor name → file name, for sharded models

    @property
    def files(self) -> tuple[Path, ...]:
        """All files the model is read from."""
        return (self.path / "config.json", *self.shards)


def open_hf_directory(path: Path) -> HfDirectory:
    """Read ``config.json`` and find the weight files; maps nothing yet.

    Raises :class:`CorruptModel` for damaged JSON, :class:`ModelError` where something is missing.
    """
    config = Fields(str(path / "config.json"), read_json(path / "config.json"))
    index_path = path / "model.safetensors.index.json"
    single = path / "model.safetensors"
    if not index_path.is_file():
        return HfDirectory(path, config, (single,), None)
    index = read_json(index_path).get("weight_map")
    if not isinstance(index, dict) or not index or not all(isinstance(name, str) for name in index.values()):
        raise CorruptModel(f"{index_path}: weight_map must map tensor names to files; download it again")
    for name in index.values():
        # Only plain names: an index must not reach outside its own directory.
        if not re.fullmatch(r"[\w.-]+\.safetensors", name) or name.startswith("."):
            raise CorruptModel(f"{index_path}: {name[:80]!r} is not a plain file name; download the model again")
    return HfDirectory(path, config, tuple(path / name for name in sorted(set(index.values()))), index)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from ``path``. Raises :class:`CorruptModel` where it is not one, :class:`ModelError` unread."""
    try:
        if path.stat().st_size > _MAX_JSON:
            raise CorruptModel(f"{path}: larger than {_MAX_JSON} bytes; this is no configuration")
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise CorruptModel(f"{path}: not a JSON object ({error}); download or copy it again") from None


def hf_spec(source: HfDirectory) -> ModelSpec:
    """The :class:`ModelSpec` of ``config.json``; raises as :func:`tenfold.model.hf_spec.spec_from_config`."""
    return spec_from_config(source.config, source.path.name)


def hf_weights(source: HfDirectory, spec: ModelSpec) -> Weights:
    """The tensors under canonical names, views of the mapped files; only Gemma's norms are copies (their + 1).

    Raises :class:`CorruptModel`, :class:`UnsupportedModel` or :class:`ModelError` where files are missing.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in _stored(source).items():
        canonical = canonical_name(name, spec)
        if (canonical == "head" and spec.tied_head) or name.endswith(_ROTARY):
            continue
        if canonical in tensors:
            raise CorruptModel(f"{source.path}: tensors {tensors[canonical].name!r} and {name!r} are the same thing")
        if spec.architecture == "gemma3" and canonical.endswith("norm"):
            tensor = float_tensor(name, tensor.decode() + np.float32(1.0))
        tensors[canonical] = tensor
    return layout.checked_weights(str(source.path), spec, tensors)


def _stored(source: HfDirectory) -> dict[str, Tensor]:
    """All tensors of all files, each from the file that the index names."""
    if source.index is None:
        if not source.shards[0].is_file():
            raise ModelError(
                f"{source.path} holds no model.safetensors; weights in other formats (.bin, .pth) are not read: "
                "convert them to safetensors or GGUF"
            )
        return open_safetensors(source.shards[0])
    by_file = {shard.name: open_safetensors(shard) for shard in source.shards}
    stored: dict[str, Tensor] = {}
    for name, file in source.index.items():
        tensor = by_file[file].get(name)
        if tensor is None:
            raise CorruptModel(f"{source.path / file}: tensor {name!r} is not in it, though the index says so")
        stored[name] = tensor
    return stored


def canonical_name(name: str, spec: ModelSpec) -> str:
    """What a tensor of a checkpoint of ``spec`` is called here; an unknown one is marked so that it cannot pass for
    one."""
    return _canonical(name, _SANDWICH_NORMS if spec.post_norms else _PLAIN_NORMS)


def _canonical(name: str, norms: Mapping[str, str]) -> str:
    """The canonical name; an unknown one is marked so that it cannot pass for one."""
    short = name
    for prefix in ("model.language_model.", "language_model.model.", "language_model.", "model."):
        if name.startswith(prefix):
            short = name.removeprefix(prefix)
            break
    if short in _GLOBAL:
        return _GLOBAL[short]
    match = _LAYER.fullmatch(short)
    if match:
        part = _PARTS.get(match[2]) or norms.get(match[2])
        if part:
            return f"layers.{match[1]}.{part}"
    return f"?{name}"

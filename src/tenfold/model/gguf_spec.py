"""GGUF metadata → :class:`ModelSpec`, GGUF tensor names → canonical :class:`Weights`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from tenfold.core.errors import UnsupportedModel
from tenfold.model import layout, rope
from tenfold.model.encodings import take_rows
from tenfold.model.fields import Fields
from tenfold.model.gguf_file import GgufFile
from tenfold.ops.spec import ModelSpec, RopeSpec
from tenfold.ops.tensors import Tensor, Weights

_BLOCK = re.compile(r"blk\.(0|[1-9]\d{0,3})\.(.+)")
_GLOBAL = {"token_embd.weight": "embed", "output_norm.weight": "norm", "output.weight": "head"}
_LAYER = {
    "attn_norm.weight": "attn_norm",
    "attn_q.weight": "q",
    "attn_k.weight": "k",
    "attn_v.weight": "v",
    "attn_output.weight": "o",
    "ffn_norm.weight": "mlp_norm",
    "ffn_gate.weight": "gate",
    "ffn_up.weight": "up",
    "ffn_down.weight": "down",
    "attn_q.bias": "q_bias",
    "attn_k.bias": "k_bias",
    "attn_v.bias": "v_bias",
    "attn_q_norm.weight": "q_norm",
    "attn_k_norm.weight": "k_norm",
    "post_attention_norm.weight": "attn_post_norm",
    "post_ffw_norm.weight": "mlp_post_norm",
}
_ROPE_FACTORS = "rope_freqs.weight"  # Llama 3's scaling, as divisors of the plain frequencies
_GEMMA3_27B_LAYERS = 62  # scales queries by its hidden size per head, which GGUF does not say


@dataclass(frozen=True, slots=True)
class _Reader:
    """The metadata of one architecture: ``fields`` by full key, ``arch`` its prefix."""

    file: GgufFile
    fields: Fields
    arch: str

    def key(self, name: str) -> str:
        return f"{self.arch}.{name}"

    def integer(self, name: str, default: int | None = None, *, low: int = 1, high: int) -> int:
        return self.fields.integer(self.key(name), default, low=low, high=high)

    def number(self, name: str, default: float | None = None, *, low: float, high: float) -> float:
        return self.fields.number(self.key(name), default, low=low, high=high)


def model_spec(file: GgufFile) -> ModelSpec:
    """What ``file`` describes.

    Raises :class:`UnsupportedModel` for architectures and features outside the op set, by name, and
    :class:`CorruptModel` for values that cannot be.
    """
    where = str(file.path)
    fields = Fields(where, file.metadata)
    arch = fields.text("general.architecture")
    if arch not in ("llama", "qwen2", "qwen3", "gemma3"):
        raise fields.unsupported(f"architecture {arch!r}", f"supported: {layout.SUPPORTED}")
    reader = _Reader(file, fields, arch)
    _refuse_foreign(reader)
    spec = _common(reader)
    if arch == "gemma3":
        spec = _gemma3(reader, spec)
    layout.check_sizes(where, spec)
    return spec


def model_weights(file: GgufFile, spec: ModelSpec) -> Weights:
    """``file``'s tensors under canonical names: views of the mapped file, Q and K of Llama files apart.

    Raises :class:`CorruptModel` where one is missing or misshapen, :class:`UnsupportedModel` for extra ones.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in file.tensors.items():
        if name == _ROPE_FACTORS:
            continue
        canonical = _canonical(name) or f"?{name}"
        tensors[canonical] = replace(tensor, name=name)
    weights = layout.checked_weights(str(file.path), spec, tensors)
    if spec.architecture != "llama":
        return weights
    # Llama conversions interleave the two halves of each head for another rope order: put them back.
    for index in range(spec.layers):
        for part, heads in (("q", spec.heads), ("k", spec.kv_heads)):
            rows = np.arange(heads * spec.head_dim).reshape(heads, spec.head_dim // 2, 2).swapaxes(1, 2).reshape(-1)
            for name in (f"layers.{index}.{part}", f"layers.{index}.{part}_bias"):
                if name in tensors:
                    tensors[name] = take_rows(tensors[name], rows)
    return Weights(spec, tensors)


def _canonical(name: str) -> str | None:
    if name in _GLOBAL:
        return _GLOBAL[name]
    match = _BLOCK.fullmatch(name)
    if match and match[2] in _LAYER:
        return f"layers.{match[1]}.{_LAYER[match[2]]}"
    return None


def _refuse_foreign(reader: _Reader) -> None:
    """Features that share these architecture names and that the op set does not have."""
    if reader.integer("expert_count", 0, low=0, high=1 << 16):
        raise reader.fields.unsupported("a mixture of experts", "dense models only")
    for name in ("attn_logit_softcapping", "attention.clamp_kqv", "attention.max_alibi_bias"):
        if reader.number(name, 0.0, low=-1e9, high=1e9):
            raise reader.fields.unsupported(reader.key(name), "remove it or use another model")


def _common(reader: _Reader) -> ModelSpec:
    file, fields = reader.file, reader.fields
    hidden = reader.integer("embedding_length", high=layout.MAX_HIDDEN)
    heads = reader.integer("attention.head_count", high=layout.MAX_HEADS)
    layers = reader.integer("block_count", high=layout.MAX_LAYERS)
    default_head = hidden // heads if hidden % heads == 0 else None
    head_dim = reader.integer("attention.key_length", default_head, high=layout.MAX_HEAD_DIM)
    if reader.integer("attention.value_length", head_dim, high=layout.MAX_HEAD_DIM) != head_dim:
        raise fields.unsupported("a value head size that differs from the key's", "they must be equal")
    if reader.integer("rope.dimension_count", head_dim, high=layout.MAX_HEAD_DIM) != head_dim:
        raise fields.unsupported("rotation of a part of each head", "rope must cover the whole head")
    window = reader.integer("attention.sliding_window", 0, low=0, high=layout.MAX_CONTEXT)
    embed = file.tensors.get("token_embd.weight")
    if embed is None or len(embed.shape) != 2:
        raise fields.wrong("token_embd.weight", embed and embed.shape, "a matrix is needed")
    if embed.shape[0] > layout.MAX_VOCAB:
        raise fields.wrong("token_embd.weight", embed.shape, "too many rows")
    return ModelSpec(
        architecture=reader.arch,
        name=fields.text("general.name", file.path.stem),
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=reader.integer("attention.head_count_kv", heads, high=layout.MAX_HEADS),
        head_dim=head_dim,
        ffn=reader.integer("feed_forward_length", high=layout.MAX_FFN),
        vocab=embed.shape[0],
        max_context=reader.integer("context_length", high=layout.MAX_CONTEXT),
        norm_eps=reader.number("attention.layer_norm_rms_epsilon", low=1e-12, high=1.0),
        rope=_rope(reader, head_dim),
        windows=(window,) * layers,
        qkv_bias="blk.0.attn_q.bias" in file.tensors,
        qk_norm="blk.0.attn_q_norm.weight" in file.tensors,
        query_scale=reader.number("attention.scale", head_dim**-0.5, low=1e-6, high=1e6),
        tied_head="output.weight" not in file.tensors,
        logit_softcap=reader.number("final_logit_softcapping", 0.0, low=0.0, high=1e6),
    )


def _rope(reader: _Reader, head_dim: int) -> RopeSpec:
    inv_freq = rope.plain(reader.number("rope.freq_base", 10000.0, low=1.0, high=1e12), head_dim)
    kind = reader.fields.text(reader.key("rope.scaling.type"), "none")
    if kind not in ("none", "linear"):
        raise UnsupportedModel(
            f"{reader.file.path}: rope scaling {kind!r} is not supported (none, linear and Llama 3's factors are)"
        )
    if kind == "linear":
        inv_freq = inv_freq / np.float32(reader.number("rope.scaling.factor", low=1e-3, high=1e6))
    factors = reader.file.tensors.get(_ROPE_FACTORS)
    if factors is not None:
        values = factors.decode() if factors.shape == (head_dim // 2,) else np.zeros(1, np.float32)
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise reader.fields.wrong(_ROPE_FACTORS, factors.shape, f"{head_dim // 2} positive numbers are needed")
        inv_freq = inv_freq / values
    return rope.spec(inv_freq.astype(np.float32))


def _gemma3(reader: _Reader, spec: ModelSpec) -> ModelSpec:
    local_base = reader.number("rope.freq_base_swa", 10000.0, low=1.0, high=1e12)
    window = reader.integer("attention.sliding_window", high=layout.MAX_CONTEXT)
    per_head = spec.hidden // spec.heads if spec.layers == _GEMMA3_27B_LAYERS else spec.head_dim
    return replace(
        spec,
        windows=_gemma3_windows(reader.file.metadata, reader, spec.layers, window),
        rope_local=rope.spec(rope.plain(local_base, spec.head_dim)),
        activation="gelu_tanh",
        qk_norm=True,
        post_norms=True,
        embed_scale=spec.hidden**0.5,
        query_scale=per_head**-0.5,
    )


def _gemma3_windows(metadata: Mapping[str, object], reader: _Reader, layers: int, window: int) -> tuple[int, ...]:
    """Five local layers, then a global one, unless the file spells the pattern out."""
    name = "attention.sliding_window_pattern"
    pattern = metadata.get(reader.key(name))
    if isinstance(pattern, memoryview):
        if len(pattern) != layers:
            raise reader.fields.wrong(reader.key(name), len(pattern), f"{layers} entries are needed")
        return tuple(window if local else 0 for local in pattern.tolist())
    every = reader.integer(name, 6, high=layout.MAX_LAYERS)
    return tuple(0 if (index + 1) % every == 0 else window for index in range(layers))

"""``config.json`` → :class:`ModelSpec`."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from tenfold.model import layout, rope
from tenfold.model.fields import Fields
from tenfold.ops.spec import ModelSpec, RopeSpec

_ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "LlamaForCausalLM": "llama",
        "MistralForCausalLM": "mistral",
        "Qwen2ForCausalLM": "qwen2",
        "Qwen3ForCausalLM": "qwen3",
        "Gemma3ForCausalLM": "gemma3",
    }
)
_DEFAULT_THETA: Mapping[str, float] = MappingProxyType({"gemma3": 1e6})
_DEFAULT_EPS: Mapping[str, float] = MappingProxyType({"mistral": 1e-6})


def spec_from_config(config: Fields, name: str) -> ModelSpec:
    """What ``config`` describes.

    Raises :class:`UnsupportedModel` for architectures and features outside the op set, by name, and
    :class:`CorruptModel` for values that cannot be.
    """
    arch = _architecture(config)
    hidden = config.integer("hidden_size", high=layout.MAX_HIDDEN)
    heads = config.integer("num_attention_heads", high=layout.MAX_HEADS)
    layers = config.integer("num_hidden_layers", high=layout.MAX_LAYERS)
    default_head = 256 if arch == "gemma3" else hidden // heads or None
    head_dim = config.integer("head_dim", default_head, high=layout.MAX_HEAD_DIM)
    full, local = _ropes(config, arch, head_dim)
    spec = ModelSpec(
        architecture=arch,
        name=name,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=config.integer("num_key_value_heads", heads, high=layout.MAX_HEADS),
        head_dim=head_dim,
        ffn=config.integer("intermediate_size", high=layout.MAX_FFN),
        vocab=config.integer("vocab_size", high=layout.MAX_VOCAB),
        max_context=config.integer("max_position_embeddings", high=layout.MAX_CONTEXT),
        norm_eps=config.number("rms_norm_eps", _DEFAULT_EPS.get(arch, 1e-6), low=1e-12, high=1.0),
        rope=full,
        windows=_windows(config, arch, layers),
        qkv_bias=arch == "qwen2",
        qk_norm=arch in ("qwen3", "gemma3"),
        query_scale=head_dim**-0.5,
        # Absent, it means what transformers assumes: tied for Gemma, apart for the others.
        tied_head=config.flag("tie_word_embeddings", arch == "gemma3"),
    )
    _check_activation(config, arch)
    _refuse_biases(config, arch)
    if arch == "gemma3":
        scalar = config.number("query_pre_attn_scalar", 256, low=1e-3, high=1e6)
        spec = replace(
            spec,
            rope_local=local,
            activation="gelu_tanh",
            post_norms=True,
            embed_scale=hidden**0.5,
            query_scale=scalar**-0.5,
            logit_softcap=_softcaps(config),
        )
    layout.check_sizes(config.where, spec)
    return spec


def _architecture(config: Fields) -> str:
    names = config.values.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise config.wrong("architectures", names, "a list of one name is needed")
    arch = _ARCHITECTURES.get(names[0])
    if arch is None:
        raise config.unsupported(f"architecture {names[0]!r}", f"supported: {', '.join(_ARCHITECTURES)}")
    if config.has("quantization_config"):
        raise config.unsupported("a checkpoint quantized for another library", "use F32, F16, BF16 or a GGUF file")
    return arch


def _check_activation(config: Fields, arch: str) -> None:
    wanted = "gelu_pytorch_tanh" if arch == "gemma3" else "silu"
    for key in ("hidden_activation", "hidden_act"):
        if config.has(key) and config.text(key) != wanted:
            raise config.unsupported(f"{key} {config.text(key)!r} in {arch}", f"{wanted} is")


def _refuse_biases(config: Fields, arch: str) -> None:
    # Llama's attention_bias puts one on the output projection too, which the op set has not.
    for key in ("attention_bias", "mlp_bias"):
        if config.flag(key, False):
            raise config.unsupported(f"{key} in {arch}", "only Qwen2's biases of Q, K and V are")


def _softcaps(config: Fields) -> float:
    if config.has("attn_logit_softcapping") and config.number("attn_logit_softcapping"):
        raise config.unsupported("attn_logit_softcapping", "remove it or use another model")
    if config.flag("use_bidirectional_attention", False):
        raise config.unsupported("bidirectional attention", "decoders that look back only")
    return config.number("final_logit_softcapping", 0.0, high=1e6)


def _windows(config: Fields, arch: str, layers: int) -> tuple[int, ...]:
    """Each layer's sliding window in tokens, 0 for full attention."""
    absent = 0 if "sliding_window" in config.values else 4096  # null is none; absent means transformers' default
    window = config.integer("sliding_window", absent, low=0, high=layout.MAX_CONTEXT)
    if arch == "llama":
        return (0,) * layers
    if arch == "mistral":
        return (window,) * layers
    if arch in ("qwen2", "qwen3"):
        if not config.flag("use_sliding_window", False):
            return (0,) * layers
        first = config.integer("max_window_layers", 28, low=0, high=layout.MAX_LAYERS)
        default = ["full_attention" if i < first else "sliding_attention" for i in range(layers)]
    else:
        every = config.integer("sliding_window_pattern", 6, high=layout.MAX_LAYERS)
        default = ["sliding_attention" if (i + 1) % every else "full_attention" for i in range(layers)]
    kinds = config.values.get("layer_types") or default
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise config.wrong("layer_types", kinds, f"{layers} entries are needed")
    for kind in kinds:
        if kind not in ("full_attention", "sliding_attention"):
            raise config.unsupported(f"layer type {str(kind)[:40]!r}", "full_attention and sliding_attention are")
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)


def _ropes(config: Fields, arch: str, head_dim: int) -> tuple[RopeSpec, RopeSpec | None]:
    """(the rope of full attention, Gemma's rope of local layers)."""
    theta = config.number("rope_theta", _DEFAULT_THETA.get(arch, 10000.0), low=1.0)
    parameters = config.section("rope_parameters")
    if not parameters.values:
        parameters = config.section("rope_scaling")
    if arch != "gemma3":
        return _rope(config, parameters, theta, head_dim), None
    local_theta = config.number("rope_local_base_freq", 10000.0, low=1.0)
    full, local = parameters, Fields(parameters.where, {})
    if "full_attention" in parameters.values or "sliding_attention" in parameters.values:
        full, local = parameters.section("full_attention"), parameters.section("sliding_attention")
    return _rope(config, full, theta, head_dim), _rope(config, local, local_theta, head_dim)


def _rope(config: Fields, parameters: Fields, theta: float, head_dim: int) -> RopeSpec:
    theta = parameters.number("rope_theta", theta, low=1.0)
    if config.number("partial_rotary_factor", 1.0) != 1 or parameters.number("partial_rotary_factor", 1.0) != 1:
        raise config.unsupported("rotation of a part of each head", "rope must cover the whole head")
    inv_freq = rope.plain(theta, head_dim)
    kind = parameters.text("rope_type", parameters.text("type", "default"))
    if kind == "linear":
        inv_freq = inv_freq / np.float32(parameters.number("factor", low=1e-3, high=1e6))
    elif kind == "llama3":
        low = parameters.number("low_freq_factor", low=1e-6, high=1e6)
        high = parameters.number("high_freq_factor", low=1e-6, high=1e6)
        if high <= low:
            raise parameters.wrong("high_freq_factor", high, f"it must be above low_freq_factor ({low:g})")
        original = parameters.integer("original_max_position_embeddings", high=layout.MAX_CONTEXT)
        inv_freq = rope.llama3(inv_freq, parameters.number("factor", low=1.0, high=1e6), low, high, original)
    elif kind != "default":
        raise parameters.unsupported(f"rope type {kind!r}", "default, linear and llama3 are")
    return rope.spec(inv_freq)

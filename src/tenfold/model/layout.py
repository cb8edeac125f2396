"""What every checkpoint must hold for its :class:`ModelSpec`: the canonical tensors and their shapes."""

from collections.abc import Mapping

from tenfold.core.errors import CorruptModel, UnsupportedModel
from tenfold.ops.spec import ModelSpec
from tenfold.ops.tensors import Tensor, Weights

SUPPORTED = "llama (SmolLM2, Llama 2 and 3, Mistral), qwen2, qwen3, gemma3"

MAX_LAYERS = 1024
MAX_HIDDEN = 1 << 17
MAX_HEADS = 1 << 12
MAX_HEAD_DIM = 1 << 10
MAX_FFN = 1 << 20
MAX_VOCAB = 1 << 22
MAX_CONTEXT = 1 << 28


def shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """The shape of every canonical tensor of ``spec`` (see :class:`Weights`)."""
    hidden, attention = spec.hidden, spec.heads * spec.head_dim
    kv = spec.kv_heads * spec.head_dim
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm": (hidden,),
        "q": (attention, hidden),
        "k": (kv, hidden),
        "v": (kv, hidden),
        "o": (hidden, attention),
        "mlp_norm": (hidden,),
        "gate": (spec.ffn, hidden),
        "up": (spec.ffn, hidden),
        "down": (hidden, spec.ffn),
    }
    if spec.qkv_bias:
        layer |= {"q_bias": (attention,), "k_bias": (kv,), "v_bias": (kv,)}
    if spec.qk_norm:
        layer |= {"q_norm": (spec.head_dim,), "k_norm": (spec.head_dim,)}
    if spec.post_norms:
        layer |= {"attn_post_norm": (hidden,), "mlp_post_norm": (hidden,)}
    out: dict[str, tuple[int, ...]] = {"embed": (spec.vocab, hidden), "norm": (hidden,)}
    if not spec.tied_head:
        out["head"] = (spec.outputs, hidden)
    for index in range(spec.layers):
        out |= {f"layers.{index}.{name}": shape for name, shape in layer.items()}
    return out


def checked_weights(where: str, spec: ModelSpec, tensors: Mapping[str, Tensor]) -> Weights:
    """``tensors`` as :class:`Weights` when they are exactly what ``spec`` needs.

    Raises :class:`CorruptModel` for a missing tensor or a wrong shape, :class:`UnsupportedModel` for one that
    the architecture as we know it does not have: ignoring it would give wrong answers.
    """
    wanted = shapes(spec)
    for name, shape in wanted.items():
        tensor = tensors.get(name)
        if tensor is None:
            raise CorruptModel(
                f"{where}: tensor {name!r} of shape {list(shape)} is missing; download or convert it again"
            )
        if tensor.shape != shape:
            raise CorruptModel(
                f"{where}: tensor {tensor.name!r} ({name}) has shape {list(tensor.shape)}, the model's sizes ask for "
                f"{list(shape)}; download or convert it again"
            )
    extra = sorted(set(tensors) - set(wanted))
    if extra:
        raise UnsupportedModel(
            f"{where}: tensor {tensors[extra[0]].name!r} has no place in the {spec.architecture} architecture as "
            f"supported here (supported: {SUPPORTED}, without adapters or extra heads)"
        )
    return Weights(spec, dict(tensors))


def check_sizes(where: str, spec: ModelSpec) -> None:
    """Raise :class:`CorruptModel` or :class:`UnsupportedModel` where ``spec``'s sizes cannot work together."""
    if spec.heads % spec.kv_heads:
        raise CorruptModel(f"{where}: {spec.heads} heads do not divide into {spec.kv_heads} KV heads")
    if spec.head_dim % 2:
        raise UnsupportedModel(f"{where}: odd head size {spec.head_dim} is not supported (it must be even)")
    if any(spec.windows) and max(spec.windows) > MAX_CONTEXT:
        raise CorruptModel(f"{where}: sliding window {max(spec.windows)} is out of range")

"""Draft models: a few layers over a target's own embedding, made by ``scripts/distill.py``.

One safetensors file has the layers under Hugging Face's names, the ids of the target's tokens that the draft model
gives logits for, and its sizes as metadata. Its embedding, and the rows of its head, are the target's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tenfold.core.errors import CorruptModel, UnsupportedModel
from tenfold.model.hf_dir import canonical_name
from tenfold.model.layout import checked_weights
from tenfold.model.safetensors_file import read_safetensors
from tenfold.ops.spec import ModelSpec, RopeSpec
from tenfold.ops.tensors import Tensor, Weights

FORMAT = "tenfold-draft-1"
_SIZES = ("layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size")


@dataclass(frozen=True, slots=True)
class DraftWeights:
    """A draft model's weights; ``vocabulary`` [outputs] has the target's id of each of its tokens, ascending."""

    weights: Weights
    vocabulary: NDArray[np.int32]


def load_draft(path: Path, target: Weights) -> DraftWeights:
    """The draft model in ``path`` for ``target``.

    Raises ModelError where the file cannot be read, CorruptModel where it is damaged, UnsupportedModel where it is no
    draft model or one of another target.
    """
    file = read_safetensors(path, integers=True)
    if file.metadata.get("format") != FORMAT:
        raise UnsupportedModel(f"{path} is no draft model of format {FORMAT}: scripts/distill.py makes one")
    spec = _spec(path, file.metadata, target.spec)
    vocabulary = file.integers.get("draft_vocab")
    if vocabulary is None or vocabulary.ndim != 1 or not _ascending(vocabulary, target.spec.vocab):
        raise CorruptModel(f"{path}: draft_vocab must list token ids of the target, ascending; make it again")
    spec = replace(spec, head_rows=len(vocabulary))
    tensors = {canonical_name(name, spec): tensor for name, tensor in file.tensors.items()}
    embed = tensors["embed"] = target["embed"]
    head = embed if target.spec.tied_head else target["head"]
    rows = head.data[vocabulary]
    shape = (len(vocabulary), head.shape[1])
    tensors["head"] = Tensor("head", head.kind, shape, rows, lambda: head.decode()[vocabulary])
    return DraftWeights(checked_weights(str(path), spec, tensors), vocabulary)


def _spec(path: Path, metadata: Mapping[str, str], target: ModelSpec) -> ModelSpec:
    try:
        layers, hidden, heads, kv_heads, head_dim, ffn = (int(metadata[name]) for name in _SIZES)
        theta, eps = float(metadata["rope_theta"]), float(metadata["rms_norm_eps"])
    except (KeyError, ValueError) as error:
        raise CorruptModel(f"{path}: its metadata lacks a size ({error}); make it again") from None
    if hidden != target.hidden:
        raise UnsupportedModel(
            f"{path} is a draft model for {metadata.get('target', 'another model')}, of hidden size {hidden}; "
            f"{target.name} has {target.hidden}"
        )
    if not (0 < layers <= target.layers and 0 < head_dim <= 1024 and theta > 1):
        raise CorruptModel(f"{path}: its sizes are out of range; make it again")
    return ModelSpec(
        architecture="llama",
        name=path.stem,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=ffn,
        vocab=target.vocab,
        max_context=target.max_context,
        norm_eps=eps,
        rope=RopeSpec(tuple(theta ** (-2 * i / head_dim) for i in range(head_dim // 2))),
        windows=(0,) * layers,
        embed_scale=target.embed_scale,
        query_scale=head_dim**-0.5,
        tied_head=False,
    )


def _ascending(ids: NDArray[np.int32], vocab: int) -> bool:
    return len(ids) > 0 and ids[0] >= 0 and ids[-1] < vocab and bool(np.all(np.diff(ids) > 0))

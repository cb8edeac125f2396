"""Draft models from files: the form that ``scripts/distill.py`` writes, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tenfold.core.errors import CorruptModel, ModelError, UnsupportedModel
from tenfold.model.draft import FORMAT, load_draft
from tenfold.model.safetensors_file import open_safetensors
from tests.helpers.models import random_weights, tiny_spec

TARGET = random_weights(tiny_spec())
KNOWN = np.arange(0, 160, 5, dtype=np.int32)
METADATA = {
    "format": FORMAT, "target": "tiny", "layers": "1", "hidden_size": "64", "num_attention_heads": "4",
    "num_key_value_heads": "2", "head_dim": "16", "intermediate_size": "32", "rms_norm_eps": "1e-5",
    "rope_theta": "10000.0",
}  # fmt: skip


def tensors() -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    layer, rng = "model.layers.0.", np.random.default_rng(5)
    shapes = {
        f"{layer}self_attn.q_proj.weight": (64, 64), f"{layer}self_attn.k_proj.weight": (32, 64),
        f"{layer}self_attn.v_proj.weight": (32, 64), f"{layer}self_attn.o_proj.weight": (64, 64),
        f"{layer}mlp.gate_proj.weight": (32, 64), f"{layer}mlp.up_proj.weight": (32, 64),
        f"{layer}mlp.down_proj.weight": (64, 32), f"{layer}input_layernorm.weight": (64,),
        f"{layer}post_attention_layernorm.weight": (64,), "model.norm.weight": (64,),
    }  # fmt: skip
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write(path: Path, known: object = KNOWN, **metadata: str) -> Path:
    save_file({**tensors(), "draft_vocab": np.asarray(known)}, path, {**METADATA, **metadata})
    return path


def test_its_layers_are_its_own_and_its_embedding_and_head_the_targets(tmp_path: Path) -> None:
    draft = load_draft(write(tmp_path / "draft.safetensors"), TARGET)
    spec = draft.weights.spec
    assert (spec.layers, spec.hidden, spec.ffn, spec.vocab, spec.outputs) == (1, 64, 32, 160, 32)
    assert draft.weights["embed"] is TARGET["embed"]
    embed = TARGET["embed"].decode()
    np.testing.assert_array_equal(draft.weights["head"].decode(), embed[KNOWN])
    np.testing.assert_array_equal(draft.weights["head"].data, TARGET["embed"].data[KNOWN])
    np.testing.assert_array_equal(draft.weights["norm"].decode(), tensors()["model.norm.weight"])
    np.testing.assert_array_equal(draft.vocabulary, KNOWN)


@pytest.mark.parametrize(
    ("metadata", "error", "words"),
    [
        ({"format": "other"}, UnsupportedModel, "no draft model"),
        ({"hidden_size": "32"}, UnsupportedModel, "hidden size 32"),
        ({"layers": "two"}, CorruptModel, "lacks a size"),
        ({"layers": "9"}, CorruptModel, "out of range"),
        ({"intermediate_size": "48"}, CorruptModel, "gate"),
    ],
)
def test_files_of_another_kind(tmp_path: Path, metadata: dict[str, str], error: type[ModelError], words: str) -> None:
    with pytest.raises(error, match=words):
        load_draft(write(tmp_path / "draft.safetensors", **metadata), TARGET)


@pytest.mark.parametrize("known", [[5, 3], [3, 3], [-1, 3], [3, 160], [[1, 2]]])
def test_a_vocabulary_that_is_none(tmp_path: Path, known: list[int]) -> None:
    path = write(tmp_path / "draft.safetensors", np.array(known, np.int32))
    with pytest.raises(CorruptModel, match="draft_vocab"):
        load_draft(path, TARGET)


def test_integers_have_no_place_in_other_models(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="I32"):
        open_safetensors(write(tmp_path / "draft.safetensors"))

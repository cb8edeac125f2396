"""From GGUF files to spec, weights and text: names, shapes and refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tenfold.core.errors import CorruptModel, ModelError, UnsupportedModel
from tenfold.model.checkpoint import load_checkpoint, load_text_model, load_tokenizer
from tenfold.model.gguf_file import open_gguf

from . import tiny


def test_a_tiny_model_loads_whole(tmp_path: Path) -> None:
    path = tiny.write_byte_level(tmp_path / "m.gguf")
    checkpoint = load_checkpoint(path)
    assert checkpoint.name == "m" and checkpoint.files == (path,)
    assert checkpoint.spec.heads == 4 and checkpoint.spec.head_dim == 8 and checkpoint.spec.max_context == 64
    assert checkpoint.eos_ids == (0,) and checkpoint.tokenizer() is checkpoint.tokenizer()
    template = checkpoint.chat_template
    assert template is not None
    assert template.render([{"role": "user", "content": "hi"}]) == "[user]hi"
    text = load_text_model(path)
    assert text.name == "m" and text.chat_template is not None
    assert load_tokenizer(path).vocab_size == text.tokenizer.vocab_size == len(tiny.VOCABULARY)


def test_rows_of_q_and_k_return_to_the_halves_order(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny.write_byte_level(tmp_path / "m.gguf"))
    stored = open_gguf(tmp_path / "m.gguf").tensors["blk.1.attn_k.weight"].decode()
    loaded = checkpoint.weights["layers.1.k"].decode()
    for head in range(2):
        for i in range(4):  # pairs (2 i, 2 i + 1) of a head become (i, i + half)
            assert np.array_equal(loaded[8 * head + i], stored[8 * head + 2 * i])
            assert np.array_equal(loaded[8 * head + 4 + i], stored[8 * head + 2 * i + 1])


def test_weights_are_views_of_the_file(tmp_path: Path) -> None:
    weights = load_checkpoint(tiny.write_byte_level(tmp_path / "m.gguf")).weights
    for name in ("embed", "layers.0.v", "layers.1.down"):
        assert not weights[name].data.flags.owndata and not weights[name].data.flags.writeable


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"llama.block_count": 0}, "block_count"),
        ({"llama.block_count": 3}, "layers.2"),
        ({"llama.block_count": 1 << 30}, "block_count"),
        ({"llama.attention.head_count": 0}, "head_count"),
        ({"llama.attention.head_count": 8}, "shape"),
        ({"llama.attention.head_count_kv": 3}, "KV heads"),
        ({"llama.embedding_length": 64}, "shape"),
        ({"llama.feed_forward_length": None}, "feed_forward_length"),
        ({"llama.context_length": "many"}, "context_length"),
        ({"llama.attention.layer_norm_rms_epsilon": float("nan")}, "epsilon"),
        ({"llama.rope.freq_base": -1.0}, "freq_base"),
        ({"tokenizer.ggml.tokens": None}, "tokens"),
        ({"tokenizer.ggml.token_type": [1, 2]}, "token_type"),
        ({"tokenizer.ggml.merges": ["no thing"]}, "merges"),
        ({"tokenizer.ggml.eos_token_id": 1 << 20}, "eos_token_id"),
    ],
)
def test_wrong_metadata_is_corrupt(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    path = tiny.write_byte_level(tmp_path / "m.gguf", **changes)
    with pytest.raises(CorruptModel, match=told):
        load_checkpoint(path).tokenizer()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"llama.expert_count": 8}, "mixture of experts"),
        ({"llama.rope.scaling.type": "yarn"}, "yarn"),
        ({"llama.rope.dimension_count": 4}, "part of each head"),
        ({"llama.attention.value_length": 4}, "value head size"),
        ({"llama.attention.head_count_kv": [1, 2]}, "differs between layers"),
        ({"tokenizer.ggml.model": "rwkv"}, "rwkv"),
        ({"tokenizer.ggml.pre": "martian"}, "martian"),
    ],
)
def test_unsupported_features_are_named(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    path = tiny.write_byte_level(tmp_path / "m.gguf", **changes)
    with pytest.raises(UnsupportedModel, match=told):
        load_checkpoint(path).tokenizer()


def test_an_unknown_architecture_is_refused_by_name(tmp_path: Path) -> None:
    data = tiny.header(values=1) + tiny.entry("general.architecture", 8, tiny.text("mamba")) + bytes(32)
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(UnsupportedModel, match=r"mamba.*llama.*gemma3"):
        load_checkpoint(tmp_path / "m.gguf")


def test_a_folder_with_one_gguf_is_a_model(tmp_path: Path) -> None:
    tiny.write_byte_level(tmp_path / "m.gguf")
    assert load_checkpoint(tmp_path).spec.layers == tiny.LAYERS
    tiny.write_byte_level(tmp_path / "n.gguf")
    with pytest.raises(ModelError, match=r"2 GGUF files"):
        load_checkpoint(tmp_path)


def test_the_real_models_are_what_they_should_be(smollm2_path: Path, gemma_path: Path) -> None:
    smollm2 = load_checkpoint(smollm2_path).spec
    assert (smollm2.layers, smollm2.hidden, smollm2.heads, smollm2.kv_heads, smollm2.vocab) == (30, 576, 9, 3, 49152)
    assert not any(smollm2.windows) and smollm2.tied_head and smollm2.query_scale == 64**-0.5
    gemma = load_checkpoint(gemma_path).spec
    assert (gemma.layers, gemma.hidden, gemma.head_dim, gemma.vocab) == (18, 640, 256, 262144)
    assert gemma.windows == tuple(0 if i % 6 == 5 else 512 for i in range(18))
    assert gemma.qk_norm and gemma.post_norms and gemma.rope_local is not None and gemma.embed_scale == 640**0.5
    assert gemma.rope.inv_freq[1] == pytest.approx(1e6 ** (-2 / 256)) != gemma.rope_local.inv_freq[1]

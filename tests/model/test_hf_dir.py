"""Hugging Face directories: configurations of both forms, safetensors of all sorts, hostile ones refused."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from tenfold.core.errors import CorruptModel, ModelError, UnsupportedModel
from tenfold.model.checkpoint import load_checkpoint, load_text_model, load_tokenizer
from tenfold.model.hf_dir import hf_spec, hf_weights, open_hf_directory
from tenfold.model.safetensors_file import open_safetensors

from . import tiny

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "vocab_size": 32,
    "tie_word_embeddings": True,
}


def values(seed: int = 1) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    shapes = {"model.embed_tokens.weight": (32, 16), "model.norm.weight": (16,)}
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        shapes |= {f"{prefix}self_attn.{p}_proj.weight": (16 if p in "qo" else 8, 16) for p in "qkvo"}
        shapes |= {f"{prefix}mlp.{p}_proj.weight": (24, 16) for p in ("gate", "up")}
        shapes |= {f"{prefix}mlp.down_proj.weight": (16, 24)}
        shapes |= {f"{prefix}{p}_layernorm.weight": (16,) for p in ("input", "post_attention")}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def write_model(folder: Path, **changes: Any) -> Path:
    """A tiny Llama; ``changes`` replace entries of its configuration, None leaves one out."""
    config = {key: value for key, value in (CONFIG | changes).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(values(), folder / "model.safetensors")
    return folder


def spec_of(folder: Path, **changes: Any) -> Any:
    return hf_spec(open_hf_directory(write_model(folder, **changes)))


def test_single_and_sharded_models_are_equal(tmp_path: Path) -> None:
    write_model(tmp_path)
    single = open_hf_directory(tmp_path)
    spec = hf_spec(single)
    wanted = hf_weights(single, spec)
    names = sorted(values())
    shards = {"a-1.safetensors": names[::2], "a-2.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: values()[name] for name in part}, tmp_path / file)
    (tmp_path / "model.safetensors").unlink()
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    sharded = open_hf_directory(tmp_path)
    weights = hf_weights(sharded, spec)
    assert set(weights.tensors) == set(wanted.tensors) and len(sharded.files) == 3
    for name, tensor in wanted.tensors.items():
        assert np.array_equal(tensor.decode(), weights[name].decode()) and not weights[name].data.flags.owndata
    assert np.array_equal(
        weights["layers.1.mlp_norm"].decode(), values()["model.layers.1.post_attention_layernorm.weight"]
    )


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_types_decode(tmp_path: Path, kind: str) -> None:
    wanted = np.array([[0.5, -2.0, 3.140625]], np.float32)  # exact in all three
    raw = {"F32": wanted.tobytes(), "F16": wanted.astype(np.float16).tobytes()}
    raw["BF16"] = (wanted.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    header = json.dumps({"w": {"dtype": kind, "shape": [1, 3], "data_offsets": [0, len(raw[kind])]}}).encode()
    (tmp_path / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + raw[kind])
    tensor = open_safetensors(tmp_path / "m.safetensors")["w"]
    assert tensor.kind == kind and np.array_equal(tensor.decode(), wanted)


def test_gemma_norms_get_their_one(tmp_path: Path) -> None:
    gemma = {
        "architectures": ["Gemma3ForCausalLM"],
        "head_dim": 4,
        "sliding_window": 8,
        "hidden_activation": "gelu_pytorch_tanh",
    }
    tensors = values()
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        for name, size in (("pre_feedforward_layernorm", 16), ("post_feedforward_layernorm", 16),
                           ("self_attn.q_norm", 4), ("self_attn.k_norm", 4)):  # fmt: skip
            tensors[f"{prefix}{name}.weight"] = np.full(size, 0.25, np.float32)
    write_model(tmp_path, **gemma)
    save_file(tensors, tmp_path / "model.safetensors")
    checkpoint = load_checkpoint(tmp_path)
    for name in ("norm", "layers.0.attn_norm", "layers.1.mlp_norm", "layers.1.attn_post_norm", "layers.0.q_norm"):
        assert checkpoint.weights[name].kind == "F32"
    assert np.array_equal(checkpoint.weights["layers.0.q_norm"].decode(), np.full(4, 1.25))
    assert np.array_equal(checkpoint.weights["norm"].decode(), tensors["model.norm.weight"] + 1)
    assert np.array_equal(checkpoint.weights["layers.0.q"].decode(), tensors["model.layers.0.self_attn.q_proj.weight"])
    assert checkpoint.spec.windows == (8, 8) and checkpoint.spec.embed_scale == 4.0


@pytest.mark.parametrize(
    ("changes", "first", "last"),
    [
        ({"rope_theta": 100.0}, 1.0, 0.1),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}, 1.0, 0.1),
        ({"rope_theta": 100.0, "rope_scaling": {"type": "linear", "factor": 4.0}}, 0.25, 0.025),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0}}, 0.5, 0.05),
        # Waves of 63 tokens (0.1) are longer than 32 / 1: slowed by 8; those of 6 shorter than 32 / 4: kept.
        ({"rope_theta": 100.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 32}}, 1.0, 0.0125),
    ],
)  # fmt: skip
def test_both_forms_of_rope(tmp_path: Path, changes: dict[str, Any], first: float, last: float) -> None:
    assert spec_of(tmp_path, **changes).rope.inv_freq == pytest.approx((first, last), rel=1e-6)


def test_windows_by_architecture(tmp_path: Path) -> None:
    mistral = {"architectures": ["MistralForCausalLM"]}
    assert spec_of(tmp_path, **mistral, sliding_window=16).windows == (16, 16)
    assert spec_of(tmp_path, sliding_window=16).windows == (0, 0)
    qwen = {"architectures": ["Qwen2ForCausalLM"], "sliding_window": 16, "max_window_layers": 1}
    assert spec_of(tmp_path, **qwen).windows == (0, 0)
    assert spec_of(tmp_path, **qwen, use_sliding_window=True).windows == (0, 16)
    kinds = ["sliding_attention", "full_attention"]
    assert spec_of(tmp_path, **qwen, use_sliding_window=True, layer_types=kinds).windows == (16, 0)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | mistral | {"sliding_window": None}))
    assert hf_spec(open_hf_directory(tmp_path)).windows == (0, 0)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM.*LlamaForCausalLM"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "relu"}, "relu"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"partial_rotary_factor": 0.5}, "part of each head"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantized"),
        ({"architectures": ["Gemma3ForCausalLM"], "attn_logit_softcapping": 50.0}, "softcapping"),
        ({"architectures": ["Qwen3ForCausalLM"], "use_sliding_window": True, "layer_types": ["linear_attention"] * 2},
         "linear_attention"),
        ({"head_dim": 5}, "odd head size"),
    ],
)  # fmt: skip
def test_unsupported_configurations_are_named(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UnsupportedModel, match=told):
        spec_of(tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"hidden_size": None}, "hidden_size"),
        ({"hidden_size": -16}, "hidden_size"),
        ({"hidden_size": "16"}, "hidden_size"),
        ({"hidden_size": 1 << 40}, "hidden_size"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "KV heads"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"rms_norm_eps": 0}, "rms_norm_eps"),
        ({"architectures": "LlamaForCausalLM"}, "architectures"),
        ({"rope_theta": "big"}, "rope_theta"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"tie_word_embeddings": False}, "head"),
        ({"intermediate_size": 25}, "shape"),
    ],
)
def test_wrong_configurations_are_corrupt(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(CorruptModel, match=told):
        load_checkpoint(write_model(tmp_path, **changes))


def test_extra_tensors_are_refused_by_name(tmp_path: Path) -> None:
    write_model(tmp_path)
    save_file(values() | {"model.layers.0.lora_A.weight": np.ones(2, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedModel, match="lora_A"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "name", ["../evil.safetensors", "/etc/passwd", "a/b.safetensors", ".hidden.safetensors", "x.bin", ""]
)
def test_an_index_stays_in_its_directory(tmp_path: Path, name: str) -> None:
    write_model(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(CorruptModel, match="plain file name"):
        load_checkpoint(tmp_path)


def header_of(entries: object, data: bytes = bytes(16), length: int | None = None) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def one(**changes: Any) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | changes}


HOSTILE = {
    "empty": b"",
    "huge header": header_of({}, length=1 << 62),
    "header past the end": header_of({}, length=1000),
    "no json": header_of(b"{nonsense"),
    "a list": header_of([1]),
    "deep": header_of(b'{"a":' * 100_000),
    "no description": header_of({"w": 3}),
    "no shape": header_of({"w": {"dtype": "F32", "data_offsets": [0, 16]}}),
    "scalar shape": header_of(one(shape=[], data_offsets=[0, 4])),
    "negative shape": header_of(one(shape=[-4])),
    "zero shape": header_of(one(shape=[0], data_offsets=[0, 0])),
    "fractional shape": header_of(one(shape=[4.0])),
    "huge shape": header_of(one(shape=[1 << 40, 1 << 40])),
    "many dimensions": header_of(one(shape=[1] * 9, data_offsets=[0, 4])),
    "wrong size": header_of(one(data_offsets=[0, 12])),
    "backwards": header_of(one(data_offsets=[16, 0])),
    "past the end": header_of(one(data_offsets=[4, 20])),
    "one offset": header_of(one(data_offsets=[0])),
    "overlap": header_of({**one(), "v": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_safetensors_are_corrupt(tmp_path: Path, name: str) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(CorruptModel, match=r"m\.safetensors"):
        open_safetensors(path)


def test_other_types_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(header_of(one(dtype="F8_E4M3")))
    with pytest.raises(UnsupportedModel, match="F8_E4M3"):
        open_safetensors(path)


def test_cut_and_flipped_files_never_crash(tmp_path: Path) -> None:
    folder = write_model(tmp_path)
    rng = random.Random(3)
    for file in ("model.safetensors", "config.json"):
        path = folder / file
        whole = path.read_bytes()
        for size in range(0, len(whole), max(1, len(whole) // 60)):
            path.write_bytes(whole[:size])
            with pytest.raises(ModelError):
                load_checkpoint(folder)
        for _ in range(200):
            data = bytearray(whole)
            data[rng.randrange(min(len(whole), 2500))] = rng.randrange(256)
            path.write_bytes(data)
            try:
                load_checkpoint(folder)
            except ModelError as error:
                assert str(folder) in str(error)
        path.write_bytes(whole)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        load_checkpoint(tmp_path)
    write_model(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_checkpoint(tmp_path)
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


def write_tokenizer(folder: Path, **config: Any) -> Path:
    write_model(folder, bos_token_id=1, eos_token_id=[0, 2])
    vocabulary = {token: index for index, token in enumerate(tiny.VOCABULARY)}
    merges = [(left, right) for left, right in (merge.split(" ") for merge in tiny.MERGES)]
    library = Tokenizer(models.BPE(vocabulary, merges))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(tiny.VOCABULARY[:2])
    if config.pop("template", True):
        library.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 1)])
    library.enable_truncation(3)
    library.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": {"content": "<|begin|>"}, "eos_token": "<|end|>"} | config)
    )
    return folder


def test_tokenizer_json_with_its_settings(tmp_path: Path) -> None:
    text = load_text_model(write_tokenizer(tmp_path, chat_template="{{ bos_token }}{{ messages[0].content }}"))
    tokenizer = text.tokenizer
    assert tokenizer.bos_id == 1 and tokenizer.eos_ids == (0, 2) and tokenizer.vocab_size == len(tiny.VOCABULARY)
    ids = tokenizer.encode("hello world, é!", add_special=True)
    assert ids[0] == 1 and ids[1:] == tokenizer.encode("hello world, é!", add_special=False) and len(ids) > 3
    assert tokenizer.decode(ids) == "hello world, é!"
    assert text.chat_template is not None and text.chat_template.render([{"content": "x"}]) == "<|begin|>x"
    (tmp_path / "chat_template.jinja").write_text("from file")
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 5}')
    text = load_text_model(tmp_path)
    assert text.chat_template is not None and text.chat_template.source == "from file"
    assert text.tokenizer.eos_ids == (5, 0, 2)


@pytest.mark.parametrize(
    ("template", "add_bos", "adds"),
    [(True, None, True), (False, None, False), (True, False, False), (False, True, True)],
)
def test_the_configuration_overrules_the_post_processor(
    tmp_path: Path, template: bool, add_bos: bool | None, adds: bool
) -> None:
    config = {} if add_bos is None else {"add_bos_token": add_bos}
    tokenizer = load_tokenizer(write_tokenizer(tmp_path, template=template, **config))
    assert (tokenizer.encode("hello", add_special=True)[:1] == [1]) == adds
    assert tokenizer.encode("hello", add_special=True).count(1) == adds


def test_named_templates_use_the_default(tmp_path: Path) -> None:
    named = [{"name": "tool", "template": "t"}, {"name": "default", "template": "d"}]
    template = load_checkpoint(write_tokenizer(tmp_path, chat_template=named)).chat_template
    assert template is not None and template.source == "d"


def test_damaged_tokenizers_are_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    path = tmp_path / "tokenizer.json"
    whole = path.read_text()
    for text in ("", "{}", whole[: len(whole) // 2]):
        path.write_text(text)
        with pytest.raises(CorruptModel, match=r"tokenizer\.json"):
            load_tokenizer(tmp_path)
    path.write_text(whole.replace('"decoder": {\n    "type": "ByteLevel"', '"decoder": {\n    "type": "Fuse"'))
    with pytest.raises(UnsupportedModel, match="Fuse"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("part", "changes"),
    [("post_processor", {"special_tokens": {}}), ("model", {"continuing_subword_prefix": "#" * 60})],
)
def test_tokenizers_that_panic_are_refused(tmp_path: Path, part: str, changes: dict[str, Any]) -> None:
    write_tokenizer(tmp_path, template=True)
    path = tmp_path / "tokenizer.json"
    told = json.loads(path.read_text())
    told[part] |= changes
    path.write_text(json.dumps(told))
    with pytest.raises(CorruptModel, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)

"""Models of random weights: their shapes are the published ones, and they run without any file."""

import math
from pathlib import Path

import numpy as np
import pytest

from tenfold.core.errors import ModelError
from tenfold.core.sampling import SamplingParams
from tenfold.engine.llm import LLM
from tenfold.grammar.grammars import Grammars
from tenfold.model.dummy import dummy_checkpoint, dummy_spec
from tenfold.model.layout import checked_weights
from tenfold.model.load import load_model, text_of, tokenizer_of
from tenfold.ops.tensors import RandomTensor, Tensor
from tenfold.traffic.words import OPENING, WORDS


@pytest.mark.parametrize(
    ("name", "parameters", "context", "vocab"),
    [
        ("llama-3-8b", 8_030_261_248, 8192, 128256),
        ("llama-3.1-8b", 8_030_261_248, 131072, 128256),
        ("qwen3-8b", 8_190_735_360, 40960, 151936),
        ("qwen3-0.6b", 596_049_920, 40960, 151936),
        ("smollm2-135m", 134_515_008, 8192, 49152),
    ],
)
def test_shapes_are_the_published_ones(name: str, parameters: int, context: int, vocab: int) -> None:
    checkpoint = load_model(name, "dummy")
    spec, weights = checkpoint.spec, checkpoint.weights
    assert sum(math.prod(tensor.shape) for tensor in weights.tensors.values()) == parameters
    assert (spec.max_context, spec.vocab, spec.qk_norm) == (context, vocab, name.startswith("qwen3"))
    assert checked_weights(name, spec, weights.tensors) == weights  # what a file of this model would have to hold
    assert checkpoint.files == () and all(isinstance(tensor, RandomTensor) for tensor in weights.tensors.values())


def test_the_default_model_has_the_shape_of_its_file(smollm2_path: Path) -> None:
    dummy, real = dummy_spec("smollm2-135m"), load_model(str(smollm2_path), "auto").spec
    for field in ("layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab", "max_context", "windows"):
        assert getattr(dummy, field) == getattr(real, field)
    assert dummy.norm_eps == pytest.approx(real.norm_eps)
    assert dummy.rope.inv_freq == pytest.approx(real.rope.inv_freq) and dummy.tied_head == real.tied_head


def test_only_llama_3_1_slows_its_rotation() -> None:
    plain, slowed = (dummy_spec(name).rope.inv_freq for name in ("llama-3-8b", "llama-3.1-8b"))
    assert plain[1] == slowed[1] == pytest.approx(500000 ** (-2 / 128))
    assert slowed[-1] == pytest.approx(plain[-1] / 8)


def test_an_unknown_name_tells_those_there_are() -> None:
    with pytest.raises(ModelError, match=r"'llama-4'.* llama-3-8b, .*smollm2-135m"):
        dummy_checkpoint("llama-4")


def test_values_follow_from_seed_and_name() -> None:
    one, same, other = (dummy_checkpoint("smollm2-135m", seed).weights for seed in (0, 0, 1))
    for name in ("layers.3.k", "layers.3.attn_norm"):
        values = one[name].decode()
        assert values.dtype == np.float32 and values.shape == one[name].shape
        np.testing.assert_array_equal(values, same[name].decode())
        assert not np.array_equal(values, other[name].decode())
    assert not np.array_equal(one["layers.3.k"].decode(), one["layers.3.v"].decode())


def test_stored_bytes_are_the_values() -> None:
    weights = dummy_checkpoint("smollm2-135m").weights
    for name in ("layers.0.down", "norm"):
        tensor: Tensor = weights[name]
        halves = tensor.data.view(np.uint16)
        assert tensor.kind == "BF16" and halves.size == math.prod(tensor.shape)
        back = (halves.astype(np.uint32) << 16).view(np.float32).reshape(tensor.shape)
        np.testing.assert_array_equal(back, tensor.decode())
    down, norm = weights["layers.0.down"].decode(), weights["norm"].decode()
    assert down.std() == pytest.approx(1536**-0.5, rel=0.01) and abs(down.mean()) < 1e-3
    assert norm.mean() == pytest.approx(1, abs=0.02) and 0.85 < norm.min() < norm.max() < 1.15


def test_text_goes_there_and_back() -> None:
    tokenizer = tokenizer_of("smollm2-135m", "dummy")
    assert tokenizer.vocab_size == 49152 and tokenizer.eos_ids == (49151,)
    for text in ("", f"{OPENING} {' '.join(WORDS)}\n", "naïve  日本 \x00 <|end|>"):
        assert tokenizer.decode(tokenizer.encode(text, add_special=True), skip_special=False) == text
    assert len(tokenizer.encode(" ".join(WORDS), add_special=True)) == len(WORDS)
    assert list(tokenizer.encode("é", add_special=False)) == list("é".encode())
    texts = {tokenizer.token_bytes(token) for token in range(49152)}
    assert len(texts) == 49152 and max(map(len, texts)) < 16 and all(texts)
    assert tokenizer.is_special(49151) and not tokenizer.is_special(49150)


def test_what_a_server_needs_is_there() -> None:
    text = text_of("qwen3-0.6b", "dummy")
    assert text.name == "dummy-qwen3-0.6b" and text.chat_template is not None
    assert text.chat_template.render([{"role": "user", "content": "Hi"}]) == "user: Hi\nassistant:"


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("smollm2-135m", load_format="dummy", kv_tokens=1024, max_context=256)


def test_it_runs_on_the_cpu(llm: LLM) -> None:
    greedy = SamplingParams(temperature=0, max_tokens=6)
    one, two = llm.generate(["Write about time", "Write about space"], greedy)
    assert [len(answer.samples[0].tokens) for answer in (one, two)] == [6, 6]
    assert one.text and one.text != two.text
    assert llm.generate("Write about time", greedy)[0].samples[0].tokens == one.samples[0].tokens
    assert "dummy-smollm2-135m" in llm.info.model and "bf16" in llm.info.backend
    assert llm.chat([{"role": "user", "content": "Hi"}], greedy)[0].text


def test_constraints_know_its_vocabulary() -> None:
    from tenfold.core.constraint import Constraint

    tokenizer = tokenizer_of("smollm2-135m", "dummy")
    matcher = Grammars(lambda: tokenizer, 49152).matcher(Constraint("regex", "(time|year)!"))
    assert matcher.consume(tokenizer.encode("time!", add_special=False)) == 2

"""The C++ ops against the reference, op by op and as whole models, at every level this CPU has."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tenfold import _native
from tenfold.core.config import KV_TYPES
from tenfold.core.errors import ConfigError, CorruptModel, UnsupportedModel
from tenfold.model.decoder import forward
from tenfold.model.layout import shapes
from tenfold.ops import reference_sampling
from tenfold.ops.base import Float32
from tenfold.ops.cpu import CpuOps
from tenfold.ops.reference import ReferenceOps
from tenfold.ops.tensors import Tensor, Weights
from tests.helpers.fuzz import stored
from tests.helpers.models import LEVELS, Slice, make_batch, make_tensor, random_weights, rope, tiny_spec
from tests.helpers.rounding import stored_kv

SPECS: dict[str, dict[str, Any]] = {
    "llama": {},
    "grouped by three": {"heads": 9, "kv_heads": 3, "hidden": 144, "head_dim": 64},
    "odd sizes": {"hidden": 50, "ffn": 37, "vocab": 101, "head_dim": 10, "heads": 6, "kv_heads": 2},
    "untied head": {"tied_head": False},
    "biases": {"qkv_bias": True, "head_dim": 80},
    "qk norm": {"qk_norm": True, "head_dim": 128, "layers": 1},
    "one key head of 256": {"head_dim": 256, "kv_heads": 1, "layers": 1},
    "thirty query heads": {"heads": 30, "kv_heads": 1},
    "no sharing of KV heads": {"kv_heads": 4, "head_dim": 24},
    "windows": {"windows": (5, 70), "rope_local": rope(16, 100.0)},
    "gemma": {
        "layers": 3,
        "windows": (6, 100, 0),
        "rope_local": rope(16, 100.0),
        "qk_norm": True,
        "post_norms": True,
        "activation": "gelu_tanh",
        "embed_scale": 8.0,
        "query_scale": 0.3,
        "kv_heads": 1,
    },
    "softcap": {"logit_softcap": 2.0},
}
LENGTHS = (1, 19, 150)  # of three sequences; each has its last `NEW` tokens (or all) in the tested step
NEW = (1, 19, 40)
BLOCKS = ([12], [3, 1], [4, 0, 2, 10, 9, 8, 7, 5, 6, 11])


def sequences(vocab: int) -> list[list[int]]:
    rng = np.random.default_rng(11)
    return [[int(t) for t in rng.integers(0, vocab, n)] for n in LENGTHS]


def steps(vocab: int) -> list[Any]:
    """A prompt's first part, then a step that mixes its rest with another prompt and a single token."""
    texts = sequences(vocab)
    return [
        make_batch([Slice(texts[2][: LENGTHS[2] - NEW[2]], 0, BLOCKS[2])]),
        make_batch(
            [Slice(t[len(t) - n :], len(t) - n, b, range(n)) for t, n, b in zip(texts, NEW, BLOCKS, strict=True)]
        ),
    ]


def near(got: Float32, wanted: Float32, tolerance: float) -> None:
    wanted = wanted.reshape(got.shape)
    assert np.isfinite(got).all()
    assert np.abs(got - wanted).max() <= tolerance * np.abs(wanted).max()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("kv_type", KV_TYPES["cpu"])
def test_each_op_equals_the_reference(name: str, level: str, kv_type: str) -> None:
    weights = random_weights(tiny_spec(**SPECS[name]), seed=2)
    ops = CpuOps(weights, threads=2, kv_type=kv_type, level=level)
    oracle = ReferenceOps(weights)
    kv, kv_oracle = ops.new_kv(13, 16), oracle.new_kv(13, 16)
    rounding = 0.06  # what rounded keys and values may cost after the first layer: attention is sharp here
    for batch in steps(weights.spec.vocab):
        x, y = ops.embed(batch), oracle.embed(batch)
        near(x.numpy(), y, 1e-6)
        for layer in range(weights.spec.layers):
            before = kv_oracle.k[0].copy(), kv_oracle.v[0].copy()
            q, r = ops.qkv(layer, x, batch, kv), oracle.qkv(layer, y, batch, kv_oracle)
            near(q.numpy(), r * np.float32(weights.spec.query_scale), rounding if layer else 3e-5)
            if layer == 0:
                kv_oracle.k[0] = stored_kv(kv_oracle.k[0], before[0], kv_type)
                kv_oracle.v[0] = stored_kv(kv_oracle.v[0], before[1], kv_type)
            a, b = ops.attend(layer, q, batch, kv), oracle.attend(layer, r, batch, kv_oracle)
            near(a.numpy(), b, rounding if layer else {"bf16": 8e-3, "int8": 2e-3}[kv_type])
            x, y = ops.attn_out(layer, a, x), oracle.attn_out(layer, b, y)
            near(x.numpy(), y, rounding)
            x, y = ops.mlp(layer, x), oracle.mlp(layer, y)
            near(x.numpy(), y, rounding)
        near(ops.logits(x, batch), oracle.logits(y, batch), rounding)


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_dense_half_weights(kind: str) -> None:
    weights = random_weights(tiny_spec(), seed=3, kind=kind)
    ops, oracle = CpuOps(weights), ReferenceOps(weights)
    kv, kv_oracle = ops.new_kv(13, 16), oracle.new_kv(13, 16)
    for batch in steps(160):
        near(forward(ops, kv, batch), forward(oracle, kv_oracle, batch), 0.06)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_quantized_weights(kind: str) -> None:
    weights = random_weights(tiny_spec(hidden=128, ffn=160, heads=8), seed=4, kind=kind)
    ops, oracle = CpuOps(weights), ReferenceOps(weights)
    kv, kv_oracle = ops.new_kv(13, 16), oracle.new_kv(13, 16)
    for batch in steps(160):
        got, wanted = forward(ops, kv, batch), forward(oracle, kv_oracle, batch)
        # Eight-bit activations through sharp attention; the kernels' own tests are exact.
        assert np.linalg.norm(got - wanted) <= 0.08 * np.linalg.norm(wanted)


@pytest.mark.parametrize("level", LEVELS)
def test_mixed_encodings_and_k_quants(level: str) -> None:
    spec = tiny_spec(hidden=256, ffn=512, heads=8, head_dim=32, tied_head=False, vocab=96, query_scale=0.01)
    kinds = {"q": "Q5_0", "k": "Q4_K", "v": "Q8_0", "o": "Q6_K", "gate": "Q5_K", "up": "F16", "down": "Q3_K"}
    plain = random_weights(spec, seed=6)
    tensors = dict(plain.tensors)
    for i, (name, shape) in enumerate(shapes(spec).items()):
        kind = {"embed": "Q6_K", "head": "Q2_K"}.get(name) or kinds.get(name.rsplit(".", 1)[-1], "F32")
        if kind not in ("F32", "F16"):
            tensors[name] = k_quant(name, kind, shape, seed=i)
    weights = Weights(spec, tensors)
    ops, oracle = CpuOps(weights, level=level), ReferenceOps(weights)
    kv, kv_oracle = ops.new_kv(13, 16), oracle.new_kv(13, 16)
    for batch in steps(96):
        got, wanted = forward(ops, kv, batch), forward(oracle, kv_oracle, batch)
        assert np.linalg.norm(got - wanted) <= 0.08 * np.linalg.norm(wanted)


def k_quant(name: str, kind: str, shape: tuple[int, ...], seed: int) -> Tensor:
    from tenfold.model.encodings import make_tensor

    return make_tensor(name, kind, shape, stored(kind, *shape, seed=seed))


@pytest.mark.parametrize("kv_type", KV_TYPES["cpu"])
def test_stored_keys_and_values_cost_little(kv_type: str) -> None:
    weights = random_weights(tiny_spec(), seed=5)
    oracle = ReferenceOps(weights)
    kv_oracle = oracle.new_kv(13, 16)
    ops = CpuOps(weights, kv_type=kv_type)
    kv = ops.new_kv(13, 16)
    for batch in steps(160):
        got, wanted = forward(ops, kv, batch), forward(oracle, kv_oracle, batch)
        assert 0 < np.linalg.norm(got - wanted) <= 0.03 * np.linalg.norm(wanted)


def test_one_call_equals_op_by_op() -> None:
    weights = random_weights(tiny_spec(), seed=7)
    ops = CpuOps(weights)
    batch = steps(160)[0]
    wanted = forward(ops, ops.new_kv(13, 16), batch).copy()
    ops.embed(batch)
    ops.model.forward(ops.new_kv(13, 16))
    np.testing.assert_array_equal(ops.model.logits(), wanted)


def test_no_wanted_rows_and_no_tokens() -> None:
    ops = CpuOps(random_weights(tiny_spec()))
    kv = ops.new_kv(1, 16)
    assert forward(ops, kv, make_batch([Slice([1, 2], 0, [0], rows=[])])).shape == (0, 160)
    assert forward(ops, kv, make_batch([])).shape == (0, 160)


def test_describes_itself() -> None:
    ops = CpuOps(random_weights(tiny_spec(), kind="Q4_1"), threads=2, level="portable")
    assert ops.describe() == "cpu (portable, 2 threads, int4 g32, kv bf16)"


def test_settings_that_do_not_fit_are_refused() -> None:
    weights = random_weights(tiny_spec())
    for settings in ({"kv_type": "int3"}, {"level": "avx1024"}, {"threads": -1}):
        with pytest.raises(ConfigError):
            CpuOps(weights, **settings)  # type: ignore[arg-type]
    ops = CpuOps(weights)
    for blocks, size in ((0, 16), (4, 24), (4, 0), (1 << 40, 16), (1 << 60, 1 << 10)):
        with pytest.raises(ConfigError):
            ops.new_kv(blocks, size)


def test_tensors_that_do_not_fit_are_refused() -> None:
    weights = random_weights(tiny_spec())
    name = "layers.1.up"
    whole = weights[name]
    for change, error in (
        ({"kind": "IQ4_XS"}, UnsupportedModel),
        ({"kind": "F16"}, CorruptModel),
        ({"shape": (64, 96)}, CorruptModel),
        ({"shape": (96, 64, 1)}, CorruptModel),
        ({"data": whole.data[:-1]}, CorruptModel),
        ({"data": whole.data[:, :-4]}, CorruptModel),
    ):
        broken = Weights(weights.spec, dict(weights.tensors) | {name: dataclasses.replace(whole, **change)})
        with pytest.raises(error, match=r"layers\.1\.up"):
            CpuOps(broken)
    missing = {k: v for k, v in weights.tensors.items() if k != "layers.0.mlp_norm"}
    with pytest.raises(CorruptModel, match="norm of layer 0"):
        CpuOps(Weights(weights.spec, missing))
    with pytest.raises(CorruptModel, match="sizes"):
        CpuOps(Weights(dataclasses.replace(weights.spec, kv_heads=3), weights.tensors))


@pytest.mark.parametrize("name", SPECS)
def test_the_whole_pass_gives_the_bits_of_its_ops(name: str) -> None:
    ops = CpuOps(random_weights(tiny_spec(**SPECS[name])), threads=2)
    one, many = ops.new_kv(16, 16), ops.new_kv(16, 16)
    for batch in steps(ops.spec.vocab):
        expected = forward(ops, many, batch).copy()
        np.testing.assert_array_equal(ops.forward(batch, one), expected)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["llama", "odd sizes", "biases", "windows", "gemma"])
@pytest.mark.parametrize("kv_type", KV_TYPES["cpu"])
def test_the_last_layer_of_the_whole_pass_is_that_of_wanted_rows(name: str, level: str, kv_type: str) -> None:
    """Whichever they are: the same bits, the same keys and values for what comes after."""
    ops = CpuOps(random_weights(tiny_spec(**SPECS[name])), threads=2, level=level, kv_type=kv_type)
    one, many = ops.new_kv(13, 16), ops.new_kv(13, 16)
    short, middle, long = zip(sequences(ops.spec.vocab), BLOCKS, strict=True)
    for wanted in ([[], [], []], [[], [], [99]], [[0], [], [5]], [[0], [18], []], [[], [3, 18], [40, 99]]):
        texts = zip((short, middle, long), wanted, strict=True)
        batch = make_batch([Slice(text[:100], 0, blocks, rows) for (text, blocks), rows in texts])
        expected = forward(ops, many, batch).copy()
        np.testing.assert_array_equal(ops.forward(batch, one), expected)
        after = make_batch([Slice(long[0][100:], 100, long[1])])
        expected = forward(ops, many, after).copy()
        np.testing.assert_array_equal(ops.forward(after, one), expected)


def test_a_whole_pass_leaves_no_hidden_states() -> None:
    ops = CpuOps(random_weights(tiny_spec()))
    batch = make_batch([Slice([1, 2, 3], 0, [0])])
    forward(ops, ops.new_kv(1, 16), batch)
    assert ops.final_hidden(np.arange(3, dtype=np.int32)).shape == (3, ops.spec.hidden)
    ops.forward(batch, ops.new_kv(1, 16))
    with pytest.raises(AssertionError):
        ops.final_hidden(np.arange(3, dtype=np.int32))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("vocab", [1, 63, 130, 1500])
@pytest.mark.parametrize("sizes", [{}, {"logit_softcap": 0.01}, {"tied_head": False}])
def test_a_pass_knows_its_largest_logits(level: str, vocab: int, sizes: dict[str, Any]) -> None:
    weights = random_weights(tiny_spec(vocab=vocab, **sizes))
    damaged = np.random.default_rng(3).standard_normal((vocab, weights.spec.hidden), np.float32)
    damaged[-1] = np.inf  # the last logit becomes an infinity or no number
    rows = [Slice([0] * n, 0, [n % 16], range(n)) for n in (3, 1, 70)]
    for rows_of_step in (rows, rows[1:2]):
        ops = CpuOps(weights, threads=2, level=level)
        logits = ops.forward(make_batch(rows_of_step), ops.new_kv(80, 16 * 5))
        np.testing.assert_array_equal(ops.largest(logits), reference_sampling.largest(logits))
        assert (ops.largest(logits) == ops.largest(logits.copy())).all()
    if not weights.spec.tied_head:
        broken = Weights(weights.spec, {**weights.tensors, "head": make_tensor("head", damaged, "F32")})
        ops = CpuOps(broken, threads=2, level=level)
        logits = ops.forward(make_batch(rows), ops.new_kv(80, 16 * 5))
        np.testing.assert_array_equal(ops.largest(logits), reference_sampling.largest(logits))
        assert (ops.largest(logits) < 0).any()


def test_a_steady_step_maps_no_memory() -> None:
    ops = CpuOps(random_weights(tiny_spec()), threads=2)
    kv = ops.new_kv(64, 16)
    which = np.arange(4, dtype=np.int32)
    filters = np.array([[0.8, 0, 0.95, 0, 0.3]] * 4)

    def step(position: int) -> None:
        slices = [Slice([7], position, range(8 * s, 8 * s + 8)) for s in range(4)]
        logits = ops.forward(make_batch(slices), kv)
        ops.largest(logits)
        ops.draw(logits, which, filters)

    for position in range(3):
        step(position)
    before = _native.mappings()
    for position in range(3, 100):
        step(position)
    assert _native.mappings() == before


def test_small_matrices_share_their_pages() -> None:
    spec = tiny_spec(layers=6)
    weights = random_weights(spec)
    before = _native.mappings()
    ops = CpuOps(weights, threads=2)
    assert _native.mappings() - before < spec.layers  # of 7 matrices each
    assert ops.model.weight_bytes > 0


def test_first_tokens_touch_little_of_the_kv_memory() -> None:
    """Not a page for every layer, for keys and for values: a system that clears 2 MB at a time would take long."""
    spec = tiny_spec(layers=24)
    ops = CpuOps(random_weights(spec), threads=2)
    kv = ops.new_kv(200_000, 16)
    batch = make_batch([Slice(list(range(20)), 0, range(2))])

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    ops.forward(batch, ops.new_kv(8, 16))  # takes what memory the model itself needs
    before = resident()
    ops.forward(batch, kv)
    assert resident() - before < 12 << 20

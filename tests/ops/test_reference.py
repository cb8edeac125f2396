"""The oracle itself: against a dense float64 token-by-token forward pass, and against its own batching."""

from typing import Any

import numpy as np
import pytest

from tenfold.core.errors import ConfigError
from tenfold.model.decoder import forward
from tenfold.ops.reference import ReferenceOps, gelu_tanh, rotate, silu, visible_keys
from tenfold.ops.spec import RopeSpec
from tests.helpers.dense import dense_logits
from tests.helpers.models import Slice, make_batch, random_weights, rope, tiny_spec

SPECS: dict[str, dict[str, Any]] = {
    "llama": {},
    "untied head": {"tied_head": False},
    "biases": {"qkv_bias": True},
    "qk norm, wide heads": {"qk_norm": True, "head_dim": 24},
    "window": {"windows": (5, 0)},
    "gemma": {
        "layers": 3,
        "windows": (6, 6, 0),
        "rope_local": rope(16, 100.0),
        "qk_norm": True,
        "post_norms": True,
        "activation": "gelu_tanh",
        "embed_scale": 8.0,
        "query_scale": 0.3,
        "kv_heads": 1,
    },
    "softcap": {"logit_softcap": 2.0},
    "no sharing of KV heads": {"kv_heads": 4},
}
TOKENS = [int(t) for t in np.random.default_rng(7).integers(0, 160, 21)]


@pytest.mark.parametrize("name", SPECS)
def test_forward_equals_dense_float64(name: str) -> None:
    weights = random_weights(tiny_spec(**SPECS[name]), seed=3)
    ops = ReferenceOps(weights)
    batch = make_batch([Slice(TOKENS, 0, [5, 0, 3, 1, 2, 4], rows=range(len(TOKENS)))])
    logits = forward(ops, ops.new_kv(6, 4), batch)
    expected = dense_logits(weights, TOKENS)
    assert logits.dtype == np.float32
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_chunks_beside_others_equal_the_whole(name: str) -> None:
    ops = ReferenceOps(random_weights(tiny_spec(**SPECS[name]), seed=4))
    other = TOKENS[::-1]
    expected = {
        0: forward(ops, ops.new_kv(6, 4), make_batch([Slice(TOKENS, 0, range(6), range(21))])),
        1: forward(ops, ops.new_kv(6, 4), make_batch([Slice(other, 0, range(6), range(21))])),
    }
    kv = ops.new_kv(13, 4)
    tables = {0: [12, 1, 9, 3, 7, 5], 1: [0, 2, 4, 6, 8, 10]}
    # (sequence, first, last) per step: chunks of one beside single tokens of the other, order changing
    steps = [
        [(0, 0, 7)],
        [(0, 7, 8), (1, 0, 11)],
        [(1, 11, 12), (0, 8, 20)],
        [(0, 20, 21), (1, 12, 21)],
    ]
    for step in steps:
        slices = [Slice((TOKENS, other)[s][a:b], a, tables[s][: -(-b // 4)], range(b - a)) for s, a, b in step]
        logits = forward(ops, kv, make_batch(slices))
        wanted = np.concatenate([expected[s][a:b] for s, a, b in step])
        np.testing.assert_allclose(logits, wanted, rtol=0, atol=2e-5)


def test_only_wanted_rows_give_logits() -> None:
    ops = ReferenceOps(random_weights(tiny_spec(), seed=5))
    whole = forward(ops, ops.new_kv(6, 4), make_batch([Slice(TOKENS, 0, range(6), range(21))]))
    some = forward(ops, ops.new_kv(6, 4), make_batch([Slice(TOKENS, 0, range(6), [2, 20])]))
    assert some.shape == (2, 160)
    np.testing.assert_allclose(some, whole[[2, 20]], rtol=0, atol=2e-5)
    none = forward(ops, ops.new_kv(6, 4), make_batch([Slice(TOKENS, 0, range(6), [])]))
    assert none.shape == (0, 160)


def test_kv_lands_in_the_blocks_of_the_table_and_nowhere_else() -> None:
    ops = ReferenceOps(random_weights(tiny_spec(), seed=6))
    kv = ops.new_kv(8, 4)
    forward(ops, kv, make_batch([Slice(TOKENS[:6], 0, [6, 2])]))
    written = np.abs(kv.k).sum(axis=(0, 3, 4)) > 0
    expected = np.zeros((8, 4), bool)
    expected[6] = True
    expected[2, :2] = True
    assert (written == expected).all()


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_encoded_weights_are_used_as_decoded(kind: str) -> None:
    weights = random_weights(tiny_spec(), seed=8, kind=kind)
    ops = ReferenceOps(weights)
    logits = forward(ops, ops.new_kv(6, 4), make_batch([Slice(TOKENS, 0, range(6), range(21))]))
    expected = dense_logits(weights, TOKENS)
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()


def test_window_counts_the_query_itself() -> None:
    seen = visible_keys(np.array([3, 4], np.int32), 5, 2)
    assert seen.tolist() == [[False, False, True, True, False], [False, False, False, True, True]]
    assert visible_keys(np.array([1], np.int32), 3, 0).tolist() == [[True, True, False]]


def test_rotation_pairs_the_two_halves() -> None:
    x = np.array([[[1.0, 0.0, 0.0, 2.0]]], np.float32)
    turned = rotate(x, np.array([2], np.int32), RopeSpec((np.pi / 4, np.pi / 2)))
    # pair (x0, x2) by 2 * 45 degrees, pair (x1, x3) by 2 * 90 degrees
    np.testing.assert_allclose(turned, [[[0.0, 0.0, 1.0, -2.0]]], atol=1e-6)


def test_activations_at_known_points_and_extremes() -> None:
    x = np.array([-1e4, -1.0, 0.0, 1.0, 1e4], np.float32)
    np.testing.assert_allclose(silu(x), [0, -0.2689414, 0, 0.7310586, 1e4], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(gelu_tanh(x), [0, -0.1588080, 0, 0.8411920, 1e4], rtol=1e-6, atol=1e-6)


def test_absurd_pool_is_a_config_error() -> None:
    ops = ReferenceOps(random_weights(tiny_spec(), seed=9))
    with pytest.raises(ConfigError, match="fewer KV tokens"):
        ops.new_kv(2**50, 16)

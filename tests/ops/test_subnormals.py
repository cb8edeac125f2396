"""Values below float32's normal range count as zero wherever they enter, and the caller's own arithmetic is left alone.

Each case is made so that a subnormal that was not flushed would come out far above zero, or beside nothing larger.
"""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tenfold import _native
from tenfold.core.config import KV_TYPES
from tenfold.ops.base import Float32
from tenfold.ops.cpu import CpuOps
from tenfold.ops.tensors import Weights
from tests.helpers.fuzz import QUANTIZED, dense_tensor, stored
from tests.helpers.models import LEVELS, Slice, make_batch, make_tensor, random_weights, tiny_spec

ROWS = (1, 5, 40)  # a row alone, one pass, tiles


def subnormals(shape: tuple[int, ...], seed: int = 0) -> Float32:
    """Of both signs, none of them zero."""
    rng = np.random.default_rng(seed)
    found = (rng.uniform(2e-39, 1.1e-38, shape) * rng.choice([-1, 1], shape)).astype(np.float32)
    assert (np.abs(found) < np.finfo(np.float32).tiny).all() and found.all()
    return found


def flushes_here() -> bool:
    """Whether this thread's float32 arithmetic flushes."""
    return not (subnormals((64,)) * np.float32(0.5)).any()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", ["F32", "BF16"])
def test_subnormal_weights_are_zero(kind: str, level: str) -> None:
    for columns in (33, 96):
        weights = dense_tensor("w", kind, subnormals((20, columns)))
        assert weights.decode().any()
        product = _native.Projection(kind, weights.data, columns, level, threads=2)
        for rows in ROWS:
            assert not product.apply(np.full((rows, columns), 1e20, np.float32)).any()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("form", ["bf16", "int8", "int4"])
def test_rounded_subnormal_weights_are_zero(form: str, level: str) -> None:
    values = np.random.default_rng(1).standard_normal((20, 96)).astype(np.float32)
    values[::2, 32:64], values[4] = subnormals((10, 32)), subnormals((96,))
    zeros = np.where(np.abs(values) < 1e-37, np.float32(0), values)
    x = np.random.default_rng(2).standard_normal((40, 96)).astype(np.float32)
    x[1::2, 32:64] *= np.float32(1e30)
    got, wanted = (
        _native.Projection("F32", w.view(np.uint8), 96, level, threads=2, form=form).apply(x) for w in (values, zeros)
    )
    np.testing.assert_array_equal(got, wanted)
    assert np.isfinite(wanted).all() and wanted[::2, 0].all() and not wanted[:, 4].any()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", *QUANTIZED])
def test_subnormal_activations_are_zero(kind: str, level: str) -> None:
    columns = 256
    data = stored(kind, 20, columns)
    product = _native.Projection(kind, data, columns, level, threads=2)
    for rows in ROWS:
        assert not product.apply(subnormals((rows, columns))).any()
        x = np.random.default_rng(rows).standard_normal((rows, columns)).astype(np.float32)
        x[:, 64:96] = subnormals((rows, 32))
        zeros = np.where(np.abs(x) < 1e-37, np.float32(0), x)
        np.testing.assert_array_equal(product.apply(x), product.apply(zeros))


@pytest.mark.parametrize("level", LEVELS)
def test_products_that_are_subnormal_are_zero(level: str) -> None:
    weights = np.full((20, 33), 1e-20, np.float32)
    product = _native.Projection("F32", weights.view(np.uint8), 33, level, threads=2)
    for rows in ROWS:
        assert not product.apply(np.full((rows, 33), 1e-20, np.float32)).any()


# By the tensor that is subnormal: what others are multiplied by, so that it would show. Where hidden values are of
# 1e-30, norms bring them to about 1.
FAINT = {"embed": 1e-30, "attn_norm": 1e28, "mlp_norm": 1e28}
CASES: dict[str, dict[str, float]] = {
    "embed": {"o": 0.0, "down": 0.0},
    "attn_norm": {"v": 1e10, "v_bias": 0.0, "o": 1e30, "down": 0.0},
    "v": FAINT | {"v_bias": 0.0, "o": 1e12, "down": 0.0},
    "v_bias": FAINT | {"v": 0.0, "o": 1e12, "down": 0.0},
    "o": FAINT | {"v": 1e5, "down": 0.0},
    "mlp_norm": {"gate": 1e30, "up": 1e30, "down": 1e30},
    "gate": FAINT | {"o": 0.0, "up": 1e12},
    "up": FAINT | {"o": 0.0, "down": 1e12},
    "down": FAINT | {"o": 0.0, "up": 1e7},
    "norm": {"head": 1e10},
    "head": {},
}


def case_logits(name: str, values: Any, kind: str, **settings: Any) -> NDArray[np.float32]:
    """Logits of the model of a case, with ``values(shape)`` in the tensors called ``name``."""
    weights = random_weights(tiny_spec(layers=1, vocab=40, tied_head=False, qkv_bias=True), seed=3)
    tensors = {}
    for full, tensor in weights.tensors.items():
        last = full.split(".")[-1]
        scaled = (tensor.decode() * np.float32(CASES[name].get(last, 1.0))).astype(np.float32)
        contents = values(tensor.shape) if last == name else scaled
        tensors[full] = dense_tensor(full, kind, contents) if contents.ndim == 2 else make_tensor(full, contents)
    ops = CpuOps(Weights(weights.spec, tensors), **settings)
    batch = make_batch([Slice([1, 2, 3, 4, 5], 0, [0], range(5)), Slice([6], 0, [1])])
    return ops.forward(batch, ops.new_kv(2, 16)).copy()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", ["F32", "BF16"])
@pytest.mark.parametrize("name", CASES)
def test_a_model_takes_subnormal_tensors_for_zeros(name: str, kind: str, level: str) -> None:
    for kv_type in KV_TYPES["cpu"]:
        wanted = case_logits(name, lambda shape: np.zeros(shape, np.float32), kind, level=level, kv_type=kv_type)
        assert np.isfinite(wanted).all()
        for threads in (1, 2):
            got = case_logits(name, subnormals, kind, level=level, kv_type=kv_type, threads=threads)
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("name", CASES)
def test_without_flushing_it_would_show(name: str) -> None:
    """Numbers of the same kind but in the normal range do: the cases above can fail."""
    zeros = case_logits(name, lambda shape: np.zeros(shape, np.float32), "F32")
    normal = case_logits(name, lambda shape: subnormals(shape) * np.float32(1e2), "F32")
    assert (normal != zeros).any()


def test_the_callers_arithmetic_is_as_before() -> None:
    weights = random_weights(tiny_spec(), kind="Q4_1")
    ops = CpuOps(weights, threads=2, form="int8")
    batch = make_batch([Slice([1, 2], 0, [0])])
    logits = ops.forward(batch, ops.new_kv(2, 16))
    ops.largest(logits)
    ops.draw(logits, np.zeros(1, np.int32), np.array([[1.0, 0, 0.9, 0, 0.5]]))
    ops.summarize(logits, np.zeros(1, np.int32), 2)
    _native.Projection("F32", np.ones((16, 32), np.float32).view(np.uint8), 32).apply(np.ones((1, 32), np.float32))
    assert not flushes_here()

"""Quantized linears of levels with a tile unit: to the bit as tests.helpers.digits computes them in NumPy.

Everything they sum is a whole number, so the real unit, its emulation and vectors give the same bits.
"""

import numpy as np
import pytest
from numpy.typing import NDArray

from tenfold import _native
from tenfold.model.encodings import decode, encoding_named
from tenfold.ops.cpu import CpuOps
from tenfold.ops.tensors import Weights
from tests.helpers.digits import CODES, TILE_LEVELS, Float32, bound, take_apart, whole
from tests.helpers.fuzz import HALVES, QUANTIZED, quantized_tensor, stored
from tests.helpers.models import Slice, make_batch, random_weights, tiny_spec
from tests.helpers.rounding import to_bf16

COUNTS = (1, 2, 3, 4, 15, 16, 17, 40, 130)  # rows: by vectors, less than a panel, whole panels, more than a chunk
SIGNED = ("Q4_0", "Q5_0", "Q8_0", "Q3_K", "Q6_K")  # kinds whose scales alone decide a weight's sign

tiles = pytest.mark.parametrize("level", TILE_LEVELS)
kinds = pytest.mark.parametrize("kind", QUANTIZED)
fineness = pytest.mark.parametrize("fine", [False, True], ids=["bytes", "fine"])


def activations(rows: int, cols: int, seed: int = 1) -> Float32:
    """Rows of many sizes: Gaussian, whole numbers, with one large value, all at both ends."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, cols)) * 10.0 ** rng.uniform(-6, 6, (rows, 1))
    x[1::4] = rng.integers(-127, 128, x[1::4].shape)
    x[2::4, rng.integers(cols)] *= 300
    x[3::4] = np.sign(x[3::4]) * np.abs(x[3::4]).max(axis=1, keepdims=True)
    return x.astype(np.float32)


def scaled(kind: str, data: NDArray[np.uint8], rows: slice, factor: float) -> NDArray[np.uint8]:
    """``data`` with the float16 scales of some rows times ``factor``."""
    changed = data.copy()
    blocks = changed.reshape(len(data), -1, encoding_named(kind).bytes)[rows]
    for at in HALVES[kind]:
        halves = np.ascontiguousarray(blocks[:, :, at : at + 2]).view(np.float16)
        blocks[:, :, at : at + 2] = (halves * np.float16(factor)).view(np.uint8)
    return changed


def widths(kind: str) -> tuple[int, ...]:
    """One group, half a unit at the end, just as much as is kept in bytes at once, more than twice that."""
    return (256, 768, 1280) if kind in CODES else (32, 96, 576, 1184)


@kinds
def test_the_model_takes_weights_apart(kind: str) -> None:
    data = stored(kind, 20, 512, seed=1)
    parts = take_apart(kind, data, 512)
    values = (parts.s * parts.codes + parts.m).reshape(20, 512)
    np.testing.assert_allclose(values, decode(kind, data, (20, 512)), rtol=2e-6, atol=1e-8)
    assert parts.s.min() < 0 < parts.s.max()


@tiles
@fineness
@kinds
def test_products_equal_the_model(kind: str, fine: bool, level: str) -> None:
    for cols, outputs in zip(widths(kind), (45, 16, 70, 33), strict=False):
        data = stored(kind, outputs, cols, seed=cols)
        x = activations(130, cols, seed=outputs)
        expected = whole(kind, data, cols, fine).product(x)
        got = _native.Projection(kind, data, cols, level, threads=2, fine=fine).apply(x)
        np.testing.assert_array_equal(got, expected)


@tiles
@fineness
@kinds
def test_any_number_of_rows_gives_the_same_bits(kind: str, fine: bool, level: str) -> None:
    cols = 256 if kind in CODES else 96
    data, x = stored(kind, 19, cols, seed=2), activations(131, cols, seed=3)
    expected = whole(kind, data, cols, fine).product(x)
    packed = _native.Projection(kind, data, cols, level, fine=fine)
    for rows in range(1, 41):
        np.testing.assert_array_equal(packed.apply(x[:rows]), expected[:rows], err_msg=f"{rows} rows")
    for rows in COUNTS:
        for first in (1, 131 - rows):
            np.testing.assert_array_equal(packed.apply(x[first : first + rows]), expected[first : first + rows])


@tiles
@fineness
@kinds
def test_products_are_as_near_as_rounding_allows(kind: str, fine: bool, level: str) -> None:
    """Against the decoded weights: half a unit of each weight, half a step of each activation."""
    for cols, outputs in zip(widths(kind), (45, 16, 33, 17), strict=False):
        data, x = stored(kind, outputs, cols, seed=4), activations(20, cols, seed=5)
        exact = x.astype(np.float64) @ decode(kind, data, (outputs, cols)).astype(np.float64).T
        error = np.abs(_native.Projection(kind, data, cols, level, fine=fine).apply(x) - exact)
        assert (error <= bound(kind, data, x, fine)).all()


@kinds
def test_fine_weights_are_finer(kind: str) -> None:
    data = stored(kind, 64, 512, seed=6)
    values = decode(kind, data, (64, 512)).astype(np.float64)
    bytes_, words = (np.linalg.norm(whole(kind, data, 512, fine).values - values) for fine in (False, True))
    # Of 4 and 5 bits, what rounding of the factor costs is times the code.
    assert words <= bytes_ / (100 if kind in ("Q8_0", "Q6_K") else 12)
    if encoding_named(kind).bytes / encoding_named(kind).values > 0.5:
        assert bytes_ <= 0.012 * np.linalg.norm(values)


@tiles
@fineness
@pytest.mark.parametrize(
    ("kind", "code"), [("Q8_0", 0x7F), ("Q8_0", 0x80), ("Q8_0", 0x00), ("Q4_0", 0xFF), ("Q4_0", 0x00), ("Q4_1", 0xFF)]
)
def test_the_largest_sums_are_exact(kind: str, code: int, fine: bool, level: str) -> None:
    """All codes at one end, activations whose two digits are as large as can be, and a model's greatest width."""
    cols = 32768
    data = stored(kind, 16, cols, seed=7)
    data.reshape(16, cols // 32, -1)[:, :, 2 * len(HALVES[kind]) :] = code
    blocks = data.reshape(16, cols // 32, -1)
    blocks[:8, :, : 2 * len(HALVES[kind])] = blocks[:8, :1, : 2 * len(HALVES[kind])]  # every weight is the largest
    x = np.full((6, cols), 126 * 256 + 127, np.float32)  # both digits
    x[:, 0] = 127 * 256
    x[1::2] *= -1
    x[2] = 127 * 256
    x[3] = -(126 * 256 + 128)
    x[4] = np.where(np.arange(cols) % 2, 1, -1) * x[4]
    expected = whole(kind, data, cols, fine).product(x)
    packed = _native.Projection(kind, data, cols, level, fine=fine)
    np.testing.assert_array_equal(packed.apply(x), expected)
    np.testing.assert_array_equal(packed.apply(x[:3]), expected[:3])


@tiles
@fineness
@pytest.mark.parametrize("kind", SIGNED)
def test_negative_scales(kind: str, fine: bool, level: str) -> None:
    """All of an output's scales with another sign: the same products with another sign."""
    cols = 256
    data, x = stored(kind, 32, cols, seed=8), activations(9, cols, seed=9)
    turned = scaled(kind, data, slice(0, 16), -1)
    plain, other = (_native.Projection(kind, d, cols, level, fine=fine).apply(x) for d in (data, turned))
    np.testing.assert_array_equal(other, whole(kind, turned, cols, fine).product(x))
    np.testing.assert_array_equal(other[:, 16:], plain[:, 16:])
    np.testing.assert_allclose(other[:, :16], -plain[:, :16], rtol=0, atol=2 * bound(kind, data, x, fine).max())


@tiles
@fineness
@kinds
def test_outputs_without_weights_are_zero(kind: str, fine: bool, level: str) -> None:
    cols = 256
    x = activations(17, cols)
    for data in (np.zeros_like(stored(kind, 20, cols)), scaled(kind, stored(kind, 20, cols), slice(None), 0)):
        assert not _native.Projection(kind, data, cols, level, fine=fine).apply(x).any()
    data = scaled(kind, stored(kind, 20, cols), slice(3, 18, 5), 0)
    got = _native.Projection(kind, data, cols, level, fine=fine).apply(x)
    np.testing.assert_array_equal(got, whole(kind, data, cols, fine).product(x))
    assert not got[:, 3:18:5].any()


@tiles
@fineness
@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0", "Q6_K"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_no_numbers_show_and_disturb_no_other(kind: str, bad: float, fine: bool, level: str) -> None:
    cols = 256
    data, x = stored(kind, 37, cols, seed=10), activations(40, cols, seed=11)
    data = scaled(kind, data, slice(5, 6), 0)  # not even an output without weights hides it
    packed = _native.Projection(kind, data, cols, level, fine=fine)
    expected = packed.apply(x)
    for rows in (1, 2, 3, 4, 17, 40):
        for at, column in ((0, 0), (rows - 1, cols - 1), (rows // 2, 133)):
            poisoned = x[:rows].copy()
            poisoned[at, column] = bad
            got = packed.apply(poisoned)
            assert not np.isfinite(got[at]).any()
            np.testing.assert_array_equal(np.delete(got, at, axis=0), np.delete(expected[:rows], at, axis=0))


@tiles
@fineness
@pytest.mark.parametrize("kind", ["Q4_0", "Q5_1", "Q8_0", "Q6_K"])
def test_rows_of_nothing_next_to_nothing_and_very_much(kind: str, fine: bool, level: str) -> None:
    cols = 256
    data, x = stored(kind, 37, cols, seed=12), activations(20, cols, seed=13)
    x[2] = 0
    x[3] = -0.0
    x[4:6] = np.sign(x[4:6]) * 1e-35
    x[7], x[7, 9] = 1e-42, 1e-38
    x[10] = np.sign(x[10]) * 1e-29  # not nothing
    x[11] = np.sign(x[11]) * 1e35
    packed = _native.Projection(kind, data, cols, level, fine=fine)
    got = packed.apply(x)
    np.testing.assert_array_equal(got, whole(kind, data, cols, fine).product(x))
    assert not got[[2, 3, 4, 5, 7]].any() and got[10].any() and np.isfinite(got).all()
    for rows in (1, 2, 3):
        np.testing.assert_array_equal(packed.apply(x[2 : 2 + rows]), got[2 : 2 + rows])


@tiles
@fineness
@kinds
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scales_that_are_no_numbers_show(kind: str, bad: float, fine: bool, level: str) -> None:
    """Wherever one is, its output is no number, in any number of rows; and the others are as without it."""
    cols = 1024
    data, x = stored(kind, 20, cols, seed=14), activations(5, cols, seed=15)
    last = data.reshape(20, -1, encoding_named(kind).bytes).shape[1] - 1
    expected = _native.Projection(kind, data, cols, level, fine=fine).apply(x)
    for output, block in ((0, 0), (7, last // 2), (19, last)):
        for at in HALVES[kind]:
            broken = data.copy()
            broken.reshape(20, last + 1, -1)[output, block, at : at + 2] = np.array([bad], np.float16).view(np.uint8)
            packed = _native.Projection(kind, broken, cols, level, fine=fine)
            for rows in (1, 3, 5):
                got = packed.apply(x[:rows])
                assert not np.isfinite(got[:, output]).any(), (output, block, rows)
                others = np.arange(20) != output
                np.testing.assert_array_equal(got[:, others], expected[:rows, others])


@tiles
def test_weights_rounded_to_int8_are_as_those_stored_so(level: str) -> None:
    data = stored("Q8_0", 33, 96, seed=16)
    blocks = data.reshape(33, 3, 34)
    blocks[:, :, 1] &= 0x7F  # positive scales
    codes = blocks[:, :, 2:].view(np.int8)
    codes[codes == -128] = -127
    codes[:, :, 5] = 127  # every group reaches its last code
    values = decode("Q8_0", data, (33, 96)).astype(np.float32)
    x = activations(20, 96, seed=17)
    for fine in (False, True):
        rounded = _native.Projection("F32", values.view(np.uint8), 96, level, form="int8", fine=fine).apply(x)
        np.testing.assert_array_equal(rounded, whole("Q8_0", data, 96, fine).product(x))


@fineness
def test_weights_rounded_to_int4(fine: bool) -> None:
    values = np.random.default_rng(18).standard_normal((45, 1184)).astype(np.float32)
    x = activations(20, 1184, seed=19)
    products = []
    for level in TILE_LEVELS:
        packed = _native.Projection("F32", values.view(np.uint8), 1184, level, form="int4", fine=fine)
        exact = x.astype(np.float64) @ np.stack([packed.row(row) for row in range(45)]).astype(np.float64).T
        products.append(packed.apply(x))
        error = np.linalg.norm(products[-1] - exact, axis=1) / np.linalg.norm(exact, axis=1)
        # A row's one large value leaves the others fewer steps: 1/65024 of it each.
        assert error.max() <= (2e-3 if fine else 1.2e-2), error
        np.testing.assert_array_equal(products[-1], products[0])


def model(kind: str, **sizes: int) -> Weights:
    """A model of one layer, all of whose matrices are of ``kind``."""
    spec = tiny_spec(layers=1, hidden=256, heads=8, head_dim=32, ffn=512, vocab=75, tied_head=False, **sizes)
    weights = random_weights(spec, seed=18)
    tensors = dict(weights.tensors)
    for i, (name, tensor) in enumerate(weights.tensors.items()):
        if len(tensor.shape) == 2:
            tensors[name] = quantized_tensor(name, kind, tensor.shape, float(np.std(tensor.decode())), seed=i)
    return Weights(spec, tensors)


@tiles
@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_1", "Q8_0", "Q4_K", "Q6_K"])
@pytest.mark.parametrize("count", [1, 3, 4, 37])
def test_ops_of_a_model_take_digits(kind: str, count: int, level: str) -> None:
    """The output projection adds to what is there, to the bit; values keep fine weights; the head takes groups."""
    weights = model(kind)
    ops = CpuOps(weights, threads=2, level=level)
    batch = make_batch([Slice([(5 * i + 1) % 75], 0, [i], [0]) for i in range(count)])  # each sees itself alone
    kv = ops.new_kv(count, 16)
    x = ops.embed(batch)
    before = x.numpy().copy()
    a = ops.attend(0, ops.qkv(0, x, batch, kv), batch, kv)
    attended = a.numpy().reshape(count, 256)

    def digits(name: str, of: Float32, fine: bool) -> Float32:
        tensor = weights[name]
        return whole(kind, tensor.data, tensor.shape[1], fine).product(of)

    def normed(of: Float32, name: str) -> Float32:
        mean = np.mean(np.square(of), axis=1, keepdims=True) + np.float32(weights.spec.norm_eps)
        return np.asarray(of / np.sqrt(mean) * weights[name].decode(), np.float32)

    # Attention to one key gives its value, in bfloat16: only of fine weights are most those of the exact sums.
    asked = normed(before, "layers.0.attn_norm")
    shares = []
    for fine in (True, False):
        values = np.repeat(to_bf16(digits("layers.0.v", asked, fine)).reshape(count, 2, 1, 32), 4, axis=2)
        shares.append(np.mean(np.abs(attended / values.reshape(count, 256) - 1) < 1e-5))
    assert shares[0] > 0.98 > 0.85 > shares[1]

    x = ops.attn_out(0, a, x)
    np.testing.assert_array_equal(x.numpy(), before + digits("layers.0.o", attended, fine=False))
    x = ops.mlp(0, x)
    last = normed(x.numpy(), "norm")
    head = weights["head"]
    groups = _native.Projection(kind, head.data, head.shape[1], "portable").apply(last)
    logits = ops.logits(x, batch)
    # A code of an input may fall to the other side, for NumPy sums squares in another order.
    assert np.median(np.abs(logits - groups)) <= 1e-5 * np.abs(groups).max()
    assert np.median(np.abs(digits("head", last, fine=True) - groups)) > 1e-4 * np.abs(groups).max()

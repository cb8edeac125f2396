"""Rounding of float matrices to 8 and 4 bits: error bounds, what stays exact, odd values, equal bits everywhere."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tenfold import _native
from tenfold.model.encodings import decode
from tenfold.ops.cpu import available_levels
from tests.helpers.fuzz import DENSE, QUANTIZED, stored

Float32 = NDArray[np.float32]


def rounded(values: Float32, form: str, level: str = "", threads: int = 1) -> Float32:
    """What ``values`` [rows, cols] become in ``form``."""
    packed = _native.Projection("F32", values.view(np.uint8), values.shape[1], level, threads, form)
    return np.stack([packed.row(row) for row in range(len(values))])


def bytes_of(values: Float32, form: str) -> int:
    return _native.Projection("F32", values.view(np.uint8), values.shape[1], form=form).bytes


def half(x: NDArray[np.floating]) -> NDArray[np.float64]:
    """``x`` rounded to float16."""
    return x.astype(np.float16).astype(np.float64)


def plain_int4(values: Float32) -> NDArray[np.float64]:
    """Codes 0 to 15 between the smallest and the largest weight of each 32: what the search must not lose to."""
    groups = values.astype(np.float64).reshape(-1, 32)
    low = groups.min(axis=1, keepdims=True)
    s, m = half((groups.max(axis=1, keepdims=True) - low) / 15), half(low)
    codes = np.clip(np.rint((groups - m) / np.where(s > 0, s, 1)), 0, 15)
    return (s * codes + m).reshape(values.shape)


def group_errors(got: NDArray[np.floating], values: Float32) -> NDArray[np.float64]:
    """The sum of squared errors of each group of 32."""
    return np.square(got.astype(np.float64) - values).reshape(-1, 32).sum(axis=1)


def mixture(rows: int, cols: int, seed: int) -> Float32:
    """Weights of many kinds: Gaussian, heavy-tailed, skewed, offset, tiny and large, a scale per row."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, cols))
    values[1::4] = rng.standard_t(2, values[1::4].shape)
    values[2::4] = rng.exponential(size=values[2::4].shape)
    values[3::4] += 4
    return (values * 10.0 ** rng.uniform(-4, 3, (rows, 1))).astype(np.float32)


@pytest.mark.parametrize("form", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("rows", [1, 16, 45])
def test_all_levels_and_threads_give_the_same_bits(form: str, rows: int) -> None:
    values = mixture(rows, 96, seed=rows)
    wanted = rounded(values, form)
    for level in available_levels():
        np.testing.assert_array_equal(rounded(values, form, level, threads=3), wanted, err_msg=level)


def test_int8_is_within_half_a_step() -> None:
    values = mixture(45, 96, seed=1)
    steps = np.abs(values.reshape(-1, 32)).max(axis=1) / 127
    # The step is a float16: 2^-11 off, or 2^-25 where it is subnormal, times 127 codes.
    bound = steps * (0.5 + 127 * 2.0**-11) + 127 * 2.0**-25
    assert (np.abs(rounded(values, "int8") - values).reshape(-1, 32) <= bound[:, None]).all()


def test_int8_is_exact_on_its_own_grid() -> None:
    values = decode("Q8_0", stored("Q8_0", 33, 64), (33, 64))
    groups = values.reshape(-1, 32)
    scale = np.frombuffer(stored("Q8_0", 33, 64).reshape(-1, 34)[:, :2].tobytes(), np.float16).astype(np.float32)
    groups[:, 5] = 127 * scale  # every group reaches its last code
    groups[:] = np.clip(groups, -127 * np.abs(scale)[:, None], 127 * np.abs(scale)[:, None])
    np.testing.assert_array_equal(rounded(values, "int8"), values)


def test_the_search_never_loses_to_plain_rounding_and_wins_clearly() -> None:
    values = mixture(61, 256, seed=2)
    plain, found = group_errors(plain_int4(values), values), group_errors(rounded(values, "int4"), values)
    assert (found <= plain * (1 + 1e-4) + 1e-30).all()
    gaussian = np.random.default_rng(3).standard_normal((64, 512)).astype(np.float32)
    gain = group_errors(rounded(gaussian, "int4"), gaussian).sum() / group_errors(plain_int4(gaussian), gaussian).sum()
    assert gain < 0.8


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1"])
def test_int4_finds_a_4_bit_grid(kind: str) -> None:
    """Grids of which a group uses at least nine codes in a row: s exact in float16, m too."""
    rng = np.random.default_rng(4)
    lows, counts = rng.integers(-40, 40, (200, 1)), rng.integers(9, 17, (200, 1))
    codes = rng.integers(0, counts, (200, 32))
    codes[:, :2] = np.concatenate([np.zeros_like(counts), counts - 1], axis=1)
    if kind == "Q4_0":
        lows = np.full_like(lows, -8)
    values = ((lows + codes) * 2.0 ** rng.integers(-9, 0, (200, 1)) * 1.25).astype(np.float32).reshape(25, 256)
    # An offset of zero may come out as the rounding of the sums it is computed from.
    np.testing.assert_allclose(rounded(values, "int4"), values, rtol=1e-6, atol=1e-5)


def test_odd_groups() -> None:
    """Zero, constant, one outlier, two values, subnormal scales, subnormal floats: beside an ordinary group."""
    rng = np.random.default_rng(5)
    values = np.zeros((8, 64), np.float32)
    values[:, 32:] = rng.standard_normal((8, 32)) * 0.02
    values[1, :32] = 0.3
    values[2, 7] = -900.0
    values[3, :32] = np.where(rng.random(32) < 0.5, 0.125, -0.5)
    values[4, :32] = rng.standard_normal(32) * 1e-5
    values[5, :32] = rng.standard_normal(32) * 1e-40
    values[6, :32] = -3e-8
    values[7, :32] = 1e-3 + rng.standard_normal(32) * 1e-9
    for form in ("int8", "int4"):
        got = rounded(values, form)
        assert not got[0, :32].any()
        np.testing.assert_allclose(got[1, :32], 0.3, rtol=2**-10)
        assert got[2, 7] == pytest.approx(-900, rel=1e-3) and not got[2, :7].any()
        np.testing.assert_allclose(got[3, :32], values[3, :32], atol=0.5 * 2**-8 if form == "int8" else 2e-4)
        assert np.abs(got[4:7, :32] - values[4:7, :32]).max() <= (2e-7 if form == "int8" else 3e-6)
        np.testing.assert_allclose(got[7, :32], 1e-3, rtol=2**-7 if form == "int8" else 2**-10)
        np.testing.assert_allclose(got[:, 32:], values[:, 32:], atol=0.08 * 0.2)


def test_weights_beyond_float16_scales_stay_as_stored() -> None:
    ordinary = np.random.default_rng(6).standard_normal((20, 64)).astype(np.float32)
    for form in ("int8", "int4"):
        for factor in (1e20, 5e4, 1e-8, 1e-38):
            values = ordinary * np.float32(factor)
            np.testing.assert_array_equal(rounded(values, form), values)
            assert bytes_of(values, form) == bytes_of(values, "")
        for values in (ordinary, ordinary * np.float32(5e3), ordinary * np.float32(1e-3), ordinary * 0):
            assert bytes_of(values, form) < bytes_of(values, "") / 2.9
    edge = np.full((3, 32), 32768, np.float32)
    np.testing.assert_allclose(rounded(edge, "int8"), edge, rtol=2**-8)
    huge = np.full((3, 32), 3.4e38, np.float32)  # infinite in bfloat16
    np.testing.assert_array_equal(rounded(huge, "bf16"), huge)


@pytest.mark.parametrize("form", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(form: str, value: float) -> None:
    for row, col in ((0, 0), (44, 95), (17, 33)):
        values = mixture(45, 96, seed=7)
        values[row, col] = value
        with pytest.raises(ValueError, match="infinite or no numbers"):
            rounded(values, form, threads=2)


@pytest.mark.parametrize("kind", QUANTIZED + DENSE)
def test_every_encoding_can_be_rounded(kind: str) -> None:
    data = stored(kind, 33, 256, seed=8)
    values = decode(kind, data, (33, 256)).astype(np.float32)
    for form in ("bf16", "int8", "int4"):
        packed = _native.Projection(kind, data, 256, form=form)
        got = np.stack([packed.row(row) for row in range(33)])
        np.testing.assert_array_equal(got, rounded(np.ascontiguousarray(values), form))
    bits = values.view(np.uint32)
    nearest = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).view(np.float32)
    np.testing.assert_array_equal(
        np.stack([_native.Projection(kind, data, 256, form="bf16").row(row) for row in range(33)]), nearest
    )


@pytest.mark.parametrize("level", available_levels())
@pytest.mark.parametrize("form", ["int8", "int4"])
def test_products_of_rounded_weights(form: str, level: str) -> None:
    values = np.random.default_rng(9).standard_normal((45, 96)).astype(np.float32)
    x = np.random.default_rng(10).standard_normal((5, 96)).astype(np.float32)
    packed = _native.Projection("F32", values.view(np.uint8), 96, level, form=form)
    exact = x @ rounded(values, form).T
    assert np.linalg.norm(packed.apply(x) - exact) <= 0.01 * np.linalg.norm(exact)


def test_what_cannot_be_rounded_is_refused() -> None:
    values = np.ones((4, 40), np.float32)
    for form in ("int8", "int4"):
        with pytest.raises(ValueError, match="40 columns"):
            rounded(values, form)
    assert np.array_equal(rounded(values, "bf16"), values)
    with pytest.raises(ValueError, match="int3"):
        rounded(values, "int3")
    with pytest.raises(ValueError, match="take 160 bytes"):
        _native.Projection("F32", values.view(np.uint8)[:, :-4], 40, form="bf16")

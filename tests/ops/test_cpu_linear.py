"""The linear kernels: every encoding at every level against exact products, and against themselves.

Levels with a tile unit compute quantized products in another way, alike among themselves: see also test_digits.
"""

import numpy as np
import pytest
from numpy.typing import NDArray

from tenfold import _native
from tenfold.model.encodings import decode, encoding_named
from tests.helpers.digits import OTHER_LEVELS, TILE_LEVELS, bound
from tests.helpers.fuzz import DENSE, QUANTIZED, stored
from tests.helpers.models import LEVELS


def exact_activations(rows: int, cols: int, seed: int = 1) -> NDArray[np.float32]:
    """Integers that 8 bits per group hold exactly: every group of 32 reaches 127."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-127, 128, (rows, cols // 32, 32)).astype(np.float32)
    peak = rng.integers(0, 32, x.shape[:2])
    np.put_along_axis(x, peak[..., None], np.where(rng.random(peak.shape) < 0.5, 127, -127)[..., None], axis=2)
    return x.reshape(rows, cols)


def close(got: NDArray[np.float32], weights: NDArray[np.float32], x: NDArray[np.float32]) -> None:
    """``got`` is x @ weights.T up to float32 rounding of the sums."""
    wide, acts = weights.astype(np.float64), x.astype(np.float64)
    error = np.abs(got - acts @ wide.T)
    assert (error <= 2e-6 * (np.abs(acts) @ np.abs(wide).T)).all()


@pytest.mark.parametrize("level", OTHER_LEVELS)
@pytest.mark.parametrize("kind", QUANTIZED)
def test_quantized_product_is_exact_on_exact_activations(kind: str, level: str) -> None:
    cols = 512 if encoding_named(kind).values == 256 else 96
    data = stored(kind, 45, cols)
    weights = decode(kind, data, (45, cols))
    x = exact_activations(15, cols)
    close(_native.Projection(kind, data, cols, level).apply(x), weights, x)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("kind", "code"), [("Q8_0", 0x7F), ("Q8_0", 0x80), ("Q4_0", 0xFF), ("Q4_0", 0x00)])
def test_the_largest_sums_of_codes_are_exact(kind: str, code: int, level: str) -> None:
    """All codes at one end, and all activations: sums come as near as can be to what the kernels hold."""
    cols = 96
    data = stored(kind, 16, cols)
    blocks = data.reshape(16, 3, -1)
    blocks[:, :, 2:] = code
    weights = decode(kind, data, (16, cols))
    x = np.full((26, cols), 127, np.float32)  # enough rows for tiles that are unpacked
    x[1::2] = -127
    got = _native.Projection(kind, data, cols, level).apply(x)
    if level in TILE_LEVELS:
        assert (np.abs(got - x.astype(np.float64) @ weights.astype(np.float64).T) <= bound(kind, data, x)).all()
    else:
        close(got, weights, x)


@pytest.mark.parametrize("level", TILE_LEVELS)
@pytest.mark.parametrize("kind", QUANTIZED)
def test_groups_give_the_same_bits_on_tiles(kind: str, level: str) -> None:
    """What a head is multiplied by: each row as it is alone, at a level without tiles, however many there are."""
    cols = 512 if encoding_named(kind).values == 256 else 96
    data = stored(kind, 45, cols, seed=3)
    x = np.random.default_rng(4).standard_normal((70, cols)).astype(np.float32)
    x[3] = 0.0
    x[5, 40] = np.nan
    plain, held = (_native.Projection(kind, data, cols, one, grouped=True) for one in (OTHER_LEVELS[0], level))
    wanted = plain.apply(x)
    assert np.isnan(wanted[5]).all() and np.isfinite(np.delete(wanted, 5, axis=0)).all()
    for rows in (1, 2, 3, 11, 12, 13, 16, 17, 27, 28, 32, 45, 64, 70):
        np.testing.assert_array_equal(held.apply(x[:rows]), wanted[:rows])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", DENSE)
@pytest.mark.parametrize(("rows", "outputs", "cols"), [(1, 130, 33), (3, 64, 7), (13, 17, 50)])
def test_dense_product_is_float32(kind: str, level: str, rows: int, outputs: int, cols: int) -> None:
    data = stored(kind, outputs, cols)
    x = np.random.default_rng(2).standard_normal((rows, cols)).astype(np.float32)
    close(_native.Projection(kind, data, cols, level).apply(x), decode(kind, data, (outputs, cols)), x)


@pytest.mark.parametrize("kind", QUANTIZED + DENSE)
def test_packing_keeps_every_weight(kind: str) -> None:
    data = stored(kind, 33, 256, seed=5)
    packed = _native.Projection(kind, data, 256)
    weights = decode(kind, data, (33, 256))
    for row in range(33):
        np.testing.assert_allclose(packed.row(row), weights[row], rtol=2e-7, atol=1e-9)


@pytest.mark.parametrize("kind", ["Q4_1", "Q6_K", "Q8_0"])
def test_quantized_activations_cost_little(kind: str) -> None:
    data = stored(kind, 64, 512, seed=3)
    weights = decode(kind, data, (64, 512))
    x = np.random.default_rng(4).standard_normal((4, 512)).astype(np.float32)
    got, exact = _native.Projection(kind, data, 512).apply(x), x @ weights.T
    assert np.linalg.norm(got - exact) <= 0.01 * np.linalg.norm(exact)


@pytest.mark.parametrize("kind", QUANTIZED + DENSE)
def test_a_row_has_the_same_bits_in_any_company(kind: str) -> None:
    x = np.random.default_rng(6).standard_normal((71, 256)).astype(np.float32)
    data = stored(kind, 83, 256)
    for family in [LEVELS] if kind in DENSE else [family for family in (OTHER_LEVELS, TILE_LEVELS) if family]:
        best = _native.Projection(kind, data, 256, family[0])
        together = best.apply(x)
        for first, last in [(0, 1), (1, 3), (3, 6), (6, 13), (13, 28), (28, 71), (70, 71)]:
            np.testing.assert_array_equal(best.apply(x[first:last]), together[first:last])
        for level in family:
            other = _native.Projection(kind, data, 256, level, threads=3)
            np.testing.assert_array_equal(other.apply(x), together, err_msg=level)


@pytest.mark.parametrize("level", LEVELS)
def test_awkward_activations(level: str) -> None:
    data = stored("Q4_1", 16, 96)
    x = np.zeros((4, 96), np.float32)
    x[1, 40] = 1e-38  # its inverse scale would overflow
    x[2] = 1e36 * np.sign(np.arange(96) - 50.5)
    x[3, :32] = np.arange(32)
    got = _native.Projection("Q4_1", data, 96, level).apply(x)
    assert not got[0].any() and np.isfinite(got).all()
    assert np.abs(got[1]).max() < 1e-30
    weights = decode("Q4_1", data, (16, 96))
    np.testing.assert_allclose(got[3], x[3] @ weights.T, rtol=0, atol=0.01 * np.abs(weights).sum())


def test_what_does_not_fit_is_refused() -> None:
    data = stored("Q4_0", 16, 96)
    for kind, columns in [("Q4_1", 96), ("Q4_0", 64), ("Q4_0", 100), ("IQ4_NL", 96), ("Q4_0", 0), ("Q4_0", -32)]:
        with pytest.raises(ValueError):
            _native.Projection(kind, data, columns)
    with pytest.raises(ValueError):
        _native.Projection("Q4_0", data, 96, level="avx1024")
    with pytest.raises(ValueError):
        _native.Projection("Q4_0", data, 96).apply(np.zeros((1, 64), np.float32))

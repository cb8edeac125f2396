"""Choosing tokens: the cpu backend's against the reference's, at every level and number of threads."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.ops import reference_sampling as reference
from tenfold.ops.base import Batch, Float32, Float64, Int32
from tenfold.ops.cpu import CpuOps, available_levels
from tests.helpers.models import random_weights, tiny_spec

KINDS = [(level, threads) for level in available_levels() for threads in (1, 3)]
Backends = dict[tuple[str, int], CpuOps]
WIDTHS = st.sampled_from([1, 5, 16, 63, 64, 65, 200, 1000, 9000, 20_001])


@pytest.fixture(scope="module")
def backends() -> Backends:
    weights = random_weights(tiny_spec(layers=1))
    return {(level, threads): CpuOps(weights, threads=threads, level=level) for level, threads in KINDS}


@st.composite
def rows(draw: st.DrawFn, special: bool = False) -> Float32:
    """Logits [R, width]: peaked or flat, with ties, with values that are not finite if ``special``."""
    width = draw(WIDTHS)
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    logits = (rng.normal(size=(draw(st.integers(1, 4)), width)) * draw(st.sampled_from([0.0, 0.3, 3, 30]))).astype(
        np.float32
    )
    step = draw(st.sampled_from([0.0, 0.5]))
    if step:
        logits = np.round(logits / np.float32(step)) * np.float32(step)  # many ties, and zeros of both signs
    if special:
        for value in draw(st.lists(st.sampled_from([np.nan, -np.nan, np.inf, -np.inf, -0.0]), max_size=3)):
            logits[rng.integers(len(logits)), rng.integers(width)] = value
    return logits


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(logits=rows(special=True))
def test_largest(backends: Backends, kind: tuple[str, int], logits: Float32) -> None:
    np.testing.assert_array_equal(backends[kind].largest(logits), reference.largest(logits))


@pytest.mark.parametrize("kind", KINDS)
def test_largest_knows_ties_zeros_and_what_is_not_finite(backends: Backends, kind: tuple[str, int]) -> None:
    logits = np.full((7, 130), -1, np.float32)
    logits[0, [70, 129]] = 2
    logits[1, [5, 100]] = -0.0, 0.0
    logits[2, [3, 99]] = np.inf, np.nan
    logits[3, [3, 99]] = 9, -np.nan
    logits[4, 128] = np.inf
    logits[5] = -np.inf
    logits[6, 1] = -np.inf
    assert backends[kind].largest(logits).tolist() == [70, 5, -1, -1, -1, -1, 0]


FILTERS = st.tuples(
    st.sampled_from([0.0, 1e-300, 0.01, 0.7, 1.0, 2.5, 100.0]),
    st.sampled_from([0, 0, 0, 1, 3, 40, 500, 10**6]),
    st.sampled_from([1.0, 1.0, 0.999, 0.9, 0.3, 1e-9]),
    st.sampled_from([0.0, 0.0, 0.02, 0.5, 1.0]),
    st.floats(0, 1, exclude_max=True),
)


def near(filters: Float64) -> list[Float64]:
    """The filters, and those whose cuts lie a little to each side: weights are float32."""
    found = [filters]
    sides = (1, 1 - 3e-5, 1 + 3e-5)
    # A draw at the very bottom meets weights that float32 rounds to nothing, each of another size.
    bottom = tuple(10.0**-power for power in range(9, 39))
    for p, m, a in itertools.product(sides, sides, (0.0, -3e-5, 3e-5, *bottom)):
        moved = filters.copy()
        moved[2] = min(1.0, moved[2] * p) if moved[2] < 1 else 1.0
        moved[3] = moved[3] * m
        moved[4] = min(max(0.0, moved[4] + a), 1 - 1e-16)
        found.append(moved)
    return found


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(logits=rows(), filters=st.lists(FILTERS, min_size=4, max_size=4))
def test_draw(backends: Backends, kind: tuple[str, int], logits: Float32, filters: list[tuple[float, ...]]) -> None:
    which = np.arange(len(logits), dtype=np.int32)
    asked = np.array(filters[: len(logits)], np.float64)
    got = backends[kind].draw(logits, which, asked)
    for i in np.flatnonzero(got != reference.draw(logits, which, asked)):
        allowed = {int(reference.draw(logits, which[i : i + 1], near_by[None])[0]) for near_by in near(asked[i])}
        assert got[i] in allowed, f"{got[i]} is not among {allowed} of {asked[i]}"


@settings(max_examples=60, deadline=None)
@given(logits=rows(special=True), filters=FILTERS)
def test_draws_have_the_same_bits_everywhere(backends: Backends, logits: Float32, filters: tuple[float, ...]) -> None:
    which = np.arange(len(logits), dtype=np.int32)
    asked = np.array([filters] * len(logits))
    first, *others = backends.values()
    drawn = first.draw(logits, which, asked)
    assert ((drawn == -1) == (first.largest(logits) == -1)).all()
    for other in others:
        np.testing.assert_array_equal(other.draw(logits, which, asked), drawn)
    for i in which:
        assert first.draw(logits, which[i : i + 1], asked[:1])[0] == drawn[i]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(logits=rows(special=True), count=st.integers(0, 20))
def test_summarize(backends: Backends, kind: tuple[str, int], logits: Float32, count: int) -> None:
    which = np.arange(len(logits), dtype=np.int32)[::-1].copy()
    count = min(count, logits.shape[1])
    sums, ids = backends[kind].summarize(logits, which, count)
    expected_sums, expected_ids = reference.summarize(logits, which, count)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_allclose(sums, expected_sums, rtol=1e-6, atol=1e-7)


@st.composite
def masked(draw: st.DrawFn) -> tuple[Float32, Int32, Int32]:
    """Logits, some of their rows, and a mask for each: of nothing, all, a few tokens or about half of them."""
    logits = draw(rows(special=True))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    which = rng.permutation(len(logits))[: draw(st.integers(1, len(logits)))].astype(np.int32)
    allowed = rng.random((len(which), logits.shape[1])) < draw(st.sampled_from([0.0, 1.0, 0.002, 0.5]))
    allowed = np.pad(allowed, ((0, 0), (0, -logits.shape[1] % 32)), constant_values=draw(st.booleans()))
    return logits, which, np.packbits(allowed, axis=1, bitorder="little").view(np.int32)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None)
@given(masked=masked(), filters=st.lists(FILTERS, min_size=4, max_size=4))
def test_masks(
    backends: Backends,
    kind: tuple[str, int],
    masked: tuple[Float32, Int32, Int32],
    filters: list[tuple[float, ...]],
) -> None:
    logits, which, bits = masked
    asked = np.array(filters[: len(which)], np.float64)
    got = backends[kind].draw_among(logits, which, bits, asked)
    np.testing.assert_array_equal(got, backends[KINDS[0]].draw_among(logits, which, bits, asked))
    for i in np.flatnonzero(got != reference.draw_among(logits, which, bits, asked)):
        one = which[i : i + 1], bits[i : i + 1]
        allowed = {int(reference.draw_among(logits, *one, near_by[None])[0]) for near_by in near(asked[i])}
        assert got[i] in allowed, f"{got[i]} is not among {allowed} of {asked[i]}"
    if np.isfinite(logits).all():
        np.testing.assert_array_equal(
            backends[kind].largest_among(logits, which, bits), reference.largest_among(logits, which, bits)
        )


def test_the_largest_among_some_of_the_models_own_logits(backends: Backends) -> None:
    """What was found on the way is taken, of the right rows."""
    ops, batch = backends[KINDS[0]], one_prompt(6)
    logits = ops.forward(batch, ops.new_kv(1, 16))
    rng = np.random.default_rng(5)
    bits = rng.integers(-(2**31), 2**31, size=(3, -(-logits.shape[1] // 32)), dtype=np.int32)
    which = np.array([4, 0, 5], np.int32)
    expected = reference.largest_among(logits, which, bits)
    np.testing.assert_array_equal(ops.largest_among(logits, which, bits), expected)


def one_prompt(length: int) -> Batch:
    positions = np.arange(length, dtype=np.int32)
    ends = np.array([0, length], np.int32)
    return Batch(positions, positions, ends, ends[1:], np.zeros((1, 1), np.int32), positions)


def test_bad_arguments_are_refused(backends: Backends) -> None:
    ops = backends[KINDS[0]]
    logits = np.zeros((2, 8), np.float32)
    rows_, filters = np.array([2], np.int32), np.zeros((1, 5))
    with pytest.raises(ValueError, match="no row 2"):
        ops.draw(logits, rows_, filters)
    with pytest.raises(ValueError, match="one set of filters"):
        ops.draw(logits, rows_[:0], filters)
    with pytest.raises(ValueError, match="five columns"):
        ops.draw(logits, rows_ - 1, np.zeros((1, 4)))
    with pytest.raises(ValueError, match="9 of 8"):
        ops.summarize(logits, rows_ - 1, 9)
    with pytest.raises(ValueError, match="no row 2"):
        ops.draw_among(logits, rows_, np.zeros((1, 1), np.int32), filters)
    with pytest.raises(ValueError, match="1 words per row"):
        ops.largest_among(logits, rows_ - 1, np.zeros((1, 2), np.int32))
    with pytest.raises(ValueError, match="1 words per row"):
        ops.draw_among(logits, rows_ - 1, np.zeros((2, 1), np.int32), filters)
    with pytest.raises(ValueError, match="one set of filters"):
        ops.draw_among(logits, rows_ - 1, np.zeros((1, 1), np.int32), filters[:0])
    with pytest.raises(ValueError, match="side by side"):
        ops.largest(logits[:, ::2])
    assert ops.largest(np.eye(4, dtype=np.float32)[::2]).tolist() == [0, 2]
    assert ops.largest(logits[:0]).tolist() == []
    assert ops.draw(logits, rows_[:0], filters[:0]).tolist() == []

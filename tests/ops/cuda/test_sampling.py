"""Choosing tokens on the device: plain and the kernels against the reference."""

from itertools import product
from types import ModuleType

import numpy as np
import pytest
import torch

from tenfold.ops import choosing
from tenfold.ops import reference_sampling as reference
from tenfold.ops.base import Float32, Float64
from tenfold.ops.choosing import Changes
from tenfold.ops.cuda.fused import sampling as fused
from tenfold.ops.cuda.plain import sampling as plain

pytestmark = pytest.mark.filterwarnings(
    *(f"ignore:{what} encountered" for what in ("overflow", "invalid value", "divide by zero"))
)  # of the interpreter, where that is as wanted

BOTH = pytest.mark.parametrize("sampling", [plain, fused], ids=["plain", "fused"])
NEAR = 1e-5  # of the mass: where a cut may be on either side
FILTERS = [  # temperature, top-k, top-p, min-p
    (0.0, 5, 0.5, 0.1),
    (1.0, 0, 1.0, 0.0),
    (0.2, 0, 1.0, 0.05),
    (1.5, 0, 1.0, 1.0),
    (1.0, 1, 1.0, 0.0),
    (1.0, 7, 1.0, 0.0),
    (2.0, 100, 1.0, 0.3),
    (1.0, 0, 0.9, 0.0),
    (1.0, 0, 1e-9, 0.0),
    (3.0, 0, 0.9999999, 0.0),
    (0.7, 40, 0.8, 0.02),
    (1e-6, 3, 0.99, 0.0),
    (1.0, 10**6, 0.6, 0.0),
    (0.5, 20, 0.0, 1.0),
]
DRAWN = (0.0, 0.37, 1 - 2.0**-53)
SHAPES = ("normal", "flat", "tied", "equal", "peaked", "forbidden")


def made(shape: str, width: int, seed: int) -> Float32:
    """A row of logits."""
    rng = np.random.default_rng(seed)
    row = rng.normal(size=width) * {"flat": 0.01, "equal": 0.0, "peaked": 30.0}.get(shape, 3.0)
    if shape == "tied":
        row = np.round(row * 2) / 2 * rng.choice([1.0, 1.0, -0.0], size=width)
    if shape == "forbidden":
        row[rng.random(width) < 0.7] = -np.inf
        row[rng.integers(width)] = -2.5
    return row.astype(np.float32)


def allowed(row: Float32, temperature: float, top_k: float, top_p: float, min_p: float, drawn: float) -> set[int]:
    """The tokens that the reference draws, or would if a bound or the number were ``NEAR``."""
    if temperature == 0:
        return {int(reference.largest(row[None])[0])}
    tokens: set[int] = set()
    for p, least in product({top_p, top_p + NEAR, top_p - NEAR}, {min_p, min_p * (1 + NEAR), min_p * (1 - NEAR)}):
        if top_p < 1:
            p = min(max(p, 0.0), 1 - 1e-12)
        ids, weights = reference._candidates(row, temperature, int(top_k), p if top_p < 1 else 1.0, min(least, 1.0))
        ends = np.cumsum(weights) / weights.sum()
        within = (ends >= drawn - NEAR) & (ends - weights / weights.sum() <= drawn + NEAR)
        tokens.update(int(token) for token in ids[within & (weights > 0)])
    return tokens


def check(sampling: ModuleType, logits: Float32, filters: Float64, device: torch.device) -> None:
    wide = torch.full((len(logits), logits.shape[1] + 3), torch.nan, device=device)  # a stride of its own
    view = wide[:, : logits.shape[1]]
    view.copy_(torch.from_numpy(logits))
    got = sampling.choose(view, torch.from_numpy(filters).to(device))
    assert got.dtype == torch.int32
    for row, each, token in zip(logits, filters.tolist(), got.tolist(), strict=True):
        assert token in allowed(row, *each), (each, token)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("width", [1, 5, 300])
def test_plain_chooses_as_the_reference(shape: str, width: int) -> None:
    filters = np.array([(*each, drawn) for each, drawn in product(FILTERS, DRAWN)])
    logits = np.stack([made(shape, width, seed) for seed in range(len(filters))])
    check(plain, logits, filters, torch.device("cpu"))
    exact = reference.draw(logits, np.arange(len(logits), dtype=np.int32), filters)
    got = plain.choose(torch.from_numpy(logits), torch.from_numpy(filters)).numpy()
    assert (got == exact).mean() > 0.98  # but for the last bits of sums


@pytest.mark.parametrize("width", [3, 260])
def test_kernels_choose_as_the_reference(device: torch.device, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several slices, more tokens than there is room for, and not."""
    for name, size in (("_SLICE", 128), ("_ROOM", 30), ("_BLOCK", 256)):
        monkeypatch.setattr(fused, name, size)
    every = [(*each, DRAWN[i % 3]) for i, each in enumerate(FILTERS if width > 3 else FILTERS[::3])]
    logits = np.stack([made(SHAPES[i % 6], width, i) for i in range(len(every))])
    check(fused, logits, np.array(every), device)


def test_kernels_never_choose_what_is_forbidden(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not where fewer tokens are left than top-k asks for, nor at the very end of the distribution."""
    monkeypatch.setattr(fused, "_ROOM", 8)
    logits = np.stack([made("forbidden", 100, seed) for seed in range(2)])
    every = np.array([(0.3, 90, 1.0, 0.0, DRAWN[2]), (0.3, 90, 0.9999, 0.0, DRAWN[2])])
    check(fused, logits, every, device)


def test_kernels_choose_at_their_own_sizes(device: torch.device) -> None:
    every = np.array([(1.0, 0, 0.95, 0.0, 0.6), (0.8, 0, 1.0, 0.0, 0.9), (1.0, 50, 0.9, 0.1, 0.8)])
    logits = np.stack([made("normal", 5001, seed) for seed in range(3)])
    check(fused, logits, every, device)


@BOTH
def test_largest(sampling: ModuleType, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_SLICE", 128)
    monkeypatch.setattr(fused, "_BLOCK", 128)
    logits = np.full((9, 130), -1, np.float32)
    logits[0, [70, 129]] = 2
    logits[1, [5, 100]] = -0.0, 0.0
    logits[2, [3, 99]] = np.inf, np.nan
    logits[3, [3, 99]] = 9, -np.nan
    logits[4, 128] = np.inf
    logits[5] = -np.inf
    logits[6, 1:] = -np.inf
    logits[7, :2] = np.nan, 5
    logits[8, 2:] = -np.inf
    tensor = torch.from_numpy(logits).to(device)
    wanted = [70, 5, -1, -1, -1, -1, 0, -1, 0]
    assert sampling.largest(tensor).tolist() == wanted == reference.largest(logits).tolist()
    for filters in ((1.0, 0, 1, 0, 0.0), (1.0, 3, 0.5, 0, 0.0)):
        chosen = sampling.choose(tensor[2:], torch.tensor([filters] * 7, dtype=torch.float64, device=device))
        assert [token < 0 for token in chosen.tolist()] == [token < 0 for token in wanted[2:]]


@BOTH
@pytest.mark.parametrize("count", [0, 8])
def test_summarize(sampling: ModuleType, count: int, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("_SLICE", 128), ("_ROOM", 40), ("_BLOCK", 128)):
        monkeypatch.setattr(fused, name, size)
    logits = np.stack([made(shape, 150, 7) for shape in (*SHAPES, "normal")])
    logits[-1, 4] = np.nan
    sums, ids = reference.summarize(logits, np.arange(len(logits), dtype=np.int32), count)
    largest, log_sum, best, values = sampling.summarize(torch.from_numpy(logits).to(device), count)
    np.testing.assert_array_equal(largest.cpu(), sums[:, 0].astype(np.float32))
    np.testing.assert_allclose(log_sum.cpu(), sums[:, 1], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(best.cpu(), ids)
    finite = np.isfinite(logits.max(axis=1))
    wanted = np.take_along_axis(logits, np.maximum(ids, 0), axis=1)
    np.testing.assert_array_equal(values.cpu()[finite], wanted[finite])


@BOTH
def test_summarize_gives_no_more_than_there_are(sampling: ModuleType, device: torch.device) -> None:
    row = torch.tensor([[1.0, -np.inf, 1.0]], device=device)
    _, _, ids, values = sampling.summarize(row, 9)
    assert ids.tolist() == [[0, 2, 1]] and values.tolist() == [[1.0, 1.0, -np.inf]]


@BOTH
def test_no_rows(sampling: ModuleType, device: torch.device) -> None:
    logits = torch.empty((0, 40), device=device)
    assert sampling.largest(logits).shape == (0,)
    assert sampling.choose(logits, torch.empty((0, 5), dtype=torch.float64, device=device)).shape == (0,)
    assert sampling.summarize(logits, 4)[2].shape == (0, 4)
    none = torch.empty(0, dtype=torch.int32, device=device)
    sampling.change(logits, none, none, none.float(), none.float())
    sampling.mask(logits, none, torch.empty((0, 2), dtype=torch.int32, device=device))


@BOTH
def test_change(sampling: ModuleType, device: torch.device) -> None:
    logits = made("normal", 70, 1).reshape(2, 35)
    logits[1, 3] = -np.inf
    rows = np.array([0, 0, 1, 1, 1, 0, 0, 1], np.int32)
    ids = np.array([3, 34, 3, 7, 8, 3, 3, 9], np.int32)
    scale = np.array([1.3, 1.3, 2, 2, 1, 1, 1, 1], np.float32)
    amount = np.array([0, 0.5, 0, 0, 1.25, 0.25, -2, np.inf], np.float32)
    tensors = [torch.from_numpy(part).to(device) for part in (rows, ids, scale, amount)]
    got = torch.from_numpy(logits).to(device).clone()
    sampling.change(got, *tensors)
    choosing._change(logits, Changes(rows, ids, scale, amount))
    np.testing.assert_allclose(got.cpu(), logits, rtol=1e-6, atol=1e-6)


@BOTH
@pytest.mark.parametrize("width", [5, 32, 70])
def test_mask(sampling: ModuleType, width: int, device: torch.device) -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(4, width)).astype(np.float32)
    bits = rng.integers(-(2**31), 2**31, size=(2, -(-width // 32)), dtype=np.int32)
    got = torch.from_numpy(logits).to(device).clone()
    sampling.mask(got, torch.tensor([2, 0], dtype=torch.int32, device=device), torch.from_numpy(bits).to(device))
    for row, own in zip((2, 0), bits, strict=True):
        allowed = np.unpackbits(own.view(np.uint8), count=width, bitorder="little")
        logits[row][allowed == 0] = -np.inf
    np.testing.assert_array_equal(got.cpu(), logits)

"""Tokens of rows that grammars hold: chosen among all first, then among those that may come."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tenfold.ops.base import Float32, Float64, Int32
from tenfold.ops.choosing import Changes, Chosen, Wanted, choose
from tenfold.ops.cpu import CpuOps
from tenfold.ops.cuda.choosing import choose as choose_on_device
from tenfold.ops.cuda.plain import sampling as device
from tenfold.ops.reference import ReferenceOps
from tests.helpers.models import random_weights, tiny_spec

VOCAB = 45
OPS = ("reference", "cpu", "cuda")


@dataclass
class Some:
    """``allowed`` [M, vocab] of ``rows``; of the tokens ``unsure`` nothing is told before the bits are made."""

    rows: Int32
    allowed: NDArray[np.bool_]
    unsure: tuple[int, ...] = ()
    made: int = 0
    only: Int32 | None = None

    def forced(self) -> Int32:
        return np.full(len(self.rows), -1, np.int32) if self.only is None else self.only

    def allow(self, which: NDArray[np.intp], tokens: Int32) -> NDArray[np.bool_]:
        return self.allowed[which, tokens] & ~np.isin(tokens, self.unsure)

    def bits(self, which: NDArray[np.intp]) -> Int32:
        self.made += len(which)
        padded = np.pad(self.allowed[which], ((0, 0), (0, -VOCAB % 32)))
        return np.packbits(padded, axis=1, bitorder="little").view(np.int32)


def answer(name: str, logits: Float32, wanted: Wanted) -> Chosen:
    if name == "cuda":
        previous = torch.zeros(len(logits), dtype=torch.int32)
        return choose_on_device(device, torch.from_numpy(logits.copy()), wanted, previous).result()
    weights = random_weights(tiny_spec(layers=1))
    ops = CpuOps(weights, threads=2) if name == "cpu" else ReferenceOps(weights)
    return choose(ops, logits.copy(), wanted).result()


def chosen(name: str, logits: Float32, masks: Some, filters: Float64) -> list[int]:
    return answer(name, logits, Wanted(filters, masks=masks)).tokens.tolist()


def draws(count: int, temperature: float = 0.9, top_p: float = 1.0) -> Float64:
    filters = np.zeros((count, 5))
    filters[:] = temperature, 0, top_p, 0, 0
    filters[:, 4] = np.random.default_rng(4).random(count)
    return filters


@pytest.mark.parametrize("name", OPS)
def test_draws_follow_what_is_left_of_the_distribution(name: str) -> None:
    rng, count = np.random.default_rng(3), 6000
    logits = np.repeat(rng.normal(size=(1, VOCAB)).astype(np.float32), count, axis=0)
    allowed = rng.random(VOCAB) < 0.5
    masks = Some(np.arange(count, dtype=np.int32), np.repeat(allowed[None], count, axis=0))
    tokens = chosen(name, logits, masks, draws(count))
    weights = np.exp(logits[0].astype(np.float64) / 0.9) * allowed
    wanted = weights / weights.sum() * count
    counts = np.bincount(tokens, minlength=VOCAB)
    assert not counts[~allowed].any()
    chi = ((counts - wanted)[allowed] ** 2 / wanted[allowed]).sum()
    assert chi < allowed.sum() + 4 * np.sqrt(2 * allowed.sum())


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("greedy", [True, False])
def test_a_token_that_may_come_stays(name: str, greedy: bool) -> None:
    """Also one of which that is seen only in the bits; rows without a mask are as without masks."""
    rng, count = np.random.default_rng(5), 60
    logits = rng.normal(size=(count, VOCAB)).astype(np.float32) * 2
    filters = draws(count, top_p=0.9)
    if greedy:
        filters[:, [0, 4]] = 0
    held = np.arange(1, count, 2, dtype=np.int32)
    everything = Some(held, np.ones((len(held), VOCAB), bool))
    free = chosen(name, logits, everything, filters)
    some = Some(held, rng.random((len(held), VOCAB)) < 0.4, unsure=(3, 7))
    got = chosen(name, logits, some, filters)
    for row in range(count):
        may = row % 2 == 0 or some.allowed[row // 2, free[row]]
        assert (got[row] == free[row]) == may
        assert row % 2 == 0 or some.allowed[row // 2, got[row]]
        if greedy and not may:
            assert got[row] == np.where(some.allowed[row // 2], logits[row], -np.inf).argmax()


@pytest.mark.parametrize("name", OPS)
def test_nothing_may_come(name: str) -> None:
    logits = np.random.default_rng(6).normal(size=(4, VOCAB)).astype(np.float32)
    nothing = Some(np.array([1, 3], np.int32), np.zeros((2, VOCAB), bool))
    filters = draws(4)
    filters[3, [0, 4]] = 0
    got = chosen(name, logits, nothing, filters)
    assert [token >= 0 for token in got] == [True, False, True, False]


@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_masks_are_made_only_where_a_token_may_not_come(name: str) -> None:
    logits = np.zeros((3, VOCAB), np.float32)
    logits[:, 8] = 30.0
    masks = Some(np.arange(3, dtype=np.int32), np.ones((3, VOCAB), bool))
    masks.allowed[1, 8] = False
    tokens = chosen(name, logits, masks, draws(3))
    assert tokens[0] == tokens[2] == 8 != tokens[1]
    assert masks.made == 1


@pytest.mark.parametrize("name", OPS)
def test_the_only_token_comes_as_if_it_had_been_chosen(name: str) -> None:
    """Greedy rows and ones that draw, one with a penalty, one whose logits are damaged."""
    rng, count = np.random.default_rng(8), 20
    logits = rng.normal(size=(count, VOCAB)).astype(np.float32)
    logits[4] = np.nan
    filters = draws(count, top_p=0.7)
    filters[::2, [0, 4]] = 0
    only = rng.integers(0, VOCAB, count - 1).astype(np.int32)
    masks = Some(np.arange(1, count, dtype=np.int32), np.eye(VOCAB, dtype=bool)[only])
    changes = Changes(np.array([6], np.int32), only[5:6], np.ones(1, np.float32), np.full(1, 9.0, np.float32))
    before = answer(name, logits, Wanted(filters, changes, masks))
    masks.only, masks.made = np.where(np.arange(count - 1) % 5 == 2, -1, only).astype(np.int32), 0
    found = answer(name, logits, Wanted(filters, changes, masks))
    assert found.tokens.tolist() == before.tokens.tolist()
    assert found.finite.tolist() == before.finite.tolist() == [row != 4 for row in range(count)]
    assert [*found.tokens[1:4], *found.tokens[5:]] == [*only[:3], *only[4:]]
    assert name == "cuda" or masks.made <= 4


@pytest.mark.parametrize("name", OPS)
def test_what_is_adjusted_is_held_too_and_told_as_it_was(name: str) -> None:
    """Greedy rows with and without a penalty, rows that draw; log-probabilities are of the logits before either."""
    rng, count = np.random.default_rng(7), 40
    logits = rng.normal(size=(count, VOCAB)).astype(np.float32)
    best = logits.argmax(axis=1).astype(np.int32)
    penalized = np.arange(0, count, 3, dtype=np.int32)
    amount = np.full(len(penalized), 1.5, np.float32)
    changes = Changes(penalized, best[penalized], np.ones(len(penalized), np.float32), amount)
    filters = draws(count)
    filters[: count // 2, [0, 4]] = 0
    masks = Some(np.arange(1, count, dtype=np.int32), rng.random((count - 1, VOCAB)) < 0.6)
    told = np.arange(0, count, 2, dtype=np.int32)
    found = answer(name, logits, Wanted(filters, changes, masks, told, top=2))
    assert found.tokens.tolist() == answer("reference", logits, Wanted(filters, changes, masks)).tokens.tolist()
    adjusted = logits.copy()
    adjusted[penalized, best[penalized]] -= 1.5
    adjusted[1:][~masks.allowed] = -np.inf
    assert found.tokens[: count // 2].tolist() == adjusted[: count // 2].argmax(axis=1).tolist()
    assert found.summary is not None
    np.testing.assert_array_equal(found.summary.own, logits[told, found.tokens[told]])
    np.testing.assert_array_equal(found.summary.ids[:, 0], best[told])

"""Random models and batches: against the reference, against themselves, and with poison in them.

Few examples by default; TENFOLD_FUZZ=50 runs fifty times as many, other ones each time.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tenfold.model.decoder import forward
from tenfold.model.encodings import make_tensor
from tenfold.ops.base import Batch, Float32
from tenfold.ops.reference import PagedKv, ReferenceOps
from tenfold.ops.tensors import Tensor, Weights
from tests.helpers.digits import OTHER_LEVELS, TILE_LEVELS, Whole, whole
from tests.helpers.fuzz import DENSE, HALVES, Case, Dice, large_case, random_case
from tests.helpers.models import LEVELS, Slice, make_batch
from tests.helpers.rounding import codes_up_to, stored_kv, to_bf16

Test = TypeVar("Test", bound=Callable[..., None])
TIMES = int(os.environ.get("TENFOLD_FUZZ", "1"))


def fuzz(count: int) -> Callable[[Test], Test]:
    """Runs a test over ``count`` seeds: nothing to shrink, so a failure is there at once, with its seed."""
    chosen = settings(
        max_examples=count * TIMES,
        deadline=None,
        derandomize=TIMES == 1,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )
    return lambda test: chosen(given(seed=st.integers(0, 2**32 - 1))(test))


class RoundingReference(ReferenceOps):
    """The reference with the roundings that native/README.md names: activations, queries, keys and values.

    With ``tiles``, also those of weights, as levels with a tile unit make whole numbers of them, but for the head's.
    """

    def __init__(self, weights: Weights, kv_type: str, tiles: bool) -> None:
        super().__init__(weights)
        self.kv_type = kv_type
        self.tiles = tiles
        self._whole: dict[str, Whole] = {}

    def _linear(self, x: Float32, name: str) -> Float32:
        tensor = self._weights[name]
        if tensor.kind in DENSE:
            return super()._linear(x, name)
        if not self.tiles or name in ("embed", "head"):
            return super()._linear(codes_up_to(x.reshape(len(x), x.shape[1] // 32, 32), 127).reshape(x.shape), name)
        if name not in self._whole:
            self._whole[name] = whole(tensor.kind, tensor.data, tensor.shape[1], fine=name.endswith(".v"))
        return self._whole[name].product(x)

    def round_query(self, q: Float32) -> Float32:
        """``q`` with its scale in it, without the scale, as attention takes it: in units of log2 e."""
        units = np.float32(np.log2(np.e))
        rounded = to_bf16(q * units) if self.kv_type == "bf16" else codes_up_to(q * units, 8191)
        return rounded / (units * np.float32(self.spec.query_scale))

    def qkv(self, layer: int, x: Float32, batch: Batch, kv: PagedKv) -> Float32:
        before = [memory[layer].copy() for memory in (kv.k, kv.v)]
        q = super().qkv(layer, x, batch, kv)
        for memory, was in zip((kv.k, kv.v), before, strict=True):
            memory[layer] = stored_kv(memory[layer], was, self.kv_type)
        return q


def near(got: Float32, wanted: Float32, tolerance: float, most: float = 0.0) -> None:
    """Within ``tolerance`` of the largest; with ``most``, nine in ten are and all are within that."""
    wanted = wanted.reshape(got.shape)
    assert np.isfinite(got).all()
    error = np.abs(got - wanted) / max(float(np.abs(wanted).max(initial=0.0)), 1e-3)
    assert error.max(initial=0.0) <= max(tolerance, most)
    assert got.size == 0 or np.mean(error <= tolerance) >= 0.9


def follow_reference(case: Case) -> None:
    weights = case.weights()
    ops, oracle = case.ops(weights), RoundingReference(weights, case.kv_type, tiles=case.level in TILE_LEVELS)
    _, _, blocks = case.layout()
    kv, kv_oracle = ops.new_kv(blocks, case.block_size), oracle.new_kv(blocks, case.block_size)
    # Float32 sums in another order; with codes, one that lies on the edge of two may fall to the other side: a step
    # of 1/127 of a group's peak, or 1/32512 of a row's, in an op or (for the MLP) in two of them one after the other.
    exact = {weights[name].kind for name in weights.tensors} <= set(DENSE)
    linear = 1e-4 if exact else 5e-4 if case.level in TILE_LEVELS else 3e-2
    # Besides, softmax weights have 8 bits (bf16) or 16; and where a stored key lies on the edge of two, a step of its
    # own rounding moves a score, by most in small heads.
    attention = (6e-3 if case.kv_type == "bf16" else 2e-3) + (0.0 if exact else 3e-2)
    texts, tables, _ = case.layout()
    batches = [
        make_batch([Slice(text[: part.start], 0, table, [])])
        for part, text, table in zip(case.parts, texts, tables, strict=True)
        if part.start
    ]
    batches.append(
        make_batch(
            Slice(text[part.start :], part.start, table, part.rows)
            for part, text, table in zip(case.parts, texts, tables, strict=True)
        )
    )
    for batch in batches:
        x = ops.embed(batch)
        near(x.numpy(), oracle.embed(batch), 1e-6)
        for layer in range(case.spec.layers):
            # The reference continues from what the kernels gave, so that errors do not add up.
            before = x.numpy()
            q, wanted = ops.qkv(layer, x, batch, kv), oracle.qkv(layer, before, batch, kv_oracle)
            near(q.numpy(), wanted * np.float32(case.spec.query_scale), linear)
            queries = oracle.round_query(q.numpy().reshape(wanted.shape))
            a = ops.attend(layer, q, batch, kv)
            near(a.numpy(), oracle.attend(layer, queries, batch, kv_oracle), attention, 0.1)
            attended = a.numpy()
            x = ops.attn_out(layer, a, x)
            near(x.numpy(), oracle.attn_out(layer, attended, before), linear)
            before = x.numpy()
            x = ops.mlp(layer, x)
            near(x.numpy(), oracle.mlp(layer, before), linear)
        near(ops.logits(x, batch), oracle.logits(x.numpy(), batch), 1e-4 if exact else 3e-2)


@fuzz(25)
def test_every_op_follows_the_reference(seed: int) -> None:
    follow_reference(random_case(seed))


@fuzz(2)
def test_every_op_follows_the_reference_with_very_many_rows(seed: int) -> None:
    follow_reference(large_case(seed))


def same_bits_as(case: Case, level: str, weights: Weights) -> bool:
    """Whether ``level``'s attention sums as all others' do: the tile unit's with bfloat16 keys does not."""
    return case.ops(weights, level=level).model.attend_arithmetic(case.kv_type) != "amx-bf16"


def compare_with_alone(case: Case, dice: Dice, most: int) -> None:
    """A row of each of up to ``most`` sequences has the bits that it has in a step of its own."""
    weights = case.weights()
    together = case.run(case.ops(weights))
    texts = case.layout()[0]
    firsts = np.cumsum([0, *(len(part.rows) for part in case.parts)])
    assert firsts[-1] == len(together)
    for s in dice.rng.permutation(len(texts))[:most]:
        part, text = case.parts[s], texts[s]
        pick = dice.between(0, len(part.rows) - 1)
        end = part.start + part.rows[pick] + 1
        cut = dice.between(0, end - 1)
        ops = case.ops(weights, threads=dice.between(1, 3))
        size = dice.one_of((16, 32, 48))
        blocks = range(-(-end // size))
        kv = ops.new_kv(len(blocks), size)
        if cut:
            forward(ops, kv, make_batch([Slice(text[:cut], 0, blocks, [])]))
        alone = forward(ops, kv, make_batch([Slice(text[cut:end], cut, blocks)]))
        np.testing.assert_array_equal(alone[0], together[firsts[s] + pick])


@fuzz(20)
def test_a_rows_bits_depend_on_its_sequence_alone(seed: int) -> None:
    compare_with_alone(random_case(seed), Dice(seed + 1), most=7)


@fuzz(6)
def test_a_rows_bits_depend_on_its_sequence_alone_among_very_many(seed: int) -> None:
    compare_with_alone(large_case(seed), Dice(seed + 1), most=6)


@fuzz(15)
def test_levels_agree_to_the_bit(seed: int) -> None:
    case = random_case(seed).within(300)
    weights = case.weights()
    dense = {weights[name].kind for name in weights.tensors} <= set(DENSE)
    for levels in (LEVELS,) if dense else (OTHER_LEVELS, TILE_LEVELS):
        runs = [case.run(case.ops(weights, level=level)) for level in levels if same_bits_as(case, level, weights)]
        for other in runs[1:]:
            np.testing.assert_array_equal(other, runs[0])


POISONS = {"nan": np.nan, "infinite": np.inf, "huge": 3e38, "subnormal": 1e-40}
HALF_POISONS = POISONS | {"huge": 65504.0, "subnormal": 1e-7}


def poisoned(tensor: Tensor, kind: str, row: int) -> Tensor:
    """``tensor`` with one of ``POISONS`` as the first weight of ``row``, or as the first scale."""
    if tensor.kind in ("F32", "BF16"):
        raw = np.array([POISONS[kind]], np.float32).view(np.uint8)[0 if tensor.kind == "F32" else 2 :]
    else:
        raw = np.array([HALF_POISONS[kind]], np.float16).view(np.uint8)
    at = HALVES.get(tensor.kind, (0,))[0]
    data = tensor.data.copy()
    data[row, at : at + len(raw)] = raw
    return make_tensor(tensor.name, tensor.kind, tensor.shape, data)


@pytest.mark.parametrize("kind", POISONS)
@fuzz(6)
def test_poison_stays_in_its_sequence(kind: str, seed: int) -> None:
    """A token whose embedding is no number changes nothing before itself and nothing in other sequences."""
    case, dice = random_case(seed), Dice(seed + 1)
    case = replace(case, spec=replace(case.spec, vocab=case.spec.vocab + 1, tied_head=False))
    bad = case.spec.vocab - 1
    weights = case.weights()
    weights = Weights(case.spec, dict(weights.tensors) | {"embed": poisoned(weights["embed"], kind, bad)})
    ops = case.ops(weights)
    texts, tables, blocks = case.layout()
    texts = [[min(token, bad - 1) for token in text] for text in texts]
    victim = dice.between(0, len(texts) - 1)
    part = case.parts[victim]
    place = dice.between(0, part.count - 1)

    def run(poison: bool) -> Float32:
        kv = ops.new_kv(blocks, case.block_size)
        if poison:  # what a sequence that is gone left in all the blocks
            stale = [bad] * (blocks * case.block_size)
            forward(ops, kv, make_batch([Slice(stale, 0, range(blocks), [])]))
        slices = []
        for s, (p, text, table) in enumerate(zip(case.parts, texts, tables, strict=True)):
            now = list(text)
            if poison and s == victim:
                now[p.start + place] = bad
            if p.start:
                forward(ops, kv, make_batch([Slice(now[: p.start], 0, table, [])]))
            slices.append(Slice(now[p.start :], p.start, table, range(p.count)))
        return forward(ops, kv, make_batch(slices)).copy()

    wanted, got = run(False), run(True)
    first = sum(p.count for p in case.parts[:victim])
    changed = slice(first + place, first + part.count)
    np.testing.assert_array_equal(np.delete(got, changed, axis=0), np.delete(wanted, changed, axis=0))
    if kind in ("nan", "infinite"):
        assert not np.isfinite(got[first + place]).all()


@pytest.mark.parametrize("kind", POISONS)
@fuzz(6)
def test_poisoned_weights_show(kind: str, seed: int) -> None:
    """Logits that are no numbers in the reference are none here: a broken model is not made to look sound."""
    case, dice = random_case(seed).within(300), Dice(seed + 1)
    # A softcap turns the infinite into numbers.
    case = replace(case, spec=replace(case.spec, windows=(0,) * case.spec.layers, logit_softcap=0.0))
    weights = case.weights()
    name = dice.one_of([name for name, tensor in weights.tensors.items() if len(tensor.shape) == 2])
    row = dice.between(0, weights[name].shape[0] - 1)
    weights = Weights(case.spec, dict(weights.tensors) | {name: poisoned(weights[name], kind, row)})
    runs = [case.run(case.ops(weights, level=level)) for level in dict.fromkeys((LEVELS[0], case.level))]
    if kind not in ("nan", "infinite"):
        return
    oracle = ReferenceOps(weights)
    texts, tables, blocks = case.layout()
    with np.errstate(all="ignore"):
        wanted = forward(oracle, oracle.new_kv(blocks, case.block_size), make_batch([Slice(texts[0], 0, tables[0])]))[0]
    for run in runs:
        assert not np.isfinite(run[len(case.parts[0].rows) - 1][~np.isfinite(wanted)]).any()

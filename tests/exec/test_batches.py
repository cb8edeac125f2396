"""The batch a step's arrays make is the same whether it is made anew or from the batch before."""

import dataclasses

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.core.plan import NEXT_TOKEN, SequenceSlice
from tenfold.exec.batches import Batches

BLOCK = 4


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[SequenceSlice, ...]]:
    """Steps of sequences that decode, prefill, come, go and swap places."""
    lengths: dict[str, int] = {}
    tables: dict[str, tuple[int, ...]] = {}
    steps = []
    for step in range(draw(st.integers(1, 12))):
        if not lengths or draw(st.booleans()):
            lengths.setdefault(draw(st.sampled_from("abcde")), 0)
        slices = []
        for name in list(lengths):
            if draw(st.integers(0, 9)) == 0:
                lengths[name] = 0  # preempted, or its name used again
                tables[name] = ()
            count = draw(st.sampled_from([1, 1, 1, 1, 3])) if lengths[name] else draw(st.integers(1, 6))
            start, lengths[name] = lengths[name], lengths[name] + count
            needed = -(-lengths[name] // BLOCK)
            if len(tables.get(name, ())) < needed:
                tables[name] = tuple(draw(st.integers(0, 99)) for _ in range(needed))
            tokens = tuple(range(step, step + count))
            sample = draw(st.sampled_from([True, True, False]))
            drafted = draw(st.sampled_from([0, count - 1])) if sample else 0
            slices.append(SequenceSlice(name, start, tokens, tables[name], sample, drafted))
        if draw(st.integers(0, 4)) == 0:
            slices.reverse()
        steps.append(tuple(slices))
    return steps


@settings(max_examples=200, deadline=None)
@given(histories())
def test_made_from_the_one_before_or_anew(steps: list[tuple[SequenceSlice, ...]]) -> None:
    batches = Batches()
    made = []
    for slices in steps:
        batch, expected = batches.make(slices), Batches().make(slices)
        for field in dataclasses.fields(batch):
            got, want = getattr(batch, field.name), getattr(expected, field.name)
            assert got.dtype == np.int32
            assert got.flags.c_contiguous
            if field.name == "tables":
                for s, part in enumerate(slices):
                    np.testing.assert_array_equal(got[s, : len(part.blocks)], part.blocks)
            else:
                np.testing.assert_array_equal(got, want)
        made.append((batch, {f.name: getattr(batch, f.name).copy() for f in dataclasses.fields(batch)}))
    for batch, before in made:
        for name, values in before.items():
            np.testing.assert_array_equal(getattr(batch, name), values, "a batch's arrays changed after it was made")


@settings(max_examples=200, deadline=None)
@given(histories(), st.lists(st.booleans(), min_size=12, max_size=12))
def test_tokens_that_the_step_before_gives(steps: list[tuple[SequenceSlice, ...]], ahead: list[bool]) -> None:
    """They are told by where they stand among what that step samples; all else is as if they were known."""
    batches, before = Batches(), list[str]()
    for slices, awaits in zip(steps, ahead, strict=False):
        slices = tuple(msgspec.structs.replace(part, drafted=0) for part in slices)
        expected = Batches().make(slices)
        wanted = expected.tokens.copy()
        for s, part in enumerate(slices):
            if awaits and part.id in before and part.sample and len(part.tokens) == 1:
                wanted[expected.starts[s]] = -1 - before.index(part.id)
        known = {-1 - i for i in range(len(before))}
        made = batches.make(
            tuple(
                msgspec.structs.replace(part, tokens=(NEXT_TOKEN,)) if wanted[expected.starts[s]] in known else part
                for s, part in enumerate(slices)
            )
        )
        np.testing.assert_array_equal(made.tokens, wanted)
        assert made.tokens.dtype == np.int32
        np.testing.assert_array_equal(made.positions, expected.positions)
        np.testing.assert_array_equal(made.rows, expected.rows)
        before = [part.id for part in slices if part.sample]

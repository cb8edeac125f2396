"""A row's bits depend on nothing but its own sequence; and wrong indices never reach memory.

Levels with a tile unit have an arithmetic of their own for quantized weights, alike among themselves.
"""

import dataclasses
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.core.config import KV_TYPES
from tenfold.model.decoder import forward
from tenfold.ops.base import Float32
from tenfold.ops.cpu import CpuOps, available_levels, cpu_features, emulated_levels
from tests.helpers.digits import OTHER_LEVELS, TILE_LEVELS
from tests.helpers.models import LEVELS, Slice, make_batch, random_weights, rope, tiny_spec

SPEC: dict[str, Any] = {
    "windows": (0, 90),
    "rope_local": rope(16, 100.0),
    "heads": 6,
    "kv_heads": 2,
    "max_context": 2048,
}
LONG = 600  # several softmax chunks
ALIKE = tuple(levels for levels in (OTHER_LEVELS, TILE_LEVELS) if levels)  # that give the same bits
TEXTS = [[int(t) for t in np.random.default_rng(20 + i).integers(0, 160, n)] for i, n in enumerate((LONG, 70, 33))]


def make_ops(kind: str = "Q4_1", **settings: Any) -> CpuOps:
    return CpuOps(random_weights(tiny_spec(**SPEC), seed=8, kind=kind), **settings)


def whole(ops: CpuOps, text: list[int]) -> Float32:
    """Logits of all positions, computed in one chunk, alone."""
    blocks = -(-len(text) // 16)
    batch = make_batch([Slice(text, 0, range(blocks), range(len(text)))])
    return forward(ops, ops.new_kv(blocks, 16), batch).copy()


@pytest.fixture(scope="module")
def expected() -> list[Float32]:
    ops = make_ops(threads=1)
    return [whole(ops, text) for text in TEXTS]


@pytest.fixture(scope="module")
def expected_of() -> dict[str, list[Float32]]:
    """By level; computed by the first of those that are alike."""
    found = {}
    for levels in ALIKE:
        ops = make_ops(threads=1, level=levels[0])
        logits = [whole(ops, text) for text in TEXTS]
        found |= dict.fromkeys(levels, logits)
    return found


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_levels_and_threads_give_the_same_bits(level: str, threads: int, expected_of: dict[str, list[Float32]]) -> None:
    """Heads are too small here for the tile unit's own attention."""
    ops = make_ops(threads=threads, level=level)
    shortest = -1 if level == "portable" else 0
    np.testing.assert_array_equal(whole(ops, TEXTS[shortest]), expected_of[level][shortest])


@pytest.mark.parametrize("levels", ALIKE, ids=" ".join)
@pytest.mark.parametrize("kind", ["Q4_1", "Q8_0"])
def test_levels_and_chunkings_give_the_same_bits_with_int8_keys(kind: str, levels: tuple[str, ...]) -> None:
    first, *others = [whole(make_ops(kind, level=level, kv_type="int8"), TEXTS[1]) for level in levels]
    for other in others:
        np.testing.assert_array_equal(other, first)
    for level in dict.fromkeys((levels[0], levels[-1])):
        ops = make_ops(kind, threads=2, kv_type="int8", level=level)
        kv = ops.new_kv(8, 16)
        for start, end in ((0, 3), (3, 20), (20, 21), (21, 70)):
            batch = make_batch([Slice(TEXTS[1][start:end], start, range(5), range(end - start))])
            np.testing.assert_array_equal(forward(ops, kv, batch), first[start:end])


@pytest.mark.skipif(len(TILE_LEVELS) < 2, reason="no tile unit beside the emulated one")
@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_1", "Q8_0"])
def test_the_tile_unit_and_its_emulation_give_the_same_bits(kind: str) -> None:
    """With int8 keys, whose sums are whole numbers. Of bfloat16 ones, the two may round last bits in another way."""
    sizes = {"hidden": 192, "head_dim": 32, "rope_local": rope(32, 100.0), "rope": rope(32, 10000.0)}
    weights = random_weights(tiny_spec(**SPEC | sizes), seed=8, kind=kind)
    first, *others = [CpuOps(weights, threads=2, level=level, kv_type="int8") for level in TILE_LEVELS]
    for other in others:
        np.testing.assert_array_equal(whole(other, TEXTS[0][:300]), whole(first, TEXTS[0][:300]))


@pytest.mark.parametrize("kv_type", KV_TYPES["cpu"])
@pytest.mark.parametrize("size", [16, 48])
def test_a_shared_prefix_read_once_changes_no_bit(kv_type: str, size: int) -> None:
    # Fourteen sequences: three with nothing in common, the others with 528 or 288 tokens; not all as long.
    spec = SPEC | {"windows": (0, 0)}
    ops = CpuOps(random_weights(tiny_spec(**spec), seed=8, kind="Q4_1"), threads=2, kv_type=kv_type)
    kv, taken, sequences = ops.new_kv(400 * 16 // size, size), 0, []
    for i in range(14):
        shared = 0 if i < 3 else 528 if i % 3 else 288
        own = TEXTS[0][:shared] + [int(t) for t in np.random.default_rng(i).integers(0, 160, 20 + 17 * i)]
        first = sequences[3][1] if i > 3 else []
        count = -(-len(own) // size) - len(first[: shared // size])
        sequences.append((own, [*first[: shared // size], *range(taken, taken + count)]))
        taken += count
    for tokens, blocks in sequences:  # fills the KV memory
        forward(ops, kv, make_batch([Slice(tokens[:-1], 0, blocks, [])]))
    last = [Slice(tokens[-1:], len(tokens) - 1, blocks) for tokens, blocks in sequences]
    alone = [forward(ops, kv, make_batch([part]))[0].copy() for part in last]
    np.testing.assert_array_equal(forward(ops, kv, make_batch(last)), alone)
    np.testing.assert_array_equal(forward(ops, kv, make_batch(last[::-1])), alone[::-1])


@pytest.mark.parametrize("kind", ["F32", "BF16"])
def test_levels_give_the_same_bits_with_dense_weights(kind: str) -> None:
    first, *others = [whole(make_ops(kind, level=level), TEXTS[1]) for level in LEVELS]
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_decoding_one_by_one_equals_the_prompt_at_once(expected: list[Float32]) -> None:
    ops = make_ops(threads=2)
    kv = ops.new_kv(40, 16)
    forward(ops, kv, make_batch([Slice(TEXTS[0][:500], 0, range(38), [])]))
    for position in range(500, LONG):
        logits = forward(ops, kv, make_batch([Slice(TEXTS[0][position : position + 1], position, range(38))]))
        np.testing.assert_array_equal(logits[0], expected[0][position])


def test_no_level_that_the_cpu_runs_is_left_out() -> None:
    found, features = available_levels(), set(cpu_features())
    vectors = {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"} <= features
    assert ("avx512" in found) == vectors and ("avx512bf16" in found) == (vectors and "avx512_bf16" in features)
    assert found[-1] == "portable" and found == available_levels()


def test_the_emulated_tile_unit_is_among_the_tested_levels() -> None:
    assert emulated_levels() == (("amx-emulated",) if "avx2" in available_levels() else ())


@pytest.mark.parametrize(("kind", "distance"), [("F32", 0.05), ("Q4_1", 0.08)])  # of Q4_1, linears differ too
def test_the_tile_units_own_attention_is_invariant_too(kind: str, distance: float) -> None:
    spec = SPEC | {"hidden": 192, "head_dim": 32, "rope_local": rope(32, 100.0), "rope": rope(32, 10000.0)}
    weights = random_weights(tiny_spec(**spec), seed=8, kind=kind)
    text, without = TEXTS[0][:300], next(level for level in available_levels() if not level.startswith("amx"))
    wanted = whole(CpuOps(weights, level=without), text)
    for level in [level for level in LEVELS if level.startswith("amx")]:
        ops = CpuOps(weights, threads=2, level=level)
        expected = whole(ops, text)
        assert 0 < np.linalg.norm(expected - wanted) <= distance * np.linalg.norm(wanted)
        kv = ops.new_kv(40, 16)
        for start, end in ((0, 1), (1, 2), (2, 35), (35, 36), (36, 290), (290, 300)):
            parts = [Slice(text[start:end], start, range(19), range(end - start)), Slice([5], 0, [39])]
            got = forward(ops, kv, make_batch(parts))
            np.testing.assert_array_equal(got[:-1], expected[start:end])


@settings(max_examples=12, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_company_chunking_and_blocks(seed: int, expected: list[Float32]) -> None:
    rng = np.random.default_rng(seed)
    ops = make_ops(threads=int(rng.integers(1, 4)))
    size = int(rng.choice([16, 32, 48]))
    order = [int(b) for b in rng.permutation(64)]
    tables, used = [], 0
    for text in TEXTS:
        count = -(-len(text) // size)
        tables.append(order[used : used + count])
        used += count
    kv = ops.new_kv(64, size)
    done = [0] * len(TEXTS)
    while any(d < len(t) for d, t in zip(done, TEXTS, strict=True)):
        picks = rng.permutation(3)[: rng.integers(1, 4)]
        slices, wanted = [], []
        for s in picks:
            count = min(int(rng.choice([1, 2, 15, 64, 250])), len(TEXTS[s]) - done[s])
            if count == 0:
                continue
            slices.append(Slice(TEXTS[s][done[s] : done[s] + count], done[s], tables[s], range(count)))
            wanted.append(expected[s][done[s] : done[s] + count])
            done[s] += count
        if slices:
            np.testing.assert_array_equal(forward(ops, kv, make_batch(slices)), np.concatenate(wanted))


def test_other_sequences_stale_memory_takes_no_part(expected: list[Float32]) -> None:
    ops = make_ops(threads=2)
    kv = ops.new_kv(8, 16)
    # Blocks full of the keys of a model whose weights are all not numbers.
    broken = random_weights(tiny_spec(**SPEC), seed=9)
    huge = {k: dataclasses.replace(v, data=np.full_like(v.data, 0xFF)) for k, v in broken.tensors.items()}
    poison = CpuOps(dataclasses.replace(broken, tensors=huge))
    forward(poison, kv, make_batch([Slice([1] * 128, 0, range(8))]))
    logits = forward(ops, kv, make_batch([Slice(TEXTS[1], 0, range(5), range(70))]))
    np.testing.assert_array_equal(logits, expected[1])


GOOD = make_batch([Slice([1, 2, 3], 17, [2, 0]), Slice([4], 0, [1])])


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("tokens", [1, 2, 3, 160]),
        ("tokens", [1, -1, 3, 4]),
        ("positions", [17, 18, 18, 0]),
        ("positions", [18, 19, 20, 0]),
        ("starts", [0, 5, 4]),
        ("starts", [1, 3, 4]),
        ("starts", [0, 3, 3]),
        ("starts", [0, 3]),
        ("starts", []),
        ("context", [20, 0]),
        ("context", [4096, 1]),
        ("rows", [2, 4]),
        ("rows", [3, 3]),
        ("rows", [-1]),
        ("tables", [[2, 0]]),
        ("tables", [[2], [1]]),
        ("tables", [[2, 3], [1, 0]]),
        ("tables", [[-1, 0], [1, 0]]),
    ],
)
def test_indices_out_of_range_raise(field: str, values: list[Any]) -> None:
    ops = make_ops(threads=1)
    kv = ops.new_kv(3, 16)
    wanted = forward(ops, kv, GOOD).copy()
    with pytest.raises(ValueError):
        forward(ops, kv, dataclasses.replace(GOOD, **{field: np.array(values, np.int32)}))
    np.testing.assert_array_equal(forward(ops, kv, GOOD), wanted)  # the model is as usable as before


def test_entries_past_the_last_block_are_never_read() -> None:
    ops = make_ops(threads=1)
    kv = ops.new_kv(3, 16)
    wanted = forward(ops, kv, GOOD).copy()
    tables = GOOD.tables.copy()
    tables[1, 1] = -7
    np.testing.assert_array_equal(forward(ops, kv, dataclasses.replace(GOOD, tables=tables)), wanted)


def test_foreign_memory_and_layers_raise() -> None:
    ops = make_ops(threads=1)
    other = CpuOps(random_weights(tiny_spec(head_dim=32, max_context=2048)))
    x = ops.embed(GOOD)
    with pytest.raises(ValueError, match="another model"):
        ops.qkv(0, x, GOOD, other.new_kv(3, 16))
    kv = ops.new_kv(3, 16)
    q = ops.qkv(0, x, GOOD, kv)
    with pytest.raises(ValueError):
        ops.attend(0, q, GOOD, ops.new_kv(3, 16))
    for layer in (-1, 2):
        with pytest.raises(ValueError, match="layer"):
            ops.mlp(layer, x)
    with pytest.raises(TypeError):
        ops.embed(dataclasses.replace(GOOD, tokens=GOOD.tokens.astype(np.int64)))  # type: ignore[arg-type]


def test_models_in_several_threads_are_independent(expected: list[Float32]) -> None:
    results: dict[int, Float32] = {}

    def run(index: int) -> None:
        ops = make_ops(threads=2)
        for _ in range(3):
            results[index] = whole(ops, TEXTS[1])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(3):
        np.testing.assert_array_equal(results[index], expected[1])

"""Ragged paged attention: plain torch against the reference, kernels against plain torch, and the plan's promises."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tenfold.ops.base import Batch
from tenfold.ops.cuda.attention_plan import (
    INVARIANT_KEYS,
    KEY_TILE,
    AttentionPlan,
    Padding,
    items_capacity,
    plan_attention,
)
from tenfold.ops.cuda.device_plan import DevicePlan
from tenfold.ops.cuda.fused import attention as fused
from tenfold.ops.cuda.fused.decode_attention import DecodeShape
from tenfold.ops.cuda.fused.prefill_attention import PrefillShape, gather_kv
from tenfold.ops.cuda.plain import attention as plain
from tenfold.ops.reference import PagedKv, ReferenceOps
from tests.helpers.models import random_weights, tiny_spec

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Slices = list[tuple[int, int]]  # (context, new rows) of each sequence

DECODE: Slices = [(1, 1), (33, 1), (300, 1), (0, 1), (128, 1)]
DRAFTS: Slices = [(40, 3), (5, 2), (260, 4)]
PREFILL: Slices = [(150, 150), (200, 70)]
MIXED: Slices = [(300, 1), (140, 140), (0, 1), (180, 50), (20, 20)]


@dataclass(frozen=True)
class Case:
    """Random queries over a random cache, whose slots that no sequence owns hold no numbers."""

    q: Tensor
    k: Tensor
    v: Tensor
    starts: Tensor
    context: Tensor
    tables: Tensor
    slices: Slices

    @property
    def group(self) -> int:
        return self.q.shape[1] // self.k.shape[1]

    def plan(self, window: int = 0, processors: int = 4, **settings: Any) -> DevicePlan:
        plan = plan_of(self.slices, self.group, self.k.shape[1], window=window, processors=processors, **settings)
        return DevicePlan.of(plan, torch.from_numpy(plan.pack()).to(self.q.device))

    def dense(self, tensor: Tensor) -> Tensor:
        """The keys or values [T, K, D] of the step's own rows."""
        size, rows = self.k.shape[2], []
        for s, (context, new) in enumerate(self.slices):
            position = torch.arange(max(context - new, 0), max(context, new))
            rows.append(tensor[self.tables[s, position // size].long(), :, position % size])
        return torch.cat(rows)


def plan_of(slices: Slices, group: int, kv_heads: int, **settings: Any) -> AttentionPlan:
    starts = np.cumsum([0, *(new for _, new in slices)]).astype(np.int32)
    context = np.array([context for context, _ in slices], np.int32)
    padding = settings.get("padding")
    if padding is not None:  # sequences without rows
        starts = np.append(starts, [starts[-1]] * (padding.sequences - len(slices))).astype(np.int32)
        context = np.append(context, [0] * (padding.sequences - len(slices))).astype(np.int32)
    return plan_attention(starts, context, **{"group": group, "kv_heads": kv_heads, "window": 0} | settings)


def case(
    slices: Slices, *, heads: int = 4, kv_heads: int = 2, dim: int = 16, block_size: int = 16, seed: int = 0
) -> Case:
    made = np.random.default_rng(seed)
    counts = [-(-max(context, new, 1) // block_size) for context, new in slices]
    blocks = made.permutation(sum(counts) + 2)
    tables = np.full((len(slices), max(counts)), 1 << 30, np.int32)  # entries past the last block are never read
    caches = [np.full((len(blocks), kv_heads, block_size, dim), np.nan, np.float32) for _ in range(2)]
    for s, count in enumerate(counts):
        tables[s, :count], blocks = blocks[:count], blocks[count:]
        for position in range(max(slices[s])):
            for cache in caches:
                row = made.standard_normal((kv_heads, dim))
                cache[tables[s, position // block_size], :, position % block_size] = row
    starts = np.cumsum([0, *(new for _, new in slices)]).astype(np.int32)
    q = made.standard_normal((starts[-1], heads, dim)).astype(np.float32) * np.float32(dim**-0.5)
    context = np.array([context for context, _ in slices], np.int32)
    return Case(*(torch.from_numpy(x).to(DEVICE) for x in (q, *caches, starts, context, tables)), slices)


def recast(of: Case, q: Tensor, k: Tensor, v: Tensor) -> Case:
    return Case(q, k, v, of.starts, of.context, of.tables, of.slices)


def run(module: Any, of: Case, plan: DevicePlan, **options: Any) -> Tensor:
    out = torch.full((len(of.q), of.q[0].numel()), float("nan"), dtype=of.q.dtype, device=DEVICE)
    options = {"window": plan.host.window, "softcap": 0.0} | options
    module.attend(of.q, of.k, of.v, plan, of, out=out, **options)
    return out


def check(of: Case, plan: DevicePlan, tolerance: float = 2e-6, **options: Any) -> Tensor:
    got = run(fused, of, plan, **options)
    wanted = run(plain, of, plan, **{name: options[name] for name in options if name in ("softcap", "dense")})
    assert torch.isfinite(got).all()
    assert (got - wanted).abs().max() <= tolerance * wanted.abs().max()
    return got


@pytest.mark.parametrize("window", [0, 7])
def test_plain_equals_the_reference(window: int) -> None:
    of = case([(s, min(s, n)) for s, n in MIXED if s])
    spec = tiny_spec(layers=1, windows=(window,), query_scale=1.0)
    positions = np.concatenate([np.arange(c - n, c) for c, n in of.slices]).astype(np.int32)
    none = np.zeros(0, np.int32)
    batch = Batch(none, positions, *(x.cpu().numpy() for x in (of.starts, of.context, of.tables)), none)
    kv = PagedKv(*(x.transpose(1, 2).nan_to_num().cpu().numpy()[None] for x in (of.k, of.v)))
    wanted = ReferenceOps(random_weights(spec)).attend(0, of.q.cpu().numpy(), batch, kv)
    got = run(plain, of, of.plan(window))
    np.testing.assert_allclose(got.cpu().numpy(), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("slices", "sizes", "window"),
    [
        (DECODE, {}, 0),
        (DECODE, {"heads": 9, "kv_heads": 1, "dim": 80, "block_size": 32}, 70),
        (DECODE, {"heads": 3, "kv_heads": 3, "dim": 64, "block_size": 64}, 0),
        (DECODE[1:3], {"heads": 70, "kv_heads": 1}, 0),
        (DRAFTS, {"heads": 7, "kv_heads": 1, "dim": 24}, 0),
        (DRAFTS[:2], {"heads": 16, "kv_heads": 1, "dim": 256}, 9),
        (PREFILL, {"heads": 2, "kv_heads": 1}, 0),
        (PREFILL[1:], {"heads": 3, "kv_heads": 1, "dim": 80, "block_size": 64}, 0),
        (PREFILL, {"heads": 3, "kv_heads": 1, "dim": 128, "block_size": 32}, 45),
        (MIXED, {"heads": 4, "kv_heads": 1, "dim": 64}, 0),
        (MIXED, {"heads": 5, "kv_heads": 1}, 30),
    ],
    ids=lambda x: str(x) if isinstance(x, dict | int) else len(x),
)
def test_kernels_equal_plain(slices: Slices, sizes: dict[str, int], window: int) -> None:
    of = case(slices, **sizes)
    plan = of.plan(window, processors=2)
    dense = None
    if plan.host.fresh:
        dense = of.dense(of.k), of.dense(of.v)
    check(of, plan, dense=dense)


def test_both_kernels_are_meant() -> None:
    for slices, tiles, items in ((DECODE, 0, 5), (PREFILL, 5, 0), (MIXED, 4, 3)):
        plan = case(slices).plan(processors=2, tile_rows=128)
        assert plan.tiles.shape[1] == tiles and plan.items.shape[1] >= items


def test_softcap() -> None:
    of = case([(70, 1), (130, 40)], kv_heads=1)
    of.q.mul_(8)
    free, capped = (check(of, of.plan(processors=2, dense=False), softcap=cap, tolerance=1e-5) for cap in (0.0, 3.0))
    assert (free - capped).abs().max() > 0.1


@pytest.mark.parametrize("shape", [PrefillShape(32, 4, 2, gather=True), PrefillShape(64, 4, 2, tma=False, apart=False)])
def test_shapes_of_prefill(shape: PrefillShape) -> None:
    of = case(PREFILL, heads=2, kv_heads=1)
    plan = of.plan(processors=2, tile_rows=64)
    check(of, plan, prefill=shape, dense=(of.dense(of.k), of.dense(of.v)))


def test_keys_in_the_rows_of_a_wider_buffer() -> None:
    of = case([(150, 150)], heads=2)
    rows = torch.cat([of.q, of.dense(of.k), of.dense(of.v)], 1)  # [T, H + 2 K, D]
    heads = of.q.shape[1]
    check(of, of.plan(processors=2), dense=(rows[:, heads : heads + 2], rows[:, heads + 2 :]))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_values_of_other_sequences_do_not_matter() -> None:
    of = case([(150, 150), (140, 140)], heads=1, kv_heads=1)
    k, v = of.dense(of.k), of.dense(of.v)
    alone = run(fused, of, of.plan(processors=2), dense=(k, v))[:150]
    k[150:], v[150:] = float("nan"), float("inf")
    torch.testing.assert_close(run(fused, of, of.plan(processors=2), dense=(k, v))[:150], alone, rtol=0, atol=0)


@pytest.mark.parametrize(("slices", "dim"), [(DECODE, 80), ([(180, 50), (33, 1)], 16)], ids=["decode", "prefill"])
def test_fp8_keys_and_values(slices: Slices, dim: int) -> None:
    of = case(slices, kv_heads=1, dim=dim)
    k, v = ((x.nan_to_num() * 3).to(torch.float8_e4m3fn) for x in (of.k, of.v))
    of = recast(of, of.q, k, v)
    # Weights are rounded to float16 in the split kernel; prefill converts keys and values to the queries' type.
    check(of, of.plan(processors=2, dense=False), tolerance=2e-3)


def test_every_number_of_fp8_is_read_exactly() -> None:
    numbers = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    numbers = numbers[torch.isfinite(numbers.float())]
    of = case([(len(numbers), 1)], heads=2, dim=16)
    v = torch.zeros(of.v.shape)
    for position, number in enumerate(numbers.float()):
        v[of.tables[0, position // 16], :, position % 16] = number
    k, v = (x.to(numbers.dtype).to(DEVICE) for x in (torch.zeros(of.k.shape), v))
    for position in (0, 1, 126, 130, 253):  # a window of one key: its value is the answer
        last = torch.tensor([position + 1], dtype=torch.int32, device=DEVICE)
        one = Case(torch.zeros_like(of.q), k, v, of.starts, last, of.tables, [(position + 1, 1)])
        assert (run(fused, one, one.plan(window=1)) == numbers.float()[position].item()).all()


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_numbers_of_two_bytes(kind: str) -> None:
    if kind == "bfloat16" and DEVICE == "cpu":
        pytest.skip("the interpreter multiplies no matrices of bfloat16")
    of = case([(130, 130), (0, 1), (180, 50)], heads=2, kv_heads=1, dim=64)
    of = recast(of, *(x.to(getattr(torch, kind)) for x in (of.q, of.k, of.v)))
    dense = of.dense(of.k), of.dense(of.v)
    plan = of.plan(processors=2)
    got, wanted = (run(module, of, plan, dense=dense).float() for module in (fused, plain))
    assert (got - wanted).abs().max() <= (0.02 if kind == "bfloat16" else 0.003) * wanted.abs().max()


def test_many_parts_of_few_keys() -> None:
    of = case([(600, 1), (300, 2), (3, 1)], heads=1, kv_heads=1)
    plan = of.plan(processors=6)
    assert plan.host.piece_count == 2 and plan.host.item_count >= 8
    check(of, plan)
    check(of, plan, decode=DecodeShape(16, 4, 2))


def test_a_graph_serves_every_step_of_its_shape() -> None:
    first, second = ([(300, 1), (20, 1), (0, 1)], [(1, 1), (600, 1), (133, 1)])
    of, other = (case(slices, heads=2, kv_heads=1, seed=i) for i, slices in enumerate((first, second)))
    padding = Padding(3, 3, decode=True)
    plan, later = of.plan(padding=padding), other.plan(padding=padding)
    assert len(plan.host.pack()) == len(later.host.pack())
    shared = torch.from_numpy(plan.host.pack().copy())
    captured = DevicePlan.of(plan.host, shared)
    assert torch.equal(run(fused, of, captured), run(fused, of, of.plan(padding=padding)))
    shared.copy_(torch.from_numpy(later.host.pack()))
    torch.testing.assert_close(run(fused, other, captured), run(plain, other, later), rtol=0, atol=1e-6)


@pytest.mark.parametrize("window", [0, 60])
@pytest.mark.parametrize("kind", ["float32", "fp8"])
def test_a_graph_serves_prompts_and_decode(kind: str, window: int) -> None:
    """Of other numbers of sequences and of rows, with keys and values read where they lie."""
    parts = [(300, 1), (150, 70), (70, 70)], [(20, 1), (9, 1), (600, 1), (133, 40)], [(40, 2)]
    padding = Padding(192, 4, decode=False)
    steps = [case(slices, heads=4, kv_heads=2, seed=i) for i, slices in enumerate(parts)]
    if kind == "fp8":
        steps = [recast(of, of.q, *(x.to(torch.float8_e4m3fn) for x in (of.k, of.v))) for of in steps]
    plans = [of.plan(window, padding=padding) for of in steps]
    shared = torch.from_numpy(plans[0].host.pack().copy())
    captured = DevicePlan.of(plans[0].host, shared)
    for of, plan in zip(steps, plans, strict=True):
        assert plan.host.rows == plans[0].host.rows and len(plan.host.pack()) == len(shared)
        assert not plan.host.copies.size and not plan.host.fresh
        shared.copy_(torch.from_numpy(plan.host.pack()))
        got, wanted = (run(module, of, one, dense=None).float() for module, one in ((fused, captured), (plain, plan)))
        assert (got - wanted).abs().max() <= (0.003 if kind == "fp8" else 1e-6) * wanted.abs().max()


@pytest.mark.parametrize("window", [0, 300])
def test_an_invariant_row_depends_on_itself_alone(window: int) -> None:
    slices = [(40, 40), (560, 20), (2, 1)]
    whole = case(slices, heads=3, kv_heads=1)
    together = check(whole, whole.plan(window, processors=1, invariant=True))
    for before, count in ((19, 1), (3, 5)):  # rows of the second sequence, in a step of their own
        context = 540 + before + count
        one = Case(
            whole.q[40 + before : 40 + before + count].contiguous(), whole.k, whole.v,
            *(torch.tensor(x, dtype=torch.int32, device=DEVICE) for x in ([0, count], [context])), whole.tables[1:2],
            [(context, count)],
        )  # fmt: skip
        for processors in (1, 64):  # one program adds the parts, or the merging one does
            plan = one.plan(window, processors=processors, invariant=True)
            assert torch.equal(run(fused, one, plan), together[40 + before : 40 + before + count])
    assert plan.host.piece_count


def test_gathered_keys() -> None:
    of = case([(150, 150), (333, 50), (200, 60)])
    plan = of.plan(window=100, processors=2)
    k, _ = gather_kv(of.k, of.v, plan, of, torch.float32)
    assert plan.host.gathered == len(k) == 333 - 128 + 200
    for sequence, key, row in plan.copies.T.tolist():
        position = torch.arange(key, min(key + KEY_TILE, of.slices[sequence][0]))
        wanted = of.k[of.tables[sequence, position // 16].long(), :, position % 16]
        assert torch.equal(k[row : row + len(position)], wanted)


def test_a_tile_of_keys_is_gathered_at_least() -> None:
    of = case([(150, 150), (200, 70), (270, 70)], heads=2, kv_heads=1)
    plan = of.plan(window=1, processors=2, dense=False)
    assert plan.copies[:2].T.tolist() == [[0, 0], [0, 128], [1, 0], [1, 128], [2, 128], [2, 256]]
    check(of, plan, prefill=PrefillShape(128, 4, 2, gather=True))


@st.composite
def steps(draw: st.DrawFn) -> tuple[Slices, dict[str, Any]]:
    slices = []
    for _ in range(draw(st.integers(1, 6))):
        new = draw(st.integers(1, 3) | st.integers(1, 400))
        slices.append((new + draw(st.just(0) | st.integers(0, 3000)), new))
    slices += [(draw(st.integers(1, 3000)), 1)] * draw(st.just(0) | st.integers(0, 150))
    settings = {
        "group": draw(st.sampled_from((1, 3, 4, 9, 70))),
        "kv_heads": draw(st.sampled_from((1, 2, 8))),
        "window": draw(st.sampled_from((0, 0, 1, 100, 1024))),
        "processors": draw(st.sampled_from((1, 16, 132))),
        "invariant": draw(st.booleans()),
        "dense": draw(st.booleans()),
    }
    if draw(st.booleans()):
        rows, more = sum(new for _, new in slices), draw(st.integers(0, 40))
        settings["padding"] = Padding(rows + more, len(slices) + more // 8, decode=False)
    return slices, settings


@given(steps())
@settings(max_examples=40, deadline=None)
def test_every_row_and_key_is_in_one_program(step: tuple[Slices, dict[str, Any]]) -> None:
    slices, given_settings = step
    plan = plan_of(slices, **given_settings)
    group, window = plan.group, plan.window
    seen: list[list[list[int]]] = [[[] for _ in range(new * group)] for _, new in slices]
    for sequence, flat, first, end, _ in plan.items.T[: plan.item_count].tolist():
        assert first % KEY_TILE == 0 and (not plan.chunk or first % INVARIANT_KEYS == 0)
        for row in range(flat, min(flat + plan.rows, len(seen[sequence]))):
            seen[sequence][row] += [first, end]
    for sequence, flat, base in plan.tiles.T[: plan.tile_count].tolist():
        context, new = slices[sequence]
        assert (context >= KEY_TILE or "padding" in given_settings) and new * group > 64 and not plan.chunk
        for row in range(flat, min(flat + plan.tile_rows, new * group)):
            seen[sequence][row] += [0, context]
        if context == new and plan.fresh:
            assert base == sum(n for _, n in slices[:sequence])
    for (context, new), rows in zip(slices, seen, strict=True):
        for flat, bounds in enumerate(rows):
            position = context - new + flat // group
            ranges = sorted(zip(bounds[::2], bounds[1::2], strict=True))
            assert ranges[0][0] <= (max(0, position - window + 1) if window else 0)
            assert ranges[-1][1] > position
            assert all(a[1] == b[0] for a, b in pairwise(ranges))


@given(steps())
@settings(max_examples=30, deadline=None)
def test_pieces_find_their_parts(step: tuple[Slices, dict[str, Any]]) -> None:
    slices, given_settings = step
    plan = plan_of(slices, **given_settings)
    items, pieces = plan.items[:, : plan.item_count], plan.pieces[:, : plan.piece_count]
    assert (np.diff(items[3] - items[2]) <= 0).all()
    slots = {int(slot): i for i, slot in enumerate(items[4]) if slot >= 0}
    assert sorted(slots) == list(range(len(slots)))
    for sequence, flat, slot, count in pieces.T.tolist():
        parts = [items[:, slots.pop(slot + i)].tolist() for i in range(count)]
        assert count > 1 and all(part[:2] == [sequence, flat] for part in parts)
        assert all(a[3] == b[2] for a, b in pairwise(parts))
    assert not slots
    if "padding" not in given_settings:
        assert plan.piece_count == plan.pieces.shape[1] and plan.item_count == plan.items.shape[1]
        assert plan.tile_count == plan.tiles.shape[1]


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=20), st.sampled_from((1, 4, 70)), st.booleans())
@settings(max_examples=40, deadline=None)
def test_padded_plans_of_one_shape_have_one_size(contexts: list[int], group: int, invariant: bool) -> None:
    padding = Padding(len(contexts), len(contexts), decode=True)
    settings = {"group": group, "kv_heads": 8, "processors": 132, "padding": padding, "invariant": invariant}
    plan = plan_of([(context, 1) for context in contexts], **settings)
    idle = plan_of([(0, 1)] * len(contexts), **settings)
    assert plan.items.shape == idle.items.shape and plan.pieces.shape == idle.pieces.shape
    assert plan.item_count <= plan.items.shape[1]
    assert invariant or plan.items.shape[1] == items_capacity(len(contexts), group, 8, 132)
    assert (plan.rows, plan.used_rows) == (idle.rows, idle.used_rows)
    assert not plan.tiles.size and not plan.copies.size


@given(steps(), st.integers(0, 5000))
@settings(max_examples=40, deadline=None)
def test_and_so_have_those_of_prompts(step: tuple[Slices, dict[str, Any]], more: int) -> None:
    """Whatever their contexts, where ``rows`` are the same."""
    slices, given_settings = step
    rows, sequences = sum(new for _, new in slices), len(slices)
    given_settings["padding"] = Padding(rows, sequences, decode=False)
    plan = plan_of(slices, **given_settings)
    other = plan_of([(context + more, new) for context, new in slices], **given_settings)
    assert plan.item_count <= plan.items.shape[1] and plan.tile_count <= plan.tiles.shape[1]
    assert plan.piece_count <= plan.pieces.shape[1]
    if plan.rows == other.rows:
        assert len(plan.pack()) == len(other.pack())
        assert (plan.used_rows, plan.tile_rows) == (other.used_rows, other.tile_rows)


def test_a_plan_refuses_what_does_not_fit_its_padding() -> None:
    for slices, padding in (
        ([(1000, 1000)], Padding(1, 1, decode=True)),
        ([(9, 9)], Padding(8, 1, decode=False)),
        ([(9, 1)] * 3, Padding(8, 2, decode=False)),
    ):
        with pytest.raises(ValueError, match="do not fit"):
            plan_of(slices, 4, 8, processors=132, padding=padding)


def test_work_is_even() -> None:
    """The longest item takes a fair share: full rounds of programs, or enough of them to be handed out evenly."""
    for contexts in ([4096] * 32, [32768] * 8, [4096], list(range(500, 8000, 250))):
        plan = plan_of([(c, 1) for c in contexts], 4, 8, processors=132)
        share = sum(contexts) * 8 / 264
        longest = int((plan.items[3] - plan.items[2]).max())
        assert longest <= max(1.1 * share, 256)


def test_few_rows_of_a_long_context_are_split() -> None:
    plan = plan_of([(16000, 60)], 4, 8, processors=132)
    assert not plan.tiles.size and plan.item_count > 8
    assert plan_of([(16000, 512)], 4, 8, processors=132).tiles.shape[1] == 16

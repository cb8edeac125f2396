"""How a batch's attention is cut: all of it once, evenly for the threads, in memory that stays."""

import json
import os
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tenfold.model.decoder import forward
from tenfold.ops.base import Batch
from tenfold.ops.cpu import CpuOps
from tests.helpers.allocations import BATCHES
from tests.helpers.models import Slice, make_batch, random_weights, rope, tiny_spec

CHUNK = 256  # keys that no cut goes through
ROOT = Path(__file__).parent.parent.parent


def make_ops(threads: int, **sizes: Any) -> CpuOps:
    fields = {"max_context": 8192, "ffn": 32, "rope_local": rope(16, 100.0)} | sizes
    return CpuOps(random_weights(tiny_spec(**fields), kind="Q4_1"), threads=threads)


def decodes(*contexts: int) -> Batch:
    """One new token of each of the sequences, which share no block."""
    slices, taken = [], 0
    for context in contexts:
        blocks = -(-context // 16)
        slices.append(Slice([1], context - 1, range(taken, taken + blocks)))
        taken += blocks
    return make_batch(slices)


def items_of(ops: CpuOps, batch: Batch) -> list[tuple[int, list[int], int, int, int]]:
    forward(ops, ops.new_kv(int(batch.tables.max()) + 1, 16), batch)
    return ops.model.attend_items()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_row_meets_every_key_of_its_window_once(threads: int) -> None:
    windows = (0, 90, 400)
    ops = make_ops(threads, layers=3, windows=windows)
    for batch in (*BATCHES, decodes(4000, 10, 300)):
        items = items_of(ops, batch)
        met: set[tuple[int, int, int, int]] = set()
        for window, rows, head, first, end in items:
            for one in product([window], rows, [head], range(first, end, CHUNK)):
                assert one not in met
                met.add(one)
        wanted = {
            (window, row, head, chunk * CHUNK)
            for window, head, (row, position) in product(windows, range(2), enumerate(batch.positions.tolist()))
            for chunk in range((max(0, position - window + 1) if window else 0) // CHUNK, position // CHUNK + 1)
        }
        assert met >= wanted
        # Rows of one item see different keys: some nothing of its first chunk or of its last.
        assert len(met) - len(wanted) <= sum(len(rows) for _, rows, *_ in items if len(rows) > 1)


@pytest.mark.parametrize("threads", [2, 4])
@pytest.mark.parametrize("heads", [(4, 1), (6, 3)])
@pytest.mark.parametrize(
    "contexts",
    [(8000, *[64] * 15), (*[200] * 15, 6000), (4000, 60, 60, 60), (2000,) * 3, (600,) * 16, (3000,)],
    ids=str,
)
def test_no_thread_is_left_with_much_more_than_its_share(
    contexts: tuple[int, ...], heads: tuple[int, int], threads: int
) -> None:
    ops = make_ops(threads, heads=heads[0], kv_heads=heads[1])
    loads = [0] * threads
    for _, (row,), _, first, end in items_of(ops, decodes(*contexts)):
        loads[loads.index(min(loads))] += min(end, contexts[row]) - first
    assert sum(loads) == sum(contexts) * heads[1]
    assert max(loads) <= 1.15 * sum(loads) / threads


def test_one_thread_alone_reads_on_without_cuts() -> None:
    ops = make_ops(1)
    assert len(items_of(ops, decodes(4000, 60))) == 2 * 2  # sequences, KV heads


@pytest.mark.parametrize("kv_type", ["bf16", "int8"])
def test_cuts_and_what_was_planned_before_change_no_bit(kv_type: str) -> None:
    weights = random_weights(tiny_spec(windows=(0, 300), rope_local=rope(16, 100.0), max_context=2048), kind="Q4_1")
    batches = [*BATCHES, *BATCHES[::-1], decodes(1900, 100, 30, 700)]

    def logits(ops: CpuOps, batch: Batch) -> np.ndarray:
        kv = ops.new_kv(300, 16)
        fill = make_batch([Slice([int(t) for t in np.arange(1500) % 150], 0, range(100, 200), [])])
        forward(ops, kv, fill)
        return forward(ops, kv, batch).copy()

    used = {threads: CpuOps(weights, threads=threads, kv_type=kv_type) for threads in (1, 2, 5)}
    for batch in batches:
        wanted = logits(CpuOps(weights, threads=1, kv_type=kv_type), batch)
        for ops in used.values():
            np.testing.assert_array_equal(logits(ops, batch), wanted)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts what glibc's heap is asked for")
def test_a_step_like_one_before_takes_nothing_from_the_heap(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or "LD_PRELOAD" in os.environ:
        pytest.skip("no C compiler, or another library that comes before all (a sanitizer's)")
    counter = tmp_path / "allocations.so"
    source = Path(__file__).parent.parent / "helpers" / "allocations.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", counter, source], check=True)
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.allocations"],
        env={**os.environ, "LD_PRELOAD": str(counter)},
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    steps: list[dict[str, int]] = json.loads(done.stdout)
    assert len(steps) == len(BATCHES)
    for step in steps:
        assert step["upload"] == step["forward"] == 0
    for call in steps[0]:  # what the call of a function and its result take, whatever the batch
        assert len({step[call] for step in steps}) == 1, (call, steps)

"""The benchmark of eviction orders counts what it says."""

import json
from functools import partial
from pathlib import Path

from benchmarks.prefix_eviction import Traffic, belady, chats, compare, endless, of_trace, play, prompt_of, table
from tenfold.cache.evict import LeastRecent
from tenfold.cache.worth import LeastWorth


def test_a_trace_becomes_prompts(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    rows = ((1100, [7, 8, 9]), (1024, [7, 8]))
    lines = [{"timestamp": 0, "input_length": size, "output_length": 1, "hash_ids": ids} for size, ids in rows]
    path.write_text("\n".join(map(json.dumps, lines)))
    traffic = of_trace(path)
    assert traffic.prompts == [prompt_of([7, 8], rest=True), prompt_of([7, 8], rest=False)]
    assert traffic.tokens == 512 * 5
    _, result = endless(traffic)
    assert result.hits == 512  # never the last token, so never the last block


def test_knowing_the_future_is_best() -> None:
    again = [prompt_of([block, block + 100], rest=True) for block in (1, 2, 3, 1, 2, 3, 1, 2, 3)]
    traffic = Traffic("round and round", again, 1)
    now = [0]
    best = play(traffic, 18, belady(traffic, now), now).hits
    assert best == endless(traffic)[1].hits == 12
    now = [0]
    few = 5
    assert play(traffic, few, LeastRecent).hits <= play(traffic, few, belady(traffic, now), now).hits < best


def test_orders_lie_between_none_and_the_best() -> None:
    traffic = chats(count=150)
    best, rows = compare(traffic, [0.5])
    (row,) = rows
    assert 0 < row.lru.hits <= row.belady.hits <= best.hits
    assert 0 < row.ours.hits <= row.belady.hits
    assert f"{row.blocks:,}" in table(traffic, best, rows)
    again = play(traffic, row.blocks, partial(LeastWorth, cost=traffic.cost))
    assert (again.hits, again.saved) == (row.ours.hits, row.ours.saved)

"""Prompt tokens that the prefix cache finds, by eviction order: the real cache over a trace's blocks.

    python -m benchmarks.prefix_eviction --trace conversation_trace.jsonl [--plot FILE.png]

The trace has a request per line with ``input_length`` and ``hash_ids``, a number for each block of 512 prompt tokens
(Mooncake, FAST'25, github.com/kvcache-ai/Mooncake); equal numbers are equal prefixes. Two workloads made here follow:
chats that come back with all that was said, and questions after a few long system prompts.

Each pool size is such that the least recently used order finds a given share of what an endless cache would find.
*Belady* gives up what is used again last, which needs to know the future: no order finds more. Work saved weighs a
token found by what it would have cost to compute, as the order does: attention grows with what precedes it.
"""

import argparse
import heapq
import os
import random
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tenfold.cache.evict import EvictionOrder, LeastRecent
from tenfold.cache.manager import CacheManager
from tenfold.cache.prefix import PrefixIndex, chain_hash, root_hash
from tenfold.cache.worth import LeastWorth
from tenfold.core.config import CacheConfig
from tenfold.traffic.traces import read_trace

BLOCK = 2  # tokens of a simulated block
SHARES = (0.2, 0.4, 0.6, 0.8, 0.9)  # of an endless cache's hits, by LRU
TOGETHER = 4  # requests in flight
ATTENTION = 131072.0  # tokens after which attention takes as much as all else: the cache's default

Prompt = tuple[int, ...]  # BLOCK tokens per block, one more for what does not fill a block
Order = Callable[[PrefixIndex, CacheConfig], EvictionOrder]


@dataclass(frozen=True)
class Traffic:
    """Prompts in order of arrival; a block of theirs stands for ``scale`` tokens."""

    name: str
    prompts: Sequence[Prompt]
    scale: int
    deep: float = ATTENTION

    @property
    def tokens(self) -> int:
        """Prompt tokens."""
        return sum(-(-len(prompt) // BLOCK) for prompt in self.prompts) * self.scale

    def cost(self, tokens: int) -> float:
        """What a block costs that begins after so many simulated tokens."""
        return 1.0 + tokens * self.scale / BLOCK / self.deep


@dataclass(frozen=True)
class Result:
    """Prompt tokens found, work saved (that of a first block is 1), seconds taken."""

    hits: int
    saved: float
    seconds: float


def prompt_of(ids: Sequence[int], rest: bool) -> Prompt:
    """Whole blocks, and whether there are tokens after them."""
    return tuple(token for block in ids for token in (block,) * BLOCK) + ((0,) if rest else ())


def of_trace(path: Path) -> Traffic:
    """The prompts of a trace. What does not fill its block can't be found again, as in the engine."""
    rows = read_trace(path).rows
    size = rows[0].block_tokens
    if not size:
        raise SystemExit(f"{path} does not tell which prompts share blocks")
    prompts = [prompt_of(row.blocks[: row.prompt // size], bool(row.prompt % size)) for row in rows]
    return Traffic(path.stem, prompts, size)


def chats(seed: int = 1, count: int = 1500, system: int = 16) -> Traffic:
    """Conversations, half of which go on after each answer; all begin with one of four system prompts."""
    rng = random.Random(seed)
    fresh = iter(range(1, 10**9))
    systems = [[next(fresh) for _ in range(system)] for _ in range(4)]
    turns: list[tuple[float, Prompt]] = []
    for i in range(count):
        at, said = float(i), list(rng.choice(systems))
        while True:
            said += [next(fresh) for _ in range(1 + int(rng.expovariate(1 / 12)))]
            turns.append((at, prompt_of(said, rest=True)))
            if rng.random() < 0.35:
                break
            at += 5 + rng.lognormvariate(3.5, 1.0)  # the user reads and types
    return Traffic("chats", [prompt for _, prompt in sorted(turns)], 16)


def shared(seed: int = 2, count: int = 6000, systems: int = 200, length: int = 60) -> Traffic:
    """Questions, never the same, after one of many system prompts, some of them popular."""
    rng = random.Random(seed)
    fresh = iter(range(1, 10**9))
    begins = [[next(fresh) for _ in range(length)] for _ in range(systems)]
    weights = [1 / (rank + 1) for rank in range(systems)]
    chosen = rng.choices(begins, weights, k=count)
    asked = [[next(fresh) for _ in range(1 + int(rng.expovariate(1 / 20)))] for _ in range(count)]
    return Traffic(
        "shared system prompts", [prompt_of(a + b, rest=True) for a, b in zip(chosen, asked, strict=True)], 16
    )


class Belady(LeastRecent):
    """What is used again last is given up first. ``future`` has the times of use of each name."""

    def __init__(self, index: PrefixIndex, config: CacheConfig, future: dict[bytes, list[int]], now: list[int]) -> None:
        super().__init__(index, config)
        self._index = index
        self._future = future
        self._now = now
        self._heap: list[tuple[int, int, int, int]] = []
        self._stamps: dict[int, int] = {}
        self._pushes = 0

    def push(self, block: int) -> None:
        """See EvictionOrder."""
        super().push(block)
        node = self._index.at(block)
        assert node is not None
        times = self._future[node.name]
        at = bisect_right(times, self._now[0])
        when = times[at] if at < len(times) else 1 << 60
        self._pushes += 1
        self._stamps[block] = self._pushes
        heapq.heappush(self._heap, (-when, -node.depth, self._pushes, block))

    def pop(self) -> int:
        """See EvictionOrder."""
        while True:
            _, _, stamp, block = heapq.heappop(self._heap)
            if block in self._blocks and self._stamps[block] == stamp:
                self.remove(block)
                return block


def belady(traffic: Traffic, now: list[int]) -> Order:
    """The order for one run over ``traffic``; ``now`` has the number of the last prompt opened."""
    future: dict[bytes, list[int]] = {}
    for at, prompt in enumerate(traffic.prompts):
        name = root_hash("")
        for start in range(0, len(prompt) - BLOCK + 1, BLOCK):
            name = chain_hash(name, prompt[start : start + BLOCK])
            future.setdefault(name, []).append(at)
    return partial(Belady, future=future, now=now)


def play(traffic: Traffic, blocks: int, order: Order, now: list[int] | None = None) -> Result:
    """Open, compute and close all prompts, some at the same time."""
    now = [0] if now is None else now
    cache = CacheManager(CacheConfig(blocks, BLOCK), order)
    flight: deque[str] = deque()
    found, saved = 0, 0.0
    costs = [0.0]
    began = time.perf_counter()
    for at, prompt in enumerate(traffic.prompts):
        now[0] = at
        while len(flight) >= TOGETHER:
            cache.close(flight.popleft())
        name = str(at)
        hit = cache.open(name, prompt) // BLOCK
        while not cache.reserve(name, len(prompt)):
            cache.close(flight.popleft())
        cache.commit(name, prompt, len(prompt))
        flight.append(name)
        found += hit
        while len(costs) <= hit:
            costs.append(costs[-1] + traffic.cost((len(costs) - 1) * BLOCK))
        saved += costs[hit]
    return Result(found * traffic.scale, saved, time.perf_counter() - began)


def endless(traffic: Traffic) -> tuple[int, Result]:
    """Blocks that hold everything, and what is found then."""
    blocks = sum(-(-len(prompt) // BLOCK) for prompt in traffic.prompts)
    return blocks, play(traffic, blocks, LeastRecent)


def sizes(traffic: Traffic, shares: Sequence[float]) -> list[int]:
    """Pool sizes (blocks) with which LRU finds about these shares of what an endless cache finds."""
    most, best = endless(traffic)
    least = max(-(-len(prompt) // BLOCK) for prompt in traffic.prompts)
    known = {least: play(traffic, least, LeastRecent).hits, most: best.hits}
    chosen = []
    for share in shares:
        wanted = share * best.hits
        low = max((size for size, hits in known.items() if hits <= wanted), default=least)
        high = min(size for size, hits in known.items() if hits >= wanted)
        while high > 1.03 * low:
            middle = int((low * high) ** 0.5)
            known[middle] = play(traffic, middle, LeastRecent).hits
            low, high = (middle, high) if known[middle] < wanted else (low, middle)
        chosen.append(high)
    return chosen


@dataclass(frozen=True)
class Row:
    """Results with one pool size."""

    blocks: int
    lru: Result
    ours: Result
    belady: Result


def compare(traffic: Traffic, shares: Sequence[float]) -> tuple[Result, list[Row]]:
    """An endless cache's result, and a row per share."""
    rows = []
    for blocks in sizes(traffic, shares):
        now = [0]
        rows.append(
            Row(
                blocks,
                play(traffic, blocks, LeastRecent),
                play(traffic, blocks, partial(LeastWorth, cost=traffic.cost)),
                play(traffic, blocks, belady(traffic, now), now),
            )
        )
    return endless(traffic)[1], rows


def table(traffic: Traffic, best: Result, rows: Sequence[Row]) -> str:
    """The rows as markdown; tokens found in thousands, and as parts of what an endless cache finds."""
    head = ("pool, blocks", "LRU", "least worth", "Belady", "endless", "least worth / LRU", "work saved / LRU's")
    lines = [
        f"**{traffic.name}**: {len(traffic.prompts):,} prompts, {traffic.tokens / 1e6:,.1f} M tokens,"
        f" {traffic.scale} a block; found, thousands of tokens (% of an endless cache's)\n",
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
    ]
    for row in rows:
        found = [f"{r.hits / 1000:,.0f} ({100 * r.hits / best.hits:.1f} %)" for r in (row.lru, row.ours, row.belady)]
        ratios = f"{row.ours.hits / row.lru.hits:.3f} | {row.ours.saved / row.lru.saved:.3f}"
        lines.append(f"| {row.blocks:,} | {' | '.join(found)} | {best.hits / 1000:,.0f} | {ratios} |")
    return "\n".join(lines)


def draw(found: Sequence[tuple[Traffic, Result, Sequence[Row]]], path: Path) -> None:
    """Hits over pool sizes (PNG), a panel per workload. Raises ImportError without matplotlib, the ``plot`` extra."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(found), figsize=(3.6 * len(found), 3.2), squeeze=False, facecolor="white")
    for axes, (traffic, best, rows) in zip(panels[0], found, strict=True):
        sizes_ = [row.blocks for row in rows]
        for name, colour, results in (
            ("Belady (knows the future)", "#8c8c8c", [row.belady for row in rows]),
            ("least worth", "#1f5fa8", [row.ours for row in rows]),
            ("least recently used", "#b0763a", [row.lru for row in rows]),
        ):
            axes.plot(sizes_, [100 * r.hits / best.hits for r in results], "o-", color=colour, label=name, markersize=4)
        axes.set(xscale="log", xlabel="pool, blocks", ylim=(0, 104), title=traffic.name)
        axes.set_xticks(sizes_, [f"{blocks:,}" for blocks in sizes_], fontsize=7, rotation=30)
        axes.minorticks_off()
        axes.title.set_fontsize(9)
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("tokens found, % of an endless cache's")
    panels[0][0].legend(fontsize=7, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130, facecolor="white")
    pyplot.close(figure)


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--trace", type=Path, default=os.environ.get("TENFOLD_PREFIX_TRACE"), help="or $TENFOLD_PREFIX_TRACE"
    )
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of an endless cache's hits, by LRU")
    parser.add_argument("--attention", type=float, default=ATTENTION, help="tokens after which it is half of the work")
    parser.add_argument("--plot", type=Path, help="where to save the picture")
    options = parser.parse_args()
    traffics = [chats(), shared()]
    if options.trace:
        whole = of_trace(Path(options.trace))
        middle = len(whole.prompts) // 2
        halves = (("first half", whole.prompts[:middle]), ("second half", whole.prompts[middle:]))
        traffics[:0] = [whole, *(Traffic(f"{whole.name}, {name}", prompts, 512) for name, prompts in halves)]
    else:
        print("no --trace: only the workloads made here\n")
    found = []
    for traffic in (replace(traffic, deep=options.attention) for traffic in traffics):
        best, rows = compare(traffic, options.shares)
        found.append((traffic, best, rows))
        print(table(traffic, best, rows), end="\n\n", flush=True)
    if options.plot:
        draw(found, options.plot)


if __name__ == "__main__":
    main()

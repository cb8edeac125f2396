"""What is given up, under random traffic and by purpose, in every eviction order."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.cache.evict import EvictionOrder, LeastRecent
from tenfold.cache.manager import CacheManager
from tenfold.cache.prefix import PrefixIndex, chain_hash, root_hash
from tenfold.cache.worth import LeastWorth
from tenfold.core.config import CacheConfig

SIZE = 2
Order = Callable[[PrefixIndex, CacheConfig], EvictionOrder]
ORDERS: dict[str, Order] = {
    "least recent": LeastRecent,
    "least worth": LeastWorth,
    "least worth, by cost": partial(LeastWorth, cost=lambda tokens: 2.0 ** (tokens / 4)),
}


@dataclass(frozen=True)
class Act:
    """Opens a sequence, or takes the one that is ``which``-th oldest further or to its end."""

    kind: str
    which: int
    tokens: tuple[int, ...]
    count: int


# Tokens 0 and 1 only, so that prefixes meet often.
acts = st.builds(
    Act,
    kind=st.sampled_from(["open", "open", "compute", "compute", "compute", "close"]),
    which=st.integers(0, 5),
    tokens=st.lists(st.integers(0, 1), min_size=1, max_size=14).map(tuple),
    count=st.integers(1, 8),
)


class Books:
    """The cache's contents once more, from what it is asked to do and tells."""

    def __init__(self, blocks: int, order: Order) -> None:
        self.cache = CacheManager(CacheConfig(blocks, SIZE), order, self.evicted)
        self.findable: set[tuple[int, ...]] = set()
        self.prompts: dict[str, tuple[int, ...]] = {}
        self.computed: dict[str, int] = {}
        self.names: dict[bytes, tuple[int, ...]] = {}
        self.gone = 0

    def evicted(self, name: bytes, block: int) -> None:
        prefix = self.names[name]
        self.gone += 1
        self.findable.remove(prefix)
        assert not any(other[: len(prefix)] == prefix for other in self.findable), "what follows it is findable"
        held = {held for sequence in self.prompts for held in self.cache.blocks(sequence)}
        assert block not in held, "a held block was given up"
        for sequence, prompt in self.prompts.items():
            assert prompt[: len(prefix)] != prefix or self.computed[sequence] < len(prefix)

    def longest(self, tokens: tuple[int, ...]) -> int:
        ends = range(SIZE, len(tokens), SIZE)
        return max((end for end in ends if tokens[:end] in self.findable), default=0)

    def act(self, act: Act, number: int) -> None:
        if act.kind == "open":
            sequence = str(number)
            expected = self.longest(act.tokens)
            assert self.cache.match(act.tokens) == expected
            assert self.cache.open(sequence, act.tokens) == expected
            self.prompts[sequence] = act.tokens
            self.computed[sequence] = expected
        elif self.prompts:
            sequence = list(self.prompts)[act.which % len(self.prompts)]
            if act.kind == "close":
                self.cache.close(sequence)
                del self.prompts[sequence], self.computed[sequence]
            else:
                self.compute(sequence, act.count)
        self.check()

    def compute(self, sequence: str, count: int) -> None:
        prompt = self.prompts[sequence]
        end = min(self.computed[sequence] + count, len(prompt))
        missing = self.cache.missing(sequence, end)
        had = self.cache.pool.available
        assert self.cache.reserve(sequence, end) == (missing <= had)
        if missing > had:
            return
        assert self.cache.pool.available == had - missing
        self.computed[sequence] = end
        self.cache.commit(sequence, prompt, end)
        name = root_hash("")
        for full in range(SIZE, end + 1, SIZE):
            name = chain_hash(name, prompt[full - SIZE : full])
            self.names[name] = prompt[:full]
            self.findable.add(prompt[:full])

    def check(self) -> None:
        self.cache.check()
        pool = self.cache.pool
        assert pool.evicted == self.gone
        assert len({b for s in self.prompts for b in self.cache.blocks(s)}) == pool.held
        assert pool.free + pool.cached + pool.held == pool.blocks


@pytest.mark.parametrize("order", ORDERS)
@settings(max_examples=150, deadline=None)
@given(traffic=st.lists(acts, min_size=1, max_size=60), blocks=st.integers(1, 24))
def test_books_balance_under_random_traffic(order: str, traffic: list[Act], blocks: int) -> None:
    books = Books(blocks, ORDERS[order])
    for number, act in enumerate(traffic):
        books.act(act, number)
    for sequence in list(books.prompts):
        books.act(Act("close", 0, (), 0), 0)
        assert sequence not in books.prompts
    pool = books.cache.pool
    assert (pool.held, pool.cached) == (0, len(books.findable))
    books.cache.open("all", ())
    assert books.cache.reserve("all", blocks * SIZE)  # whatever is cached can be given up
    assert not books.findable
    books.cache.check()


def serve(cache: CacheManager, tokens: tuple[int, ...]) -> int:
    """One request from its beginning to its end; the tokens that were found."""
    hit = cache.open("x", tokens)
    assert cache.reserve("x", len(tokens))
    cache.commit("x", tokens, len(tokens))
    cache.close("x")
    return hit


def found_after_scan(order: Order, scan: int) -> int:
    """Tokens found of a prefix used often, of 16 blocks, after ``scan`` blocks used once; the pool has 64."""
    cache = CacheManager(CacheConfig(64, SIZE), order)
    prefix = tuple(range(16 * SIZE))
    once = iter(range(1000, 10**9))
    for _ in range(60):
        assert serve(cache, (*prefix, next(once))) in (0, 16 * SIZE)
        serve(cache, tuple(next(once) for _ in range(8 * SIZE)))
    for _ in range(scan // 8):
        serve(cache, tuple(next(once) for _ in range(8 * SIZE)))
    cache.check()
    return cache.match((*prefix, 0))


def test_scans_do_not_flush_what_is_used_often() -> None:
    assert found_after_scan(LeastRecent, 96) == 0
    assert found_after_scan(LeastWorth, 96) == 16 * SIZE


def test_what_is_used_no_more_goes_in_the_end() -> None:
    assert found_after_scan(LeastWorth, 64_000) == 0


def test_costly_blocks_outlive_cheap_ones_of_the_same_age() -> None:
    def left(cost: Callable[[int], float]) -> list[int]:
        cache = CacheManager(CacheConfig(40, SIZE), partial(LeastWorth, cost=cost))
        prompts = {"long": tuple(range(24 * SIZE)), "short": tuple(range(100, 100 + 12 * SIZE))}
        for name, prompt in prompts.items():
            cache.open(name, prompt)
            assert cache.reserve(name, len(prompt))
            cache.commit(name, prompt, len(prompt))
        for name in prompts:
            cache.close(name)
        cache.open("x", ())
        assert cache.reserve("x", 20 * SIZE)
        cache.check()
        return [cache.match((*prompt, -1)) // SIZE for prompt in prompts.values()]

    assert left(lambda tokens: 1.0) == [8, 12]  # the end of the one that ended first
    assert left(lambda tokens: 2.0 ** (tokens // 16)) == [20, 0]  # what is deep in the long one is not cheap

"""Block pool, prefix index and block tables, in isolation."""

import pytest

from tenfold.cache.evict import LeastRecent
from tenfold.cache.manager import CacheManager
from tenfold.cache.pool import BlockPool
from tenfold.cache.prefix import PrefixIndex, chain, chain_hash, root_hash
from tenfold.core.config import CacheConfig
from tenfold.core.errors import ConfigError


class Recent(LeastRecent):
    """Least recent first, over blocks that have no names."""

    def __init__(self) -> None:
        super().__init__(PrefixIndex(), CacheConfig(1))


def test_pool_evicts_the_least_recently_released() -> None:
    evicted: list[int] = []
    pool = BlockPool(3, Recent(), evicted.append)
    a, b, c = pool.take(), pool.take(), pool.take()
    for block in (b, a, c):
        pool.release(block, keep=True)
    assert (pool.free, pool.cached, pool.held) == (0, 3, 0)
    pool.hold(b)
    assert [pool.take(), pool.take()] == [a, c]
    assert evicted == [a, c]
    assert pool.evicted == 2
    pool.check({a: 1, b: 1, c: 1})


def test_pool_prefers_free_blocks_to_cached_ones() -> None:
    pool = BlockPool(2, Recent(), lambda _: pytest.fail("evicted though a block was free"))
    a = pool.take()
    b = pool.take()
    pool.release(a, keep=True)
    pool.release(b, keep=False)
    assert pool.take() == b
    pool.release(b, keep=False)
    pool.discard(a)
    assert (pool.free, pool.cached) == (2, 0)
    pool.check({})


def test_check_sees_a_leak() -> None:
    pool = BlockPool(2, Recent(), lambda _: None)
    pool.take()
    with pytest.raises(AssertionError):
        pool.check({})


def manager(blocks: int = 16, *, sharing: bool = True) -> CacheManager:
    return CacheManager(CacheConfig(blocks, 4, sharing))


def fill(cache: CacheManager, name: str, tokens: list[int], salt: str = "") -> int:
    hit = cache.open(name, tokens, salt)
    assert cache.reserve(name, len(tokens))
    cache.commit(name, tokens, len(tokens))
    return hit


def test_prefix_is_shared_while_held_and_after() -> None:
    cache = manager()
    tokens = list(range(11))
    assert fill(cache, "a", tokens) == 0
    assert fill(cache, "b", tokens) == 8
    assert cache.blocks("a")[:2] == cache.blocks("b")[:2]
    assert cache.blocks("a")[2] != cache.blocks("b")[2]
    assert cache.pool.held == 4
    cache.close("a")
    cache.close("b")
    assert (cache.pool.held, cache.pool.cached) == (0, 2)
    assert fill(cache, "c", [*tokens[:8], 99]) == 8
    cache.check()


def test_last_token_is_never_a_hit() -> None:
    cache = manager()
    fill(cache, "a", list(range(8)))
    assert cache.open("b", list(range(8))) == 4


def test_same_tokens_after_another_prefix_are_no_hit() -> None:
    cache = manager()
    fill(cache, "a", [1, 2, 3, 4, 5, 6, 7, 8, 9])
    assert cache.open("b", [9, 9, 9, 9, 5, 6, 7, 8, 9]) == 0


def test_only_computed_blocks_are_findable() -> None:
    cache = manager()
    tokens = list(range(12))
    cache.open("a", tokens)
    assert cache.reserve("a", 12)
    cache.commit("a", tokens, 7)
    assert cache.open("b", tokens) == 4


def test_reserve_takes_nothing_when_it_cannot_take_all() -> None:
    cache = manager(3)
    cache.open("a", [1])
    assert not cache.reserve("a", 13)
    assert cache.pool.available == 3
    assert cache.reserve("a", 12)


def test_eviction_takes_the_end_of_a_prefix_first() -> None:
    cache = manager(4)
    tokens = list(range(16))
    fill(cache, "a", tokens)
    cache.close("a")
    cache.open("b", [50])
    assert cache.reserve("b", 4)  # evicts one block
    cache.close("b")
    assert cache.open("c", [*tokens, 1]) == 12


def test_equal_blocks_computed_twice_are_both_returned() -> None:
    cache = manager()
    tokens = list(range(9))
    for name in ("a", "b"):
        cache.open(name, tokens)
        cache.reserve(name, 9)
    for name in ("a", "b"):
        cache.commit(name, tokens, 9)
    for name in ("a", "b"):
        cache.close(name)
    cache.check()
    assert (cache.pool.cached, cache.pool.free) == (2, 14)


def test_of_equal_blocks_the_held_one_is_found() -> None:
    cache = manager(8)
    tokens = list(range(13))
    for name in ("a", "b"):
        cache.open(name, tokens)
        cache.reserve(name, 13)
    cache.commit("a", tokens, 8)
    cache.commit("b", tokens, 4)  # a's first block is held: b's is a spare
    cache.check()
    cache.close("a")  # b's first block is found instead; a's second one is cached
    assert (cache.pool.held, cache.pool.cached, cache.pool.free) == (4, 1, 3)
    cache.check()
    cache.commit("b", tokens, 12)  # and b's second one, which makes a's worthless
    assert (cache.pool.held, cache.pool.cached, cache.pool.free) == (4, 0, 4)
    cache.check()
    assert cache.open("c", tokens) == 12
    assert cache.blocks("c") == cache.blocks("b")[:3]
    cache.close("b")
    cache.check()
    assert cache.match(tokens) == 12
    assert cache.open("d", tokens) == 12


def test_what_is_given_up_is_told() -> None:
    told: list[tuple[bytes, int]] = []
    cache = CacheManager(CacheConfig(2, 4), on_evict=lambda name, block: told.append((name, block)))
    fill(cache, "a", list(range(8)))
    first, second = cache.blocks("a")
    cache.close("a")
    fill(cache, "b", [50] * 7)
    names = [chain_hash(root_hash(""), range(4))]
    names.append(chain_hash(names[0], range(4, 8)))
    assert names == list(chain(root_hash(""), range(8), 4))
    assert told == [(names[1], second), (names[0], first)]
    assert cache.pool.evicted == 2


def test_without_sharing_nothing_is_found() -> None:
    cache = manager(sharing=False)
    fill(cache, "a", list(range(9)))
    assert cache.open("b", list(range(9))) == 0
    cache.close("a")
    assert cache.pool.cached == 0


def test_pool_without_blocks_is_refused() -> None:
    with pytest.raises(ConfigError):
        CacheConfig(0)

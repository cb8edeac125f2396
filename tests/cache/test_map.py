"""The picture of the pool says of each block what is so."""

import random
from itertools import pairwise

from tenfold.cache.manager import CacheManager
from tenfold.cache.map import CACHED, FIRST, FREE, HELD, MAPPED, SHARED, BlockMap, Holder, draw
from tenfold.core.config import CacheConfig


def test_runs_are_as_long_as_can_be() -> None:
    rng = random.Random(3)
    for size in (0, 1, 2, 5, 1000):
        codes = bytes(rng.choice(b"\0\1\4\xff") for _ in range(size))
        runs = BlockMap(codes, []).runs()
        assert bytes(code for code, length in runs for _ in range(length)) == codes
        assert all(a != b for (a, _), (b, _) in pairwise(runs))


def test_what_each_block_is() -> None:
    """Random sequences with prefixes in common come, grow and go; each time the books say the same."""
    rng = random.Random(7)
    cache = CacheManager(CacheConfig(blocks=60, block_size=4))
    tables: dict[str, list[int]] = {}
    for number in range(300):
        if tables and (len(tables) > 5 or rng.random() < 0.4):
            gone = rng.choice(list(tables))
            cache.commit(gone, tables[gone], rng.randrange(len(tables[gone])))
            cache.close(gone)
            del tables[gone]
        else:
            name, tokens = f"s{number}", [rng.randrange(2)] * 13 + [rng.randrange(9) for _ in range(rng.randrange(9))]
            cache.open(name, tokens)
            if cache.reserve(name, len(tokens)):
                cache.commit(name, tokens, len(tokens))
                tables[name] = tokens
            else:
                cache.close(name)
        cache.check()
        told, pool = cache.map(), cache.pool
        codes = told.codes
        assert codes.count(FREE) == pool.free
        assert codes.count(CACHED) == pool.cached
        assert HELD not in codes
        for block, code in enumerate(codes):
            assert (code == SHARED) == (pool.refs(block) > 1)
            assert code < FIRST or block in cache.blocks(told.holders[code - FIRST].id)
        for one in told.holders:
            blocks = cache.blocks(one.id)
            assert (one.blocks, one.shared) == (len(blocks), sum(pool.refs(block) > 1 for block in blocks))


def test_more_than_there_are_codes_and_more_than_is_shown() -> None:
    assert draw([300, 0], [], []).codes == bytes((SHARED, CACHED))
    told = draw([1] * 300, [], [(f"s{at}", [at]) for at in range(300)])
    assert len(told.holders) == 256 - FIRST
    assert told.codes[-1] == HELD
    blocks = MAPPED + 10
    told = draw([0] * (blocks - 1) + [1], range(blocks - 1), [("last", [blocks - 1])])
    assert told.codes == bytes((FREE,)) * MAPPED
    assert told.runs() == [(FREE, MAPPED)]
    assert told.holders == [Holder("last", 1, 0)]


def test_what_others_hold_can_be_left_out() -> None:
    told = draw([1, 1, 1, 2, 0], [], [("mine", [0, 3]), ("a", [1, 3]), ("b", [2])])
    assert told.codes == bytes((FIRST, FIRST + 1, FIRST + 2, SHARED, CACHED))
    hidden = told.without(["a", "b"])
    assert hidden.runs() == [(FIRST, 1), (HELD, 2), (SHARED, 1), (CACHED, 1)]
    assert [one.id for one in hidden.holders] == ["mine", "", ""]
    assert told.without([]) == told

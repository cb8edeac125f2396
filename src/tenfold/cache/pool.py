"""The pool of KV blocks: who holds which, and which to give next.

A block is in exactly one of three states, so free + cached + held = total at all times:

* *free*: its contents are worthless;
* *cached*: nobody holds it, but its contents are a known prefix and may be held again;
* *held*: ``refs`` sequences hold it.
"""

from collections.abc import Callable, Iterable, Sequence

from tenfold.cache.evict import EvictionOrder
from tenfold.cache.map import BlockMap, draw


class BlockPool:
    """Owner of the blocks' reference counts.

    ``order`` keeps the cached blocks and says which to give up next; ``on_evict(block)`` is told when one's contents
    are.
    """

    def __init__(self, blocks: int, order: EvictionOrder, on_evict: Callable[[int], None]) -> None:
        self.blocks = blocks
        self.evicted = 0  # blocks, since the start
        self._refs = [0] * blocks
        self._free = list(range(blocks - 1, -1, -1))
        self._cached = order
        self._on_evict = on_evict

    @property
    def free(self) -> int:
        """Blocks with worthless contents."""
        return len(self._free)

    @property
    def cached(self) -> int:
        """Blocks nobody holds whose contents may be used again."""
        return len(self._cached)

    @property
    def available(self) -> int:
        """Blocks that :meth:`take` can give."""
        return len(self._free) + len(self._cached)

    @property
    def held(self) -> int:
        """Blocks somebody holds."""
        return self.blocks - self.available

    def refs(self, block: int) -> int:
        """How many hold ``block``."""
        return self._refs[block]

    def map(self, tables: Iterable[tuple[str, Sequence[int]]]) -> BlockMap:
        """The blocks in order, given who holds which."""
        return draw(self._refs, self._free, tables)

    def take(self) -> int:
        """A block to overwrite, with one reference; gives up a cached one's contents if need be."""
        if self._free:
            block = self._free.pop()
        else:
            block = self._cached.pop()
            self.evicted += 1
            self._on_evict(block)
        assert self._refs[block] == 0
        self._refs[block] = 1
        return block

    def take_several(self, count: int) -> list[int]:
        """As many, one after the other; there are at least so many."""
        free, refs = self._free, self._refs
        if len(free) < count:
            return [self.take() for _ in range(count)]
        last = len(free) - count
        blocks = free[last:][::-1]
        del free[last:]
        for block in blocks:
            assert refs[block] == 0
            refs[block] = 1
        return blocks

    def hold(self, block: int) -> None:
        """One more reference to a held or cached block."""
        if self._refs[block] == 0:
            self._cached.remove(block)
        self._refs[block] += 1

    def release(self, block: int, *, keep: bool) -> None:
        """One reference less; the last one leaves it cached if ``keep``, else free."""
        assert self._refs[block] > 0, f"block {block} is not held"
        self._refs[block] -= 1
        if self._refs[block] == 0:
            if keep:
                self._cached.push(block)
            else:
                self._free.append(block)

    def discard(self, block: int) -> None:
        """A cached block's contents are worthless from now on."""
        self._cached.remove(block)
        self._free.append(block)

    def check(self, references: dict[int, int]) -> None:
        """Assert conservation, given how often each block stands in the block tables."""
        free, cached = set(self._free), set(self._cached)
        held = {block: refs for block, refs in enumerate(self._refs) if refs}
        assert held == references, f"refs and uses that differ: {held.items() ^ references.items()}"
        assert len(free) == len(self._free), "a block is twice in the free list"
        assert len(cached) == len(self._cached)
        assert free | cached | held.keys() == set(range(self.blocks)), "a block is in no state"
        assert len(free) + len(cached) + len(held) == self.blocks, "a block is in two states"

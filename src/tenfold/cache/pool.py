"""The pool of KV blocks: who holds which, and which to give next.

A block is in exactly one of three states, so free + cached + held = total at all times:

* *free*: its contents are worthless;
* *cached*: nobody holds it, but its contents are a known prefix and may be held again;
* *held*: ``refs`` sequences hold it.
"""

from collections import OrderedDict
from collections.abc import Callable


class BlockPool:
    """Owner of the blocks' reference counts.

    ``on_evict(block)`` is told when a cached block's contents are given up.
    """

    def __init__(self, blocks: int, on_evict: Callable[[int], None]) -> None:
        self.blocks = blocks
        self._refs = [0] * blocks
        self._free = list(range(blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()  # least recently released first
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

    def take(self) -> int:
        """A block to overwrite, with one reference; evicts the least recently used cached one if need be."""
        if self._free:
            block = self._free.pop()
        else:
            assert self._cached, "take() needs an available block"
            block, _ = self._cached.popitem(last=False)
            self._on_evict(block)
        assert self._refs[block] == 0
        self._refs[block] = 1
        return block

    def hold(self, block: int) -> None:
        """One more reference to a held or cached block."""
        if self._refs[block] == 0:
            del self._cached[block]
        self._refs[block] += 1

    def release(self, block: int, *, keep: bool) -> None:
        """One reference less; the last one leaves it cached if ``keep``, else free."""
        assert self._refs[block] > 0, f"block {block} is not held"
        self._refs[block] -= 1
        if self._refs[block] == 0:
            if keep:
                self._cached[block] = None
            else:
                self._free.append(block)

    def check(self, references: dict[int, int]) -> None:
        """Assert conservation, given how often each block stands in the block tables."""
        free, cached = set(self._free), set(self._cached)
        assert len(free) == len(self._free), "a block is twice in the free list"
        for block, refs in enumerate(self._refs):
            assert refs == references.get(block, 0), f"block {block}: {refs} refs, {references.get(block, 0)} uses"
            assert (block in free) + (block in cached) + (refs > 0) == 1, f"block {block} is in no or two states"

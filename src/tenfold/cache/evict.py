"""The order in which cached blocks are given up: the seam, and the plain way."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Protocol

from tenfold.cache.prefix import Node, PrefixIndex
from tenfold.core.config import CacheConfig


class EvictionOrder(Protocol):
    """Keeps the cached blocks: those that nobody holds but that can be found.

    A prefix is of no use without its beginning, so a block that something findable follows is never given up before
    that. What is held follows only what is held, so among the cached ones there is always one to give up.
    """

    def __len__(self) -> int:
        """Cached blocks."""

    def __iter__(self) -> Iterator[int]:
        """All of them."""

    def push(self, block: int) -> None:
        """Nobody holds ``block`` any more. What follows it came before it, where one sequence held both."""

    def remove(self, block: int) -> None:
        """``block`` is held again, or worthless."""

    def pop(self) -> int:
        """Choose the block to give up; there is one."""

    def enter(self, node: Node) -> None:
        """``node`` was computed and is findable, and held, from now on."""

    def use(self, node: Node) -> None:
        """A further sequence, which holds it, uses ``node``."""

    def check(self) -> None:
        """Assert what must hold between calls."""


class LeastRecent:
    """The least recently used first.

    A sequence lets go of its blocks from the last to the first, so what follows a block always comes before it.
    """

    def __init__(self, index: PrefixIndex, config: CacheConfig) -> None:
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def __iter__(self) -> Iterator[int]:
        return iter(self._blocks)

    def push(self, block: int) -> None:
        """See EvictionOrder."""
        self._blocks[block] = None

    def remove(self, block: int) -> None:
        """See EvictionOrder."""
        del self._blocks[block]

    def pop(self) -> int:
        """See EvictionOrder."""
        return self._blocks.popitem(last=False)[0]

    def enter(self, node: Node) -> None:
        """See EvictionOrder."""

    def use(self, node: Node) -> None:
        """See EvictionOrder."""

    def check(self) -> None:
        """See EvictionOrder."""

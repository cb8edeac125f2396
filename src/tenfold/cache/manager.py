"""Block tables of the sequences in flight, with prefix sharing."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from tenfold.cache.evict import EvictionOrder
from tenfold.cache.map import BlockMap
from tenfold.cache.pool import BlockPool
from tenfold.cache.prefix import Node, PrefixIndex, chain, chain_hash, root_hash
from tenfold.cache.worth import LeastWorth
from tenfold.core.config import CacheConfig


class _Table:
    """One sequence's blocks and the nodes of its full, computed ones."""

    __slots__ = ("blocks", "found", "frozen", "nodes", "root")

    def __init__(self, root: bytes) -> None:
        self.root = root
        self.blocks: list[int] = []
        self.nodes: list[Node] = []  # nodes[i] is that of blocks[i], which may be a spare
        self.found = 0  # nodes that were computed by others and are not counted as used yet
        self.frozen: tuple[int, ...] = ()  # blocks, as last handed out


class CacheManager:
    """Owner of the block tables.

    A sequence enters with :meth:`open`, grows with :meth:`reserve`, makes computed blocks shareable with
    :meth:`commit`, and leaves with :meth:`close`. Shared blocks are always full and never written again.

    What a sequence holds is found in blocks that are held: of two that hold the same KV, computed by sequences at the
    same time, a held one is the findable one. So nothing held follows what may be given up.

    ``order`` makes the eviction order; ``on_evict(name, block)`` is told when a findable block's contents are given
    up, before they are overwritten: a second tier's place.
    """

    def __init__(
        self,
        config: CacheConfig,
        order: Callable[[PrefixIndex, CacheConfig], EvictionOrder] | None = None,
        on_evict: Callable[[bytes, int], None] | None = None,
    ) -> None:
        self.block_size = config.block_size
        self._sharing = config.prefix_sharing
        self._index = PrefixIndex()
        self._order = (order or LeastWorth)(self._index, config)
        self._pool = BlockPool(config.blocks, self._order, self._evict if on_evict else self._index.drop)
        self._on_evict = on_evict
        self._tables: dict[str, _Table] = {}

    @property
    def pool(self) -> BlockPool:
        """For its counts."""
        return self._pool

    def map(self) -> BlockMap:
        """What each block is, and whose."""
        return self._pool.map((name, table.blocks) for name, table in self._tables.items())

    def blocks_for(self, tokens: int) -> int:
        """Blocks that ``tokens`` positions need."""
        return -(-tokens // self.block_size)

    def match(self, tokens: Sequence[int], salt: str = "") -> int:
        """How many tokens :meth:`open` would find now; holds nothing. Costs a hash per block found."""
        return sum(1 for _ in self._walk(root_hash(salt), tokens)) * self.block_size

    def open(self, sequence: str, tokens: Sequence[int], salt: str = "", *, anew: bool = False) -> int:
        """Start a block table with the longest computed prefix of ``tokens``; returns that prefix's length.

        The last token is never taken from the cache: its logits have to be computed. Costs a hash per block. ``anew``:
        nothing is taken, for every token has to be computed; what is computed can be found by others all the same.
        """
        assert sequence not in self._tables, f"{sequence} is open already"
        table = self._tables[sequence] = _Table(root_hash(salt))
        for node in () if anew else self._walk(table.root, tokens):
            self._pool.hold(node.block)
            table.blocks.append(node.block)
            table.nodes.append(node)
        table.found = len(table.nodes)
        return table.found * self.block_size

    def missing(self, sequence: str, tokens: int) -> int:
        """Blocks the sequence lacks to hold ``tokens`` positions."""
        return max(0, self.blocks_for(tokens) - len(self._tables[sequence].blocks))

    def reserve(self, sequence: str, tokens: int) -> bool:
        """Make room for ``tokens`` positions in all; takes nothing and returns False where blocks run out."""
        table = self._tables[sequence]
        missing = -(-tokens // self.block_size) - len(table.blocks)
        if missing <= 0:
            return True
        if missing > self._pool.available:
            return False
        table.blocks += self._pool.take_several(missing)
        return True

    def blocks(self, sequence: str) -> tuple[int, ...]:
        """The block table; the same object until it grows."""
        table = self._tables[sequence]
        if len(table.frozen) != len(table.blocks):
            table.frozen = tuple(table.blocks)
        return table.frozen

    def commit(self, sequence: str, tokens: Sequence[int], computed: int) -> None:
        """The KV of ``tokens[:computed]`` is in memory: make the full blocks findable."""
        if not self._sharing:
            return
        table = self._tables[sequence]
        if table.found:  # only now: a sequence that found no room may open often
            for found in table.nodes[: table.found]:
                self._order.use(found)
            table.found = 0
        size, nodes, index = self.block_size, table.nodes, self._index
        first, last = len(nodes), computed // size
        if first >= last:
            return
        parent = nodes[-1] if nodes else None
        names = chain(parent.name if parent else table.root, tokens[first * size : last * size], size)
        for block, name in zip(table.blocks[first:last], names, strict=True):
            node = index.find(name)
            if node is None:
                node = index.add(name, block, parent)
                self._order.enter(node)
            else:
                self._computed_again(node, block)
            nodes.append(node)
            parent = node

    def close(self, sequence: str) -> None:
        """Let go of all blocks; the findable ones stay cached."""
        index, pool = self._index, self._pool
        for block in reversed(self._tables.pop(sequence).blocks):
            node = index.at(block)
            keep = node is not None
            if node is None:
                index.drop_spare(block)
            elif pool.refs(block) == 1 and (heir := index.spare_of(node)) is not None:  # another one holds an equal one
                index.drop_spare(heir)
                index.move(node, heir)
                keep = False
            pool.release(block, keep=keep)

    def check(self) -> None:
        """Assert conservation over all tables (tests call this after every step)."""
        self._pool.check(Counter(b for table in self._tables.values() for b in table.blocks))
        self._index.check()
        self._order.check()
        for table in self._tables.values():
            for node, block in zip(table.nodes, table.blocks, strict=False):
                assert self._index.find(node.name) is node, "a sequence holds what is not findable"
                assert node.block == block or self._index.is_spare(block, node)
                assert self._pool.refs(node.block) > 0, "held under one block, cached under another"

    def _walk(self, name: bytes, tokens: Sequence[int]) -> Iterator[Node]:
        """The nodes of the longest findable prefix, without the last token."""
        if not self._sharing:
            return
        size = self.block_size
        for start in range(0, len(tokens) - size, size):
            name = chain_hash(name, tokens[start : start + size])
            node = self._index.find(name)
            if node is None:
                return
            yield node

    def _computed_again(self, node: Node, block: int) -> None:
        """``block``, which a sequence holds, has the same KV as ``node``'s, computed by another meanwhile."""
        if self._pool.refs(node.block):
            self._index.add_spare(node, block)
        else:
            self._pool.discard(node.block)
            self._index.move(node, block)
        self._order.use(node)

    def _evict(self, block: int) -> None:
        """Tell first."""
        node = self._index.at(block)
        assert node is not None and self._on_evict is not None
        self._on_evict(node.name, block)
        self._index.drop(block)

"""Block tables of the sequences in flight, with prefix sharing."""

from collections import Counter
from collections.abc import Sequence

from tenfold.cache.pool import BlockPool
from tenfold.cache.prefix import PrefixIndex, chain_hash, root_hash
from tenfold.core.config import CacheConfig


class _Table:
    """One sequence's blocks and the names of its full, computed ones."""

    __slots__ = ("blocks", "frozen", "names", "root")

    def __init__(self, root: bytes) -> None:
        self.root = root
        self.blocks: list[int] = []
        self.names: list[bytes] = []  # names[i] belongs to blocks[i]
        self.frozen: tuple[int, ...] = ()  # blocks, as last handed out


class CacheManager:
    """Owner of the block tables.

    A sequence enters with :meth:`open`, grows with :meth:`reserve`, makes computed blocks shareable with
    :meth:`commit`, and leaves with :meth:`close`. Shared blocks are always full and never written again.
    """

    def __init__(self, config: CacheConfig) -> None:
        self.block_size = config.block_size
        self._sharing = config.prefix_sharing
        self._index = PrefixIndex()
        self._pool = BlockPool(config.blocks, self._index.drop)
        self._tables: dict[str, _Table] = {}

    @property
    def pool(self) -> BlockPool:
        """For its counts."""
        return self._pool

    def blocks_for(self, tokens: int) -> int:
        """Blocks that ``tokens`` positions need."""
        return -(-tokens // self.block_size)

    def open(self, sequence: str, tokens: Sequence[int], salt: str = "") -> int:
        """Start a block table with the longest computed prefix of ``tokens``; returns that prefix's length.

        The last token is never taken from the cache: its logits have to be computed. Costs a hash per block.
        """
        assert sequence not in self._tables, f"{sequence} is open already"
        table = self._tables[sequence] = _Table(root_hash(salt))
        if not self._sharing:
            return 0
        size = self.block_size
        name = table.root
        for start in range(0, len(tokens) - size, size):
            name = chain_hash(name, tokens[start : start + size])
            block = self._index.find(name)
            if block is None:
                break
            self._pool.hold(block)
            table.blocks.append(block)
            table.names.append(name)
        return len(table.blocks) * size

    def match(self, tokens: Sequence[int], salt: str = "") -> int:
        """How many of ``tokens`` :meth:`open` would find."""
        if not self._sharing:
            return 0
        size, name, found = self.block_size, root_hash(salt), 0
        for start in range(0, len(tokens) - size, size):
            name = chain_hash(name, tokens[start : start + size])
            if self._index.find(name) is None:
                break
            found += size
        return found

    def missing(self, sequence: str, tokens: int) -> int:
        """Blocks the sequence lacks to hold ``tokens`` positions."""
        return max(0, self.blocks_for(tokens) - len(self._tables[sequence].blocks))

    def reserve(self, sequence: str, tokens: int) -> bool:
        """Make room for ``tokens`` positions in all; takes nothing and returns False where blocks run out."""
        table = self._tables[sequence]
        missing = self.blocks_for(tokens) - len(table.blocks)
        if missing > self._pool.available:
            return False
        for _ in range(missing):
            table.blocks.append(self._pool.take())
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
        size = self.block_size
        for i in range(len(table.names), computed // size):
            parent = table.names[-1] if table.names else table.root
            name = chain_hash(parent, tokens[i * size : (i + 1) * size])
            table.names.append(name)
            self._index.add(name, table.blocks[i])

    def close(self, sequence: str) -> None:
        """Let go of all blocks; the findable ones stay cached, the end of the prefix to be evicted first."""
        table = self._tables.pop(sequence)
        for block in reversed(table.blocks):
            self._pool.release(block, keep=self._index.knows(block))

    def check(self) -> None:
        """Assert conservation over all tables (tests call this after every step)."""
        self._pool.check(Counter(b for table in self._tables.values() for b in table.blocks))

"""Finding computed prefixes: a block's name is a hash over all tokens up to its end.

The names form a tree (a radix tree with one block per edge), kept flat: a lookup costs a hash and a dictionary access
per block, and each node knows what it follows and how many follow it.
"""

import hashlib
from array import array
from collections.abc import Sequence


def root_hash(salt: str) -> bytes:
    """The name of the empty prefix. Different salts never share a block."""
    return hashlib.blake2b(salt.encode(), digest_size=16).digest()


def chain_hash(parent: bytes, tokens: Sequence[int]) -> bytes:
    """The name of the block that holds ``tokens`` after the prefix named ``parent``.

    A 128-bit cryptographic hash: no prompt can be built to hit another's block.
    """
    return hashlib.blake2b(parent + array("i", tokens).tobytes(), digest_size=16).digest()


class Node:
    """A findable prefix: ``block`` holds the KV of its last tokens, ``children`` findable ones follow it directly.

    ``spares`` are further blocks that hold the same KV, computed by sequences at the same time. The fields after that
    are the eviction order's.
    """

    __slots__ = ("block", "children", "depth", "idle", "name", "parent", "queue", "since", "spares", "uses")

    def __init__(self, name: bytes, block: int, parent: "Node | None") -> None:
        self.name = name
        self.block = block
        self.parent = parent
        self.children = 0
        self.depth: int = 0 if parent is None else parent.depth + 1  # blocks before it
        self.spares: tuple[int, ...] = ()
        self.uses = 0  # by further sequences
        self.idle = False  # whether nobody used it since it was cached
        self.since = 0  # when nobody held it any more
        self.queue = 0


class PrefixIndex:
    """Owner of the map between prefix names and the blocks that hold their KV."""

    def __init__(self) -> None:
        self._nodes: dict[bytes, Node] = {}
        self._at: dict[int, Node] = {}
        self._spare: dict[int, Node] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def find(self, name: bytes) -> Node | None:
        """The node of this prefix, if it is findable."""
        return self._nodes.get(name)

    def at(self, block: int) -> Node | None:
        """The node whose KV is found in ``block``; none for a spare."""
        return self._at.get(block)

    def add(self, name: bytes, block: int, parent: Node | None) -> Node:
        """Make ``block`` findable after ``parent`` (None: the empty prefix); no other may hold the same prefix."""
        assert name not in self._nodes and block not in self._at
        node = self._nodes[name] = self._at[block] = Node(name, block, parent)
        if parent is not None:
            parent.children += 1
        return node

    def drop(self, block: int) -> None:
        """Forget ``block``, which nothing findable follows: its contents are about to be overwritten."""
        node = self._at.pop(block)
        assert not node.children, f"block {block} was given up before what follows it"
        assert not node.spares
        del self._nodes[node.name]
        if node.parent is not None:
            node.parent.children -= 1

    def move(self, node: Node, block: int) -> None:
        """Have ``node`` found in ``block`` from now on, which holds the same KV."""
        del self._at[node.block]
        node.block = block
        self._at[block] = node

    def add_spare(self, node: Node, block: int) -> None:
        """``block`` holds the same KV as ``node``'s."""
        node.spares = (*node.spares, block)
        self._spare[block] = node

    def drop_spare(self, block: int) -> bool:
        """Forget that ``block`` is a spare; False where it was none."""
        node = self._spare.pop(block, None)
        if node is None:
            return False
        node.spares = tuple(spare for spare in node.spares if spare != block)
        return True

    def check(self) -> None:
        """Assert that the tree is whole."""
        children: dict[Node, int] = {}
        spares: dict[int, Node] = {}
        assert len(self._at) == len(self._nodes)
        for name, node in self._nodes.items():
            assert node.name == name and self._at[node.block] is node
            spares.update(dict.fromkeys(node.spares, node))
            if node.parent is not None:
                assert self._nodes.get(node.parent.name) is node.parent, "a prefix is findable, its beginning is not"
                assert node.depth == node.parent.depth + 1
                children[node.parent] = children.get(node.parent, 0) + 1
        assert spares == self._spare
        assert not spares.keys() & self._at.keys()
        assert all(node.children == children.get(node, 0) for node in self._nodes.values())

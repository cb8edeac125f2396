"""Finding computed prefixes: a block's name is a hash over all tokens up to its end.

The names form a tree (a radix tree with one block per edge), kept flat: a lookup costs a hash and a dictionary access
per block, and each node knows what it follows and how many follow it.
"""

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence


def root_hash(salt: str) -> bytes:
    """The name of the empty prefix. Different salts never share a block."""
    return hashlib.blake2b(salt.encode(), digest_size=16).digest()


def chain_hash(parent: bytes, tokens: Sequence[int]) -> bytes:
    """The name of the block that holds ``tokens`` after the prefix named ``parent``.

    A 128-bit cryptographic hash: no prompt can be built to hit another's block.
    """
    return _name(parent, array("i", tokens).tobytes())


def chain(parent: bytes, tokens: Sequence[int], size: int) -> Iterator[bytes]:
    """The names of full blocks of ``size`` tokens, one after the other, as :func:`chain_hash` has them."""
    numbers = array("i", tokens)
    data = numbers.tobytes()
    size *= numbers.itemsize
    for start in range(0, len(data), size):
        parent = _name(parent, data[start : start + size])
        yield parent


def _name(parent: bytes, data: bytes) -> bytes:
    return hashlib.blake2b(parent + data, digest_size=16).digest()


class Node:
    """A findable prefix: ``block`` holds the KV of its last tokens, ``children`` findable ones follow it directly.

    The other fields are the eviction order's.
    """

    __slots__ = ("block", "children", "depth", "idle", "name", "parent", "queue", "since", "uses")

    depth: int  # blocks before it
    uses: int  # by further sequences
    idle: bool  # whether nobody used it since it was cached
    since: int  # when it was cached last
    queue: int

    def __init__(self, name: bytes, block: int, parent: "Node | None") -> None:
        self.name = name
        self.block = block
        self.parent = parent
        self.children = 0
        self.depth = 0 if parent is None else parent.depth + 1
        self.uses = 0


class PrefixIndex:
    """Owner of the map between prefix names and the blocks that hold their KV.

    ``find(name)`` is the node of this prefix, ``at(block)`` the node whose KV is found in this block, None where there
    is none. *Spares* are further blocks that hold the KV of a node, computed by sequences at the same time.
    """

    def __init__(self) -> None:
        self._nodes: dict[bytes, Node] = {}
        self._at: dict[int, Node] = {}
        self._spares: dict[Node, list[int]] = {}
        self._spare: dict[int, Node] = {}
        self.find = self._nodes.get  # one call less each, several per block
        self.at = self._at.get

    def __len__(self) -> int:
        return len(self._nodes)

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
        self._spares.setdefault(node, []).append(block)
        self._spare[block] = node

    def drop_spare(self, block: int) -> None:
        """Forget that ``block`` is a spare, where it is one."""
        node = self._spare.pop(block, None)
        if node is not None:
            self._spares[node].remove(block)
            if not self._spares[node]:
                del self._spares[node]

    def spare_of(self, node: Node) -> int | None:
        """A spare of ``node``'s, if there is one."""
        return self._spares[node][0] if node in self._spares else None

    def is_spare(self, block: int, node: Node) -> bool:
        """Whether ``block`` is a spare of ``node``'s."""
        return self._spare.get(block) is node

    def check(self) -> None:
        """Assert that the tree is whole."""
        nodes = list(self._nodes.values())
        assert [node.name for node in nodes] == list(self._nodes)
        assert [self.at(node.block) for node in nodes] == nodes and len(self._at) == len(nodes)
        children = Counter([node.parent for node in nodes if node.parent is not None])
        assert [self.find(node.name) for node in children] == list(children), "findable, but not its beginning"
        assert not [node for node in nodes if node.parent is not None and node.depth != node.parent.depth + 1]
        assert self._spare == {spare: node for node, spares in self._spares.items() for spare in spares}
        assert all(self._nodes.get(node.name) is node and spares for node, spares in self._spares.items())
        assert not self._spare.keys() & self._at.keys()
        assert children == {node: node.children for node in nodes if node.children}

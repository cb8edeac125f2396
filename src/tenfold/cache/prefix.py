"""Finding computed prefixes: a block's name is a hash over all tokens up to its end."""

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


class PrefixIndex:
    """Owner of the map between prefix names and the blocks that hold their KV."""

    def __init__(self) -> None:
        self._block_of: dict[bytes, int] = {}
        self._name_of: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._block_of)

    def find(self, name: bytes) -> int | None:
        """The block that holds this prefix's last tokens, if any."""
        return self._block_of.get(name)

    def add(self, name: bytes, block: int) -> bool:
        """Make ``block`` findable; False where another block already holds the same prefix."""
        if name in self._block_of:
            return self._block_of[name] == block
        self._block_of[name] = block
        self._name_of[block] = name
        return True

    def drop(self, block: int) -> None:
        """Forget ``block``: its contents are about to be overwritten."""
        name = self._name_of.pop(block, None)
        if name is not None:
            del self._block_of[name]

    def knows(self, block: int) -> bool:
        """Whether ``block`` is findable."""
        return block in self._name_of

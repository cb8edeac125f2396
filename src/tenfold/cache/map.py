"""The pool as a picture: what each block is, and whose."""

from collections.abc import Iterable, Sequence
from itertools import compress
from operator import itemgetter

import msgspec

# What a block is: kept, though nobody holds it; held by one that has no code of its own; held by several; worthless.
CACHED, HELD, SHARED, FREE = range(4)
FIRST = 4  # the code of the first holder's own blocks, the next one's is the next
_HOLDERS = 256 - FIRST  # codes are bytes
_STATES = bytes((CACHED, HELD)) + bytes((SHARED,)) * 254  # by how many hold it
_ALONE = bytes(255 * (state == HELD) for state in range(256))
_DIFFERS = bytes((0,)) + bytes((1,)) * 255
MAPPED = 65_536  # blocks: of a larger pool, those are shown that are taken first


class Holder(msgspec.Struct, frozen=True):
    """A sequence with blocks: how many, and how many of those others hold, too."""

    id: str
    blocks: int
    shared: int


class BlockMap(msgspec.Struct, frozen=True):
    """The pool's first blocks, a byte each: what they are; from ``FIRST`` on, whose: the first of the ``holders``."""

    codes: bytes
    holders: list[Holder]

    def without(self, hidden: Iterable[str]) -> "BlockMap":
        """The same, not telling what these hold alone."""
        names = set(hidden)
        known = bytes(HELD if one.id in names else FIRST + at for at, one in enumerate(self.holders))
        codes = self.codes.translate(bytes(range(FIRST)) + known.ljust(_HOLDERS))
        return BlockMap(codes, [Holder("", 0, 0) if one.id in names else one for one in self.holders])

    def runs(self) -> list[tuple[int, int]]:
        """Blocks in order, as runs of equal ones: what they are, and how many.

        Without a loop of ours: a pool in use for long has thousands of them.
        """
        codes = self.codes
        if not codes:
            return []
        changes = int.from_bytes(codes[1:]) ^ int.from_bytes(codes[:-1])  # from the one before: all of them at once
        begins = b"\1" + changes.to_bytes(len(codes) - 1).translate(_DIFFERS)
        runs = begins.replace(b"\1", b"\1\0").split(b"\1")[1:]  # as many bytes each as it has blocks
        return list(zip(compress(codes, begins), map(len, runs), strict=True))


def draw(refs: Sequence[int], free: Iterable[int], tables: Iterable[tuple[str, Sequence[int]]]) -> BlockMap:
    """Of blocks that so many hold, with the free ones, and who holds which. Takes half a millisecond for 10,000."""
    try:
        states = bytearray(refs).translate(_STATES)
    except ValueError:  # more than 255 hold one
        states = bytearray([_STATES[min(count, SHARED)] for count in refs])
    for block in free:
        states[block] = FREE
    painted = states.copy()  # with who holds it, also what several do
    holders: list[Holder] = []
    for name, table in tables:
        if len(holders) == _HOLDERS:
            break
        code = FIRST + len(holders)
        for block in table:
            painted[block] = code
        found = itemgetter(*table)(states) if len(table) > 1 else [states[block] for block in table]
        holders.append(Holder(name, len(table), len(table) - found.count(HELD)))
    # Of each byte, the painted one where one sequence alone holds the block: all of them at once.
    shown = min(len(states), MAPPED)
    plain, own = int.from_bytes(states[:shown]), int.from_bytes(painted[:shown])
    alone = int.from_bytes(states[:shown].translate(_ALONE))
    return BlockMap((plain ^ alone & (plain ^ own)).to_bytes(shown), holders)

"""What is worth least is given up first: seconds to compute it again x the chance that it is used again / its age.

Hyperbolic caching (Blankstein, Sen, Freedman, USENIX ATC'17), with queues instead of samples. The chance is learned,
not taken to grow with the number of uses. What is older than blocks usually are when used again loses by age squared.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import chain
from math import log2

from tenfold.cache.prefix import Node, PrefixIndex
from tenfold.core.config import CacheConfig

_USES = 5  # kinds by uses: 0, 1, 2, 3, more
_TIERS = 6  # half octaves of cost
_FIRST = 0.3  # the chance of a further use, of a kind that was never seen,
_SURE = 64.0  # which counts as so many observations
_RATE = 1 / 4000  # what an observation counts, when there were many
_LEAST = 0.02  # of the chance, so that what is used no more goes in the end
_LOOKS = 32  # blocks given up between looks at all queues, at most


def block_cost(tokens: int) -> float:
    """What computing a token costs after so many, the first one being 1; a model's with little attention.

    Attention takes as much as all else after 128 Ki tokens. The sooner it does, the more is kept of long prefixes, at
    the expense of more tokens of short ones.
    """
    return 1.0 + tokens / 131072


class LeastWorth:
    """An eviction order that learns from what is used again.

    Cached blocks that were used equally often and cost about the same are in one queue, least recently used first;
    the least worth of the queues' heads goes. Age is counted in blocks that became findable. Names given up are
    remembered, as many as there are blocks: one computed again meanwhile counts as used, one forgotten as not.

    ``cost(tokens)`` says what it takes to compute a block that begins after so many tokens, in any unit.
    """

    def __init__(self, index: PrefixIndex, config: CacheConfig, *, cost: Callable[[int], float] = block_cost) -> None:
        self._index = index
        self._queues: dict[int, OrderedDict[int, Node]] = {}  # made when needed
        self._aside: dict[int, Node] = {}  # were heads of their queues, but something findable follows them
        self._count = 0
        self._now = 0
        self._chances = [_FIRST] * _USES
        self._rates = [1 / _SURE] * _USES
        self._usual = float(config.blocks)  # age when used again, on average
        self._gone: OrderedDict[bytes, tuple[int, int]] = OrderedDict()  # uses, and when it was cached last
        self._remembered = config.blocks
        self._cost = cost
        self._block_size = config.block_size
        self._tiers: list[int] = []  # by depth
        self._tier_costs: list[float] = [2.0 ** (tier / 2) for tier in range(_TIERS)]
        self._least: OrderedDict[int, Node] = OrderedDict()  # the queue to take from,
        self._weight = 0.0  # whose heads are worth this over their age,
        self._bound = 0.0  # while that is no more than this,
        self._looks = 0  # so many times more

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        return chain(self._aside, *self._queues.values())

    def push(self, block: int) -> None:
        """See EvictionOrder."""
        node = self._index.at(block)
        assert node is not None
        node.since = self._now
        node.idle = True
        self._queues[node.queue][block] = node
        self._count += 1

    def remove(self, block: int) -> None:
        """See EvictionOrder."""
        node = self._index.at(block)
        assert node is not None
        if self._queues[node.queue].pop(block, None) is None:
            del self._aside[block]
        self._count -= 1

    def pop(self) -> int:
        """See EvictionOrder."""
        node = self._choose()
        while node.children:
            self._aside[node.block] = node
            node = self._choose()
        self._count -= 1
        parent = node.parent
        if parent is not None and parent.children == 1 and self._aside.pop(parent.block, None) is not None:
            queue = self._queues[parent.queue]
            queue[parent.block] = parent
            queue.move_to_end(parent.block, last=False)
            self._bound = min(self._bound, self._weigh(parent.queue) / self._fall(parent.since))
        self._gone[node.name] = (node.uses, node.since)
        if len(self._gone) > self._remembered:
            self._learn(self._gone.popitem(last=False)[1][0], 0.0)
        return node.block

    def enter(self, node: Node) -> None:
        """See EvictionOrder."""
        self._now += 1
        known = self._gone.pop(node.name, None)
        if known is not None:
            uses, since = known
            self._again(uses, since)
            node.uses = uses + 1
        node.idle = False
        depth = node.depth
        if depth >= len(self._tiers):
            self._tiers.append(self._tier(depth))
        self._sort(node, min(node.uses, _USES - 1) * _TIERS + self._tiers[depth])

    def use(self, node: Node) -> None:
        """See EvictionOrder."""
        if node.idle:
            node.idle = False
            self._again(node.uses, node.since)
        node.uses += 1
        if node.uses < _USES:
            self._sort(node, node.queue + _TIERS)

    def check(self) -> None:
        """See EvictionOrder."""
        assert self._count == sum(map(len, self._queues.values())) + len(self._aside)
        assert len(self._gone) <= self._remembered
        assert all(self._index.at(block) is node and node.children for block, node in self._aside.items())
        for at, queue in self._queues.items():
            assert list(map(self._index.at, queue)) == list(queue.values())
            assert {node.queue for node in queue.values()} <= {at}

    def _sort(self, node: Node, queue: int) -> None:
        """Say in which queue a held node will be."""
        node.queue = queue
        if queue not in self._queues:
            self._queues[queue] = OrderedDict()

    def _tier(self, depth: int) -> int:
        ratio = self._cost(depth * self._block_size) / self._cost(0)
        return min(max(round(2 * log2(ratio)), 0), _TIERS - 1)

    def _again(self, uses: int, since: int) -> None:
        """One that had been used so often, and was cached at this time, is used again."""
        self._learn(uses, 1.0)
        self._usual += (self._now - since - self._usual) * _RATE

    def _learn(self, uses: int, used: float) -> None:
        """One that had been used so often was used again (1) or was not (0)."""
        kind = uses if uses < _USES else _USES - 1
        rate = self._rates[kind]
        if rate > _RATE:
            self._rates[kind] = rate / (1.0 + rate)
        chance = self._chances[kind]
        chance += (used - chance) * rate
        self._chances[kind] = chance if chance > _LEAST else _LEAST

    def _weigh(self, queue: int) -> float:
        return self._chances[queue // _TIERS] * self._tier_costs[queue % _TIERS]

    def _fall(self, since: int) -> float:
        """What a block's worth is divided by that was cached at this time."""
        age = self._now - since + 1
        return age * (1.0 + age / (1.0 + self._usual))

    def _choose(self) -> Node:
        """Take the head that is worth least out of its queue. All are looked at once in a while only."""
        queue = self._least
        if self._looks and queue:
            block, node = queue.popitem(last=False)
            if self._weight <= self._bound * self._fall(node.since):
                self._looks -= 1
                return node
            queue[block] = node
            queue.move_to_end(block, last=False)
        worths = []
        for at, other in self._queues.items():
            if other:
                worths.append((self._weigh(at) / self._fall(other[next(iter(other))].since), at))
        worths.sort()
        at = worths[0][1]
        self._weight = self._weigh(at)
        self._bound = worths[1][0] if len(worths) > 1 else float("inf")
        self._looks = _LOOKS
        self._least = self._queues[at]
        return self._least.popitem(last=False)[1]

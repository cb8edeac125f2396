"""Several ranks that compute one model together: sums and joins over torch.distributed (NCCL; gloo on CPUs)."""

from datetime import timedelta
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from tenfold.core.errors import ConfigError
from tenfold.ops.base import Batch

_FIELDS = ("tokens", "positions", "starts", "context", "tables", "rows")


class Ranks(Protocol):
    """The ranks of a tensor-parallel group, as one of them sees it."""

    rank: int
    world: int

    def sum(self, x: Tensor) -> Tensor:
        """Over all ranks, in place."""
        ...

    def joined(self, x: Tensor) -> Tensor:
        """The ranks' columns beside each other."""
        ...

    def least(self, number: int) -> int:
        """Of all ranks' numbers."""
        ...

    def agreed(self, number: int) -> int:
        """The first rank's number."""
        ...

    def tell(self, batch: Batch) -> None:
        """The first rank tells the others what is computed next."""
        ...

    def share(self, x: Tensor) -> None:
        """The first rank's x to all others, in place."""
        ...


class Alone:
    """One rank."""

    rank, world = 0, 1

    def sum(self, x: Tensor) -> Tensor:
        """x."""
        return x

    def joined(self, x: Tensor) -> Tensor:
        """x."""
        return x

    def least(self, number: int) -> int:
        """The number."""
        return number

    def agreed(self, number: int) -> int:
        """The number."""
        return number

    def tell(self, batch: Batch) -> None:
        """Nobody is there."""

    def share(self, x: Tensor) -> None:
        """Nobody is there."""


ALONE = Alone()


def join_group(
    rank: int, world: int, address: str, device: torch.device | None = None, seconds: float = 600.0
) -> "Group":
    """Become rank ``rank`` of ``world`` that meet at ``address`` (``tcp://127.0.0.1:port``), the first of which listens
    there; ``device``: its GPU, unless told. Waits for all; raises ConfigError where they do not come in time."""
    patience = timedelta(seconds=seconds)
    device = device or torch.device("cuda", rank)
    try:
        if device.type != "cuda":
            dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world, timeout=patience)
            assert dist.group.WORLD is not None
            return Group(rank, world, dist.group.WORLD, dist.group.WORLD)
        torch.cuda.set_device(device)
        dist.init_process_group(
            "nccl", init_method=address, rank=rank, world_size=world, timeout=patience, device_id=device
        )
        words = dist.new_group(backend="gloo", timeout=timedelta(days=365))  # an idle server says nothing for long
    except (RuntimeError, ValueError) as error:  # the second: a process is in one group only
        raise ConfigError(f"rank {rank} of --tensor-parallel {world} joined no group: {error}") from error
    assert dist.group.WORLD is not None
    return Group(rank, world, dist.group.WORLD, words)


class Follower(Protocol):
    """Ops that compute their part of what the first rank tells."""

    def kv_room(self) -> int:
        """See :class:`tenfold.ops.base.OwnMemory`."""
        ...

    def new_kv(self, blocks: int, block_size: int) -> Any:
        """See :class:`tenfold.ops.base.Ops`; the first rank says how many blocks."""
        ...

    def follow(self, batch: Batch, kv: Any) -> None:
        """Compute a step's part."""
        ...


def follow(ops: Follower, group: "Group", block_size: int) -> None:
    """Do as the first rank tells, until it says that nothing more comes, or is gone."""
    ops.kv_room()
    kv = ops.new_kv(0, block_size)
    while True:
        try:
            batch = group.hear()
        except RuntimeError:  # the first rank is gone
            return
        if batch is None:
            return
        ops.follow(batch, kv)


class Group:
    """A rank of a group that is set up: tensors are summed over ``device``, and words go over ``words`` (gloo)."""

    def __init__(self, rank: int, world: int, device: dist.ProcessGroup, words: dist.ProcessGroup) -> None:
        self.rank = rank
        self.world = world
        self._device = device
        self._words = words

    def sum(self, x: Tensor) -> Tensor:
        """See :class:`Ranks`."""
        dist.all_reduce(x, group=self._device)
        return x

    def joined(self, x: Tensor) -> Tensor:
        """See :class:`Ranks`."""
        parts = [torch.empty_like(x) for _ in range(self.world)]
        dist.all_gather(parts, x.contiguous(), group=self._device)
        return torch.cat(parts, dim=1)

    def least(self, number: int) -> int:
        """See :class:`Ranks`."""
        told = torch.tensor([number])
        dist.all_reduce(told, op=dist.ReduceOp.MIN, group=self._words)
        return int(told)

    def agreed(self, number: int) -> int:
        """See :class:`Ranks`."""
        told = torch.tensor([number])
        self._send(told)
        return int(told)

    def tell(self, batch: Batch) -> None:
        """See :class:`Ranks`; the others are in :meth:`hear`."""
        if self.rank == 0:
            arrays = [getattr(batch, name) for name in _FIELDS]
            sizes = [array.size for array in arrays]
            self._send(torch.tensor([*sizes, batch.tables.shape[1]]))
            self._send(torch.from_numpy(np.concatenate([np.ravel(array) for array in arrays])))

    def share(self, x: Tensor) -> None:
        """See :class:`Ranks`."""
        dist.broadcast(x, src=0, group=self._device)

    def leave(self) -> None:
        """The group is over."""
        dist.destroy_process_group()

    def dismiss(self) -> None:
        """The first rank tells the others that nothing more comes."""
        self._send(torch.zeros(len(_FIELDS) + 1, dtype=torch.int64))

    def hear(self) -> Batch | None:
        """What the first rank tells: the next batch, or None when nothing more comes."""
        sizes = torch.empty(len(_FIELDS) + 1, dtype=torch.int64)
        self._send(sizes)
        *counts, width = sizes.tolist()
        if not counts[0]:
            return None
        numbers = torch.empty(sum(counts), dtype=torch.int32)
        self._send(numbers)
        parts = dict(zip(_FIELDS, np.split(numbers.numpy(), np.cumsum(counts)[:-1]), strict=True))
        parts["tables"] = parts["tables"].reshape(-1, width)
        return Batch(**parts)

    def _send(self, numbers: Tensor) -> None:
        dist.broadcast(numbers, src=0, group=self._words)

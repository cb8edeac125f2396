"""What kernels read of the host's: one copy a step, into device memory that never moves, so that graphs may read it."""

from collections.abc import Mapping

import torch

from tenfold.ops.base import Int32

_ALIGN = 32  # int32 numbers: 128 bytes
_HOST_COPIES = 3  # of the step that runs, of the one launched behind it, and the one that is being written


class Arena:
    """One device buffer of ``capacity`` int32 numbers. Arrays lie in it one behind the other, in the order they are
    given: those of two steps lie at the same places where they have the same sizes."""

    def __init__(self, capacity: int, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._device = torch.zeros(capacity, dtype=torch.int32, device=device)
        copies = _HOST_COPIES if self._cuda else 1
        self._hosts = [torch.zeros(capacity, dtype=torch.int32, pin_memory=self._cuda) for _ in range(copies)]
        self._copied: list[torch.cuda.Event | None] = [None] * copies
        self._turn = 0

    @staticmethod
    def room(*sizes: int) -> int:
        """The capacity that arrays of these sizes take."""
        return sum(-(-size // _ALIGN) * _ALIGN for size in sizes)

    def upload(self, arrays: Mapping[str, Int32]) -> dict[str, torch.Tensor]:
        """Copy them behind what the device was given to do before, and return at once: flat views of the copies."""
        self._turn = (self._turn + 1) % len(self._hosts)
        host, copied = self._hosts[self._turn], self._copied[self._turn]
        if copied is not None:
            copied.synchronize()
        numbers, end, views = host.numpy(), 0, {}
        for name, array in arrays.items():
            assert end + array.size <= len(numbers), f"no room for {array.size} numbers of {name}"
            numbers[end : end + array.size] = array.reshape(-1)
            views[name] = self._device[end : end + array.size]
            end += -(-array.size // _ALIGN) * _ALIGN
        self._device[:end].copy_(host[:end], non_blocking=True)
        if self._cuda:
            event = torch.cuda.Event()
            event.record()
            self._copied[self._turn] = event
        return views

"""Choosing tokens on the device: what is wanted goes there, what was chosen comes back in one small copy."""

from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray

from tenfold.ops.choosing import Chosen, Summary, Wanted, second_filters


class DeviceChoosing:
    """Tokens that the device is choosing. ``packed`` int32 holds tokens [R], the unchanged logits' largest [R] where
    they were changed, and the summary's numbers."""

    def __init__(self, packed: torch.Tensor, rows: int, *, changed: bool, summarized: int, top: int) -> None:
        self._rows = rows
        self._changed = changed
        self._summarized = summarized
        self._top = top
        self._event: torch.cuda.Event | None = None
        if packed.device.type == "cuda":
            self._host = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=True)
            self._host.copy_(packed, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._host = packed

    def result(self) -> Chosen:
        """Waits for the device."""
        if self._event is not None:
            self._event.synchronize()
        numbers, at = self._host.numpy(), 0

        def take(count: int) -> NDArray[np.int32]:
            nonlocal at
            at += count
            return numbers[at - count : at]

        tokens = take(self._rows)
        finite = (take(self._rows) if self._changed else tokens) >= 0
        n, top = self._summarized, self._top
        if not n:
            return Chosen(tokens, finite)
        sums = take(2 * n).view(np.float32).reshape(2, n).T.astype(np.float64)
        ids = take(n * top).reshape(n, top)
        values = take(n * top).view(np.float32).reshape(n, top)
        return Chosen(tokens, finite, Summary(sums, ids, values, take(n).view(np.float32)))


def choose(sampling: ModuleType, logits: torch.Tensor, wanted: Wanted, previous: torch.Tensor) -> DeviceChoosing:
    """Answer ``wanted`` over ``logits`` [R, vocab] by the functions of ``sampling``; waits for nothing.

    The tokens are left in ``previous`` [>= R], too, where the next step finds them.
    """
    rows = len(logits)
    asked, changes, masks = wanted.logprobs, wanted.changes, wanted.masks
    changed = changes is not None or masks is not None
    parts: list[torch.Tensor] = []
    if asked is not None:
        before = logits[_sent(asked, logits.device)]
        largest, log_sum, ids, values = sampling.summarize(before, wanted.top)
    if changed:
        parts.append(sampling.largest(logits))
    if changes is not None:
        device = logits.device
        each = (changes.rows, changes.ids, changes.scale, changes.amount)
        sampling.change(logits, *(_sent(part, device) for part in each))
    tokens = _chosen(sampling, logits, wanted.filters)
    if masks is not None:
        assert wanted.filters is not None
        every = np.arange(len(masks.rows))
        parts_of = (masks.rows, every.astype(np.int32), masks.bits(every))
        held, which, bits = (_sent(part, logits.device) for part in parts_of)
        among = logits[held]  # the host made the bits while the device was busy
        sampling.mask(among, which, bits)
        again = _chosen(sampling, among, second_filters(wanted.filters[masks.rows]))
        first = tokens[held]
        may = bits.gather(1, (first.clamp(min=0) >> 5).long()[:, None])[:, 0] >> (first & 31) & 1
        tokens[held] = torch.where((first < 0) | (may == 1), first, again)
    previous[:rows].copy_(tokens)
    parts.insert(0, tokens)
    if asked is not None:
        own = before.gather(1, tokens[_sent(asked, logits.device)].clamp(min=0).long()[:, None])
        parts += [part.float().view(torch.int32) for part in (largest, log_sum)]
        parts += [ids.int().flatten(), values.float().flatten().view(torch.int32), own.flatten().view(torch.int32)]
    packed = torch.cat(parts) if len(parts) > 1 else tokens
    return DeviceChoosing(packed, rows, changed=changed, summarized=0 if asked is None else len(asked), top=wanted.top)


def _chosen(sampling: ModuleType, logits: torch.Tensor, filters: "NDArray[np.float64] | None") -> torch.Tensor:
    if filters is None or not (filters[:, 0] > 0).any():
        return sampling.largest(logits)
    return sampling.choose(logits, _sent(filters, logits.device))


def _sent(array: NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """A copy on the device, made behind what it was given to do before: from pinned memory, so that nobody waits."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)

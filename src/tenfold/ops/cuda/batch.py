"""A step's batch on the device."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tenfold.ops.base import Batch, Int32
from tenfold.ops.cuda.arena import Arena
from tenfold.ops.cuda.attention_plan import KEY_TILE, items_capacity, plan_attention
from tenfold.ops.cuda.device_plan import DevicePlan
from tenfold.ops.spec import ModelSpec

_GATHERED = 32_768  # keys of earlier context that prompts may have copied in a step, or one whole context


@dataclass(frozen=True, slots=True)
class DeviceBatch:
    """T rows of S sequences, int32 on the device (see :class:`tenfold.ops.base.Batch`), and who does what in attention.

    A padded row's slot is -1, and its sequence has a context of 0.
    """

    tokens: Tensor  # [T]; -1 - i: what the step before gave at i
    positions: Tensor  # [T]
    slots: Tensor  # [T]: where each row's keys and values go, in slots of the whole pool
    starts: Tensor  # [S + 1]
    context: Tensor  # [S]
    tables: Tensor  # [S, B], rows further apart
    wanted: Tensor | None  # [R] rows whose logits are wanted; None: all
    plans: Mapping[int, DevicePlan]  # by window
    fresh: bool  # whether keys and values of this step are read from its own rows


class Batches:
    """Owner of the device memory that batches lie in: room for ``max_rows`` rows of ``max_sequences`` sequences.

    ``dense``: prompts without earlier context may read this step's keys and values. ``invariant``: see
    :func:`~tenfold.ops.cuda.attention_plan.plan_attention`.
    """

    def __init__(
        self,
        spec: ModelSpec,
        device: torch.device,
        *,
        kv_heads: int,
        block_size: int,
        max_rows: int,
        max_sequences: int,
        max_context: int,
        dense: bool,
        invariant: bool,
    ) -> None:
        self.max_rows = max_rows
        self.max_sequences = max_sequences
        self.most_gathered = max(max_context, _GATHERED)
        self._group = spec.heads // spec.kv_heads
        self._kv_heads = kv_heads
        self._block_size = block_size
        self._windows = tuple(dict.fromkeys(spec.windows))
        self._dense = dense
        self._invariant = invariant
        self._processors = 64
        if device.type == "cuda":
            self._processors = torch.cuda.get_device_properties(device).multi_processor_count
        flat = max_rows * self._group
        pieces = -(-flat // 16) + max_sequences
        items = pieces + items_capacity(pieces, self._group, kv_heads, self._processors)
        self.most_partial = 64 * items  # flat rows of partial results
        plan = 4 + 5 * items + 4 * pieces + 3 * (-(-flat // 64) + max_sequences)
        plan += 3 * max_sequences * (max_context // KEY_TILE + 1)
        room = Arena.room(*[max_rows + 1] * 6, *[plan] * len(self._windows))
        self._arena = Arena(room, device)
        self._tables = torch.zeros(max_sequences, -(-max_context // block_size), dtype=torch.int32, device=device)
        self._last: Int32 | None = None

    def upload(self, batch: Batch, padded: int | None = None) -> DeviceBatch:
        """Send ``batch`` behind what the device was given to do before.

        Decode may be ``padded`` to so many sequences: what comes back is then over the same memory for all of a size.
        """
        sequences = len(batch.context)
        tokens, positions, slots = batch.tokens, batch.positions, self._slots(batch)
        starts, context = batch.starts, batch.context
        if padded is not None:
            more = padded - sequences
            zeros = np.zeros(more, np.int32)
            tokens, positions, context = (np.concatenate((part, zeros)) for part in (tokens, positions, context))
            slots = np.concatenate((slots, zeros - np.int32(1)))
            starts = np.arange(padded + 1, dtype=np.int32)
        arrays = {"tokens": tokens, "positions": positions, "slots": slots, "starts": starts, "context": context}
        all_wanted = padded is not None or len(batch.rows) == len(batch.tokens)
        if not all_wanted:
            arrays["wanted"] = batch.rows
        plans = {
            window: plan_attention(
                starts,
                context,
                group=self._group,
                kv_heads=self._kv_heads,
                window=window,
                processors=self._processors,
                padded=padded is not None,
                invariant=self._invariant,
                dense=self._dense,
                most_gathered=self.most_gathered,
            )
            for window in self._windows
        }
        arrays |= {f"plan {window}": plan.pack() for window, plan in plans.items()}
        views = self._arena.upload(arrays)
        self._send_tables(batch.tables)
        return DeviceBatch(
            views["tokens"],
            views["positions"],
            views["slots"],
            views["starts"],
            views["context"],
            self._tables[: len(context)],
            None if all_wanted else views["wanted"],
            {window: DevicePlan.of(plan, views[f"plan {window}"]) for window, plan in plans.items()},
            any(plan.fresh for plan in plans.values()),
        )

    def _slots(self, batch: Batch) -> Int32:
        counts = np.diff(batch.starts)
        sequence = np.arange(len(counts))
        if len(counts) != len(batch.tokens):
            sequence = np.repeat(sequence, counts)
        size = np.int32(self._block_size)
        blocks = batch.tables[sequence, batch.positions // size]
        return (blocks * size + batch.positions % size).astype(np.int32)

    def _send_tables(self, tables: Int32) -> None:
        """Tables that are the same array as the step's before are there already."""
        if tables is self._last:
            return
        host = torch.from_numpy(tables)
        if self._tables.is_cuda:
            host = host.pin_memory()
        self._tables[: tables.shape[0], : tables.shape[1]].copy_(host, non_blocking=True)
        self._last = tables


def decodes(batch: Batch) -> bool:
    """Whether every sequence has one row, and its logits are wanted."""
    return len(batch.tokens) == len(batch.context) == len(batch.rows)

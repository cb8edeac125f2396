"""A step's batch on the device."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tenfold.ops.base import Batch, Int32
from tenfold.ops.cuda.arena import Arena
from tenfold.ops.cuda.attention_plan import KEY_TILE, Padding, items_capacity, plan_attention
from tenfold.ops.cuda.device_plan import DevicePlan
from tenfold.ops.cuda.parallel import ALONE, Ranks
from tenfold.ops.spec import ModelSpec

_GATHERED = 32_768  # keys of earlier context that prompts may have copied in a step, or one whole context


@dataclass(frozen=True, slots=True)
class DeviceBatch:
    """T rows of S sequences, int32 on the device (see :class:`tenfold.ops.base.Batch`), and who does what in attention.

    A padded row's slot is -1. In decode it is of a sequence whose context is 0, else of none; then nothing is computed
    of its attention, and what the step makes of it means nothing.
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
        ranks: Ranks = ALONE,
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
        self._processors = ranks.least(self._processors)  # all ranks take the same graphs
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

    def upload(self, batch: Batch, padding: Padding | None = None) -> DeviceBatch:
        """Send ``batch`` behind what the device was given to do before.

        With ``padding``, what comes back is over the same memory for all batches of one padding and one ``rows`` of
        each plan; logits are then wanted of all rows of decode, else of as many rows as there are sequences.
        """
        tokens, positions, slots = batch.tokens, batch.positions, self._slots(batch)
        starts, context, wanted = batch.starts, batch.context, batch.rows
        all_wanted = len(wanted) == len(tokens) if padding is None else padding.decode
        if padding is not None:
            tokens, positions = (_filled(part, padding.rows, 0) for part in (tokens, positions))
            slots = _filled(slots, padding.rows, -1)
            if padding.decode:
                starts = np.arange(padding.rows + 1, dtype=np.int32)
            else:
                starts = _filled(starts, padding.sequences + 1, starts[-1])
                wanted = _filled(wanted, padding.sequences, 0)
            context = _filled(context, padding.sequences, 0)
        arrays = {"tokens": tokens, "positions": positions, "slots": slots, "starts": starts, "context": context}
        if not all_wanted:
            arrays["wanted"] = wanted
        plans = {
            window: plan_attention(
                starts,
                context,
                group=self._group,
                kv_heads=self._kv_heads,
                window=window,
                processors=self._processors,
                padding=padding,
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


def _filled(array: Int32, size: int, number: int) -> Int32:
    return np.concatenate((array, np.full(size - len(array), number, np.int32)))


def decodes(batch: Batch) -> bool:
    """Whether every sequence has one row, and its logits are wanted."""
    return len(batch.tokens) == len(batch.context) == len(batch.rows)

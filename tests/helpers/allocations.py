"""Counts the heap allocations of a step's native calls: run as a program, under ``allocations.c``; prints JSON.

Per batch, in the order they are computed after all have been once: {call: allocations}.
"""

import ctypes
import json
from collections.abc import Callable

import numpy as np

from tenfold.ops.cpu import CpuOps
from tests.helpers.models import Slice, make_batch, random_weights, rope, tiny_spec

PROMPT = range(3, 43)
# Sequences that share two chunks, a long one, short ones and a piece of a prompt; a few of them; one.
MIXED = [
    *(Slice([5 + i], 600 + 9 * i, [*range(32), *range(40 + 10 * i, 50 + 10 * i)]) for i in range(5)),
    Slice([7], 1500, range(100, 200)),
    *(Slice([9], 40 + i, range(200 + 4 * i, 204 + 4 * i)) for i in range(8)),
    Slice(list(PROMPT), 300, range(240, 264)),
]
BATCHES = [make_batch(slices) for slices in (MIXED, MIXED[3:8], MIXED[-1:])]


def counts() -> list[dict[str, int]]:
    """See above."""
    allocations = ctypes.CDLL(None).allocations
    allocations.restype = ctypes.c_long
    spec = tiny_spec(windows=(0, 90), rope_local=rope(16, 100.0), max_context=2048)
    ops = CpuOps(random_weights(spec, kind="Q4_1"), threads=2)
    kv = ops.new_kv(300, 16)
    found: dict[str, int] = {}

    def counted(name: str, call: Callable[..., object], *arguments: object) -> object:
        before = allocations()
        result = call(*arguments)
        found[name] = allocations() - before
        return result

    steps = []
    for batch in BATCHES * 2:
        fields = (batch.tokens, batch.positions, batch.starts, batch.context, batch.tables, batch.rows)
        filters = np.array([[0.8, 40, 0.95, 0, 0.3]] * len(batch.rows))
        which = np.arange(len(batch.rows), dtype=np.int32)
        counted("upload", ops.model.upload, *fields)
        counted("forward", ops.model.forward, kv)
        logits = counted("logits", ops.model.logits)
        counted("largest", ops.largest, logits)
        counted("draw", ops.draw, logits, which, filters)
        steps.append(found.copy())
    return steps[len(BATCHES) :]


if __name__ == "__main__":
    print(json.dumps(counts()))

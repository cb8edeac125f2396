"""What it saves to read a prefix that decoding sequences share once for all of them.

    python -m benchmarks.shared_prefix [--sequences 16] [--shared 1024] [--own 64] [--level L] [--kv bf16|int8]

A decode step of SmolLM2-135M's shapes with synthetic weights, three ways by turns: each sequence's prefix in blocks of
its own; in the same blocks, read for each; in the same blocks, read once (what the engine does). Medians of the rounds,
and the least.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

from benchmarks.ops import decode_batch, smollm2, synthetic
from tenfold.core.config import KV_TYPES
from tenfold.model.decoder import forward
from tenfold.ops.base import Batch
from tenfold.ops.cpu import CpuOps
from tenfold.profile.steps import fill

TOGETHER = 16  # tokens of a block: a chunk of attention is whole blocks
APART = 48  # it is not: no prefix is read for several
LAYERS = 30


def sharing_batch(sequences: int, shared: int, own: int, block: int, *, copies: bool) -> Batch:
    """A new token of each of ``sequences``: ``shared`` keys in the same blocks, or in ``copies``, then ``own``."""
    batch = decode_batch(sequences, shared + own, block)
    if not copies:
        batch.tables[:, : shared // block] = batch.tables[0, : shared // block]
    return batch


def step(ops: CpuOps, batch: Batch, block: int) -> Callable[[], object]:
    """The step over KV memory of its own."""
    blocks = int(batch.tables.max()) + 1
    kv = ops.new_kv(blocks, block)
    fill(ops, kv, blocks, block)
    return partial(forward, ops, kv, batch)


def figures(seconds: list[float]) -> str:
    """Median and least, in milliseconds."""
    return f"{statistics.median(seconds) * 1e3:7.2f} ({min(seconds) * 1e3:6.2f}) ms"


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--shared", type=int, default=1024, help="keys of the prefix")
    parser.add_argument("--own", type=int, default=64, help="keys of each sequence after it")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--level", default=None)
    parser.add_argument("--kv", default="bf16", choices=KV_TYPES["cpu"])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    ops = CpuOps(synthetic(smollm2(LAYERS)), threads=options.threads, level=options.level, kv_type=options.kv)
    make = partial(sharing_batch, options.sequences, options.shared, options.own)
    ways = {
        "blocks of its own": step(ops, make(TOGETHER, copies=True), TOGETHER),
        "same blocks, read for each": step(ops, make(APART, copies=False), APART),
        "same blocks, read once": step(ops, make(TOGETHER, copies=False), TOGETHER),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    attention: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(options.rounds + 1):
        for name, run in ways.items():
            ops.model.record(True)
            begin = time.perf_counter()
            run()
            if number:  # the first round warms
                spent[name].append(time.perf_counter() - begin)
                attention[name].append(ops.model.timings()["attend"][1] / 1e9)
    print(f"{ops.describe()}: {options.sequences} sequences, {options.shared} shared keys, {options.own} own ones")
    for name in ways:
        print(f"  {name:27} step {figures(spent[name])}, attention {figures(attention[name])}")


if __name__ == "__main__":
    main()

"""Where a forward pass of a real model goes, op by op. ``python -m benchmarks.step [MODEL] [--threads N]``.

Prints a row per batch shape: median milliseconds of each op over all layers, of the whole pass, and tokens per second.
"""

import argparse
import statistics
import time
from dataclasses import dataclass

import numpy as np

from tenfold.core.config import DEFAULT_MODEL
from tenfold.model.checkpoint import load_checkpoint
from tenfold.model.store import resolve
from tenfold.ops.base import Batch, Kv, Ops
from tenfold.ops.cpu import CpuOps

BLOCK = 16
OPS = ("embed", "qkv", "attend", "attn_out", "mlp", "logits")


@dataclass(frozen=True, slots=True)
class Shape:
    """``rows`` sequences that decode at ``context`` tokens each, or one prompt of ``rows`` tokens."""

    rows: int
    context: int
    prefill: bool = False


SHAPES = (
    Shape(1, 100),
    Shape(16, 100),
    Shape(16, 600),
    Shape(32, 100),
    Shape(512, 512, prefill=True),
    Shape(2048, 2048, prefill=True),
)


def batch(shape: Shape, vocab: int) -> Batch:
    """The shape's batch, every sequence in blocks of its own."""
    sequences = 1 if shape.prefill else shape.rows
    blocks = -(-shape.context // BLOCK)
    tokens = (np.arange(shape.rows, dtype=np.int32) * 17 + 1000) % vocab
    starts = np.array([0, shape.rows]) if shape.prefill else np.arange(shape.rows + 1)
    positions = np.arange(shape.rows) if shape.prefill else np.full(shape.rows, shape.context - 1)
    return Batch(
        tokens=tokens,
        positions=positions.astype(np.int32),
        starts=starts.astype(np.int32),
        context=np.full(sequences, shape.context, dtype=np.int32),
        tables=np.arange(sequences * blocks, dtype=np.int32).reshape(sequences, blocks),
        rows=(starts[1:] - 1).astype(np.int32),
    )


def timed_pass(ops: Ops, kv: Kv, b: Batch) -> dict[str, float]:
    """Seconds of each op, and of all: the decoder's forward pass with a clock between the ops."""
    spent = dict.fromkeys((*OPS, "all"), 0.0)
    begin = last = time.perf_counter()

    def lap(op: str) -> None:
        nonlocal last
        now = time.perf_counter()
        spent[op] += now - last
        last = now

    x = ops.embed(b)
    lap("embed")
    for layer in range(ops.spec.layers):
        q = ops.qkv(layer, x, b, kv)
        lap("qkv")
        a = ops.attend(layer, q, b, kv)
        lap("attend")
        x = ops.attn_out(layer, a, x)
        lap("attn_out")
        x = ops.mlp(layer, x)
        lap("mlp")
    ops.logits(x, b)
    lap("logits")
    spent["all"] = last - begin
    return spent


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL)
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--repeats", type=int, default=12)
    args = parser.parse_args()
    ops: Ops = CpuOps(load_checkpoint(resolve(args.model)).weights, threads=args.threads)
    kv = ops.new_kv(2048, BLOCK)
    print(ops.describe())
    print(f"{'rows x context':>16}" + "".join(f"{op:>10}" for op in (*OPS, "all")) + f"{'tok/s':>10}   (ms)")
    for shape in SHAPES:
        b = batch(shape, ops.spec.vocab)
        runs = [timed_pass(ops, kv, b) for _ in range(args.repeats)]
        medians = {op: statistics.median(run[op] for run in runs) for op in runs[0]}
        name = f"prefill {shape.rows}" if shape.prefill else f"{shape.rows} x {shape.context}"
        row = "".join(f"{1e3 * medians[op]:>10.2f}" for op in (*OPS, "all"))
        print(f"{name:>16}{row}{shape.rows / medians['all']:>10.0f}", flush=True)


if __name__ == "__main__":
    main()

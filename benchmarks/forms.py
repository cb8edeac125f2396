"""What each form of the weights gives in speed and memory: ``python -m benchmarks.forms [MODEL]``.

Loads the model once per form and alternates between them pass by pass, so that the machine's moods meet all alike.
Prints a row per form: seconds to load (second time: the file is in memory), MiB of weights, and per batch shape the
median tokens per second of a forward pass with its ratio to the first form's.
"""

import argparse
import statistics
import time

from tenfold.core.clock import WallClock
from tenfold.core.config import DEFAULT_MODEL, WEIGHTS
from tenfold.model.checkpoint import load_checkpoint
from tenfold.model.store import resolve
from tenfold.ops.cpu import CpuOps
from tenfold.ops.tensors import Weights
from tenfold.profile.steps import BLOCK, Shape, batch_of, blocks_of, fill, timed_pass

SHAPES = (Shape("decode", 1, 100), Shape("decode", 16, 100), Shape("prefill", 512, 512))


def loaded(weights: Weights, form: str, threads: int) -> tuple[CpuOps, float]:
    """The ops in ``form``, and the seconds they took to pack once the file was in memory."""
    CpuOps(weights, threads=threads, form=form)
    begin = time.perf_counter()
    ops = CpuOps(weights, threads=threads, form=form)
    return ops, time.perf_counter() - begin


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forms", description=__doc__)
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL)
    parser.add_argument("--weights", action="append", choices=WEIGHTS["cpu"], help="default: bf16, int8, int4")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    weights = load_checkpoint(resolve(arguments.model)).weights
    forms = {form: loaded(weights, form, arguments.threads) for form in arguments.weights or WEIGHTS["cpu"][:0:-1]}
    blocks = max(blocks_of(shape) for shape in SHAPES)
    pools = {form: ops.new_kv(blocks, BLOCK) for form, (ops, _) in forms.items()}
    for form, (ops, _) in forms.items():
        fill(ops, pools[form], blocks)
    clock = WallClock()
    speeds: dict[str, list[float]] = {form: [] for form in forms}
    for shape in SHAPES:
        batch = batch_of(shape, weights.spec.vocab)
        runs: dict[str, list[float]] = {form: [] for form in forms}
        for _ in range(arguments.repeats):
            for form, (ops, _) in forms.items():
                runs[form].append(sum(timed_pass(ops, pools[form], batch, clock).values()))
        for form, times in runs.items():
            speeds[form].append(shape.rows / statistics.median(times))
    first = next(iter(speeds.values()))
    print("| weights | load s | MiB | decode 1 x 100 tok/s | decode 16 x 100 tok/s | prefill 512 tok/s |")
    print("|---|---|---|---|---|---|")
    for form, (ops, seconds) in forms.items():
        cells = [f"{speed:.0f} ({speed / base:.2f} x)" for speed, base in zip(speeds[form], first, strict=True)]
        print(f"| {form} | {seconds:.2f} | {ops.model.weight_bytes / 2**20:.0f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

"""Whether values below float32's normal range (under 1.2e-38) slow the kernels down: they flush them.

    python -m benchmarks.subnormals [--level L] [--threads N]

Each line is the time with results that are subnormal over the time with ordinary ones: median of 15 alternating runs.
1.0 is no cost. The last line is NumPy, which does not flush: what this CPU asks for where nobody does.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from benchmarks.ops import prefill_batch, smollm2
from tenfold import _native
from tenfold.model.decoder import forward
from tenfold.model.encodings import float_tensor
from tenfold.model.layout import shapes
from tenfold.ops.cpu import CpuOps
from tenfold.ops.tensors import Weights

RUNS = 15
ROWS, OUTPUTS, INPUTS = 64, 1024, 1024
LAYERS, TOKENS = 2, 256


def ratio(odd: Callable[[], object], ordinary: Callable[[], object]) -> float:
    """Median over the runs of the time of ``odd`` by that of ``ordinary`` right after it."""
    found = []
    for _ in range(RUNS + 1):
        begin = time.perf_counter()
        odd()
        middle = time.perf_counter()
        ordinary()
        found.append((middle - begin) / (time.perf_counter() - middle))
    return statistics.median(found[1:])


def linear(level: str, threads: int, size: float) -> Callable[[], object]:
    """A dense product of weights and activations of about ``size``: every sum is of about its square."""
    rng = np.random.default_rng(0)
    weights = (rng.standard_normal((OUTPUTS, INPUTS)) * size).astype(np.float32)
    rows = (rng.standard_normal((ROWS, INPUTS)) * size).astype(np.float32)
    projection = _native.Projection("F32", weights.view(np.uint8), INPUTS, level, threads)
    return lambda: projection.apply(rows)


def step(level: str, threads: int, size: float) -> Callable[[], object]:
    """A prompt through two layers whose keys, values and gated activations are of about ``size``."""
    spec = replace(smollm2(LAYERS), vocab=1024)
    rng = np.random.default_rng(1)
    tensors = {}
    for name, shape in shapes(spec).items():
        values = rng.standard_normal(shape).astype(np.float32)
        if len(shape) == 2:
            values *= (size if name.rsplit(".", 1)[-1] in ("k", "v", "up") else 1.0) / np.sqrt(shape[1])
        tensors[name] = float_tensor(name, values)
    ops = CpuOps(Weights(spec, tensors), level=level, threads=threads)
    batch = prefill_batch(TOKENS)
    batch = replace(batch, tokens=batch.tokens % spec.vocab)
    kv = ops.new_kv(TOKENS // 16, 16)
    return lambda: forward(ops, kv, batch)


def plain(size: float) -> Callable[[], object]:
    """NumPy's product of two arrays of about ``size`` that stay in the cache."""
    a = np.full(4096, size, np.float32)
    out = np.empty_like(a)

    def run() -> None:
        for _ in range(200):
            np.multiply(a, a, out=out)

    return run


def main() -> None:
    """Parse the command line and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--level", default=_native.levels()[0])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    at = (options.level, options.threads)
    print(f"{options.level}, {options.threads} threads: time with subnormal results / with ordinary ones")
    print(f"  dense linear, {ROWS} rows    {ratio(linear(*at, 1e-20), linear(*at, 1.0)):.2f}")
    print(f"  prefill of {TOKENS} tokens   {ratio(step(*at, 3e-38), step(*at, 1.0)):.2f}")
    print(f"  NumPy, not flushed      {ratio(plain(1e-20), plain(1.0)):.2f}")


if __name__ == "__main__":
    main()

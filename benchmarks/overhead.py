"""Python's share of a decode step: ``python -m benchmarks.overhead [MODEL] [--threads N] [--steps N] [--rounds N]``.

Runs the engine's own parts in this process on decode steps of 1 and 32 sequences, greedy and sampled (temperature 0.8,
top-p 0.95), in turn, several rounds. After each step the same batch goes through the C++ forward pass alone: what the
step's forward took beyond that is the cost of calling it. Prints medians per step, in microseconds: the native
parts (forward, choosing tokens), then the Python parts, their sum, and their share of the whole. ``report`` encodes
the outputs for the socket and does not write them.
"""

import argparse
import statistics
import time
from typing import Any

import msgspec

from tenfold.cache.manager import CacheManager
from tenfold.core.clock import WallClock
from tenfold.core.config import DEFAULT_MODEL, CacheConfig, SchedulerConfig
from tenfold.core.plan import StepPlan
from tenfold.core.request import EngineRequest
from tenfold.core.sampling import SamplingParams
from tenfold.engine.core import EngineCore
from tenfold.engine.wire import Outputs, frame
from tenfold.exec.runner import ModelRunner
from tenfold.model.checkpoint import load_checkpoint
from tenfold.model.store import resolve
from tenfold.ops.base import Batch, Kv
from tenfold.ops.cpu import CpuOps
from tenfold.sched.scheduler import Scheduler

BLOCK, BLOCKS, PROMPT = 16, 1024, 90
PYTHON = ("schedule", "batch", "calls", "sample", "apply", "detokenize", "report")
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 0.8, "top_p": 0.95},
}
TEXT = (
    "The quick brown fox jumps over the lazy dog near the river bank. In the city of Paris there are many museums, and "
    "each of them tells a part of the history of the country. People come from all over the world to see them. "
)


class StepLaps:
    """Microseconds of each part of one step."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self._last = time.perf_counter()

    def begin(self) -> None:
        """Forget the step before."""
        self.parts = {}
        self._last = time.perf_counter()

    def step(self, plan: StepPlan) -> None:
        """Nothing: there is one kind of step."""

    def lap(self, part: str) -> None:
        """See :class:`tenfold.core.laps.Laps`."""
        now = time.perf_counter()
        self.parts[part] = 1e6 * (now - self._last)
        self._last = now

    def skip(self) -> None:
        """Nothing: nobody waits."""

    def totals(self) -> dict[str, dict[str, float]]:
        """Nothing: see ``parts``."""
        return {}


class WatchedOps:
    """The ops, with the time spent in choosing tokens, and the latest batch kept."""

    def __init__(self, ops: CpuOps) -> None:
        self._ops = ops
        self.choosing = 0.0
        self.latest: tuple[Batch, Kv] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)

    def forward(self, batch: Batch, kv: Kv) -> Any:
        """The whole pass; its arguments are kept."""
        self.latest = batch, kv
        return self._ops.forward(batch, kv)

    def largest(self, *arguments: Any) -> Any:
        """Timed."""
        return self._timed(self._ops.largest, *arguments)

    def draw(self, *arguments: Any) -> Any:
        """Timed."""
        return self._timed(self._ops.draw, *arguments)

    def _timed(self, call: Any, *arguments: Any) -> Any:
        began = time.perf_counter()
        result = call(*arguments)
        self.choosing += 1e6 * (time.perf_counter() - began)
        return result

    def native_forward(self) -> float:
        """Microseconds of the latest batch's forward pass alone."""
        assert self.latest is not None
        batch, kv = self.latest
        began = time.perf_counter()
        self._ops.forward(batch, kv)
        return 1e6 * (time.perf_counter() - began)


class Bench:
    """An engine over ``ops`` whose steps are measured one by one."""

    def __init__(self, model: str, threads: int) -> None:
        checkpoint = load_checkpoint(resolve(model))
        self.tokenizer = checkpoint.tokenizer()
        self.ops = WatchedOps(CpuOps(checkpoint.weights, threads=threads))
        self.laps = StepLaps()
        cache = CacheManager(CacheConfig(BLOCKS, BLOCK, prefix_sharing=True))
        self.scheduler = Scheduler(SchedulerConfig(), cache)
        self.core = EngineCore(
            self.scheduler,
            cache,
            ModelRunner(self.ops, BLOCKS, BLOCK, self.laps),
            self.tokenizer,
            WallClock(),
            checkpoint.spec.max_context,
            checkpoint.spec.vocab,
            self.laps,
        )
        self.encoder = msgspec.msgpack.Encoder()

    def run(self, batch: int, steps: int, params: dict[str, Any]) -> list[dict[str, float]]:
        """The parts of ``steps`` decode steps of ``batch`` sequences."""
        ids = self.tokenizer.encode(TEXT * 8, add_special=False)
        for i in range(batch):
            settings = SamplingParams(max_tokens=steps + batch + 2, ignore_eos=True, seed=i, **params)
            self.core.submit(
                EngineRequest(id=str(i), prompt_ids=tuple(ids[i : i + PROMPT]), params=settings, arrival=0.0)
            )
        while len(self.core.step()) < batch:
            pass
        measured = [self.step() for _ in range(steps)]
        self.core.abort_all()
        return measured

    def step(self) -> dict[str, float]:
        """One step's parts."""
        self.ops.choosing = 0.0
        self.laps.begin()
        outputs = self.core.step()
        frame(self.encoder.encode(Outputs(outputs)))
        self.laps.lap("report")
        parts = self.laps.parts
        native = self.ops.native_forward()
        parts["calls"] = parts["forward"] - native
        parts["forward"] = native
        parts["choose"] = self.ops.choosing
        parts["sample"] -= self.ops.choosing
        return parts


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=DEFAULT_MODEL)
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    bench = Bench(args.model, args.threads)
    print(bench.ops.describe())
    found: dict[tuple[int, str], list[dict[str, float]]] = {}
    for _ in range(args.rounds):
        for batch in (1, 32):
            for name, params in KINDS.items():
                found.setdefault((batch, name), []).extend(bench.run(batch, args.steps, params))
    columns = ("forward", "choose", *PYTHON)
    print(f"{'step':>12}" + "".join(f"{c:>11}" for c in (*columns, "python")) + f"{'share':>8}   (microseconds)")
    for (batch, name), steps in found.items():
        medians = {column: statistics.median(step[column] for step in steps) for column in columns}
        python = sum(medians[part] for part in PYTHON)
        share = python / (python + medians["forward"] + medians["choose"])
        figures = "".join(f"{medians[column]:>11.0f}" for column in columns)
        print(f"{f'{batch} {name}':>12}{figures}{python:>11.0f}{100 * share:>7.1f}%")


if __name__ == "__main__":
    main()

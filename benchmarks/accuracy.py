"""Accuracy of the backends on the real models: ``python -m benchmarks.accuracy [--json]``.

Over the golden perplexity text (all its windows) and the golden continuations, per model and backend: perplexity
and its ratio to the golden one, mean KL divergence and top-1 agreement to the reference backend's logits, and
the greedy tokens that differ from the golden ids. With ``--checkpoint``, the same for another checkpoint of a golden
model (see ``benchmarks.rebased``).
"""

import argparse
import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.golden import (
    COUNTED,
    Golden,
    flips_at,
    golden_steps,
    kl,
    read_golden,
    surprise,
    text_windows,
    window_logits,
)
from tenfold.core.config import KV_TYPES, WEIGHTS
from tenfold.model.checkpoint import load_checkpoint
from tenfold.model.encodings import make_tensor
from tenfold.model.store import resolve
from tenfold.ops.base import Ops
from tenfold.ops.cpu import CpuOps
from tenfold.ops.forms import form_of
from tenfold.ops.reference import ReferenceOps
from tenfold.ops.tensors import Tensor, Weights

MODELS = ("smollm2-135m", "gemma3-270m")
PLAIN = "int4-plain"  # int4 over each group's own range, without the search: to see what that gains


@dataclass(frozen=True, slots=True)
class Accuracy:
    """One row of the table. KL in nats per token; ``greedy_flips`` of ``greedy_tokens`` golden ids."""

    model: str
    backend: str
    ppl: float
    golden_ppl: float
    ppl_ratio: float
    mean_kl: float
    max_kl: float
    top1_agreement: float
    greedy_flips: int
    greedy_tokens: int
    tokens: int
    seconds: float


def measure(golden: Golden, reference: Ops, others: dict[str, Ops], windows: list[list[int]]) -> list[Accuracy]:
    """The rows of one model: ``reference`` first, each window computed by all backends side by side."""
    backends = {"reference": reference} | others
    surprises = dict.fromkeys(backends, 0.0)
    seconds = dict.fromkeys(backends, 0.0)
    agree = dict.fromkeys(backends, 0)
    divergence: dict[str, list[float]] = {name: [] for name in backends}
    for number, window in enumerate(windows):
        progress(f"{golden.name}: window {number + 1} of {len(windows)}")
        expected = None
        for name, ops in backends.items():
            begin = time.perf_counter()
            logits = next(window_logits(ops, [window]))
            seconds[name] += time.perf_counter() - begin
            expected = logits if expected is None else expected
            surprises[name] += surprise(logits, window[-COUNTED:])
            divergence[name].extend(kl(expected, logits).tolist())
            agree[name] += int((expected.argmax(-1) == logits.argmax(-1)).sum())
    rows = []
    for name, ops in backends.items():
        progress(f"{golden.name}: greedy continuations, {name}")
        flips = sum(
            len(flips_at(position, logits, golden.cases))
            for position, logits in enumerate(golden_steps(ops, golden.cases))
        )
        counted = COUNTED * len(windows)
        ppl = math.exp(surprises[name] / counted)
        rows.append(
            Accuracy(
                model=golden.name,
                backend=ops.describe(),
                ppl=ppl,
                golden_ppl=golden.ppl,
                ppl_ratio=ppl / golden.ppl,
                mean_kl=float(np.mean(divergence[name])),
                max_kl=float(np.max(divergence[name])),
                top1_agreement=agree[name] / counted,
                greedy_flips=flips,
                greedy_tokens=sum(len(case.output_ids) for case in golden.cases),
                tokens=counted,
                seconds=seconds[name],
            )
        )
    return rows


def cpu_ops(weights: Weights, form: str, kv_type: str, threads: int) -> Ops:
    """The cpu backend over ``weights`` in ``form``."""
    if form != PLAIN:
        return CpuOps(weights, threads=threads, form=form, kv_type=kv_type)
    tensors = {
        name: plain_int4(tensor) if form_of("int4", name.split(".")[-1], tensor) == "int4" else tensor
        for name, tensor in weights.tensors.items()
        if len(tensor.shape) == 2
    }
    return CpuOps(Weights(weights.spec, dict(weights.tensors) | tensors), threads=threads, form="int4", kv_type=kv_type)


def plain_int4(tensor: Tensor) -> Tensor:
    """``tensor`` as Q4_1: codes 0 to 15 between the smallest and the largest weight of each 32."""
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    return make_tensor(tensor.name, "Q4_1", tensor.shape, quantize(tensor.decode(), GGMLQuantizationType.Q4_1))


def progress(text: str) -> None:
    """One line on stderr, over the one before where that is a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def table(rows: list[Accuracy]) -> str:
    """``rows`` as a Markdown table."""
    lines = [
        "| model | backend | ppl | golden ppl | ratio | mean KL | top-1 | greedy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.model} | {r.backend} | {r.ppl:.4f} | {r.golden_ppl:.4f} | {r.ppl_ratio:.5f} | {r.mean_kl:.6f} "
        f"| {r.top1_agreement:.2%} | {r.greedy_tokens - r.greedy_flips}/{r.greedy_tokens} |"
        for r in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--model", action="append", choices=MODELS, help="which models (default: all)")
    parser.add_argument("--windows", type=int, help="only the first N windows of the text")
    parser.add_argument("--threads", type=int, default=0, help="threads of the cpu backend (0: all cores)")
    parser.add_argument(
        "--kv", dest="kv_type", action="append", choices=KV_TYPES["cpu"], help="KV types (default: bf16)"
    )
    parser.add_argument(
        "--weights", action="append", choices=(*WEIGHTS["cpu"], PLAIN), help="forms of the weights (default: auto)"
    )
    parser.add_argument("--checkpoint", type=Path, help="measure these weights on the one --model's golden outputs")
    parser.add_argument("--json", action="store_true", help="one JSON array instead of a table")
    arguments = parser.parse_args()
    rows: list[Accuracy] = []
    models = arguments.model or MODELS
    if arguments.checkpoint is not None and len(models) != 1:
        parser.error("--checkpoint needs one --model")
    for name in models:
        progress(f"{name}: loading")
        golden, checkpoint = read_golden(name), load_checkpoint(resolve(name))
        tokenizer = checkpoint.tokenizer()
        ids = tokenizer.encode(golden.text, add_special=False)
        windows = text_windows(golden, ids, tokenizer.bos_id)[: arguments.windows]
        weights = checkpoint.weights if arguments.checkpoint is None else load_checkpoint(arguments.checkpoint).weights
        others = {
            f"cpu, {form}, {kv_type} KV": cpu_ops(weights, form, kv_type, arguments.threads)
            for form, kv_type in product(arguments.weights or ("auto",), arguments.kv_type or ("bf16",))
        }
        rows += measure(golden, ReferenceOps(weights), others, windows)
    progress("")
    print(json.dumps([asdict(row) for row in rows]) if arguments.json else table(rows))


if __name__ == "__main__":
    main()
